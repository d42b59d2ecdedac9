"""report.html: one file that needs nothing else. No script, no network, no font to load."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddaudit.findings import Check, Finding, Picture
from ddaudit.reports import labels
from ddaudit.reports.plots import Figure, Plot, curve_plots, headline_plots, styles, swatch
from ddaudit.reports.schema import AuditorInfo, Comparison, MetricKey, Report, SubjectInfo
from ddaudit.reports.view import MetricTable, anchor, metric_tables, verdict

_TEMPLATES = Path(__file__).parent / "templates"


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
    dots: list[Figure]
    plots: list[Plot]
    tables: list[MetricTable]
    checks: list[_CheckLine]
    caveats: list[tuple[str, str]]
    """(text, subjects it is about; empty = all)."""
    unanswered: list[Finding]
    pictures: list[tuple[str, Picture]]
    seconds: float
    floors: bool
    """Whether any headline metric has a noise floor."""

    @property
    def failed(self) -> int:
        """Number of failing checks."""
        return sum(not line.check.passed for line in self.checks)

    @property
    def shown(self) -> list[_CheckLine]:
        """Checks to show at once: of the instrument, and whatever failed."""
        return [x for x in self.checks if not (x.check.passed and x.subjects)]

    @property
    def folded(self) -> list[_CheckLine]:
        """Checks of single subjects that passed."""
        return [x for x in self.checks if x.check.passed and x.subjects]


def to_html(report: Report) -> str:
    """The report as one HTML document.

    Every text that comes from a run is escaped, and the page's own content policy forbids scripts
    and any request, so a hostile name or caveat stays text.
    """
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
        said=_said,
        params=labels.params_text,
        per_class=labels.per_class,
        pretty=lambda v: json.dumps(v, indent=2, ensure_ascii=False, sort_keys=False),
        svg=Markup,  # only for figures drawn by reports.plots, which escapes its texts
    )
    looks = styles(report.subjects)
    page = env.get_template("report.html").render(
        report=report,
        run=report.run,
        css=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        tables=verdict(report),
        sizes=labels.sizes(report),
        sections=[_section(report, a) for a in report.auditors],
        differences=_differences(report),
        swatches={name: swatch(style) for name, style in looks.items()},
        cards=[(s, _card(s)) for s in report.subjects if s.card],
        galleries=[s for s in report.subjects if s.gallery],
        missing=labels.MISSING,
        checked=_checked(report),
        glyphs={"good": "▲", "bad": "▼", "warning": "!", "neutral": "•"},
    )
    return re.sub(r"\n\s*\n+", "\n", page)


def _checked(report: Report) -> tuple[int, int]:
    """How many different known-answer checks were made, and how many of them failed."""
    checks = {(f.auditor, c.name, c.subject): c.passed for f in report.findings for c in f.checks}
    return len(checks), list(checks.values()).count(False)


def _section(report: Report, auditor: AuditorInfo) -> _Section:
    findings = [f for f in report.findings if f.auditor == auditor.name]
    return _Section(
        auditor=auditor,
        anchor=anchor(auditor),
        dots=headline_plots(report, auditor),
        plots=curve_plots(report, auditor),
        tables=metric_tables(report, auditor),
        checks=_checks(findings),
        caveats=_caveats(findings),
        unanswered=[f for f in findings if f.status != "ok"],
        pictures=_pictures(findings),
        seconds=sum(f.seconds for f in findings),
        floors=any(m.headline and m.floor is not None for f in findings for m in f.metrics),
    )


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


def _caveats(findings: list[Finding]) -> list[tuple[str, str]]:
    groups: dict[str, list[str]] = {}
    for finding in findings:
        for text in finding.caveats:
            groups.setdefault(text, []).append(finding.subject)
    answered = sum(f.status in ("ok", "partial") for f in findings)
    return [(t, "" if len(s) >= answered else ", ".join(s)) for t, s in groups.items()]


@dataclass(frozen=True)
class _DifferenceRow:
    subject: str
    metric: str
    unit: str
    cells: list[Comparison | None]


def _differences(report: Report) -> list[_DifferenceRow]:
    """Metric by metric, every subject that can be compared with a baseline."""
    by_metric: dict[tuple[str, MetricKey], list[_DifferenceRow]] = {}
    for finding in report.findings:
        for metric in finding.metrics:
            cells = [report.comparison(finding, metric, b) for b in report.baselines]
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
