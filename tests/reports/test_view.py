"""The verdict and metric tables."""

from __future__ import annotations

import pytest

from ddaudit.reports import Report
from ddaudit.reports.cells import Cell
from ddaudit.reports.view import Verdict, metric_tables, verdict


def _cell(report: Report, subject: str, name: str) -> Cell:
    for table in verdict(
        report, most_columns=1
    ):  # one auditor a table, so only its own cells can be skipped
        row = next(r for r in table.rows if r.subject.id == subject)
        columns = [c for g in table.groups for c in g.columns]
        if len(row.cells) == len(columns):
            for cell, column in zip(row.cells, columns, strict=True):
                if column.key[0] == name:
                    return cell
    raise KeyError(name)


def _words(cell: Cell) -> list[str]:
    return [t.word for t in cell.tags]


@pytest.mark.parametrize("most", [1, 4, 8, 100])
def test_every_table_covers_every_subject_and_no_column_is_lost(report: Report, most: int) -> None:
    tables = verdict(report, most_columns=most)
    names = [c.key for t in tables for g in t.groups for c in g.columns]
    assert len(names) == len(set(names)) == 10
    for table in tables:
        assert all(
            sum(c.span for c in row.cells) == sum(g.span for g in table.groups)
            for row in table.rows
        )
        assert sum(g.span for g in table.groups) <= max(most, 3)
    assert [t.claims for t in tables] == [True] + [False] * (len(tables) - 1)


def test_states(report: Report) -> None:
    assert _words(_cell(report, "dm", "utility.accuracy")) == ["worse"]
    assert _cell(report, "dm", "utility.accuracy").worse
    assert _words(_cell(report, "random", "utility.accuracy")) == []
    assert "at floor" in _words(_cell(report, "psg", "membership.auc"))
    assert _cell(report, "dm+dp", "privacy.epsilon_lower_bound").broken
    assert not _cell(report, "psg", "privacy.epsilon_lower_bound").broken
    assert _cell(report, "dm", "calibration.ece").greyed == ("perfectly calibrated simulator",)
    assert _cell(report, "dm", "privacy.epsilon_lower_bound").state == "absent"


def test_a_skipped_auditor_spans_its_columns_and_gives_its_reason(report: Report) -> None:
    def skipped(table: Verdict) -> list[Cell]:
        return [c for r in table.rows for c in r.cells if c.state == "skipped"]

    (cell,) = [c for t in verdict(report) for c in skipped(t)]
    assert cell.span == 2
    assert "checkpoint" in cell.note


def test_strips_share_the_scale_of_their_column(report: Report) -> None:
    cells = {s.id: _cell(report, s.id, "utility.accuracy") for s in report.subjects}
    places = {name: c.strip.value for name, c in cells.items() if c.strip}
    values = {name: float(c.text) for name, c in cells.items()}
    assert sorted(places, key=lambda n: places[n]) == sorted(values, key=lambda n: values[n])
    ends = [e for c in cells.values() if c.strip for e in (c.strip.low, c.strip.high)]
    assert (min(e for e in ends if e is not None), max(e for e in ends if e is not None)) == (
        0,
        100,
    )


def test_wide_metrics_get_a_table_of_their_own(report: Report) -> None:
    auditor = next(a for a in report.auditors if a.name == "adversarial")
    main, wide = metric_tables(report, auditor)
    assert [r.headline for r in main.rows] == [True]
    assert (wide.title, len(wide.rows)) == ("robust accuracy, all 9 variants", 9)
    assert all(len(r.cells) == len(wide.subjects) == 7 for r in wide.rows)


def test_accuracies_of_other_images_say_so_at_the_number(report: Report) -> None:
    """Two accuracies of one subject that differ because one of them asked 48 images only."""

    def details(size: int) -> dict[str, str]:
        few = report.model_copy(deep=True)
        for finding in few.findings:
            for metric in finding.metrics:
                if metric.name == "adversarial.robust_accuracy":
                    metric.n = size
        tables = [t for a in few.auditors for t in metric_tables(few, a)]
        return {row.name: row.detail for t in tables for row in t.rows}

    unlike = {name: d for name, d in details(48).items() if "other images" in d}
    assert list(unlike) == ["robust accuracy"]
    assert "n = 48, other images than the 10,000 of accuracy" in unlike["robust accuracy"]
    assert not any("other images" in d for d in details(10_000).values())
