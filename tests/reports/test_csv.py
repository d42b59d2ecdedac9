"""report.csv and report.parquet read back, with the csv module, pandas and pyarrow."""

from __future__ import annotations

import csv
import io
import json

import pyarrow.parquet as pq
import pytest

from ddaudit.reports import Report
from ddaudit.reports._csv import COLUMNS, _inert, to_csv, to_parquet


@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_round_trip(which: str, request: pytest.FixtureRequest) -> None:
    made: Report = request.getfixturevalue(which)
    rows = list(csv.DictReader(io.StringIO(to_csv(made), newline="")))
    assert tuple(rows[0]) == tuple(COLUMNS)
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


@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_parquet_is_the_same_table_with_types(which: str, request: pytest.FixtureRequest) -> None:
    made: Report = request.getfixturevalue(which)
    table = pq.read_table(io.BytesIO(to_parquet(made)))
    assert table.column_names == list(COLUMNS)
    assert {str(table.schema.field(c).type) for c in ("value", "low", "difference")} == {"double"}
    assert str(table.schema.field("n").type) == "int64"
    plain = list(csv.DictReader(io.StringIO(to_csv(made), newline="")))
    for typed, row in zip(table.to_pylist(), plain, strict=True):
        for name, kind in COLUMNS.items():
            value, text = typed[name], row[name]
            if value is None or text == "":
                assert value in (None, ""), name
                assert text == "", name
            elif kind is bool:
                assert text == str(value).lower()
            else:
                assert kind(text.removeprefix("'") if kind is str else text) == value


def test_parquet_takes_text_that_is_no_utf8(report: Report) -> None:
    odd = report.model_copy(
        update={"findings": [report.findings[0].model_copy(update={"reason": "\ud800"})]}
    )
    assert pq.read_table(io.BytesIO(to_parquet(odd)))["reason"][0].as_py() == "\\ud800"
