"""Two numbers against each other: every subject as a point with its intervals, floors, and who nobody beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ddaudit.findings import CLAIMED, Direction, Metric
from ddaudit.reports import labels
from ddaudit.reports.compare import mirrored
from ddaudit.reports.plots import Style, marker, styles
from ddaudit.reports.schema import Report
from ddaudit.reports.view import Verdict

MOST = 9
"""Numbers to choose from; each pair of them is a figure."""
_CROWD = 40
"""Of more subjects only the first number is drawn against each other one."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 440, 320, 46, 38, 10, 76


@dataclass(frozen=True)
class Axis:
    """One number of all subjects that have it."""

    name: str
    metrics: dict[str, Metric]
    greyed: frozenset[str]
    """Subjects whose number is not to be relied on."""

    @property
    def first(self) -> Metric:
        """The number of some subject: unit and direction are the same for all."""
        return next(iter(self.metrics.values()))

    @property
    def direction(self) -> Direction:
        """Which end is better."""
        metric = self.first
        return "lower" if metric.name == CLAIMED else metric.direction


@dataclass(frozen=True)
class Pair:
    """The figure of two axes, by their places in the list of axes; ``y`` is the smaller one."""

    y: int
    x: int
    svg: str


def axes(report: Report, table: Verdict) -> list[Axis]:
    """What can be chosen: each auditor's primary number, and the claimed epsilons."""
    out = []
    for group in table.groups:
        if group.columns:
            name = f"{group.columns[0].name} {group.columns[0].arrow}".strip()
            axis = _axis(report, group.auditor.name, name, group.columns[0].key)
            out += [axis] if len(axis.metrics) > 1 else []
    claimed = {
        c.subject: Metric(name=CLAIMED, value=c.epsilon, unit="epsilon", direction="lower")
        for c in report.claims
    }
    broken = frozenset(c.subject for c in report.claims if c.broken)
    return [*out[:MOST], *([Axis("claimed ε ↓", claimed, broken)] if claimed else [])]


def pairs(report: Report, chosen: Sequence[Axis]) -> list[Pair]:
    """A figure for every two axes that some subject has both of."""
    looks = styles(report.subjects)
    baselines = set(report.baselines)
    return [
        Pair(i, j, _figure(y, chosen[j], looks, baselines))
        for i, y in enumerate(chosen)
        for j in range(i + 1, len(chosen))
        if i == 0 or len(looks) <= _CROWD
        if y.metrics.keys() & chosen[j].metrics.keys()
    ]


def front(x: Axis, y: Axis, names: Sequence[str]) -> list[str]:
    """Of these subjects those that no other is at least as good as in both numbers and better in one, by x.

    Numbers that are not to be relied on take no part. Empty where an axis has no better end.
    """
    if "none" in (x.direction, y.direction):
        return []
    sides = [1.0 if axis.direction == "higher" else -1.0 for axis in (x, y)]
    at = {
        n: tuple(
            s * (mirrored(a.metrics[n]).value or 0.0) for s, a in zip(sides, (x, y), strict=True)
        )
        for n in names
        if n in x.metrics and n in y.metrics and n not in x.greyed | y.greyed
    }
    kept = [
        n
        for n, p in at.items()
        if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in at.values())
    ]
    return sorted(kept, key=lambda n: x.metrics[n].value or 0.0)


def _axis(report: Report, auditor: str, name: str, key: object) -> Axis:
    found, greyed = {}, set()
    for finding in report.findings:
        if finding.auditor != auditor:
            continue
        for metric in finding.metrics:
            if metric.key == key and metric.value is not None:
                found[finding.subject] = metric
                if report.failing_checks(finding, metric) or report.doubt(finding, metric):
                    greyed.add(finding.subject)
    return Axis(name, found, frozenset(greyed))


class _Scale:
    """Values to places along one side of the frame."""

    def __init__(self, axis: Axis, names: Sequence[str], start: float, end: float) -> None:
        shown = [axis.metrics[n] for n in names]
        values = [v for m in shown for v in (m.low, m.value, m.high, m.floor) if v is not None]
        low, high = min(values), max(values)
        pad = 0.06 * (high - low) or abs(high) * 0.1 or 0.1
        step = _round_step((high - low + 2 * pad) / 4)
        self.low, self.high, self.start, self.end = low - pad, high + pad, start, end
        first = math.ceil(self.low / step)
        self.ticks = [k * step for k in range(first, math.floor(self.high / step) + 1)]

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _round_step(size: float) -> float:
    power = 10.0 ** math.floor(math.log10(size))
    return next((power * k for k in (1, 2, 5) if power * k >= size), 10 * power)


def _figure(y: Axis, x: Axis, looks: dict[str, Style], baselines: set[str]) -> str:
    names = [n for n in looks if n in x.metrics and n in y.metrics]
    across = _Scale(x, names, _LEFT, _WIDTH - _RIGHT)
    up = _Scale(y, names, _HEIGHT - _BOTTOM, _TOP)
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in across.ticks:
        at = across(tick)
        parts.append(f'<path class="grid" d="M{at} {_TOP}V{floor}"/>')
        parts.append(f'<text x="{at}" y="{floor + 13}" text-anchor="middle">{tick:g}</text>')
    for tick in up.ticks:
        at = up(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {at}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{at + 3}" text-anchor="end">{tick:g}</text>')
    if (level := _floor(x, names)) is not None:
        parts.append(f'<path class="floor" d="M{across(level)} {_TOP}V{floor}"/>')
    if (level := _floor(y, names)) is not None:
        parts.append(f'<path class="floor" d="M{_LEFT} {up(level)}H{right}"/>')
    best = front(x, y, [n for n in names if n not in baselines])
    line = "L".join(
        f"{across(x.metrics[n].value or 0)} {up(y.metrics[n].value or 0)}" for n in best
    )
    parts += [f'<path class="front" d="M{line}"/>'] if len(best) > 1 else []
    places = {n: (across(x.metrics[n].value or 0.0), up(y.metrics[n].value or 0.0)) for n in names}
    for name, text_y in _apart(places).items():
        parts.append(
            _point(name, x, y, across, up, looks[name], text_y, name in best, name in baselines)
        )
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{_text(x.name)}</text>'
    )
    parts.append(
        f'<text class="axis" x="12" y="{(_TOP + floor) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {(_TOP + floor) / 2})">{_text(y.name)}</text>'
    )
    label = _text(f"{y.name} against {x.name}")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="{label}">{"".join(parts)}</svg>'


def _point(
    name: str, x: Axis, y: Axis, across: _Scale, up: _Scale, look: Style,
    text_y: float, best: bool, baseline: bool,
) -> str:  # fmt: skip
    mx, my = x.metrics[name], y.metrics[name]
    px, py = across(mx.value or 0.0), up(my.value or 0.0)
    cross = ""
    if mx.low is not None and mx.high is not None:
        cross += f"M{across(mx.low)} {py}H{across(mx.high)}"
    if my.low is not None and my.high is not None:
        cross += f"M{px} {up(my.low)}V{up(my.high)}"
    grey = name in x.greyed | y.greyed
    words = [
        f"{axis.name.rstrip(' ↑↓')} {labels.number(m.value, m.unit)} "
        f"{labels.interval(m.low, m.high, m.unit)}".strip()
        for axis, m in ((y, my), (x, mx))
    ]
    extra = [
        *(["not to be relied on"] if grey else []),
        *(["no other candidate is better in both"] if best else []),
        *(["baseline"] if baseline else []),
    ]
    said = _text(f"{name}: {'; '.join([*words, *extra])}")
    shape = f'<path d="M-3 -3L3 3M-3 3L3 -3" transform="translate({px} {py}) scale(1.5)"/>'
    mark = shape if grey else f'<g transform="translate({px} {py}) scale(1.7)">{marker(look)}</g>'
    return (
        f'<g class="pt{" base" if baseline else ""}" tabindex="0" role="img" aria-label="{said}" '
        f'style="color: {look.css}"><title>{said}</title>'
        + (f'<path class="cross" d="{cross}"/>' if cross else "")
        + f'{mark}<text x="{px + 8}" y="{round(text_y - 4, 1)}">{_text(labels.short(name, 18))}</text></g>'
    )


def _apart(places: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Heights for the labels of points, so that no two of them overlap."""
    out: dict[str, float] = {}
    for name, (px, py) in sorted(places.items(), key=lambda item: item[1][1]):
        near = [out[n] for n in out if abs(places[n][0] - px) < 90]
        out[name] = max([py, *(h + 12 for h in near)])
    return out


def _floor(axis: Axis, names: Sequence[str]) -> float | None:
    floors = [f for n in names if (f := axis.metrics[n].floor) is not None]
    return math.fsum(floors) / len(floors) if floors else None


def _text(text: str) -> str:
    return escape(labels.visible(text))
