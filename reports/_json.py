"""report.json: the schema itself."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ddaudit.auditing import AUDITORS
from ddaudit.errors import BadInput
from ddaudit.files import afford_json, read_bytes
from ddaudit.reports.build import tell
from ddaudit.reports.schema import SCHEMA_VERSION, Report

_SLACK = 1e-6


def to_json(report: Report) -> str:
    """The report as indented JSON; it validates against ``report.schema.json``."""
    return report.model_dump_json(indent=1) + "\n"


def _impossible(report: Report) -> str:
    """What no audit writes; "" where there is nothing of the kind."""
    cells = [(f.subject, f.auditor) for f in report.findings]
    ids = [s.id for s in report.subjects]
    if len(set(ids)) < len(ids) or len(set(cells)) < len(cells):
        return "has a subject, or a finding on one by an auditor, twice"
    known = {m.name: m.range for name in AUDITORS.names() for m in AUDITORS.get(name).metrics}
    for finding in report.findings:
        for m in finding.metrics:
            if m.low is not None and m.high is not None and m.low > m.high:
                return f"{m.name} of {finding.subject} has an interval from {m.low:g} to {m.high:g}"
            least = {"0 to 1": 0.0, "-1 to 1": -1.0}.get(known.get(m.name, ""))
            if (
                least is not None
                and m.value is not None
                and not least - _SLACK <= m.value <= 1 + _SLACK
            ):
                return f"{m.name} of {finding.subject} is {m.value:g}, and can be {known[m.name]}"
    return ""


def read_report(path: str | Path) -> Report:
    """Read a ``report.json``.

    Raises:
        BadInput: no such file, not a report, or a report of another schema version.
    """
    raw = read_bytes(path)
    afford_json(raw, path)
    try:
        report = Report.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(str(p) for p in first["loc"])
        todo = f"This version reads reports with schema_version {SCHEMA_VERSION}."
        raise BadInput(
            path, f"is not a ddaudit report ({at + ': ' if at else ''}{first['msg']})", todo
        ) from None
    known = {subject.id for subject in report.subjects}
    spoken = [f.subject for f in report.findings] + [c.subject for c in report.comparisons]
    spoken += [g.subject for g in report.greyed] + [c.subject for c in report.claims]
    lost = next((name for name in spoken if name not in known), None)
    if lost is not None:
        raise BadInput(path, f"speaks of '{lost}', which is none of its subjects", "Was it edited?")
    if wrong := _impossible(report):
        raise BadInput(path, wrong, "Was it edited?")
    if not report.trust:  # written before reports had answers
        tell(report)
    return report
