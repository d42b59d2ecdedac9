"""report.md: GitHub-flavoured Markdown that fits in a pull-request comment."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ddaudit.findings import Check
from ddaudit.reports import labels
from ddaudit.reports.cells import Cell
from ddaudit.reports.needs import alike
from ddaudit.reports.schema import Claim, Report
from ddaudit.reports.sweep import Sweep, number_at, sweeps
from ddaudit.reports.uses import uses
from ddaudit.reports.view import Row, Verdict, answer, changes, metric_tables, verdict

if TYPE_CHECKING:
    from jinja2 import Template

COMMENT_LIMIT = 65_000
"""GitHub refuses comments of more than 65 536 characters; details are left out before that."""
_TEMPLATES = Path(__file__).parent / "templates"


def to_markdown(report: Report) -> str:
    """The answer, the verdict, the findings, failed checks, folded tables of all metrics, limits and sets.

    When the whole text would not fit in a comment the folded tables are left out, and a line says
    so.
    """
    text = _render(report, details=True)
    return text if len(text) <= COMMENT_LIMIT else _render(report, details=False)


def escape(text: object) -> str:
    """Text that GitHub shows as it is: no markup, HTML, table breaks, mentions or issue links."""
    flat = re.sub(r"\s+", " ", labels.visible(str(text))).strip()
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", flat)
    return re.sub(r"@|#(?=\d)", "\\g<0>\u2060", flat)  # a word joiner breaks the link


def _cell(cell: Cell) -> str:
    if cell.state == "absent":
        return labels.MISSING
    if cell.state in ("skipped", "failed"):
        return f"*{cell.word}: {escape(labels.short(cell.note, 80))}*"
    value = f"~~{cell.text}~~" if cell.greyed else f"**{cell.text}**"
    tags = " · ".join(str(tag) for tag in cell.tags)
    parts = (value, cell.interval, cell.size, f"<br>{tags}" if tags else "")
    return " ".join(part for part in parts if part)


def _primary(at: tuple[Verdict, Row, int]) -> str:
    """One cell of the verdict: the state in a word, the primary number, and what others beside it tell."""
    table, row, i = at
    cell = row.groups[i][0]
    if cell.state != "value":
        return _cell(cell)
    value = f"~~{cell.text}~~" if cell.greyed else f"**{cell.text}**"
    if row.subject.baseline and not cell.greyed:
        return f"{value} {cell.interval}".strip()
    others = [f"{t.glyph} {t.word}: {escape(name)}" for name, t in table.others(row, i)]
    tags = [str(t) for t in cell.tags]
    return "<br>".join([" · ".join(tags), f"{value} {cell.interval}", *others]).removeprefix("<br>")


def _claim(claim: Claim | None) -> str:
    if claim is None:
        return "none"
    text = f"ε {labels.brief(claim.epsilon)}"
    if claim.delta is not None:
        text += f", δ {labels.brief(claim.delta)}"
    mark = f"**✗ {claim.state}**" if claim.broken else claim.state
    bound = claim.lower_bound
    measured = "" if bound is None else f" (measured ≥ {labels.number(bound, 'epsilon')})"
    return f"{text}<br>{mark}{measured}"


def _failed(report: Report) -> list[tuple[str, str, Check]]:
    """(subjects, auditor, check) of every failing check, those of all subjects once."""
    groups: dict[tuple[str, str], tuple[list[str], Check]] = {}
    for finding in report.findings:
        for check in finding.checks:
            if not check.passed:
                key = (finding.auditor, check.model_dump_json())
                groups.setdefault(key, ([], check))[0].append(finding.subject)
    everyone = len(report.subjects)
    return [
        ("all subjects" if len(subjects) == everyone else ", ".join(subjects), auditor, check)
        for (auditor, _), (subjects, check) in groups.items()
    ]


def _swept(report: Report, table: Verdict, sweep: Sweep) -> list[list[str]]:
    """Each auditor's primary number, line by line, at every place of the sweep."""
    rows = []
    for group in table.groups:
        for line in sweep.lines if group.columns else ():
            at = {
                x: number_at(report, s, group.auditor.name, group.columns[0].key)
                for x, s in line.subjects.items()
            }
            shown = [
                f"{labels.number(m.value, m.unit)} {labels.interval(m.low, m.high, m.unit)}".strip()
                if (m := at.get(x))
                else labels.MISSING
                for x in sweep.places
            ]
            heading = f"{group.auditor.heading}: {group.columns[0].name}"
            rows.append([escape(heading), escape(line.name), *shown])
    return rows


@cache
def template(name: str) -> Template:
    """A template of Markdown by its file's name, compiled once per process."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown has its own escaping: the ``md`` filter
    )
    env.filters.update(md=escape, cell=_cell, primary=_primary, claim=_claim, brief=labels.brief)
    return env.get_template(name)


def _render(report: Report, *, details: bool) -> str:
    auditors = report.auditors if details else []
    (table,) = verdict(report)
    titles = [table.groups[i].auditor.heading for i in table.quiet]
    text = template("report.md").render(
        report=report,
        run=report.run,
        answers=alike(report.answers),
        table=table,
        quiet_titles=titles,
        changes=changes(report),
        sweeps=[(s.axis, s.places, _swept(report, table, s)) for s in sweeps(report)],
        uses=uses(report),
        sizes=labels.sizes(report),
        auditors=[
            (a, answer(report, table, i), metric_tables(report, a)) for i, a in enumerate(auditors)
        ],
        details=details,
        failed=_failed(report),
    )
    return re.sub(r"\n{3,}", "\n\n", text)
