"""The page of every method's utility: published numbers keep their tags, and what is missing is named."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import ddaudit
from benchmarks.utility import HERE, Case, Row, _line, read_published, write_page, write_problems
from ddaudit.findings import Finding, Metric

KNOWN = {
    name: {"name": name, "family": family, "status": "faithful"}
    for name, family in (("random", "selection"), ("dm", "distribution"), ("kip", "kernel"))
}


def test_published_numbers_are_fractions_with_a_tag() -> None:
    with (HERE / "published.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(0 < float(r["accuracy"]) < 1 for r in rows)
    assert {r["tag"] for r in rows} == {"from memory", "[C] README", "[P]"}
    assert len({(r["method"], r["data"], r["ipc"]) for r in rows}) == len(rows)
    # the table of numbers in the README of VICO-UoE/DatasetCondensation, and one from memory
    assert read_published()["dsa", "fashion-mnist", 10] == "0.846 ([C] README)"
    assert read_published()["dm", "fashion-mnist", 1] == "0.707 ± 0.006 (from memory)"


def test_a_row_that_does_not_beat_random_needs_a_reason() -> None:
    case = Case("fashion-mnist", 10)
    better = Row("dm", (0.8, 0.78, 0.82), 3, (0.05, 0.03, 0.07), True)
    worse = Row("kip", (0.7, 0.68, 0.72), 3, (0.01, -0.01, 0.03), True)
    published = read_published()
    line = _line(better, KNOWN["dm"], case, published, {"dm": "why"})
    assert "| +0.050 [+0.030, +0.070] | yes | 0.835 ± 0.003 (from memory) |  |" in line
    assert _line(worse, KNOWN["kip"], case, {}, {}).endswith("| no | - | not looked into |")
    reasons = {"kip": "general", "kip@fashion-mnist@10": "here"}
    assert _line(worse, KNOWN["kip"], case, {}, reasons).endswith("| no | - | here |")


def test_the_page_names_what_is_not_there(tmp_path) -> None:
    case = Case("digits", 1)
    write_problems(tmp_path, {("kip", case): "needs more"})
    write_page(tmp_path / "page.md", KNOWN, [case], [tmp_path])
    text = (tmp_path / "page.md").read_text()
    assert "Not there: random, dm, kip (needs more)." in text


def test_rows_come_from_the_first_folder_that_has_them(tmp_path, monkeypatch) -> None:
    def report(folders: list[str]) -> object:
        first = "/first/" in folders[0]
        by = {"protocol": "sre2l"}
        told = [
            Metric(name="utility.accuracy", value=0.7 if first else 0.5, low=0.4, high=0.8),
            Metric(name="utility.accuracy", value=0.9, low=0.8, high=1.0, params=by),
            Metric(name="utility.ior", value=-0.02, low=-0.1, high=0.1, params=by),
        ]
        names = ("dm",) if first else ("dm", "kip")
        found = [Finding(subject=n, auditor="utility", metrics=told) for n in names]
        return SimpleNamespace(findings=found, comparisons=[])

    monkeypatch.setattr(ddaudit, "report_of", report)
    case, outs = Case("digits", 1), [tmp_path / "first", tmp_path / "second"]
    for out in outs:
        case.folder(out).mkdir(parents=True)
        (case.folder(out) / "run.json").write_text('{"preset": {"victims": 3}}')
    write_page(tmp_path / "page.md", KNOWN, [case], outs)
    text = (tmp_path / "page.md").read_text()
    assert "| `dm` | faithful | 0.700 [0.400, 0.800] |" in text
    assert "| `kip` | faithful | 0.500 [0.400, 0.800] |" in text
    assert "| `kip` | 0.900 [0.800, 1.000] | - | -0.020 [-0.100, +0.100] | - |" in text
    kept = json.loads((tmp_path / "page.json").read_text())
    assert [(r["method"], r["accuracy"][0]) for r in kept] == [("dm", 0.7), ("kip", 0.5)]

    # The folders are gone: the page stays as it was, beside what is new.
    monkeypatch.setattr(ddaudit, "report_of", lambda folders: 1 / 0)
    write_page(tmp_path / "page.md", KNOWN, [Case("digits", 10)], [tmp_path / "none"])
    again = (tmp_path / "page.md").read_text()
    assert text.rstrip() in again
    assert "## Digits (scikit-learn's, 8x8), IPC 10" in again
    assert json.loads((tmp_path / "page.json").read_text()) == kept
