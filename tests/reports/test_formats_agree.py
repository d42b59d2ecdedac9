"""Every format shows the same subjects, verdicts, claims and alerts."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from ddaudit.findings import NOT_RUN, Finding
from ddaudit.reports import FORMATS, Report, build_report


@pytest.fixture(scope="module")
def waiting(make_run: Callable[..., Any]) -> Report:
    """The synthetic run with one cell that was never run, and sets of several sizes."""
    run = make_run(galleries=False)
    run.cells = [c for c in run.cells if (c.subject, c.auditor) != ("dm", "bias")] + [
        Finding(subject="dm", auditor="bias", status="skipped", reason=NOT_RUN, seed=0)
    ]
    run.subjects = [
        {**s, "per_class": [10, 12] if s["id"] == "dm" else [10, 10]} for s in run.subjects
    ]
    run.info = {**run.info, "cells": []}
    return build_report(run)


@pytest.fixture(scope="module")
def texts(waiting: Report) -> dict[str, str]:
    """The report in every format."""
    return {name: write(waiting) for name, write in FORMATS.items()}


def test_alerts_are_in_all_formats(waiting: Report, texts: dict[str, str]) -> None:
    count = len(waiting.alerts)
    assert count >= 4
    said = [a.text for a in waiting.alerts]
    assert any("Do not quote" in t for t in said)
    assert any("the claim is false" in t for t in said)
    assert any("not run yet" in t for t in said)
    assert any("Confidential: shows" in t for t in said)
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert {t for r in rows for t in json.loads(r["warnings"])} == set(said)
    assert all("Do not quote" in r["warnings"] for r in rows)
    assert [a["text"] for a in json.loads(texts["json"])["alerts"]] == said
    assert texts["html"].count('<li class="alert">') == count
    assert len(re.findall(r"^> - ", texts["md"], re.M)) == count
    tables = texts["tex"].count(r"\begin{tabular}")
    assert texts["tex"].count(r"\par\smallskip\parbox") == count * tables


def test_subjects_claims_and_verdicts_agree(waiting: Report, texts: dict[str, str]) -> None:
    ids = [s.id for s in waiting.subjects]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert (
        list(
            dict.fromkeys(r["subject"] for r in sorted(rows, key=lambda r: ids.index(r["subject"])))
        )
        == ids
    )
    first = texts["html"].split('<table class="verdict"')[1].split("</table>")[0]
    assert first.count('<tr class="subject">') == len(ids)
    table = texts["tex"].split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    assert len(re.findall(r"^\S+ & ", table, re.M)) == len(ids)
    md = texts["md"].split("| :--", 1)[1].split("\n\n")[0]
    assert len(re.findall(r"^\| \*", md, re.M)) == len(ids)
    headline = [r for r in rows if r["headline"] == "true"]
    for word in ("better", "worse"):
        count = sum(r["outcome"] == word and not r["greyed_by"] for r in headline)
        # Open, or in the row that opens below it: each once with its difference.
        assert count == len(re.findall(rf"</span> {word} [^<]+</span>", first))
        told = [r for r in headline if r["outcome"] == word and not r["greyed_by"]]
        said = texts["md"].split("### The verdict")[1].split("Baselines in italics")[0]
        candidates = [r for r in told if r["baseline"] == "false"]
        assert len(candidates) == len(re.findall(rf"[▲▼] {word}\b", said))
    better = sum(r["outcome"] == "better" and not r["greyed_by"] for r in headline)
    assert texts["tex"].count("^{+}") - texts["tex"].count("$^{+}$ better") == better
    states = {r["subject"]: r["claim"] for r in rows if r["claim"]}
    assert states == {c.subject: c.state for c in waiting.claims}


def test_what_was_not_run_is_neither_skipped_nor_failed(
    waiting: Report, texts: dict[str, str]
) -> None:
    assert (waiting.run.cells_not_run, waiting.run.cells_failed) == (1, 0)
    assert "1 cell not run yet: dm × bias." in [s.text for s in waiting.summary]
    assert f"*{NOT_RUN}: " in texts["md"]
    assert f"<b>{NOT_RUN}</b>" in texts["html"]
    assert rf"\emph{{{NOT_RUN}}}" in texts["tex"]


def test_sizes_are_those_of_the_sets(texts: dict[str, str]) -> None:
    for name in ("md", "tex", "html"):
        assert "10 to 12" in texts[name]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert {r["images_per_class"] for r in rows if r["subject"] == "dm+fair"} == {"10"}
