"""What the numbers cannot say: the caveats of all auditors, each once, with whom it is about."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ddaudit.findings import Caveat, Finding
from ddaudit.reports.schema import Limit, Report, Variant

_NUMBER = re.compile(r"\d[\d.,e/+-]*")
_ALIKE = 48
"""Caveats that begin with so many equal characters, names and numbers aside, are one caveat in several wordings."""


def limits(report: Report) -> list[Limit]:
    """The caveats of a report: of several auditors first, then auditor by auditor, the weightiest first.

    One whose wordings differ from subject to subject only in numbers, names or their conclusion is one limit with
    variants.
    """
    names = sorted((s.id for s in report.subjects), key=len, reverse=True)
    groups: dict[str, list[tuple[Finding, str]]] = {}
    for finding in report.findings:
        for text in finding.caveats:
            groups.setdefault(_shape(text, names), []).append((finding, text))
    made = [_limit(report, rows) for rows in groups.values()]
    order = {a.name: i for i, a in enumerate(report.auditors)}
    made.sort(key=lambda x: (x.scope != "report", order.get(x.auditors[0], 0), x.rank))
    counts: dict[str, int] = {}
    for limit in made:
        limit.rank = counts[limit.auditors[0]] = counts.get(limit.auditors[0], 0) + 1
    return made


def _shape(text: str, names: Sequence[str]) -> str:
    """A caveat without what differs between subjects."""
    for name in names:
        text = re.sub(rf"(?<![\w+-]){re.escape(name)}(?![\w+-])", "·", text)
    shape = _NUMBER.sub("#", text)
    return shape[:_ALIKE] if "·" in shape or "#" in shape else shape


def _limit(report: Report, rows: Sequence[tuple[Finding, str]]) -> Limit:
    auditors = list(dict.fromkeys(f.auditor for f, _ in rows))
    subjects = list(dict.fromkeys(f.subject for f, _ in rows))
    wordings: dict[str, dict[str, None]] = {}
    for finding, text in rows:
        wordings.setdefault(text, {})[finding.subject] = None
    answered = {
        f.subject
        for f in report.findings
        if f.auditor in auditors and f.status in ("ok", "partial")
    }
    whole = answered <= set(subjects)
    told = next((c for _, c in rows if isinstance(c, Caveat)), Caveat(rows[0][1]))
    variants = [Variant(subjects=list(who), text=str(text)) for text, who in wordings.items()]
    return Limit(
        text=str(rows[0][1]),
        kind=told.kind,
        rank=told.rank,
        scope="subjects" if not whole else "report" if len(auditors) > 1 else "auditor",
        auditors=auditors,
        subjects=subjects,
        variants=variants if len(variants) > 1 else [],
    )
