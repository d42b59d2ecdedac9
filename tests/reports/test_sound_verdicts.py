"""What must not pass: numbers of two things as one, verdicts on broken instruments, and numbers that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from ddaudit.errors import BadInput
from ddaudit.findings import Check, Finding, Metric, Resampled
from ddaudit.reports import build_report, tradeoff
from ddaudit.reports._latex import to_latex
from ddaudit.reports.gate import apply
from ddaudit.reports.policy import Policy, Rule
from ddaudit.reports.publishable import PART, publishable
from ddaudit.reports.regression import regressions
from ddaudit.reports.schema import Report
from ddaudit.reports.view import verdict
from ddaudit.sets import PrivacyClaim
from ddaudit.stats.resampling import pack


@dataclass
class Run:
    subjects: list[dict[str, Any]]
    auditors: list[dict[str, Any]]
    cells: list[Finding]
    checks: dict[str, Sequence[Check]] = field(default_factory=dict)
    info: dict[str, Any] = field(
        default_factory=lambda: {"data": {"name": "digits"}, "seeds": [0, 1, 2], "cells": []}
    )


def subject(name: str, kind: str = "recipe", **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "kind": kind,
        "baseline": name == "random",
        "card": {"method": name},
        **more,
    }


def number(name: str, value: float | None, half: float = 0.02, **more: Any) -> Metric:
    ends = {} if value is None else {"low": value - half, "high": value + half}
    return Metric(
        name=name, value=value, n=1000, **{"direction": "higher", "headline": True, **ends, **more}
    )


def cell(of: str, auditor: str, metrics: list[Metric], seed: int = 0, **more: Any) -> Finding:
    return Finding(subject=of, auditor=auditor, metrics=metrics, seed=seed, **more)


def report(
    names: Sequence[str], auditors: Sequence[str], cells: list[Finding], **more: Any
) -> Report:
    return build_report(
        Run([subject(n) for n in names], [{"name": a, "title": a} for a in auditors], cells, **more)
    )


def test_two_files_of_one_name_stay_two_in_a_publishable_report() -> None:
    def claim(release: str) -> dict[str, Any]:
        made = PrivacyClaim(epsilon=1.0, delta=1e-5, release=release)
        return {"method": "dm+dp", "privacy": made.model_dump(mode="json")}

    run = Run(
        [subject(n, "file", card=claim(n)) for n in ("x.safetensors", "b/x.safetensors")],
        [{"name": "corruption", "title": "corruption", "from_records": []}],
        [
            cell("x.safetensors", "corruption", [number("corruption.accuracy", 0.9)]),
            cell("b/x.safetensors", "corruption", [number("corruption.accuracy", 0.3)]),
        ],
    )
    run.info["seeds"] = [0]
    shown = build_report(publishable(run, build_report(run)))
    assert [s.id for s in shown.subjects] == ["x.safetensors", "x.safetensors-2"]
    assert [f.metrics[0].value for f in shown.findings] == [0.9, 0.3]


def test_a_skipped_reason_that_counts_records_is_not_published() -> None:
    made = PrivacyClaim(epsilon=1.0, delta=1e-5)
    run = Run(
        [subject("a", card={"method": "dm+dp", "privacy": made.model_dump(mode="json")})],
        [{"name": "tail", "title": "tail", "from_records": ["tail.factor"]}],
        [
            cell(
                "a",
                "tail",
                [],
                status="skipped",
                reason="the largest class has 1.7 times the records",
            )
        ],
    )
    (found,) = build_report(publishable(run, build_report(run))).findings
    assert (found.status, found.reason) == ("skipped", PART)


def test_nothing_is_better_than_a_number_whose_instrument_failed() -> None:
    broken = Check(
        name="masking", passed=False, expected="x", subject="random", affects=["utility.accuracy"]
    )
    cells = [
        cell(
            n,
            "mine",
            [number("utility.accuracy", v + 0.005 * seed)],
            seed,
            checks=[broken] if n == "random" else [],
        )
        for n, v in (("dm", 0.8), ("random", 0.5))
        for seed in range(3)
    ]
    (row,) = report(["dm", "random"], ["mine"], cells).comparisons
    assert row.outcome == "withheld"
    assert "'masking' failed for random" in row.reason


def test_a_subject_at_chance_that_is_ahead_ends_no_report() -> None:
    spread = 0.01 * torch.randn(400, generator=torch.Generator().manual_seed(0))
    cells = []
    for name, values, low in (
        ("ok", (0.5, 0.505, 0.498), 0.45),
        ("dm", (0.16, 0.165, 0.158), 0.08),
        ("random", (0.10, 0.101, 0.099), 0.09),
    ):
        for seed, v in enumerate(values):
            kept = Resampled(
                name="x/1000/400", networks=[v, v + 0.001], replicates=pack(v + spread)
            )
            wide = number(
                "utility.accuracy",
                v,
                low=low,
                high=v + 0.08,
                basis=True,
                chance=0.1,
                resampled=kept,
            )
            cells.append(cell(name, "mine", [wide], seed))
    made = report(["ok", "dm", "random"], ["mine"], cells)
    assert next(n for n in made.needs if "ccuracy" in n.need).subjects == ["ok"]


def _robust(value: float | None, failing: tuple[str, ...] = ()) -> Report:
    cells = [
        cell(
            n, "adversarial",
            [
                number("adversarial.robust_accuracy", 0.5, params={"attack": "fgsm"}),
                number("adversarial.robust_accuracy", value if n == "dm" else 0.4, params={"attack": "apgd"}),
            ],
            seed, checks=[Check(name="masking", passed=n not in failing, expected="x", subject=n)],
        )
        for n in ("dm", "dsa", "random")
        for seed in range(3)
    ]  # fmt: skip
    return report(["dm", "dsa", "random"], ["adversarial"], cells)


def test_a_number_that_is_gone_holds_no_rule_and_is_a_regression() -> None:
    gone = _robust(None)
    rule = Rule(metric="adversarial.robust_accuracy", min=0.3)
    (lost,) = [r for r in apply(Policy((rule,)), gone) if not r.holds]
    assert lost.subject == "dm"
    assert "apgd" in lost.line
    assert "has no value" in lost.line
    assert any(
        "had a value before and has none now" in r.line for r in regressions(gone, _robust(0.4))
    )


def test_a_check_that_fails_for_another_subject_is_a_regression() -> None:
    found = regressions(_robust(0.4, ("dm", "dsa")), _robust(0.4, ("dm",)))
    assert [r.subject for r in found if "masking" in r.line] == ["dsa"]


def test_an_inverted_number_is_no_better_than_its_mirror_image() -> None:
    cells = [
        cell(n, a, [m])
        for n, auc, accuracy in (
            ("inverted", 0.10, 0.6),
            ("sound", 0.51, 0.6),
            ("random", 0.7, 0.5),
        )
        for a, m in (
            ("utility", number("utility.accuracy", accuracy, basis=True, chance=0.1)),
            (
                "membership",
                number("membership.auc", auc, direction="lower", two_sided=True, floor=0.5),
            ),
        )
    ]
    made = report(
        ["inverted", "sound", "random"],
        ["utility", "membership"],
        cells,
    )
    (table,) = verdict(made)
    accuracy, leak = tradeoff.axes(made, table)
    assert tradeoff.front(leak, accuracy, ["inverted", "sound"]) == ["sound"]


@pytest.mark.parametrize("name", ["[v2] set", "数据集", "*star"])
def test_a_row_of_a_table_cannot_be_an_option_of_the_one_before(name: str) -> None:
    cells = [cell(n, "mine", [number("utility.accuracy", 0.8)]) for n in (name, "random")]
    lines = to_latex(report([name, "random"], ["mine"], cells)).splitlines()
    assert not any(line.startswith(("[", "*")) for line in lines)
    assert any(line.startswith(("{}[", "{}*")) for line in lines)


def test_a_long_report_of_baselines_alone_has_a_table() -> None:
    names = [f"random {k}" for k in range(20)]
    run = Run(
        [{**subject(n), "baseline": True} for n in names], [{"name": "mine", "title": "mine"}],
        [cell(n, "mine", [number("utility.accuracy", 0.8)]) for n in names],
    )  # fmt: skip
    (table,) = verdict(build_report(run))
    assert table.terse
    assert table.alike == {}


def _seeded(name: str, auditor: str, values: Sequence[float], half: float = 0.02, **more: Any):
    of = f"{auditor}.accuracy"
    return [cell(name, auditor, [number(of, v, half, **more)], k) for k, v in enumerate(values)]


def test_numbers_of_two_games_are_not_held_against_each_other() -> None:
    """A file against all its records, recipes on halves: a released record is half as large a share there."""
    cells = [
        *_seeded("random", "membership", [0.17, 0.18, 0.16], direction="lower"),
        *_seeded("a.npz", "membership", [0.09] * 3, direction="lower", game="one set"),
    ]
    subjects = [subject("random"), subject("a.npz", "file")]
    made = build_report(Run(subjects, [{"name": "membership", "title": "m"}], cells))
    (row,) = made.comparisons
    assert (row.outcome, row.reason) == ("withheld", "measured in two ways: one set")
    rule = Rule(metric="membership.accuracy", max=0.0, relative_to="random")
    (found,) = apply(Policy((rule,)), made)
    assert (found.outcome, "measured in another way" in found.line) == ("violated", True)


def test_each_seed_above_chance_is_enough_where_their_mean_has_a_wide_interval() -> None:
    basis = {"basis": True, "chance": 0.5}
    of = _seeded("random", "utility", [0.6, 0.62], **basis)
    for values, chance in (([0.74, 0.79], []), ([0.74, 0.51], ["dm"])):
        made = report(
            ["random", "dm"], ["utility"], [*of, *_seeded("dm", "utility", values, **basis)]
        )
        low = made.finding("dm", "utility").metrics[0].low
        assert low < 0.5, "Student's t on two seeds"
        assert [d.subject for d in made.at_chance] == chance


def test_draws_that_all_read_an_end_of_the_scale_lend_no_spread() -> None:
    """Random records whose worst group is never recognised: three zeros say nothing of other sets' spread."""
    cells = [
        *_seeded("random", "bias", [0.0] * 3, 0.004),
        *_seeded("a.npz", "bias", [0.05] * 3, 0.03),
    ]
    subjects = [subject("random"), subject("a.npz", "file")]
    made = build_report(Run(subjects, [{"name": "bias", "title": "b"}], cells))
    (row,) = made.comparisons
    assert (row.outcome, row.reason) == (
        "withheld", "one draw of each, and no baseline was drawn several times"
    )  # fmt: skip


def test_every_sentence_names_the_reference_of_the_set_s_own_size() -> None:
    cells = [
        c
        for name, value in (("random", 0.5), ("random (IPC 50)", 0.78), ("dm (IPC 50)", 0.9))
        for c in _seeded(name, "utility", [value, value + 0.001, value + 0.002], 0.005, basis=True)
    ]
    subjects = [
        subject("random", card={"method": "random", "ipc": 10}),
        {**subject("random (IPC 50)", card={"method": "random", "ipc": 50}), "baseline": True},
        subject("dm (IPC 50)", card={"method": "dm", "ipc": 50}),
    ]
    made = build_report(Run(subjects, [{"name": "utility", "title": "Utility"}], cells))
    assert made.reference_of("dm (IPC 50)") == "random (IPC 50)"
    assert made.needs[0].text == "dm (IPC 50) (0.90 against 0.78)"
    assert made.answers[0].text == "accuracy 0.90, better than random (IPC 50)"
    (better,) = [s.text for s in made.summary if "is better than" in s.text]
    assert "better than random (IPC 50) (accuracy 0.901 against 0.781)" in better


def test_a_run_without_checks_is_not_checked() -> None:
    checked = Policy((Rule(run="checked"),))
    part = cell("dm", "shift", [number("shift.accuracy", 0.5)], status="partial")
    for cells, said in (([part], "shift has no instrument checks"), ([], "no answer to check")):
        (found,) = apply(checked, report(["dm"], ["shift"], cells))
        assert (found.outcome, said in found.line) == ("violated", True)


def test_an_unreadable_variant_is_missing_not_undecided() -> None:
    """``inconclusive: warn`` is for a bound inside of an interval."""
    found = [
        number("backdoor.asr", 0.1, params={"variant": "inclusive"}),
        number("backdoor.asr", None, params={"variant": "exclusive"}),
    ]
    policy = Policy((Rule(metric="backdoor.asr", max=0.3),), inconclusive="warn")
    results = apply(policy, report(["dm"], ["backdoor"], [cell("dm", "backdoor", found)]))
    assert [r.holds for r in results] == [True, False]


def test_an_earlier_report_of_other_records_or_settings_shows_no_regression() -> None:
    def made(value: float, settings: dict[str, Any], records: str = "a") -> Report:
        values = [value, value + 0.01, value - 0.01]
        info = {"data": {"name": "digits", "fingerprint": records}, "seeds": [0, 1, 2], "cells": []}
        return build_report(
            Run(
                [subject("dm")],
                [{"name": "membership", "title": "m", "settings": settings}],
                _seeded("dm", "membership", values, direction="lower"),
                info=info,
            )
        )

    now = made(0.8, {"shadows": 8})
    (same,) = regressions(now, made(0.55, {"shadows": 8}))
    assert same.outcome == "violated"
    (other,) = regressions(now, made(0.55, {"shadows": 64}))
    assert other.outcome == "inconclusive"
    assert "another shadows of membership: 8, not 64" in other.line
    with pytest.raises(BadInput, match="another training records"):
        regressions(now, made(0.55, {"shadows": 8}, records="b"))
