"""Many runs as a static site: a table for those that can be compared, a page for each; no overall rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddaudit.files import write_bytes
from ddaudit.reports import labels
from ddaudit.reports._html import environment, shared, to_html
from ddaudit.reports.cells import Cell, Column
from ddaudit.reports.comparability import apart, conditions, instruments
from ddaudit.reports.schema import AuditorInfo, Claim, MetricKey, Report, SubjectInfo
from ddaudit.reports.view import Group, Row, Verdict, verdict


@dataclass(frozen=True)
class Entry:
    """A run: its name in the site, which is also the folder of its page, and its report."""

    name: str
    report: Report

    @property
    def page(self) -> str:
        """Its page, seen from the site's index."""
        return f"runs/{self.name}/report.html"


@dataclass
class League:
    """Runs whose numbers may share a table."""

    entries: list[Entry]
    instruments: dict[str, dict[str, object]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    """By run, why it is not with those of the first league; empty in that one."""

    @property
    def report(self) -> Report:
        """Of its first run: what it says of data, preset and protocol holds for all."""
        return self.entries[0].report

    def refuses(self, report: Report) -> str:
        """Why a report is not one of it; empty: it is."""
        reason = apart(conditions(report), conditions(self.report))
        for name, mine in instruments(report).items():
            reason = reason or apart(mine, self.instruments.get(name, {}), of=name)
        return reason


@dataclass(frozen=True)
class Standing:
    """One subject of a table, and the runs that have it with these numbers."""

    subject: SubjectInfo
    claim: Claim | None
    cells: tuple[Cell | None, ...]
    """By the table's columns; None where its run did not ask."""
    runs: list[Entry]


@dataclass(frozen=True)
class Board:
    """A table: subjects of one size out of comparable runs, candidates before baselines, by the first column."""

    size: str
    groups: tuple[Group, ...]
    rows: tuple[Standing, ...]

    @property
    def claims(self) -> bool:
        """Whether any of its subjects claims privacy."""
        return any(row.claim for row in self.rows)


def write_site(reports: Sequence[tuple[str, Report]], out: str | Path) -> tuple[Path, list[str]]:
    """Write ``index.html`` and ``runs/NAME/report.html`` for each report.

    Args:
        reports: the runs by their names, which are shortened and made different where they have to be.

    Returns:
        The index, and a line for each run that was kept apart.
    """
    names = labels.file_names(labels.without_folders(name) for name, _ in reports)
    entries = [Entry(name, r) for name, (_, r) in zip(names, reports, strict=True)]
    for entry in entries:
        write_bytes(
            Path(out, entry.page), to_html(entry.report).encode("utf-8", "backslashreplace")
        )
    found = leagues(entries)
    index = write_bytes(Path(out, "index.html"), _index(found).encode("utf-8", "backslashreplace"))
    return index, [line for league in found for line in kept_apart(league, found[0])]


def leagues(entries: Sequence[Entry]) -> list[League]:
    """The runs in the order given, each with the first ones that it can be compared with."""
    found: list[League] = []
    for entry in entries:
        home = next((x for x in found if not x.refuses(entry.report)), None)
        if home is None:
            home = League([])
            found.append(home)
        if home is not found[0]:
            home.why[entry.name] = found[0].refuses(entry.report)
        home.entries.append(entry)
        for name, own in instruments(entry.report).items():
            home.instruments.setdefault(name, own)
    return found


def kept_apart(league: League, first: League) -> list[str]:
    """One line for each of its runs that could not be with those of the first league."""
    beside = first.entries[0].name
    return [f"{name} is kept apart from {beside}: {why}" for name, why in league.why.items()]


def boards(league: League) -> list[Board]:
    """A table for each size that its candidates have; what has no size (all records) is beside every one."""
    tables = [(entry, table) for entry in league.entries for table in verdict(entry.report)]
    groups = _groups([table for _, table in tables])
    rows = [(entry, table, row) for entry, table in tables for row in table.rows]
    sizes = dict.fromkeys(_size(row.subject) for *_, row in rows if not row.subject.baseline)
    by_size: dict[str, dict[object, Standing]] = {size: {} for size in sizes or ["all records"]}
    for entry, table, row in rows:
        cells = tuple(_cells(table, row, groups))
        verdicts = not row.subject.baseline
        shown = tuple(c and (c.text, c.interval, c.greyed, verdicts and c.tags) for c in cells)
        everywhere = row.subject.baseline and not row.subject.drawn
        for size, same in by_size.items():
            if everywhere or size == _size(row.subject):
                made = Standing(row.subject, row.claim, cells, [])
                key = row.subject.id, row.claim and row.claim.model_dump_json(), shown
                same.setdefault(key, made).runs.append(entry)
    return [
        Board(size, groups, tuple(sorted(same.values(), key=lambda s: _order(s, groups))))
        for size, same in by_size.items()
    ]


def _groups(tables: Sequence[Verdict]) -> tuple[Group, ...]:
    """The columns of all tables, auditor by auditor; auditors without a headline number have none."""
    found: dict[str, tuple[AuditorInfo, dict[MetricKey, Column]]] = {}
    for group in (g for table in tables for g in table.groups if g.columns):
        _, columns = found.setdefault(group.auditor.name, (group.auditor, {}))
        for column in group.columns:
            columns.setdefault(column.key, column)
    return tuple(Group(auditor, tuple(columns.values())) for auditor, columns in found.values())


def _cells(table: Verdict, row: Row, groups: Sequence[Group]) -> Iterator[Cell | None]:
    """The row's cells under the columns of these groups."""
    own = {}
    for group, cells in zip(table.groups, row.groups, strict=True):
        stopped = cells[0].state in ("skipped", "failed")
        for i, column in enumerate(group.columns):
            own[group.auditor.name, column.key] = cells[0 if stopped else i]
    for group in groups:
        for column in group.columns:
            yield own.get((group.auditor.name, column.key))


def _order(row: Standing, groups: Sequence[Group]) -> tuple[bool, bool, float]:
    cell = row.cells[0] if row.cells else None
    if cell is None or cell.at is None:
        return row.subject.baseline, True, 0.0
    sign = 1 if groups[0].columns[0].arrow == labels.ARROWS["lower"] else -1
    return row.subject.baseline, False, sign * cell.at


def _size(subject: SubjectInfo) -> str:
    """The budget of a set: its images per class; where nobody says them, its bytes."""
    counts = set(subject.per_class or ())
    ipc = subject.ipc or (counts.pop() if len(counts) == 1 else None)
    if ipc:
        return f"{ipc} image{'' if ipc == 1 else 's'} per class"
    stored = subject.card.get("bytes")
    if isinstance(stored, dict):
        return f"{labels.count(sum(v for v in stored.values() if isinstance(v, int)))} bytes"
    return "networks" if subject.kind == "checkpoint" else "size not known"


def _alerts(league: League) -> list[tuple[str, list[str]]]:
    """What has to be read with the numbers, and in which runs; no run where it is so in all of them."""
    found: dict[str, list[str]] = {}
    for entry in league.entries:
        for alert in entry.report.alerts:
            found.setdefault(alert.text, []).append(entry.name)
    everyone = len(league.entries)
    return [(text, runs if len(runs) < everyone else []) for text, runs in found.items()]


def _index(found: Sequence[League]) -> str:
    return (
        environment()
        .get_template("leaderboard.html")
        .render(
            **shared(),
            leagues=[(x, boards(x), kept_apart(x, found[0]), _alerts(x)) for x in found],
            version=found[0].report.run.ddaudit_version,
        )
    )
