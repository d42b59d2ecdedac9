"""report.csv reads back, with the csv module and with pandas."""

from __future__ import annotations

import csv
import io
import json

import pytest

from ddaudit.reports import Report
from ddaudit.reports._csv import COLUMNS, _inert, to_csv


@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_round_trip(which: str, request: pytest.FixtureRequest) -> None:
    made: Report = request.getfixturevalue(which)
    rows = list(csv.DictReader(io.StringIO(to_csv(made), newline="")))
    assert tuple(rows[0]) == COLUMNS
    wanted = [(f, m) for f in made.findings for m in f.metrics]
    got = [r for r in rows if r["metric"]]
    assert len(got) == len(wanted)
    for row, (finding, metric) in zip(got, wanted, strict=True):
        assert (row["subject"], row["auditor"], row["metric"]) == (
            finding.subject,
            finding.auditor,
            metric.name,
        )
        assert json.loads(row["params"]) == metric.params
        for column in ("value", "low", "high", "floor"):
            assert (float(row[column]) if row[column] else None) == getattr(metric, column)


def test_a_skipped_cell_keeps_a_row_with_its_reason(report: Report) -> None:
    rows = [r for r in csv.DictReader(io.StringIO(to_csv(report))) if r["status"] == "skipped"]
    assert [(r["subject"], r["auditor"], r["metric"]) for r in rows] == [("psg", "backdoor", "")]
    assert "checkpoint" in rows[0]["reason"]


def test_it_is_tidy_for_pandas(report: Report) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(io.StringIO(to_csv(report))).dropna(subset=["metric"])
    assert not table.duplicated(["subject", "metric", "params"]).any()
    accuracy = table[table.metric == "utility.accuracy"].set_index("subject")
    assert accuracy.value["full"] == report.findings[0].metrics[0].value
    assert accuracy.outcome["dm"] == "worse"


def test_a_text_that_a_spreadsheet_would_run_is_inert_and_numbers_stay_numbers() -> None:
    texts = {"a": "=1+1", "b": "+cmd", "c": "-x", "d": "@sum", "e": "\tx", "f": " =1"}
    assert _inert(texts) == {k: f"'{v}" for k, v in texts.items()}
    plain = {"a": "-0.5", "b": "+1e-3", "c": "dm+fair", "d": "", "e": -0.5, "f": "-inf"}
    assert _inert(plain) == plain
