"""The report arranged for reading: the verdict, what each defense changed, and the tables of all metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ddaudit.findings import CLAIMED, NOT_RUN, Finding, Metric
from ddaudit.reports import labels
from ddaudit.reports.cells import (
    Cell,
    Column,
    Tag,
    column_of,
    common_floor,
    headline_cell,
    plain_cell,
    stopped_cell,
)  # fmt: skip
from ddaudit.reports.compare import own_base
from ddaudit.reports.schema import AuditorInfo, Claim, MetricKey, Report, SubjectInfo

MOST_VARIANTS = 4
"""Variants of one metric in an auditor's main table; more go into a table of their own."""
MOST_NAMES = 4
"""Subjects that a sentence names; of more it says how many."""
MOST_WORDS = 8
"""Rows up to which every cell of the verdict has its state in words; in a longer table "no difference shown" is a
symbol that the line below explains, so that the others are seen."""

_ORDER = (
    "check failed", "at chance", "claim violated", "inverted", "higher", "lower", "no difference shown",
    "no verdict", "at floor", "failed", NOT_RUN, "skipped",
)  # fmt: skip
"""States of a subject's numbers, the one that is told of it first."""


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
    """One subject of the verdict: its cells, auditor by auditor; the first of each is its primary number."""

    subject: SubjectInfo
    groups: tuple[tuple[Cell, ...], ...]
    claim: Claim | None
    base: str = ""
    """What it is compared with, where that is not the reference."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Its cells side by side."""
        return tuple(cell for group in self.groups for cell in group)


@dataclass(frozen=True)
class Verdict:
    """Subjects x auditors, candidates before baselines."""

    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    claims: bool
    """Whether this table carries the column of claimed epsilons."""

    @cached_property
    def quiet(self) -> list[int]:
        """Groups whose numbers separate no candidate from the reference, which a footnote can name.

        The one with the basis (accuracy) stays, one with cells that failed or were not run too, and all of them
        where nothing separates anybody.
        """
        candidates = [r for r in self.rows if not r.subject.baseline]
        quiet = [
            i
            for i in range(len(self.groups))
            if i and not any(c.speaks for r in candidates for c in r.groups[i])
        ]
        return quiet if len(quiet) < len(self.groups) - 1 else []

    @property
    def terse(self) -> bool:
        """Whether the commonest state of a cell is a symbol alone."""
        return len(self.rows) > MOST_WORDS

    @cached_property
    def alike(self) -> dict[int, Tag]:
        """The state that the primary numbers of all candidates have, by group: a long table has it in its head."""
        rows = [r for r in self.rows if not r.subject.baseline]
        marks = {i: [r.groups[i][0].mark for r in rows] for i in range(len(self.groups))}
        return {
            i: found[0]
            for i, found in marks.items()
            if self.terse
            and found
            and found[0]
            and found[0].settled
            and len({m.word if m else "" for m in found}) == 1
        }

    @cached_property
    def shared(self) -> list[tuple[int, str, Tag]]:
        """What beside the primary number is told of every candidate alike: once below the table, not in each cell."""
        candidates = [r for r in self.rows if not r.subject.baseline]
        if len(candidates) < 3:
            return []
        out = []
        for i in range(len(self.groups)):
            told = [{(name, t.word) for name, t in self.others(r, i)} for r in candidates]
            common = set.intersection(*told)
            out += [
                (i, name, t)
                for name, t in self.others(candidates[0], i)
                if (name, t.word) in common
            ]
        return out

    def apart(self, row: Row, group: int) -> list[tuple[str, Tag]]:
        """:meth:`others` without what is :attr:`shared`."""
        known = {(i, name, t.word) for i, name, t in self.shared}
        return [(n, t) for n, t in self.others(row, group) if (group, n, t.word) not in known]

    def others(self, row: Row, group: int) -> list[tuple[str, Tag]]:
        """What the numbers of a group beside the primary one tell of a subject, by their shortest clear name."""
        first, *rest = row.groups[group]
        if first.state in ("skipped", "failed"):
            return []
        known = {t.word for t in first.tags} & {"check failed", "at chance"}
        columns = self.groups[group].columns
        alike = Counter(c.name for c in columns)
        return [
            (column.name if alike[column.name] == 1 else column.title, tag)
            for column, cell in zip(columns[1:], rest, strict=True)
            for tag in cell.tags
            if tag.settled and tag.word not in known
        ]


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


def verdict(report: Report, *, most_columns: int | None = None) -> list[Verdict]:
    """The verdict; cut between auditors into tables of about ``most_columns`` columns at most, if that is given."""
    groups = [_group(report, a) for a in report.auditors]
    order = sorted(report.subjects, key=lambda s: s.baseline)
    parts = [groups] if most_columns is None else _balanced(groups, most_columns)
    return [
        Verdict(
            groups=tuple(part),
            rows=tuple(_row(report, s, part) for s in order),
            claims=bool(report.claims) and index == 0,
        )
        for index, part in enumerate(parts)
    ]


def changes(report: Report) -> Verdict:
    """What each defense changed: a row for each subject that is built on another one, compared with that."""
    groups = [g for a in report.auditors if (g := _group(report, a)).columns]
    pairs = [(s, own_base(report, s)) for s in report.subjects]
    rows = tuple(_row(report, s, groups, base) for s, base in pairs if base)
    return Verdict(tuple(groups), rows, claims=False)


def answer(report: Report, table: Verdict, i: int) -> str:
    """What an auditor (the group's) found of the candidates, in a sentence: who is better and who is worse."""
    said: dict[str, list[str]] = {}
    for row in table.rows:
        if not row.subject.baseline:
            told = _told(table, row, i, report.reference_of(row.subject.id))
            said.setdefault(told, []).append(row.subject.id)
    if not said:
        return ""
    rows = sorted(said.items(), key=lambda x: (not x[0].startswith(("better", "worse")), len(x[1])))
    text = "; ".join(
        f"{word}: {_named(who, alone=len(rows) == 1, last=word == rows[-1][0])}"
        for word, who in rows
    )
    return f"{text[:1].upper()}{text[1:]}."


def _named(who: Sequence[str], *, alone: bool, last: bool) -> str:
    """Names, or how many they are: all of the candidates, or those that are left."""
    if len(who) > 2 and (alone or last):
        return f"all {len(who)} sets" if alone else f"the other {len(who)}"
    more = len(who) - MOST_NAMES
    return ", ".join(who) if more < 2 else f"{', '.join(who[:MOST_NAMES])} and {more} more"


def _told(table: Verdict, row: Row, i: int, reference: str | None) -> str:
    """What the numbers of a group tell of a subject; of those beside the primary one, which they are."""
    words = [t.word for t in row.groups[i][0].tags]
    others = table.others(row, i)
    told = []
    for word in ("worse", "better"):
        names = [name for name, t in others if t.word == word]
        if word in words:
            told.append(f"{word} than {reference}")
        elif names:
            told.append(f"{word} than {reference} in {names[0]}")
    words += [t.word for _, t in others]
    bound = row.claim is not None and row.groups[i][0].text.startswith(
        "≥"
    )  # nobody is ranked by it
    rest = f"claim {row.claim.state}" if row.claim and bound else "not compared"
    return " and ".join(told) or next((w for w in _ORDER if w in words), rest)


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
    return Group(auditor, tuple(column_of(report, key, metrics) for key, metrics in found.items()))


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


def _row(
    report: Report, subject: SubjectInfo, groups: Sequence[Group], base: str | None = None
) -> Row:
    cells = tuple(tuple(_cells(report, subject, group, base)) for group in groups)
    claim = next((c for c in report.claims if c.subject == subject.id), None)
    return Row(subject, cells, claim, base or "")


def _cells(report: Report, subject: SubjectInfo, group: Group, base: str | None) -> list[Cell]:
    finding = report.finding(subject.id, group.auditor.name)
    if finding is None or finding.status in ("skipped", "failed"):
        return [stopped_cell(finding, group.span)]
    if not group.columns:
        return [Cell("absent", note="no headline metric")]
    return [headline_cell(report, finding, column, base) for column in group.columns]


_ACCURACIES = ("accuracy", "clean_accuracy", "robust_accuracy", "cta")


def _unlike_basis(
    report: Report, found: Sequence[tuple[Finding, Metric | None]], sizes: Sequence[int]
) -> str:
    """A reader who meets two accuracies of one subject learns that they are of other images."""
    finding, metric = next((f, m) for f, m in found if m is not None)
    basis = report.basis(finding.subject)
    alike = basis is None or metric.basis or basis.n is None or basis.n in sizes
    if basis is None or alike or metric.name.rpartition(".")[2] not in _ACCURACIES:
        return ""
    return f", other images than the {labels.count(basis.n or 0)} of {labels.metric_name(basis)}"


def _metric_row(report: Report, found: Sequence[tuple[Finding, Metric | None]]) -> MetricRow:
    metrics = [m for _, m in found if m is not None]
    first = metrics[0]
    sizes = sorted({m.n for m in metrics if m.n is not None})
    ranked = first.direction != "none" or first.merge == "bound"
    detail = [labels.direction(first)] if ranked else []
    if first.unit != "fraction":
        detail.append(f"unit: {first.unit}")
    if sizes:
        size = " to ".join(dict.fromkeys(map(labels.count, (sizes[0], sizes[-1]))))
        detail.append(f"n = {size}{_unlike_basis(report, found, sizes)}")
    if first.chance is not None:
        detail.append(f"chance {labels.number(first.chance, first.unit)}")
    if floor := common_floor(metrics):
        detail.append(f"noise floor {floor}")
    return MetricRow(
        name=labels.metric_name(first),
        params=labels.params_text(first.params),
        detail=" · ".join(detail),
        headline=any(m.headline for m in metrics),
        cells=tuple(plain_cell(report, f, m) for f, m in found),
    )
