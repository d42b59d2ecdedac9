"""From cells to a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ddaudit.findings import Check, Finding, Metric
from ddaudit.reports import Report, build_report


class _Run:
    def __init__(self, cells: list[Finding], **parts: Any) -> None:
        ids = dict.fromkeys(c.subject for c in cells)
        self.info = parts.get("info", {"data": "digits", "seeds": [0]})
        self.subjects = parts.get(
            "subjects",
            [{"id": i, "kind": "recipe", "baseline": i in ("full", "random")} for i in ids],
        )
        self.auditors = parts.get(
            "auditors", [{"name": n} for n in dict.fromkeys(c.auditor for c in cells)]
        )
        self.cells = cells
        self.checks = parts.get("checks", {})


def _cell(
    subject: str, value: float, half: float = 0.01, auditor: str = "utility", **kwargs: Any
) -> Finding:
    metric = Metric(
        name="utility.accuracy",
        value=value,
        low=value - half,
        high=value + half,
        direction="higher",
        headline=True,
    )
    return Finding(subject=subject, auditor=auditor, seed=0, metrics=[metric], **kwargs)


def _bound(value: float, **params: Any) -> Finding:
    metric = Metric(
        name="privacy.epsilon_lower_bound",
        value=value,
        unit="epsilon",
        direction="lower",
        params=params,
    )
    return Finding(subject="psg", auditor="membership", seed=0, metrics=[metric])


def _claim(
    bounds: list[Finding], *, checks: dict[str, list[Check]] | None = None, **privacy: Any
) -> Any:
    subject = {
        "id": "psg",
        "kind": "file",
        "card": {"privacy": {"epsilon": 2.0, "delta": 1e-5, **privacy}},
    }
    cells = bounds or [Finding(subject="psg", auditor="membership", seed=0)]
    return build_report(_Run(cells, subjects=[subject], checks=checks or {})).claims[0]


def test_baselines_come_first_and_every_other_subject_is_compared_with_them() -> None:
    report = build_report(_Run([_cell("dm", 0.5), _cell("random", 0.4), _cell("full", 0.9)]))
    assert report.baselines == ["random", "full"]
    assert [s.id for s in report.subjects] == ["random", "full", "dm"]
    rows = {
        (c.subject, c.baseline): (round(c.difference, 9), c.outcome) for c in report.comparisons
    }
    assert rows["dm", "random"] == (0.1, "better")
    assert rows["dm", "full"] == (-0.4, "worse")
    assert ("random", "random") not in rows


def test_only_headline_metrics_with_a_partner_are_compared() -> None:
    quiet = _cell("dm", 0.5)
    quiet.metrics[0].headline = False
    assert build_report(_Run([quiet, _cell("random", 0.4)])).comparisons == []
    assert build_report(_Run([_cell("dm", 0.5)])).comparisons == []


def test_a_difference_within_its_interval_is_not_distinguishable() -> None:
    report = build_report(_Run([_cell("dm", 0.41, 0.01), _cell("random", 0.40, 0.01)]))
    assert report.comparisons[0].outcome == "not distinguishable"
    assert report.comparisons[0].low == pytest.approx(0.01 - 0.01 * 2**0.5)


def test_a_cell_that_never_ran_is_said() -> None:
    run = _Run([_cell("dm", 0.5)], auditors=[{"name": "utility"}, {"name": "bias"}])
    finding = build_report(run).finding("dm", "bias")
    assert finding is not None
    assert (finding.status, finding.reason) == ("skipped", "not run yet")


def test_missing_seeds_make_a_cell_partial_but_not_for_checkpoints() -> None:
    info = {"data": "digits", "seeds": [0, 1]}
    for kind, status in (("recipe", "partial"), ("checkpoint", "ok")):
        run = _Run([_cell("x", 0.5)], info=info, subjects=[{"id": "x", "kind": kind}])
        assert build_report(run).findings[0].status == status


def test_subjects_and_auditors_that_only_cells_know_are_listed() -> None:
    report = build_report(_Run([_cell("stray", 0.5, auditor="odd")], subjects=[], auditors=[]))
    assert [s.id for s in report.subjects] == ["stray"]
    assert [a.name for a in report.auditors] == ["odd"]


def test_instrument_checks_reach_every_finding_and_subject_checks_only_theirs() -> None:
    checks = {
        "utility": [
            Check(name="known", passed=True, expected=""),
            Check(name="for dm", passed=False, expected="", subject="dm"),
        ]
    }
    report = build_report(_Run([_cell("dm", 0.5), _cell("random", 0.4)], checks=checks))
    names = {f.subject: [c.name for c in f.checks] for f in report.findings}
    assert names == {"random": ["known"], "dm": ["known", "for dm"]}
    assert [(g.subject, g.checks) for g in report.greyed] == [("dm", ["for dm"])]
    assert {c.trusted for c in report.comparisons} == {False}


@pytest.mark.parametrize(
    ("bounds", "state", "lower"),
    [
        ([], "not tested", None),
        ([_bound(1.9)], "not contradicted", 1.9),
        ([_bound(2.1)], "violated", 2.1),
        ([_bound(1.0, adversary="a"), _bound(2.5, adversary="b")], "violated", 2.5),
        ([_bound(2.1, delta=1e-5)], "violated", 2.1),
        (
            [_bound(2.1, delta=1e-4)],
            "violated",
            2.1,
        ),  # (2, 1e-5) implies (2, 1e-4), which 2.1 refutes
        ([_bound(2.1, delta=1e-6)], "not tested", None),  # says nothing about delta = 1e-5
    ],
)
def test_claims_are_held_against_the_largest_comparable_bound(
    bounds: list[Finding], state: str, lower: float | None
) -> None:
    merged = Finding(
        subject="psg", auditor="membership", seed=0, metrics=[m for b in bounds for m in b.metrics]
    )
    claim = _claim([merged] if bounds else [])
    assert (claim.state, claim.lower_bound) == (state, lower)


def test_a_claim_whose_instrument_failed_is_not_tested() -> None:
    claim = _claim(
        [_bound(5.0)], checks={"membership": [Check(name="broken", passed=False, expected="")]}
    )
    assert (claim.state, claim.lower_bound) == ("not tested", None)
    assert "check" in claim.reason


def test_a_claim_with_a_published_noise_seed_is_void_unless_it_is_refuted() -> None:
    assert _claim([_bound(1.0)], noise_seed_published=True).state == "void"
    assert _claim([_bound(3.0)], noise_seed_published=True).state == "violated"


def test_an_infinite_epsilon_is_no_claim() -> None:
    subject = {
        "id": "psg",
        "kind": "file",
        "card": {"privacy": {"epsilon": float("inf"), "delta": 0.0}},
    }
    assert build_report(_Run([_bound(1.0)], subjects=[subject])).claims == []


def test_the_info_of_a_run_store_is_understood() -> None:
    info = {
        "format": 1, "data": {"name": "digits", "notes": ["n"], "test": 400},
        "preset": {"name": "quick", "profile": "small"},
        "protocol": {"name": "dc", "epochs": 1000}, "config": {"ipc": 7}, "versions": {"ddaudit": "9"}, "seeds": [0],
        "cells": [{"key": "k"}], "missing": [], "future": 1,
    }  # fmt: skip
    run = build_report(_Run([_cell("dm", 0.5)], info=info)).run
    assert (run.data, run.data_notes, run.data_facts) == ("digits", ["n"], {"test": 400})
    assert (run.preset, run.profile, run.protocol, run.ipc, run.ddaudit_version) == (
        "quick",
        "small",
        "dc",
        7,
        "9",
    )
    assert run.model_dump()["future"] == 1
    assert "cells" not in run.model_dump()


def test_counts_of_cells_are_taken_from_the_cells(report: Report) -> None:
    assert (report.run.cells_done, report.run.cells_skipped, report.run.cells_failed) == (123, 3, 0)


def test_the_synthetic_run_reads_as_designed(report: Report) -> None:
    assert {c.subject: c.state for c in report.claims} == {
        "dm+dp": "violated",
        "psg": "not contradicted",
    }
    greyed = {(g.auditor, g.metric) for g in report.greyed}
    assert greyed == {
        ("calibration", "calibration.ece"),
        ("adversarial", "adversarial.robust_accuracy"),
    }
    skipped = report.finding("psg", "backdoor")
    assert skipped is not None
    assert skipped.status == "skipped"


def test_build_report_is_deterministic(make_run: Callable[..., Any], report: Report) -> None:
    assert build_report(make_run()) == report
