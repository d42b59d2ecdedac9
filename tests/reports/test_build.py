"""From cells to a report."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ddaudit.attacks.privacy.auditor import PrivacySettings
from ddaudit.attacks.privacy.bound import bound, confidences, joint
from ddaudit.attacks.privacy.bound import metrics as privacy_metrics
from ddaudit.attacks.privacy.claims import ON_CARD, check_claim
from ddaudit.findings import CLAIMED, Check, Finding, Metric
from ddaudit.reports import Report, build_report
from ddaudit.reports.uses import uses
from ddaudit.reports.view import verdict
from ddaudit.sets import Card, PrivacyClaim


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
    subject: str,
    value: float,
    half: float = 0.01,
    auditor: str = "utility",
    seed: int = 0,
    **kwargs: Any,
) -> Finding:
    metric = Metric(
        name="utility.accuracy",
        value=value,
        low=value - half,
        high=value + half,
        direction="higher",
        headline=True,
    )
    return Finding(subject=subject, auditor=auditor, seed=seed, metrics=[metric], **kwargs)


def _draws(subject: str, values: list[float], half: float = 0.01) -> list[Finding]:
    return [_cell(subject, v, half, seed=seed) for seed, v in enumerate(values)]


RANDOM = [0.39, 0.40, 0.40, 0.40, 0.41]


def _bound(value: float, *checks: Check, refutes: str | None = CLAIMED, **params: Any) -> Finding:
    metric = Metric(
        name="privacy.epsilon_lower_bound",
        value=value,
        unit="epsilon",
        direction="lower",
        params=params,
        refutes=refutes,
    )
    return Finding(
        subject="psg", auditor="membership", seed=0, metrics=[metric], checks=list(checks)
    )


def _failing(subject: str | None = "psg", **kwargs: Any) -> Check:
    return Check.model_validate(
        {
            "name": "ledger",
            "passed": False,
            "expected": "",
            "affects": [CLAIMED],
            "subject": subject,
        }
        | kwargs
    )


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
    cells = [_cell("dm", 0.5), *_draws("random", RANDOM), _cell("full", 0.9)]
    report = build_report(_Run(cells))
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


def test_a_difference_that_draws_explain_is_not_distinguishable() -> None:
    """Alone, the two intervals exclude 0; as one more draw of random, 0.43 is nothing special."""
    cells = [_cell("dm", 0.43, 0.001), *_draws("random", RANDOM, 0.001)]
    (row,) = [c for c in build_report(_Run(cells)).comparisons if c.subject == "dm"]
    assert row.outcome == "better"  # one verdict: nothing to correct for
    several = [_cell(f"dm{i}", 0.43, 0.001) for i in range(5)]
    rows = build_report(_Run([*several, *cells[1:]])).comparisons
    assert {c.outcome for c in rows} == {"not distinguishable"}
    assert rows[0].adjusted == pytest.approx(5 * row.p_value)


def test_with_one_draw_of_everything_no_verdict_is_given() -> None:
    report = build_report(_Run([_cell("dm", 0.5), _cell("random", 0.4)]))
    (row,) = report.comparisons
    assert (row.outcome, row.p_value) == ("withheld", None)
    assert "no baseline was drawn several times" in row.reason
    assert row.low == pytest.approx(0.1 - 0.01 * 2**0.5)  # of these two sets


def test_seeds_of_a_file_are_one_draw() -> None:
    cells = [*_draws("a.safetensors", [0.5, 0.5, 0.5]), *_draws("random", RANDOM)]
    for kind, draws in (("file", 1), ("recipe", 3)):
        subjects = [
            {"id": "a.safetensors", "kind": kind},
            {"id": "random", "kind": "recipe", "baseline": True},
        ]
        report = build_report(_Run(cells, subjects=subjects))
        finding = report.finding("a.safetensors", "utility")
        assert finding is not None
        assert finding.metrics[0].draws == draws


def _at_chance(low: float) -> Report:
    accuracy = _cell("dm", 0.15)
    accuracy.metrics[0] = accuracy.metrics[0].model_copy(
        update={"low": low, "basis": True, "chance": 0.1}
    )
    return build_report(_Run([accuracy, *_draws("random", RANDOM), *_better()]))


def _better() -> list[Finding]:
    ece = Metric(
        name="calibration.ece", value=0.01, low=0.0, high=0.02, direction="lower", headline=True
    )
    return [
        Finding(subject=s, auditor="calibration", seed=seed,
                metrics=[ece.model_copy(update={"value": v, "low": v - 0.01, "high": v + 0.01})])
        for s, start in (("dm", 0.01), ("random", 0.3)) for seed in range(1 if s == "dm" else 5)
        for v in [start + 0.001 * seed]
    ]  # fmt: skip


@pytest.mark.parametrize(("low", "chance"), [(0.05, True), (0.1, True), (0.11, False)])
def test_a_subject_at_chance_earns_no_other_verdict(low: float, chance: bool) -> None:
    report = _at_chance(low)
    (row,) = [c for c in report.comparisons if (c.subject, c.auditor) == ("dm", "calibration")]
    assert row.outcome == ("withheld" if chance else "better")
    (own,) = [c for c in report.comparisons if (c.subject, c.auditor) == ("dm", "utility")]
    assert own.outcome == "worse"
    (dm,) = (r for r in verdict(report)[0].rows if r.subject.id == "dm")
    words = {t.word for cell in dm.cells for t in cell.tags}
    assert ("at chance" in words) is chance
    assert any("not clearly above chance" in s.text for s in report.summary) is chance


def test_a_set_whose_card_says_that_it_is_poisoned_is_said_and_suits_nothing() -> None:
    run = _Run([_cell("dm", 0.95), *_draws("random", RANDOM)])
    for subject in run.subjects:
        if subject["id"] == "dm":
            subject |= {"kind": "file", "card": {"poison": {"attack": "naive"}}}
    report = build_report(run)
    assert any("a backdoor was put into this set on purpose" in a.text for a in report.alerts)
    told = uses(report)["dm"]
    assert told.suitable == ()
    assert "poisoned (naive)" in told.unsuitable[0]


def test_a_subject_whose_own_accuracy_is_void_earns_no_verdict() -> None:
    accuracy = _cell("dm", 0.95)
    accuracy.metrics[0] = accuracy.metrics[0].model_copy(update={"basis": True, "chance": 0.1})
    detail = "5 of 10 images are test records"
    accuracy.checks = [Check(name="own", passed=False, expected="0", detail=detail, subject="dm")]
    report = build_report(_Run([accuracy, *_draws("random", RANDOM), *_better()]))
    rows = {c.auditor: c for c in report.comparisons if c.subject == "dm"}
    assert not rows["utility"].trusted
    assert rows["calibration"].outcome == "withheld"
    assert report.doubted("dm").kind == "void"
    assert [a.text for a in report.answers if a.subject == "dm"] == ["void"]
    told = uses(report)["dm"]
    assert told.suitable == ()
    assert told.unsuitable[0].startswith("any use: accuracy of dm is void: ")
    assert any(detail in s.text for s in report.summary)


def test_sets_of_different_sizes_are_not_judged_by_each_other() -> None:
    run = _Run([_cell("dm", 0.95), *_draws("random", RANDOM)])
    run.subjects = [
        {"id": "dm", "kind": "file", "card": {"ipc": 60}},
        {"id": "random", "kind": "recipe", "baseline": True, "card": {"ipc": 10}},
    ]
    (row,) = [c for c in build_report(run).comparisons if c.subject == "dm"]
    assert row.outcome == "withheld"
    assert "--ipc 60" in row.reason


def test_praise_without_accuracy_is_said_to_be_so() -> None:
    report = _at_chance(0.05)
    assert not any("was not measured" in a.text for a in report.alerts)
    bare = [c for c in _better() if c.auditor == "calibration"]
    (alert,) = [a for a in build_report(_Run(bare)).alerts if "was not measured" in a.text]
    assert alert.subjects == ["dm"]


def test_a_subject_of_which_nothing_was_measured_is_told_so() -> None:
    skipped = Finding(subject="dm", auditor="utility", status="skipped", reason="no set")
    report = build_report(_Run([skipped, *_draws("random", RANDOM)]))
    assert [a.text for a in report.answers if a.subject == "dm"] == ["nothing was measured"]


def test_what_a_card_says_of_other_data_stands_at_the_top() -> None:
    info = {"data": {"name": "digits", "fingerprint": "f1", "classes": ["0", "1"]}, "seeds": [0]}
    cards = {
        "right": {"data": "digits", "source_fingerprint": "f1", "class_names": ["0", "1"]},
        "silent": {},
        "other": {"data": "cifar10", "source_fingerprint": "f2", "class_names": ["1", "0"]},
    }
    subjects = [{"id": i, "kind": "file", "card": c} for i, c in cards.items()]
    cells = [_cell(i, 0.5) for i in cards]
    first, *rest = build_report(_Run(cells, info=info, subjects=subjects)).alerts
    assert first.subjects == ["other"]
    assert first.tone == "bad"
    for words in ("“cifar10”, not “digits”", "fingerprint", "the same classes in another order"):
        assert words in first.text
    assert not any("card of" in s.text for s in rest)


def test_verbatim_copies_are_stated_first_baseline_or_not() -> None:
    copies = Metric(name="leakage.exact_copy_rate", value=1.0, low=0.9, high=1.0)
    cells = [
        Finding(subject=s, auditor="leakage", seed=0, metrics=[copies]) for s in ("dm", "random")
    ]
    first = build_report(_Run(cells)).alerts[0]
    assert "random and dm: every released image is a verbatim copy" in first.text


def test_a_lower_bound_is_at_least_and_never_ranked() -> None:
    def cell(subject: str, value: float, seed: int) -> Finding:
        bound = Metric(
            name="privacy.epsilon_lower_bound", value=value, low=value, unit="epsilon", direction="lower",
            floor=0.0, headline=True, merge="bound", best_of={1: value, 5: value},
        )  # fmt: skip
        return Finding(subject=subject, auditor="privacy", seed=seed, metrics=[bound])

    cells = [cell("dm", 0.0, 0), *(cell("random", 3.0 + s / 10, s) for s in range(5))]
    report = build_report(_Run(cells))
    assert report.comparisons == []
    (dm,) = (r for r in verdict(report)[0].rows if r.subject.id == "dm")
    assert (dm.cells[0].text, dm.cells[0].tags) == ("≥ 0", ())
    assert verdict(report)[0].groups[0].columns[0].arrow == ""


def test_an_accuracy_on_other_images_says_on_how_many() -> None:
    whole = _cell("dm", 0.5)
    whole.metrics[0] = whole.metrics[0].model_copy(update={"basis": True, "n": 400})
    robust = Metric(name="adversarial.robust_accuracy", value=0.1, n=48, headline=True)
    same = robust.model_copy(update={"n": 400, "params": {"attack": "pgd"}})
    part = Finding(subject="dm", auditor="adversarial", seed=0, metrics=[robust, same])
    (row,) = verdict(build_report(_Run([whole, part])))[0].rows
    assert [c.size for c in row.cells] == ["", "n = 48", ""]


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
        ([_bound(9.9, refutes=None)], "not tested", None),  # rests on an assumption, say
        ([_bound(1.5, adversary="a"), _bound(9.9, refutes=None)], "not contradicted", 1.5),
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
    (check,) = [
        c
        for c in check_claim(
            Card(privacy=PrivacyClaim(epsilon=2.0, delta=1e-5, noise_seed_published=True)),
            subject="psg",
        )
        if c.name == ON_CARD
    ]
    assert _claim([_bound(1.0, check)]).state == "void"
    assert _claim([_bound(3.0, check)]).state == "violated"


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (_failing(), "void"),
        (_failing(refutes=CLAIMED), "violated"),
        (_failing(affects=["privacy.epsilon_c"]), "void"),
        (_failing(subject=None), "not tested"),  # the accountants themselves failed their test
        (_failing(passed=True, refutes=CLAIMED), "not contradicted"),
        (_failing(affects=["membership.auc"]), "not contradicted"),
        (_failing(affects=[]), "not contradicted"),
        (_failing(subject="someone else"), "not contradicted"),
    ],
)
def test_a_claim_stands_on_its_own_checks(check: Check, state: str) -> None:
    claim = _claim([_bound(0.3, check)])
    assert (claim.state, claim.lower_bound) == (state, 0.3)
    assert ("ledger" in claim.reason) == (state != "not contradicted")


def test_an_instrument_that_fails_its_own_test_refutes_nothing() -> None:
    broken = Check(name="broken", passed=False, expected="", affects=["membership."])
    claim = _claim([_bound(0.3, _failing(refutes=CLAIMED), broken)])
    assert claim.state == "void"


def test_a_check_of_another_auditor_counts_too() -> None:
    """The ceiling on membership attacks stands in another finding than the claim."""
    ceiling = Finding(
        subject="psg", auditor="attacks", seed=0, checks=[_failing(refutes=CLAIMED, name="ceiling")]
    )
    assert _claim([_bound(0.3), ceiling]).reason == "the check “ceiling” failed"


def test_a_true_claim_is_rarely_called_violated() -> None:
    """Randomised response that is exactly 1-DP, attacked by its own bit: 40 audits through auditor and report. The
    Gaussian bound, wrong for it, lies above 1 in most of them; at 95 % more than 6 violations happen once in 70."""
    shares, sure = PrivacySettings().shares, confidences(0.95)
    violated = misled = 0
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        coins = torch.rand(300, generator=g) < 0.5
        truth = torch.rand(300, generator=g) < math.exp(1) / (1 + math.exp(1))
        scores = torch.where(truth, coins, ~coins).float() + 1e-3 * torch.rand(300, generator=g)
        knobs: dict[str, Any] = {"shares": shares, "delta": 1e-5}
        bounds = {k: bound(scores, coins, confidence=c, **knobs) for k, c in sure.items()}
        best = {k: joint([scores], coins, confidence=c, **knobs) for k, c in sure.items()}
        cell = Finding(
            subject="x",
            auditor="privacy",
            seed=0,
            metrics=privacy_metrics({"final-set": bounds}, best),
        )
        subject = {
            "id": "x",
            "kind": "recipe",
            "card": {"privacy": {"epsilon": 1.0, "delta": 1e-5}},
        }
        report = build_report(_Run([cell], subjects=[subject]))
        violated += report.claims[0].state == "violated"
        misled += bounds[1].epsilon_gdp > 1.0
    assert violated <= 6
    assert misled >= 20


def test_three_seeds_refute_no_more_than_one() -> None:
    """2.5 at 95 %, 1.7 at 95 % as the best of three: against a claim of 2, three seeds prove nothing."""
    cells = []
    for seed, (alone, of_three) in enumerate([(2.5, 1.7), (0.0, 0.0), (0.0, 0.0)]):
        cell = _bound(alone, _failing(passed=alone <= 2.0, p_value=0.02 if seed == 0 else 0.9))
        cell.metrics[0].merge, cell.metrics[0].best_of = "bound", {1: alone, 3: of_three}
        cells.append(cell.model_copy(update={"seed": seed}))
    assert _claim(cells[:1]).state == "violated"
    merged = _claim(cells)
    assert (merged.state, merged.lower_bound) == ("not contradicted", 1.7)


def test_a_confounded_attack_is_worse_than_guessing_not_better() -> None:
    def cell(subject: str, value: float) -> Finding:
        metric = Metric(
            name="membership.auc", value=value, low=value - 0.02, high=value + 0.02, headline=True,
            direction="lower", floor=0.5, two_sided=True,
        )  # fmt: skip
        return Finding(subject=subject, auditor="membership", seed=0, metrics=[metric])

    report = build_report(_Run([cell("dm", 0.2), cell("random", 0.5)]))
    (row,) = report.comparisons
    assert (row.outcome, row.difference) == ("worse", pytest.approx(0.3))
    text = " ".join(f"{s.text} {s.detail}" for s in report.summary)
    assert "Membership AUC of dm is 0.20, better than knowing nothing" in text
    assert "It is compared as 0.80." in text
    (dm,) = (r for r in verdict(report)[0].rows if r.subject.id == "dm")
    assert {t.word for t in dm.cells[0].tags} == {"worse", "inverted"}


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
