"""The report arranged for reading: the verdict and metric tables that every format shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ddaudit.findings import CLAIMED, NOT_RUN, Finding, Metric
from ddaudit.reports import labels
from ddaudit.reports.compare import at_floor, inverted
from ddaudit.reports.schema import (
    AuditorInfo,
    Claim,
    Comparison,
    MetricKey,
    Report,
    SubjectInfo,
    Tone,
)

MOST_COLUMNS = 8
"""Headline columns side by side before the verdict is continued in a second table."""
MOST_VARIANTS = 4
"""Variants of one metric in an auditor's main table; more go into a table of their own."""


@dataclass(frozen=True)
class Tag:
    """A state in a glyph and a word, so that colour is never the only carrier."""

    glyph: str
    word: str
    tone: Tone
    title: str = ""
    number: str = ""
    """The difference to the reference baseline, for tags about it."""

    def __str__(self) -> str:
        return " ".join(part for part in (self.glyph, self.word, self.number) if part)


@dataclass(frozen=True)
class Strip:
    """Where value, interval, reference and floor lie on a column's common scale, 0 to 100."""

    value: float
    low: float | None
    high: float | None
    reference: float | None
    floor: float | None


@dataclass(frozen=True)
class Cell:
    """One number as shown, or the reason why there is none (``span`` columns wide)."""

    state: Literal["value", "skipped", "failed", "absent"]
    text: str = labels.MISSING
    interval: str = ""
    size: str = ""
    """``n = 48``, where an accuracy rests on other images than the subject's first one."""
    half_width: str = ""
    """Half the interval's width when it is symmetric, for a plus-minus."""
    tags: tuple[Tag, ...] = ()
    greyed: tuple[str, ...] = ()
    note: str = ""
    span: int = 1
    strip: Strip | None = None

    @property
    def word(self) -> str:
        """What to call a cell without a number."""
        return self.tags[0].word if self.tags else self.state

    @property
    def broken(self) -> bool:
        """True for a number that contradicts a privacy claim."""
        return any(t.word == "claim violated" for t in self.tags)

    @property
    def worse(self) -> bool:
        """True for a number that is worse than the reference baseline's."""
        return any(t.word == "worse" for t in self.tags)


@dataclass(frozen=True)
class Column:
    """One headline metric."""

    key: MetricKey
    name: str
    params: str
    arrow: str
    direction: str
    floor: str


@dataclass(frozen=True)
class Group:
    """The columns of one auditor; without headline metrics, one column for its reasons."""

    auditor: AuditorInfo
    columns: tuple[Column, ...]

    @property
    def anchor(self) -> str:
        """The auditor's place in the HTML page."""
        return anchor(self.auditor)

    @property
    def span(self) -> int:
        """Table columns taken."""
        return max(1, len(self.columns))


@dataclass(frozen=True)
class Row:
    """One subject of the verdict."""

    subject: SubjectInfo
    cells: tuple[Cell, ...]
    claim: Claim | None


@dataclass(frozen=True)
class Verdict:
    """Subjects x headline metrics."""

    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    claims: bool
    """Whether this table carries the column of claimed epsilons."""


@dataclass(frozen=True)
class MetricRow:
    """One metric with one parameter set, for every subject of a table."""

    name: str
    params: str
    detail: str
    headline: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class MetricTable:
    """Metrics x subjects. ``title`` is set for the wide ones that are folded away."""

    title: str
    subjects: tuple[str, ...]
    rows: tuple[MetricRow, ...] = field(default=())


def verdict(report: Report, *, most_columns: int = MOST_COLUMNS) -> list[Verdict]:
    """The verdict, cut between auditors into tables of about ``most_columns`` columns at most."""
    groups = [_group(report, a) for a in report.auditors]
    tables = [
        Verdict(
            groups=tuple(part),
            rows=tuple(_row(report, s, part) for s in report.subjects),
            claims=bool(report.claims) and index == 0,
        )
        for index, part in enumerate(_balanced(groups, most_columns))
    ]
    return tables


def metric_tables(report: Report, auditor: AuditorInfo) -> list[MetricTable]:
    """Every metric of an auditor: first those with few variants, then a table per wide metric."""
    findings = [f for f in report.findings if f.auditor == auditor.name and f.metrics]
    names = tuple(f.subject for f in findings)
    indexed = [(f, {m.key: m for m in f.metrics}) for f in findings]
    by_name: dict[str, dict[MetricKey, None]] = {}
    for _, metrics in indexed:
        for key in metrics:
            by_name.setdefault(key[0], {})[key] = None
    narrow, wide = [], []
    for keys in by_name.values():
        rows = [_metric_row(report, [(f, found.get(k)) for f, found in indexed]) for k in keys]
        if len(rows) <= MOST_VARIANTS:
            narrow += rows
            continue
        narrow += [r for r in rows if r.headline]
        title = f"{rows[0].name}, all {len(rows)} variants"
        wide.append(MetricTable(title, names, tuple(rows)))
    return ([MetricTable("", names, tuple(narrow))] if narrow else []) + wide


def anchor(auditor: AuditorInfo) -> str:
    """An HTML id for an auditor's section."""
    return "auditor-" + re.sub(r"[^a-z0-9]+", "-", auditor.name.lower())


def _group(report: Report, auditor: AuditorInfo) -> Group:
    found: dict[MetricKey, list[Metric]] = {}
    for finding in report.findings:
        if finding.auditor == auditor.name:
            for metric in finding.metrics:
                said = metric.name == CLAIMED and report.claims  # has its own column
                if metric.headline and metric.value is not None and not said:
                    found.setdefault(metric.key, []).append(metric)
    return Group(auditor, tuple(_column(key, metrics) for key, metrics in found.items()))


def _column(key: MetricKey, metrics: Sequence[Metric]) -> Column:
    first = metrics[0]
    return Column(
        key=key,
        name=labels.metric_name(first),
        params=labels.params_text(first.params),
        arrow=labels.ARROWS[first.direction],
        direction=labels.direction(first),
        floor=_common_floor(metrics),
    )


def _common_floor(metrics: Sequence[Metric]) -> str:
    """The floor as text, or its range when it differs between subjects."""
    floors = sorted(m.floor for m in metrics if m.floor is not None)
    if not floors:
        return ""
    low, high = (labels.number(f, metrics[0].unit) for f in (floors[0], floors[-1]))
    return low if low == high else f"{low} to {high}"


def _balanced(groups: Sequence[Group], most: int) -> list[list[Group]]:
    total = sum(g.span for g in groups)
    tables = -(-total // most) if total else 1
    target = total / tables
    parts: list[list[Group]] = [[]]
    width = 0
    for group in groups:
        full = width and (width + group.span > most or width + group.span / 2 > target)
        if full:
            parts.append([])
            width = 0
        parts[-1].append(group)
        width += group.span
    return [p for p in parts if p]


def _row(report: Report, subject: SubjectInfo, groups: Sequence[Group]) -> Row:
    cells: list[Cell] = []
    for group in groups:
        cells += _cells(report, subject, group)
    claim = next((c for c in report.claims if c.subject == subject.id), None)
    return Row(subject, tuple(cells), claim)


def _cells(report: Report, subject: SubjectInfo, group: Group) -> list[Cell]:
    finding = report.finding(subject.id, group.auditor.name)
    if finding is None or finding.status in ("skipped", "failed"):
        state: Literal["skipped", "failed"] = (
            "failed" if finding is not None and finding.status == "failed" else "skipped"
        )
        note = (finding.reason if finding else None) or "no reason was recorded"
        waits = finding is not None and finding.not_run
        glyph = "✗" if state == "failed" else "…" if waits else "∅"
        word = NOT_RUN if waits else state
        tag = Tag(glyph, word, "neutral" if state == "skipped" else "warning", note)
        return [Cell(state, text=word, note=note, span=group.span, tags=(tag,))]
    if not group.columns:
        return [Cell("absent", note="no headline metric")]
    return [_headline_cell(report, finding, column) for column in group.columns]


def _headline_cell(report: Report, finding: Finding, column: Column) -> Cell:
    metric = _find(finding, column.key)
    if metric is None or metric.value is None:
        return Cell("absent", note="not measured for this subject")
    greyed, tags = _greyed(report, finding, metric)
    comparison = report.comparison(finding, metric)
    if _breaks_claim(report, finding, metric):
        tags.append(Tag("✗", "claim violated", "bad", "above the claimed epsilon"))
    if comparison is not None and not greyed and comparison.outcome != "no interval":
        tags.append(_comparison_tag(comparison, metric.unit))
    tags += [] if greyed else _floor_tags(metric)
    if finding.status == "partial":
        tags.append(Tag("◐", "partial", "warning", finding.reason or "some seeds are missing"))
    return Cell(
        "value",
        text=_text(metric),
        interval=_interval(metric),
        size=_size(report, finding, metric),
        half_width=_half_width(metric),
        tags=tuple(tags),
        greyed=greyed,
        strip=_strip(report, finding, metric),
    )


def _greyed(report: Report, finding: Finding, metric: Metric) -> tuple[tuple[str, ...], list[Tag]]:
    """Why a number is shown grey, and the tags that say so."""
    failing = report.failing_checks(finding, metric)
    doubt = report.doubt(finding, metric)
    tags = []
    if failing:
        why = f"failing instrument check: {', '.join(failing)}"
        tags.append(Tag("◌", "check failed", "warning", why))
    if doubt:
        tags.append(Tag("◌", "at chance", "neutral", doubt))
    return (*failing, *([doubt] if doubt else [])), tags


def _text(metric: Metric) -> str:
    text = labels.number(metric.value, metric.unit)
    return f"≥ {text}" if metric.merge == "bound" else text


def _interval(metric: Metric) -> str:
    if metric.merge == "bound":  # its value says it
        return ""
    return labels.interval(metric.low, metric.high, metric.unit)


def _size(report: Report, finding: Finding, metric: Metric) -> str:
    """The number of images of an accuracy that rests on others than the subject's basis."""
    basis = report.basis(finding.subject)
    if basis is None or "accuracy" not in labels.metric_name(metric) or metric.n == basis.n:
        return ""
    return f"n = {labels.count(metric.n)}"


def _comparison_tag(comparison: Comparison, unit: str) -> Tag:
    word, baseline = comparison.outcome, comparison.baseline
    delta = labels.signed(comparison.difference, unit)
    if word == "withheld":
        return Tag("◌", "no verdict", "neutral", comparison.reason, delta)
    if word == "not distinguishable":
        title = f"not distinguishable from {baseline}"
        return Tag("≈", "unclear", "neutral", title, delta)
    tone: Tone = {"better": "good", "worse": "bad"}.get(word, "neutral")  # type: ignore[assignment]
    glyph = "▲" if word in ("better", "higher") else "▼"
    return Tag(glyph, word, tone, f"{word} than {baseline}", delta)


def _floor_tags(metric: Metric) -> list[Tag]:
    if inverted(metric):
        return [Tag("⇅", "inverted", "warning", labels.INVERTED)]
    if at_floor(metric):
        return [Tag("▁", "at floor", "neutral", "cannot be told from the noise floor")]
    return []


def _half_width(metric: Metric) -> str:
    if metric.value is None or metric.low is None or metric.high is None:
        return ""
    below, above = metric.value - metric.low, metric.high - metric.value
    if abs(above - below) > 0.05 * (above + below):
        return ""
    half = (above + below) / 2
    return (
        f"{half:.3f}"
        if metric.unit == "fraction" and half >= 5e-4
        else labels.number(half, metric.unit)
    )


def _breaks_claim(report: Report, finding: Finding, metric: Metric) -> bool:
    return metric.refutes == CLAIMED and any(
        c.subject == finding.subject and c.state == "violated" and (metric.value or 0.0) > c.epsilon
        for c in report.claims
    )


def _strip(report: Report, finding: Finding, metric: Metric) -> Strip | None:
    column = [
        (f, m)
        for f in report.findings
        if f.auditor == finding.auditor and (m := _find(f, metric.key)) is not None
    ]
    points = [p for _, m in column for p in (m.low, m.value, m.high, m.floor) if p is not None]
    reference = next((m.value for f, m in column if f.subject == report.reference), None)
    low, high = min(points), max(points)
    if high <= low or metric.value is None:
        return None

    def place(x: float | None) -> float | None:
        return None if x is None else round(100 * (x - low) / (high - low), 1)

    value = place(metric.value)
    assert value is not None
    return Strip(
        value, place(metric.low), place(metric.high), place(reference), place(metric.floor)
    )


def _metric_row(report: Report, found: Sequence[tuple[Finding, Metric | None]]) -> MetricRow:
    metrics = [m for _, m in found if m is not None]
    first = metrics[0]
    sizes = sorted({m.n for m in metrics if m.n is not None})
    ranked = first.direction != "none" or first.merge == "bound"
    detail = [labels.direction(first)] if ranked else []
    if first.unit != "fraction":
        detail.append(f"unit: {first.unit}")
    if sizes:
        detail.append(f"n = {' to '.join(dict.fromkeys(map(labels.count, (sizes[0], sizes[-1]))))}")
    if first.chance is not None:
        detail.append(f"chance {labels.number(first.chance, first.unit)}")
    if floor := _common_floor(metrics):
        detail.append(f"noise floor {floor}")
    return MetricRow(
        name=labels.metric_name(first),
        params=labels.params_text(first.params),
        detail=" · ".join(detail),
        headline=any(m.headline for m in metrics),
        cells=tuple(_plain_cell(report, f, m) for f, m in found),
    )


def _plain_cell(report: Report, finding: Finding, metric: Metric | None) -> Cell:
    if metric is None or metric.value is None:
        return Cell("absent", note="not measured for this subject")
    greyed, tags = _greyed(report, finding, metric)
    tags += [] if greyed else _floor_tags(metric)
    return Cell(
        "value",
        text=_text(metric),
        interval=_interval(metric),
        tags=tuple(tags),
        greyed=greyed,
    )


def _find(finding: Finding, key: MetricKey) -> Metric | None:
    return next((m for m in finding.metrics if m.key == key), None)
