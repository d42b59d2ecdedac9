"""Sets of several sizes or privacy budgets: each headline number over images per class, or over epsilon."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ddaudit.findings import Curve, Metric
from ddaudit.reports import labels
from ddaudit.reports.cells import Column
from ddaudit.reports.compare import own_base
from ddaudit.reports.plots import Figure, Style, line_figure, styles
from ddaudit.reports.schema import MetricKey, Report, SubjectInfo
from ddaudit.reports.view import Group, verdict


@dataclass(frozen=True)
class Line:
    """One method: its subjects by where they are on the axis, at least two."""

    name: str
    subjects: dict[float, SubjectInfo]

    @property
    def first(self) -> SubjectInfo:
        """The one that lends the line its look."""
        return next(iter(self.subjects.values()))


@dataclass(frozen=True)
class Sweep:
    """What changes, the lines over it, and the subjects that do not change with it."""

    axis: str
    lines: tuple[Line, ...]
    level: tuple[SubjectInfo, ...]

    @property
    def places(self) -> list[float]:
        """Where some line has a subject, in order."""
        return sorted({x for line in self.lines for x in line.subjects})


@dataclass(frozen=True)
class Drawn:
    """The figures of a sweep: each auditor's primary number, then the other headline numbers."""

    axis: str
    primary: tuple[Figure, ...]
    others: tuple[Figure, ...]
    looks: dict[str, Style]
    """By the names that the figures' lines have."""


def sweeps(report: Report) -> list[Sweep]:
    """Over images per class and over epsilon, where some method has sets at two places.

    Methods are told by the names on their cards. Two sets of one method at one place differ in something else: that
    method has no line there, and its sets stand in the tables alone.
    """
    size = {s.id: float(s.ipc) for s in report.subjects if s.ipc}
    claimed = {
        c.subject: c.epsilon for c in report.claims if 0 < c.epsilon < math.inf and not c.broken
    }
    found = []
    for axis, place, other, word in (
        ("images per class", size, claimed, "ε"),
        ("ε", claimed, size, "IPC"),
    ):
        lines = tuple(_lines(report, place, other, word))
        if any(not line.first.baseline for line in lines):
            found.append(Sweep(axis, lines, _level(report, lines, place)))
    return found


def draw(report: Report, sweep: Sweep) -> Drawn:
    """A figure for each headline number: lines with their intervals as bands, one colour a method.

    Numbers that are not to be relied on are left out.
    """
    (table,) = verdict(report)
    names = {line.first.id: line.name for line in sweep.lines} | {s.id: s.id for s in sweep.level}
    known = styles(report.subjects)
    looks = {name: known[id_] for id_, name in names.items()}
    figures: tuple[list[Figure], list[Figure]] = ([], [])
    for group in table.groups:
        for i, column in enumerate(group.columns):
            curves = dict(_curves(report, sweep, group, column))
            if curves:
                title = f"{group.auditor.heading}: {column.title} {column.arrow}".strip()
                figures[i > 0].append(line_figure(title, curves, looks, title=f"Over {sweep.axis}"))
    return Drawn(sweep.axis, tuple(figures[0]), tuple(figures[1]), looks)


def number_at(report: Report, subject: SubjectInfo, auditor: str, key: MetricKey) -> Metric | None:
    """A number of a subject that may be relied on; None where there is none."""
    finding = report.finding(subject.id, auditor)
    metric = next((m for m in finding.metrics if m.key == key), None) if finding else None
    if finding is None or metric is None or metric.value is None:
        return None
    unsure = report.failing_checks(finding, metric) or report.doubt(finding, metric)
    return None if unsure else metric


def _lines(
    report: Report, place: dict[str, float], other: dict[str, float], word: str
) -> list[Line]:
    groups: dict[tuple[str, float | None], list[SubjectInfo]] = {}
    for subject in report.subjects:
        method = subject.card.get("method")
        if subject.id in place and method not in (None, "unknown"):
            groups.setdefault((str(method), other.get(subject.id)), []).append(subject)
    found = []
    methods = [m for (m, _), members in groups.items() if len(members) > 1]
    for (method, fixed), members in groups.items():
        by_place = {place[s.id]: s for s in members}
        if 1 < len(by_place) == len(members):
            apart = methods.count(method) > 1 and fixed is not None
            name = f"{method} ({word} {labels.brief(fixed)})" if apart and fixed else method
            found.append(Line(name, dict(sorted(by_place.items()))))
    return sorted(found, key=lambda line: line.first.baseline)


def _level(
    report: Report, lines: Sequence[Line], place: dict[str, float]
) -> tuple[SubjectInfo, ...]:
    """Baselines and what methods are built on, where they have no place on the axis: all records, no claim."""
    beside = {own_base(report, line.first) for line in lines} | set(report.baselines)
    return tuple(s for s in report.subjects if s.id in beside and s.id not in place)


def _curves(
    report: Report, sweep: Sweep, group: Group, column: Column
) -> Iterator[tuple[str, Curve]]:
    places = sweep.places
    rows = [(line.name, line.subjects) for line in sweep.lines]
    rows += [(s.id, dict.fromkeys((places[0], places[-1]), s)) for s in sweep.level]
    for name, subjects in rows:
        at = {x: number_at(report, s, group.auditor.name, column.key) for x, s in subjects.items()}
        kept = {x: (m.value, m.low, m.high) for x, m in at.items() if m and m.value is not None}
        values = [(x, v, low, high) for x, (v, low, high) in kept.items()]
        if not values:
            continue
        band = all(low is not None and high is not None for _, _, low, high in values)
        yield (
            name,
            Curve(
                plot=column.title,
                label=name,
                x=[x for x, *_ in values],
                y=[v for _, v, *_ in values],
                low=[low for *_, low, _ in values if low is not None] if band else None,
                high=[high for *_, high in values if high is not None] if band else None,
                x_label=sweep.axis,
                y_label=column.title,
                log_x=True,
            ),
        )
