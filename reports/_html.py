"""report.html: one file that needs nothing else. No network, no font to load; one script, to sort a table."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddaudit.findings import Check, Finding, Picture
from ddaudit.reports import labels, tradeoff
from ddaudit.reports.needs import alike
from ddaudit.reports.plots import Figure, Plot, curve_plots, headline_plots, styles, swatch
from ddaudit.reports.schema import AuditorInfo, Comparison, Limit, MetricKey, Report, SubjectInfo
from ddaudit.reports.sweep import draw, sweeps
from ddaudit.reports.uses import uses
from ddaudit.reports.view import (
    MetricTable,
    Verdict,
    anchor,
    answer,
    changes,
    metric_tables,
    verdict,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"
_LIMITS, _FEW = 2, 4
"""Limits that an auditor's section shows: two where there are few auditors, one in a longer report."""
_SHORT = 12
"""A limit is shown in its first sentence, and only where that has at most so many words."""


@dataclass(frozen=True)
class _CheckLine:
    """One check, or the same check of several subjects with the same outcome."""

    check: Check
    subjects: str
    """For whom it was run: empty when the check is about the instrument alone."""
    read: str
    """What was read, or the range of it."""


@dataclass(frozen=True)
class _Section:
    """Everything one auditor says, ready for the template."""

    auditor: AuditorInfo
    anchor: str
    answer: str
    dots: list[Figure]
    plots: list[Plot]
    tables: list[MetricTable]
    checks: list[_CheckLine]
    limits: list[Limit]
    """Those that are its own, the weightiest first."""
    shown: list[str]
    """What of them is seen at once."""
    unanswered: list[Finding]
    pictures: list[tuple[str, Picture]]
    seconds: float

    @property
    def failed(self) -> int:
        """Number of failing checks."""
        return sum(not line.check.passed for line in self.checks)


def to_html(report: Report) -> str:
    """The report as one HTML document.

    Every text that comes from a run is escaped, and the page's own content policy allows no request and no script but
    its own, known by its hash, so a hostile name or caveat stays text.
    """
    looks = styles(report.subjects)
    (table,) = verdict(report)
    axes = tradeoff.axes(report, table)
    drawn = [draw(report, sweep) for sweep in sweeps(report)]
    swept = {name: style for d in drawn for name, style in d.looks.items()}
    page = (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            run=report.run,
            **shared(),
            answers=alike(report.answers),
            table=table,
            quiet=table.quiet,
            changes=changes(report),
            axes=axes,
            pairs=tradeoff.pairs(report, axes),
            against=next((i for i in range(1, len(table.groups)) if i not in table.quiet), 1),
            sizes=labels.sizes(report),
            sections=[_section(report, a, table) for a in report.auditors],
            beside=_beside(report),
            differences=_differences(report),
            sweeps=drawn,
            swatches={name: swatch(style) for name, style in (looks | swept).items()},
            uses=uses(report),
            cards={s.id: _card(s) for s in report.subjects},
            glyphs={"good": "▲", "bad": "▼", "warning": "!", "neutral": "•"},
        )
    )
    return re.sub(r"\n\s*\n+", "\n", page)


def environment() -> Environment:
    """Of the templates of one page: texts are escaped, and of each term the first is explained."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda v: labels.visible(v) if type(v) is str else v,
    )
    env.filters.update(
        number=labels.number,
        interval=labels.interval,
        signed=labels.signed,
        duration=labels.duration,
        short=labels.short,
        brief=labels.brief,
        moment=labels.moment,
        clip=labels.first_sentence,
        question=labels.question,
        said=_said,
        terms=_terms(),
        params=labels.params_text,
        per_class=labels.per_class,
        pretty=lambda v: json.dumps(v, indent=2, ensure_ascii=False, sort_keys=False),
        svg=Markup,  # only for figures drawn by reports.plots and reports.tradeoff, which escape their texts
    )
    return env


def shared() -> dict[str, Any]:
    """What every page has in common: the style sheet, the one script, and its hash for the content policy."""
    from markupsafe import Markup

    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    return {
        "css": Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": _hash(script),
        "missing": labels.MISSING,
    }


def _hash(script: str) -> str:
    """A script as a content policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _terms() -> Callable[[str], Markup]:
    """A filter that explains the terms of the field in the first text of a page that has them."""
    from markupsafe import Markup, escape

    pattern = re.compile(
        rf"(?<![\w-])({'|'.join(sorted(labels.TERMS, key=len, reverse=True))})(?![\w-])"
    )
    seen: set[str] = set()

    def explain(match: re.Match[str]) -> str:
        word = match.group()
        if word in seen:
            return word
        seen.add(word)
        return f'<abbr title="{labels.TERMS[word]}">{word}</abbr>'

    return lambda text: Markup(pattern.sub(explain, str(escape(labels.visible(text)))))


def _section(report: Report, auditor: AuditorInfo, table: Verdict) -> _Section:
    findings = [f for f in report.findings if f.auditor == auditor.name]
    own = [x for x in report.limits if x.auditors == [auditor.name]]
    most = _LIMITS if len(report.auditors) <= _FEW else 1
    return _Section(
        auditor=auditor,
        anchor=anchor(auditor),
        answer=answer(report, table, report.auditors.index(auditor)),
        dots=headline_plots(report, auditor),
        plots=curve_plots(report, auditor),
        tables=metric_tables(report, auditor),
        checks=_checks(findings),
        limits=own,
        shown=_shown(own)[:most],
        unanswered=[f for f in findings if f.status != "ok"],
        pictures=_pictures(findings),
        seconds=sum(f.seconds for f in findings),
    )


def _shown(limits: list[Limit]) -> list[str]:
    """The first sentences of those that are no result, where they are short enough to be read whole."""
    first = [labels.first_sentence(x.text, _SHORT) for x in limits if x.kind != "result"]
    return [text for text in first if not text.endswith("…")]


def _pictures(findings: list[Finding]) -> list[tuple[str, Picture]]:
    """(subjects, picture), the same picture of several subjects once; no subjects = everybody's."""
    groups: dict[str, tuple[list[str], Picture]] = {}
    for finding in findings:
        for picture in finding.images:
            groups.setdefault(picture.model_dump_json(), ([], picture))[0].append(finding.subject)
    answered = sum(f.status in ("ok", "partial") for f in findings)
    shown = [
        ("" if len(s) >= answered else ", ".join(s), picture) for s, picture in groups.values()
    ]
    return shown


def _checks(findings: list[Finding]) -> list[_CheckLine]:
    """Failing checks first; what differs only in the subject and its reading shares a line."""
    groups: dict[tuple[object, ...], dict[str, Check]] = {}
    for finding in findings:
        for check in finding.checks:
            key = (check.passed, check.name, check.expected, check.detail, check.subject is None)
            groups.setdefault(key, {})[finding.subject] = check
    lines = []
    for (_, _, _, _, instrument), by_subject in groups.items():
        checks = list(by_subject.values())
        values = sorted(c.value for c in checks if c.value is not None)
        ends = dict.fromkeys(labels.brief(v) for v in (*values[:1], *values[-1:]))
        whole = instrument and len(checks) == len(findings)
        lines.append(
            _CheckLine(checks[0], "" if whole else ", ".join(by_subject), " to ".join(ends))
        )
    return sorted(lines, key=lambda line: (line.check.passed, line.subjects != ""))


@dataclass(frozen=True)
class _DifferenceRow:
    subject: str
    metric: str
    unit: str
    cells: list[Comparison | None]


def _beside(report: Report) -> list[str]:
    """Whom subjects are compared with: the baselines, and what some are built on."""
    return list(dict.fromkeys([*report.baselines, *(c.baseline for c in report.comparisons)]))


def _differences(report: Report) -> list[_DifferenceRow]:
    """Metric by metric, every subject that can be compared with another, in the order of :func:`_beside`."""
    by_metric: dict[tuple[str, MetricKey], list[_DifferenceRow]] = {}
    beside = _beside(report)
    for finding in report.findings:
        for metric in finding.metrics:
            cells = [report.comparison(finding, metric, b) for b in beside]
            if any(cells):
                row = _DifferenceRow(finding.subject, labels.full_name(metric), metric.unit, cells)
                by_metric.setdefault((finding.auditor, metric.key), []).append(row)
    return [row for rows in by_metric.values() for row in rows]


def _card(subject: SubjectInfo) -> dict[str, Any]:
    """A card split in its privacy claim (whole, and as lines to show) and the rest."""
    card = {k: v for k, v in subject.card.items() if v not in (None, [], {}, "")}
    privacy = card.pop("privacy", None)
    if not isinstance(privacy, dict):
        return {"privacy": None, "claim": [], "rest": card}
    apart = ("epsilon", "delta", "ledger")
    lines = [
        (key.replace("_", " "), _said(value))
        for key, value in privacy.items()
        if key not in apart and value not in (None, "", [], {})
    ]
    ledger = [e for e in privacy.get("ledger") or [] if isinstance(e, dict)]
    return {"privacy": {**privacy, "ledger": ledger}, "claim": lines, "rest": card}


def _said(value: object) -> str:
    """A card value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return labels.brief(value)
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_said(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_said, value))
    return labels.MISSING if value is None else str(value)
