"""Policies: what holds, what is violated, what is missing, and what is a bad policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ddaudit.attacks.privacy.claims import ON_CARD, check_claim
from ddaudit.errors import BadInput
from ddaudit.findings import CLAIMED, NOT_RUN, Check, Finding, Metric
from ddaudit.reports import Policy, Report, Rule, apply, build_report, load_policy, tally
from ddaudit.sets import Card, PrivacyClaim


def _bound(value: float) -> Metric:
    return Metric(name="privacy.epsilon_lower_bound", value=value, unit="epsilon", refutes=CLAIMED)


def _seeded(subject: str) -> dict[str, Any]:
    """A card that publishes the seed of its noise, and what that says against its claim, as runs are read back."""
    card = Card(privacy=PrivacyClaim(epsilon=1.0, delta=1e-5, noise_seed_published=True))
    checks = [c for c in check_claim(card, subject=subject) if c.name == ON_CARD]
    return {
        "card": card.model_dump(mode="json"),
        "claim_checks": [c.model_dump(mode="json") for c in checks],
    }


class _Run:
    """full: accuracy 0.9 +- 0.02; dm: 0.5 +- 0.05 (interval), its AUC 0.58 in [0.55, 0.62]."""

    info = {"data": "digits"}  # noqa: RUF012
    subjects = (
        {"id": "full", "kind": "recipe", "baseline": True},
        {"id": "dm", "kind": "recipe", "card": {"privacy": {"epsilon": 1.0, "delta": 1e-5}}},
    )
    auditors = ({"name": "utility"}, {"name": "membership"}, {"name": "bias"})

    def __init__(self, *, bound: float | None = None, check: bool = True) -> None:
        auc = [
            Metric(
                name="membership.auc", value=0.58, low=0.55, high=0.62, params={"attack": "lira"}
            ),
            Metric(
                name="membership.auc", value=0.51, low=0.48, high=0.54, params={"attack": "rmia"}
            ),
            Metric(
                name="membership.tpr_at_fpr", value=0.004, params={"attack": "lira", "fpr": 0.001}
            ),
        ]
        if bound is not None:
            auc.append(_bound(bound))
        self.cells = [
            Finding(
                subject="full",
                auditor="utility",
                metrics=[Metric(name="utility.accuracy", value=0.9, low=0.88, high=0.92)],
            ),
            Finding(
                subject="dm",
                auditor="utility",
                metrics=[Metric(name="utility.accuracy", value=0.5, low=0.45, high=0.55)],
            ),
            Finding(subject="dm", auditor="membership", metrics=auc),
            Finding(subject="dm", auditor="bias", status="skipped", reason="no groups"),
        ]
        self.checks = {
            "membership": [
                Check(
                    name="planted member", passed=check, expected="found", affects=["membership."]
                )
            ]
        }


def _apply(rule: dict[str, Any], **run: Any) -> list[tuple[str, bool, str]]:
    report = build_report(_Run(**run))
    results = apply(Policy((Rule.model_validate(rule),)), report)
    return [(r.subject, r.holds, r.line) for r in results if "claimed epsilon" not in r.rule]


def _holds(rule: dict[str, Any], **run: Any) -> list[bool]:
    return [holds for _, holds, _ in _apply(rule, **run)]


LIRA = {"metric": "membership.auc", "params": {"attack": "lira"}}


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({"max": 0.60}, False),  # conservative: the upper bound 0.62
        ({"max": 0.62}, True),
        ({"max": 0.60, "use": "value"}, True),
        ({"max": 0.56, "use": "low"}, True),
        ({"min": 0.56}, False),  # conservative: the lower bound 0.55
        ({"min": 0.56, "use": "high"}, True),
        ({"min": 0.54, "max": 0.63}, True),
        ({"min": 0.54, "max": 0.61}, False),
    ],
)
def test_the_side_of_the_interval_that_is_judged(rule: dict[str, Any], holds: bool) -> None:
    assert _holds({**LIRA, **rule}) == [holds]


def test_a_rule_without_params_judges_every_variant() -> None:
    assert _holds({"metric": "membership.auc", "max": 0.55}) == [False, True]


def test_params_match_as_numbers_even_when_yaml_reads_text() -> None:
    assert _holds({"metric": "membership.tpr_at_fpr", "params": {"fpr": "1e-3"}, "max": 0.01}) == [
        True
    ]


def test_without_an_interval_the_value_is_judged_and_the_line_says_so() -> None:
    ((_, holds, line),) = _apply({"metric": "membership.tpr_at_fpr", "max": 0.01})
    assert holds
    assert "no interval" in line


def test_relative_rules_judge_the_difference() -> None:
    rule = {"metric": "utility.accuracy", "relative_to": "full"}
    half = (0.05**2 + 0.02**2) ** 0.5
    assert _holds({**rule, "min": -0.4 - half - 1e-6}) == [True]
    assert _holds({**rule, "min": -0.4 - half + 1e-6}) == [False]
    assert _holds({**rule, "min": -0.4, "use": "value"}) == [True]


def test_a_baseline_of_another_size_is_no_measure() -> None:
    """The report withholds that comparison; the gate passed it. A baseline of the subject's size is taken instead."""
    run = _Run()
    run.subjects = (
        {"id": "random", "kind": "recipe", "baseline": True, "card": {"ipc": 10, "method": "random"}},
        {"id": "dm", "kind": "file", "card": {"ipc": 50}},
    )  # fmt: skip
    run.cells = [replace_subject(run.cells[0], "random"), run.cells[1]]
    policy = Policy(
        (Rule.model_validate({"metric": "utility.accuracy", "relative_to": "random", "min": -0.9}),)
    )
    result = apply(policy, build_report(run))[0]
    assert not result.holds
    assert "dm has 50 images a class and random 10: audit with --ipc 50" in result.line
    more = {"id": "random (IPC 50)", "kind": "recipe", "baseline": True}
    run.subjects += ({**more, "card": {"ipc": 50, "method": "random"}},)
    run.cells.append(replace_subject(run.cells[0], "random (IPC 50)"))
    result = apply(policy, build_report(run))[0]
    assert result.holds
    assert "minus random (IPC 50) = " in result.line


def replace_subject(finding: Finding, name: str) -> Finding:
    return finding.model_copy(update={"subject": name})


def _apply_at_chance(rule: dict[str, Any], *, base: float = 0.8) -> tuple[bool, str]:
    """dm: accuracy 0.12 +- 0.05 of ten classes, ECE 0.01; full: accuracy ``base``, ECE 0.03."""

    def numbers(name: str, accuracy: float, ece: float) -> list[Finding]:
        of = {"utility.accuracy": accuracy, "calibration.ece": ece}
        return [
            Finding(subject=name, auditor=metric.split(".")[0], metrics=[
                Metric(name=metric, value=v, low=v - 0.05 if basis else v, high=v + 0.05, basis=basis, chance=0.1)
            ])
            for metric, v in of.items() for basis in (metric == "utility.accuracy",)
        ]  # fmt: skip

    run = _Run()
    run.cells = [*numbers("dm", 0.12, 0.01), *numbers("full", base, 0.03)]
    run.auditors = ({"name": "utility"}, {"name": "calibration"})
    (result,) = apply(Policy((Rule.model_validate(rule),)), build_report(run))[:1]
    return result.holds, result.line


@pytest.mark.parametrize("more", [{}, {"relative_to": "full"}])
def test_a_good_number_of_a_subject_at_chance_breaks_the_rule_and_says_why(
    more: dict[str, Any],
) -> None:
    rule = {"metric": "calibration.ece", "max": 0.1, **more}
    holds, line = _apply_at_chance(rule)
    assert not holds
    assert line.startswith("VIOLATED dm: calibration.ece")
    assert "at chance" in line
    assert "not clearly above chance" in line
    holds, line = _apply_at_chance({**rule, "at_chance": "ignore"})
    assert holds
    assert "(at chance, ignored: " in line


def test_a_baseline_at_chance_is_no_measure() -> None:
    rule = {"metric": "calibration.ece", "max": 0.1, "subject": "full", "relative_to": "dm"}
    assert not _apply_at_chance(rule)[0]
    assert _apply_at_chance({**rule, "relative_to": None})[0]


def test_accuracy_itself_is_judged_at_chance_too() -> None:
    assert _apply_at_chance({"metric": "utility.accuracy", "min": 0.05})[0]


def test_baselines_are_judged_only_by_name() -> None:
    rule = {"metric": "utility.accuracy", "min": 0.1}
    assert [s for s, _, _ in _apply(rule)] == ["dm"]
    assert [s for s, _, _ in _apply({**rule, "subject": "*"})] == ["dm"]
    assert [s for s, _, _ in _apply({**rule, "subject": "full"})] == ["full"]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"metric": "bias.deo_m", "max": 0.5}, "bias skipped: no groups"),
        ({"metric": "membership.aux", "max": 0.5}, "did you mean membership.auc"),
        (
            {"metric": "utility.accuracy", "min": 0.1, "subject": "psg*"},
            "no subject matches 'psg*'",
        ),
        ({**LIRA, "max": 0.1, "relative_to": "full"}, "full has no such number"),
    ],
)
def test_what_is_missing_is_violated(rule: dict[str, Any], why: str) -> None:
    ((_, holds, line),) = _apply(rule)
    assert not holds
    assert why in line


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({"metric": "bias.deo_m", "max": 0.5}, True),  # skipped: the question does not apply
        ({"metric": "utility.accuracy", "min": 0.1, "subject": "psg*"}, True),
        ({"metric": "calibration.ece", "max": 0.5}, True),  # nobody asked
        ({**LIRA, "max": 0.1, "relative_to": "full"}, False),  # never run
        ({**LIRA, "max": 0.1, "subject": "full"}, False),
    ],
)
def test_only_what_does_not_apply_can_be_ignored(rule: dict[str, Any], holds: bool) -> None:
    assert _holds({**rule, "missing": "ignore"}) == [holds]


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_cell_that_broke_or_was_not_run_is_violated_even_if_ignored(status: str) -> None:
    run = _Run()
    reason = "out of memory" if status == "failed" else f"{NOT_RUN}: run the same audit again"
    run.cells[3] = Finding(subject="dm", auditor="bias", status=status, reason=reason)  # type: ignore[arg-type]
    report = build_report(run)
    for missing in ("violated", "ignore"):
        rule = Rule(metric="bias.deo_m", max=0.5, missing=missing)  # type: ignore[arg-type]
        result = apply(Policy((rule,)), report)[0]
        assert not result.holds
        assert reason in result.line
    # The baseline was asked neither for membership nor for bias.
    assert report.run.cells_not_run == (status == "skipped")


@pytest.mark.parametrize(
    ("rule", "needle"),
    [
        ({**LIRA, "params": {"attack": "liar"}}, r"params: no membership.auc .*Known: attack: lira, rmia"),
        ({**LIRA, "params": {"attak": "lira"}}, "Known: attak: none"),
        ({"metric": "membership.aux"}, "measured by no auditor.*membership.auc"),
        ({**LIRA, "subject": "dmm"}, "subject: 'dmm' is not in the report. Subjects: full, dm"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_match_is_refused_even_if_ignored(
    rule: dict[str, Any], needle: str
) -> None:
    with pytest.raises(BadInput, match=needle):
        _apply({**rule, "max": 0.9, "missing": "ignore"})


def test_a_rule_relative_to_its_only_subject_is_missing() -> None:
    rule = {"metric": "utility.accuracy", "min": -0.1, "relative_to": "dm"}
    ((_, holds, line),) = _apply(rule)
    assert not holds
    assert "no subject to judge" in line


@pytest.mark.parametrize(("bound", "holds"), [(0.7, True), (1.4, True), (None, False)])
def test_a_rule_can_ask_for_tested_claims(bound: float | None, holds: bool) -> None:
    """Tested and refuted is tested: the claim's own line says the rest."""
    assert _holds({"claim": "tested"}, bound=bound) == [holds]
    assert _holds({"claim": "tested", "subject": "d*"}, bound=bound) == [holds]


def test_a_claim_that_nobody_makes_was_not_tested() -> None:
    ((subject, holds, line),) = _apply({"claim": "tested", "subject": "full"}, bound=0.7)
    assert (subject, holds) == ("full", False)
    assert "makes no privacy claim" in line


def test_the_claim_of_a_baseline_or_of_a_subject_that_no_rule_names_counts() -> None:
    run = _Run(bound=1.4)
    run.subjects = (
        {"id": "full", "kind": "recipe", "baseline": True, **_seeded("full")},
        run.subjects[1],
    )
    policy = Policy((Rule(metric="utility.accuracy", min=0, subject="d?"),))
    results = apply(policy, build_report(run))
    assert {(r.subject, r.holds) for r in results if r.kind == "claim"} == {
        ("full", False),
        ("dm", False),
    }
    tested = apply(Policy((Rule(claim="tested"),)), build_report(_Run(bound=None)))
    assert not all(r.holds for r in tested)


def test_the_tally_says_what_was_checked() -> None:
    report = build_report(_Run(bound=0.7))
    policy = Policy(
        (
            Rule(metric="membership.auc", max=0.9),
            Rule(metric="bias.deo_m", max=0.5, missing="ignore"),
            Rule(claim="tested"),
        )
    )
    seen = tally(policy, apply(policy, report))
    assert seen.line == "3 rules, 2 numbers checked, 1 claim checked, 0 not tested, 1 ignored"
    assert not seen.nothing
    only = Policy(policy.rules[1:2])
    seen = tally(only, apply(only, build_report(_Run())))
    assert seen.line == "1 rule, 0 numbers checked, 0 claims checked, 1 not tested, 1 ignored"
    assert seen.nothing


def test_a_failing_instrument_check_violates_unless_waived() -> None:
    rule = {**LIRA, "max": 0.9}
    assert _holds(rule, check=True) == [True]
    ((_, holds, line),) = _apply(rule, check=False)
    assert not holds
    assert "instrument check 'planted member' failed" in line
    assert _holds({**rule, "require_checks": False}, check=False) == [True]


@pytest.mark.parametrize(
    ("bound", "holds", "words"),
    [
        (1.4, False, "lower bound is 1.4"),
        (0.7, True, "lower bound is 0.7"),
        (None, True, "not tested"),
    ],
)
def test_a_broken_privacy_claim_is_always_violated(
    bound: float | None, holds: bool, words: str
) -> None:
    (result,) = apply(Policy(()), build_report(_Run(bound=bound)))
    assert (result.subject, result.holds) == ("dm", holds)
    assert words in result.line


@pytest.mark.parametrize("refuting", [True, False])
def test_a_claim_whose_own_checks_fail_never_holds(refuting: bool) -> None:
    """A bound of 0 contradicts nothing, and a ledger that costs more, or was not re-derived, still sinks it."""
    run = _Run(bound=0.0)
    ledger = Check(
        name="ledger",
        passed=False,
        expected="<= 1",
        affects=[CLAIMED],
        subject="dm",
        refutes=CLAIMED if refuting else None,
    )
    run.cells[2].checks.append(ledger)
    (result,) = apply(Policy(()), build_report(run))
    assert not result.holds
    assert result.line.startswith("VIOLATED dm: claims epsilon = 1 at delta = 1e-5")
    assert f"{'violated' if refuting else 'void'}: the check “ledger” failed" in result.line


def test_a_published_noise_seed_never_holds() -> None:
    run = _Run(bound=0.0)
    run.subjects = ({"id": "dm", "kind": "recipe", **_seeded("dm")},)  # type: ignore[assignment]
    (result,) = [r for r in apply(Policy(()), build_report(run)) if "claimed epsilon" in r.rule]
    assert not result.holds
    assert "void" in result.line


@pytest.mark.parametrize(("two_sided", "holds"), [(True, False), (False, True)])
def test_an_attack_that_is_always_wrong_does_not_pass_for_harmless(
    two_sided: bool, holds: bool
) -> None:
    run = _Run()
    run.cells[2].metrics[0] = Metric(
        name="membership.auc", value=0.10, low=0.08, high=0.12, direction="lower", floor=0.5,
        params={"attack": "lira"}, two_sided=two_sided,
    )  # fmt: skip
    report = build_report(run)
    result = apply(Policy((Rule.model_validate({**LIRA, "max": 0.6}),)), report)[0]
    assert result.holds is holds
    if two_sided:
        assert "membership.auc (lira) = 0.900 [0.880, 0.920] (measured 0.100: " in result.line


def test_lines_are_single_lines_that_start_with_the_outcome(report: Report) -> None:
    policy = Policy(
        (
            Rule(metric="utility.accuracy", min=0.4),
            Rule(metric="backdoor.asr", max=0.5),
            Rule(metric="x.y", max=1),
        )
    )
    results = apply(policy, report)
    assert all(
        r.line.startswith("holds " if r.holds else ("VIOLATED ", "INCONCLUSIVE "))
        and "\n" not in r.line
        for r in results
    )
    assert {r.holds for r in results} == {True, False}


def test_the_line_names_number_interval_and_demand() -> None:
    ((_, _, line),) = _apply({**LIRA, "max": 0.6})
    assert (
        line
        == "INCONCLUSIVE dm: membership.auc (lira) = 0.580 [0.550, 0.620]; its upper end must be <= 0.6"
    )
    ((_, _, line),) = _apply({**LIRA, "max": 0.5})
    assert line.startswith("VIOLATED dm: membership.auc (lira) = 0.580 ")


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        ({"max": 0.62}, "holds"),
        ({"max": 0.60}, "inconclusive"),  # inside of [0.55, 0.62]
        ({"max": 0.54}, "violated"),  # the whole interval is above
        ({"max": 0.60, "use": "high"}, "violated"),  # a chosen side leaves nothing open
        ({"min": 0.57}, "inconclusive"),
        ({"min": 0.63}, "violated"),
        ({"min": 0.56, "max": 0.54}, None),
        ({"min": 0.50, "max": 0.54}, "violated"),
        ({"min": 0.50, "max": 0.60}, "inconclusive"),
        ({"max": 0.54, "level": "warn"}, "warns"),
        ({"max": 0.60, "level": "warn"}, "warns"),
    ],
)
def test_outcomes_follow_from_where_the_bound_lies(
    rule: dict[str, Any], outcome: str | None
) -> None:
    if outcome is None:
        with pytest.raises(ValueError, match="is above max"):
            Rule.model_validate({**LIRA, **rule})
        return
    report = build_report(_Run(bound=0.7))
    judged = Rule.model_validate({**LIRA, **rule})
    result = apply(Policy((judged,)), report)[0]
    assert (result.outcome, result.holds) == (outcome, outcome in ("holds", "warns"))
    lenient = apply(Policy((judged,), inconclusive="warn"), report)[0]
    assert lenient.holds is (outcome != "violated")
    assert lenient.outcome == outcome


@pytest.mark.parametrize(
    ("rule", "holds", "words", "drawn"),
    [
        ({"run": "complete"}, False, "dm × bias no groups, dm × a failed", 2),
        ({"run": "checked"}, False, "instrument check 'planted member' failed", 2),
        ({"run": "not quick"}, False, "preset quick", 2),
        ({"run": "seeds", "min": 3}, False, "2 seeds", 2),
        ({"run": "seeds", "min": 2}, True, "2 seeds", 2),
        ({"run": "seeds", "min": 2}, False, "1 seeds (dm × ", 1),
    ],
)
def test_a_rule_can_be_about_the_run(
    rule: dict[str, Any], holds: bool, words: str, drawn: int
) -> None:
    run = _Run(check=False)
    if drawn == 2:
        run.cells += [c.model_copy(update={"seed": 1}) for c in run.cells]
    run.info = {"data": "digits", "preset": "quick", "seeds": [0, 1], "cells": []}  # type: ignore[dict-item]
    run.cells[3] = Finding(subject="dm", auditor="bias", status="failed", reason="no groups")
    run.cells.append(Finding(subject="dm", auditor="a", status="failed"))
    found = apply(Policy((Rule.model_validate(rule),)), build_report(run))[0]
    assert found.holds is holds
    assert words.split(",")[0] in found.line


def test_a_bound_in_percents_is_refused() -> None:
    with pytest.raises(BadInput, match=r"rules\[0\].max: is 60, but membership.auc is a fraction"):
        _apply({**LIRA, "max": 60})


def test_relative_to_an_unknown_subject_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'ful' is not in the report. Baselines: full"):
        _apply({**LIRA, "max": 0.1, "relative_to": "ful"})


def test_a_policy_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "rules:\n"
        "  - {metric: membership.auc, params: {attack: lira}, subject: 'dm*', max: 0.6}\n"
        "  - metric: bias.deo_m\n    max: 1e-1\n    missing: ignore\n"
    )
    policy = load_policy(path)
    assert [str(r) for r in policy.rules] == ["membership.auc (lira) <= 0.6", "bias.deo_m <= 0.1"]
    assert policy.rules[1].missing == "ignore"


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        (None, "no such file"),
        ("rules: [", "is not YAML"),
        ("a: &x [*x", "YAML alias"),
        ("- metric: x", "is not a policy"),
        ("rules: {metric: x}", "is not a policy"),
        ("rules: [{metric: a.b, maxx: 1}]", r"rules\[0\].maxx: unknown key. Allowed: metric, claim, run, level,"),
        ("rules: []\nextra: 1", "extra: unknown key. Allowed: rules, inconclusive"),
        ("rules: [{max: 1}]", r"rules\[0\]: needs metric, or claim: tested"),
        ("rules: []", "rules: is empty"),
        ("rules: [{metric: a.b, min: 0, subject: dm, relative_to: dm}]", "relative_to is the subject itself"),
        ("rules: [{claim: tested, max: 1}]", "claim goes with subject and missing, not with max"),
        ("rules: [{claim: kept}]", r"rules\[0\].claim: "),
        ("rules: [{run: seeds}]", "run: seeds needs min"),
        ("rules: [{run: complete, max: 1}]", "run goes with min, not with max"),
        ("rules: [{run: complete}]\ninconclusive: maybe", "inconclusive: "),
        ("rules: [{metric: a.b}]", r"rules\[0\]: needs max or min"),
        ("rules: [{metric: a.b, min: 0.9, max: 0.1}]", "min 0.9 is above max 0.1"),
        ("rules: [{metric: a.b, max: high}]", r"rules\[0\].max: .*not 'high'"),
        ("rules: [{metric: a.b, max: .nan}]", r"rules\[0\].max: "),
        ("rules: [{metric: a.b, max: 1, use: median}]", r"rules\[0\].use: .*'value'.*not 'median'"),
        ("rules: [{metric: a.b, max: 1, missing: maybe}]", r"rules\[0\].missing: "),
        ("rules: [x]", r"rules\[0\]: "),
        ("rules: !!python/object/apply:os.system ['true']", "is not YAML"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_policy_gives_one_line_that_names_the_key(
    text: str | bytes | None, needle: str, tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=needle) as error:
        load_policy(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))


def test_the_policy_in_the_documentation_is_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    path = tmp_path / "policy.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert len(load_policy(path).rules) == 5
