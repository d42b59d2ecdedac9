"""Cells of the report's tables: one number as it is shown, with its state in a glyph and a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ddaudit.findings import CLAIMED, NOT_RUN, Finding, Metric
from ddaudit.reports import labels
from ddaudit.reports.compare import at_floor, inverted
from ddaudit.reports.schema import Comparison, MetricKey, Report, Tone


@dataclass(frozen=True)
class Tag:
    """A state in a glyph and a word, so that colour is never the only carrier.

    ``settled``: it tells the subject from others, or its number from a number that can be relied on.
    """

    glyph: str
    word: str
    tone: Tone
    title: str = ""
    number: str = ""
    """The difference to the subject that it is compared with, for tags about it."""
    settled: bool = False

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
    at: float | None = None
    """The number itself, to sort by."""
    beyond: str = ""
    """Its noise floor, where the whole interval lies on the bad side of that: something was found."""

    @property
    def mark(self) -> Tag | None:
        """The one state to show where there is room for one: the most serious."""
        return self.tags[0] if self.tags else None

    @property
    def word(self) -> str:
        """What to call a cell without a number."""
        return self.tags[0].word if self.tags else self.state

    @property
    def settled(self) -> bool:
        """Whether any of its states tells the subject from others."""
        return any(t.settled for t in self.tags)

    @property
    def speaks(self) -> bool:
        """Whether it is a reason to show its column: it settles something, or an answer broke off."""
        return self.settled or self.word in ("failed", NOT_RUN, "partial")

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
    scale: tuple[float, float] | None = None
    """The ends that all strips of the column share."""
    ends: tuple[str, str] = ("", "")
    title: str = ""
    """Name and parameters on one line."""


def column_of(report: Report, key: MetricKey, metrics: Sequence[Metric]) -> Column:
    """The column of one headline metric, out of the numbers of all subjects that have it."""
    first = metrics[0]
    points = [p for m in metrics for p in (m.low, m.value, m.high, m.floor) if p is not None]
    low, high = min(points), max(points)
    return Column(
        key=key,
        name=labels.metric_name(first),
        params=labels.params_text(first.params),
        title=labels.full_name(first),
        arrow=labels.ARROWS[first.direction],
        direction=labels.direction(first),
        floor=common_floor(metrics),
        scale=(low, high) if high > low else None,
        ends=(labels.number(low, first.unit, digits=2), labels.number(high, first.unit, digits=2)),
    )


def common_floor(metrics: Sequence[Metric]) -> str:
    """The floor as text, or its range when it differs between subjects."""
    floors = sorted(m.floor for m in metrics if m.floor is not None)
    if not floors:
        return ""
    low, high = (labels.number(f, metrics[0].unit) for f in (floors[0], floors[-1]))
    return low if low == high else f"{low} to {high}"


def headline_cell(report: Report, finding: Finding, column: Column, base: str | None) -> Cell:
    """A headline number with its verdict against ``base`` (None: the report's reference)."""
    metric = _find(finding, column.key)
    if metric is None or metric.value is None:
        return Cell("absent", note="not measured for this subject")
    greyed, tags = _greyed(report, finding, metric)
    comparison = report.comparison(finding, metric, base)
    if _breaks_claim(report, finding, metric):
        tags.append(Tag("✗", "claim violated", "bad", "above the claimed epsilon", settled=True))
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
        strip=_strip(column, metric, _reference(report, finding, column)),
        at=metric.value,
        beyond=_beyond(metric),
    )


def plain_cell(report: Report, finding: Finding, metric: Metric | None) -> Cell:
    """A number of the tables of all metrics, without a verdict."""
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


def stopped_cell(finding: Finding | None, span: int) -> Cell:
    """The cell of a subject without an answer, with the reason; ``span`` columns wide."""
    state: Literal["skipped", "failed"] = (
        "failed" if finding is not None and finding.status == "failed" else "skipped"
    )
    note = (finding.reason if finding else None) or "no reason was recorded"
    waits = finding is not None and finding.not_run
    glyph = "✗" if state == "failed" else "…" if waits else "∅"
    word = NOT_RUN if waits else state
    tag = Tag(glyph, word, "neutral" if state == "skipped" else "warning", note)
    return Cell(state, text=word, note=note, span=span, tags=(tag,))


def _greyed(report: Report, finding: Finding, metric: Metric) -> tuple[tuple[str, ...], list[Tag]]:
    """Why a number is shown grey, and the tags that say so."""
    failing = report.failing_checks(finding, metric)
    doubt = report.doubted(finding.subject, metric)
    tags = []
    if failing:
        why = f"failing instrument check: {', '.join(failing)}"
        tags.append(Tag("◌", "check failed", "warning", why, settled=True))
    if doubt:
        tags.append(Tag("◌", doubt.kind, "neutral", doubt.reason))
    return (*failing, *([doubt.reason] if doubt else [])), tags


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
        title = f"draws, networks and test images explain the difference to {baseline}"
        return Tag("≈", "no difference shown", "neutral", title, delta)
    tone: Tone = {"better": "good", "worse": "bad"}.get(word, "neutral")  # type: ignore[assignment]
    glyph = "▲" if word in ("better", "higher") else "▼"
    return Tag(glyph, word, tone, f"{word} than {baseline}", delta, settled=True)


def _floor_tags(metric: Metric) -> list[Tag]:
    if inverted(metric):
        return [Tag("⇅", "inverted", "warning", labels.INVERTED, settled=True)]
    if at_floor(metric):
        return [Tag("▁", "at floor", "neutral", "cannot be told from the noise floor")]
    return []


def _beyond(metric: Metric) -> str:
    low = metric.value if metric.low is None else metric.low
    if metric.direction != "lower" or metric.floor is None or low is None or low <= metric.floor:
        return ""
    return labels.number(metric.floor, metric.unit)


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


def _reference(report: Report, finding: Finding, column: Column) -> float | None:
    """The same number of what the subject is compared with."""
    name = report.reference_of(finding.subject)
    beside = report.finding(name, finding.auditor) if name else None
    metric = _find(beside, column.key) if beside else None
    return metric.value if metric else None


def _strip(column: Column, metric: Metric, reference: float | None) -> Strip | None:
    if column.scale is None or metric.value is None:
        return None
    low, high = column.scale

    def place(x: float | None) -> float | None:
        return None if x is None else round(100 * min(max((x - low) / (high - low), 0.0), 1.0), 1)

    value = place(metric.value)
    assert value is not None
    return Strip(
        value, place(metric.low), place(metric.high), place(reference), place(metric.floor)
    )


def _find(finding: Finding, key: MetricKey) -> Metric | None:
    return next((m for m in finding.metrics if m.key == key), None)
