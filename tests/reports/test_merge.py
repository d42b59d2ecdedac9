"""Merging seeds: against the closed form by hand, and by simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from ddaudit.findings import Check, Curve, Finding, Metric
from ddaudit.reports.merge import (
    merge_checks,
    merge_curves,
    merge_findings,
    merge_metric,
    plain,
)

T_2 = 4.302652729911275
"""97.5% point of Student's t with 2 degrees of freedom, from a printed table."""


def _metric(
    value: float | None, low: float | None = None, high: float | None = None, **kwargs: object
) -> Metric:
    return Metric.model_validate(
        {"name": "utility.accuracy", "value": value, "low": low, "high": high, **kwargs}
    )


def test_three_seeds_add_spread_and_sampling_in_quadrature() -> None:
    merged = merge_metric(
        [_metric(0.70, 0.69, 0.72), _metric(0.72, 0.70, 0.73), _metric(0.74, 0.73, 0.76)]
    )
    between = T_2 * 0.02 / math.sqrt(3)
    below = math.sqrt(between**2 + (0.01**2 + 0.02**2 + 0.01**2) / 3)
    above = math.sqrt(between**2 + (0.02**2 + 0.01**2 + 0.02**2) / 3)
    assert merged.value == pytest.approx(0.72)
    assert merged.low == pytest.approx(0.72 - below)
    assert merged.high == pytest.approx(0.72 + above)
    assert merged.per_seed == [0.70, 0.72, 0.74]


def test_victims_are_not_counted_again_within_a_seed() -> None:
    """The spread between seeds holds them; of a seed's interval what test records alone explain is added."""
    seeds = [
        _metric(v, v - wide, v + wide, within=(0.01, 0.02))
        for v, wide in ((0.70, 0.05), (0.72, 0.30), (0.74, 0.04))
    ]
    merged = merge_metric(seeds)
    between = T_2 * 0.02 / math.sqrt(3)
    assert merged.low == pytest.approx(0.72 - math.hypot(between, 0.01))
    assert merged.high == pytest.approx(0.72 + math.hypot(between, 0.02))
    assert merged.within == pytest.approx((0.01, 0.02))
    assert merge_metric(seeds[:1]) == seeds[0]


def test_one_seed_passes_through_unchanged() -> None:
    one = _metric(
        0.3, 0.2, 0.9, n=7, floor=0.1, headline=True, direction="lower", params={"fpr": 0.01}
    )
    assert merge_metric([one]) == one


def test_identical_seeds_keep_the_sampling_interval() -> None:
    merged = merge_metric([_metric(0.5, 0.4, 0.6)] * 5)
    assert (merged.low, merged.high) == (pytest.approx(0.4), pytest.approx(0.6))


def test_seeds_without_intervals_still_show_their_spread() -> None:
    merged = merge_metric([_metric(1.0, unit="x"), _metric(2.0, unit="x"), _metric(3.0, unit="x")])
    assert merged.high == pytest.approx(2.0 + T_2 / math.sqrt(3))


def test_fractions_stay_fractions_and_other_units_do_not() -> None:
    assert merge_metric([_metric(0.99, 0.98, 1.0), _metric(0.5, 0.4, 0.6)]).high == 1.0
    free = merge_metric(
        [_metric(0.99, 0.98, 1.0, unit="nats"), _metric(0.5, 0.4, 0.6, unit="nats")]
    )
    assert free.high is not None
    assert free.high > 1.0


def test_signed_fractions_are_not_cut_at_zero() -> None:
    merged = merge_metric([_metric(-0.1, -0.2, 0.0), _metric(0.1, 0.0, 0.2)])
    assert merged.low is not None
    assert merged.low < -0.2


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_seed_without_a_number_is_left_out_but_listed(bad: float | None) -> None:
    merged = merge_metric([_metric(0.4, 0.3, 0.5, n=100, floor=0.2), _metric(bad, n=50, floor=0.4)])
    assert (merged.value, merged.low, merged.high, merged.n) == (0.4, 0.3, 0.5, 100)
    assert merged.floor == pytest.approx(0.3)
    assert merged.per_seed == [0.4, None]


def test_no_number_at_all_gives_none() -> None:
    merged = merge_metric([_metric(math.nan, math.nan, math.nan), _metric(None)])
    assert (merged.value, merged.low, merged.high) == (None, None, None)


def test_the_interval_covers_the_truth_in_simulation() -> None:
    """Seeds share the error of the test sample and have their own; 1 500 repeats, so coverage has a standard error
    of 0.006: 0.93 is more than three of them below 0.95. Dividing the shared part by S would give 0.83."""
    rng = np.random.default_rng(0)
    sampling, between, repeats = 0.02, 0.003, 1500
    hits = 0
    for _ in range(repeats):
        shared = rng.normal(0, sampling)
        values = 0.5 + shared + rng.normal(0, between, 5)
        merged = merge_metric(
            [_metric(v, v - 1.96 * sampling, v + 1.96 * sampling, unit="x") for v in values]
        )
        assert merged.low is not None
        assert merged.high is not None
        hits += merged.low <= 0.5 <= merged.high
    assert hits / repeats > 0.93


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 0.3), st.floats(0, 0.3)), min_size=1, max_size=6
    )
)
def test_the_interval_always_holds_the_value(seeds: list[tuple[float, float, float]]) -> None:
    merged = merge_metric([_metric(v, max(0.0, v - a), min(1.0, v + b)) for v, a, b in seeds])
    assert merged.value is not None
    assert merged.low is not None
    assert merged.high is not None
    assert -1e-12 <= merged.low <= merged.value + 1e-12
    assert merged.value - 1e-12 <= merged.high <= 1 + 1e-12


def _lower_bound(alone: float, of_two: float, of_five: float) -> Metric:
    best_of = {1: alone, 2: of_two, 5: of_five}
    return _metric(alone, alone, unit="epsilon", merge="bound", best_of=best_of)


def test_bounds_merge_to_the_best_one_at_its_part_of_the_error() -> None:
    seeds = [_lower_bound(3.0, 2.6, 2.2), _lower_bound(0.0, 0.0, 0.0), _lower_bound(1.0, 0.7, 0.4)]
    merged = merge_metric(seeds)
    assert (merged.value, merged.low, merged.high) == (2.2, 2.2, None)  # of 3 seeds: that of 5
    assert merged.per_seed == [3.0, 0.0, 1.0]
    assert merge_metric(seeds[:2]).value == 2.6
    assert merge_metric(seeds[:1]) == seeds[0]
    assert merge_metric([*seeds[:1], _metric(None, merge="bound")]).value == 2.6
    assert merge_metric(seeds * 2).value is None  # nobody said what holds of six


@pytest.mark.parametrize("seeds", [3, 4])
def test_merged_bounds_keep_95_percent(seeds: int) -> None:
    """A Gaussian mean's one-sided bound: the best of S at full error is too high in 1 - 0.95^S of cases."""
    rng = np.random.default_rng(0)
    tail = {k: float(norm.isf(0.05 / k)) for k in (1, 2, 3, 5)}
    wrong = naive = 0
    for _ in range(2000):
        drawn = rng.normal(size=seeds)
        metrics = [
            _metric(
                x - tail[1], unit="x", merge="bound", best_of={k: x - t for k, t in tail.items()}
            )
            for x in drawn
        ]
        value = merge_metric(metrics).value
        assert value is not None
        wrong += value > 0
        naive += max(drawn) - tail[1] > 0
    assert wrong / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert naive / 2000 > 0.12


def test_p_values_merge_by_bonferroni() -> None:
    def p(value: float | None) -> Metric:
        return Metric(name="leakage.p_value", value=value, unit="probability")

    merged = merge_metric([p(0.01), p(0.5), p(0.9)])
    assert (merged.value, merged.low, merged.high) == (pytest.approx(0.03), None, None)
    assert merge_metric([p(0.6), p(0.7)]).value == 1.0
    assert merge_metric([p(0.01), p(None)]).value == 0.01
    assert Metric(name="x.p_value", value=0.1, merge="mean").merge == "mean"


@pytest.mark.parametrize(
    ("p_values", "passed"),
    [([0.02], False), ([0.02, 0.5], True), ([0.02, 0.6, 0.8], True), ([0.016, 0.9, 0.5], False)],
)
def test_checks_that_are_tests_are_corrected_for_the_seeds(
    p_values: list[float], passed: bool
) -> None:
    checks = [[Check(name="t", passed=p > 0.05, expected="", p_value=p)] for p in p_values]
    if len(p_values) == 2:
        checks[0][0] = checks[0][0].model_copy(update={"p_value": 0.03})
    (merged,) = merge_checks(checks)
    assert merged.passed is passed
    assert ("chance explains it" in merged.detail) == passed


def test_metrics_are_matched_by_name_and_params_and_may_miss_in_a_seed() -> None:
    a, b = (_metric(v, params={"fpr": f}) for v, f in ((0.1, 0.01), (0.2, 0.001)))
    cells = [
        Finding(subject="s", auditor="a", seed=0, metrics=[a, b]),
        Finding(subject="s", auditor="a", seed=1, metrics=[b]),
    ]
    merged = merge_findings(cells)
    assert [(m.params["fpr"], m.per_seed) for m in merged.metrics] == [
        (0.01, [0.1, None]),
        (0.001, [0.2, 0.2]),
    ]


@pytest.mark.parametrize(
    ("statuses", "seeds", "status"),
    [
        (["ok", "ok"], [0, 1], "ok"),
        (["ok", "failed"], [0, 1], "partial"),
        (["ok", "partial"], [0, 1], "partial"),
        (["skipped", "skipped"], [0, 1], "skipped"),
        (["skipped", "failed"], [0, 1], "failed"),
        (["ok"], [0, 1, 2], "partial"),
    ],
)
def test_status_of_the_merged_cell(statuses: list[str], seeds: list[int], status: str) -> None:
    cells = [
        Finding.model_validate(
            {
                "subject": "s",
                "auditor": "a",
                "seed": i,
                "status": s,
                "reason": None if s == "ok" else "why",
            }
        )
        for i, s in enumerate(statuses)
    ]
    merged = merge_findings(cells, expected_seeds=seeds)
    assert merged.status == status
    assert (merged.reason is None) == (status == "ok")


def test_reasons_name_their_seeds() -> None:
    cells = [
        Finding(subject="s", auditor="a", seed=0),
        Finding(subject="s", auditor="a", seed=1, status="failed", reason="out of memory"),
    ]
    assert (
        merge_findings(cells, expected_seeds=[0, 1, 2]).reason
        == "seed 1: out of memory; seed 2: not run yet"
    )


def test_seconds_add_up_and_caveats_appear_once() -> None:
    cells = [
        Finding(subject="s", auditor="a", seed=i, seconds=2.5, caveats=["c", f"c{i}"])
        for i in range(2)
    ]
    merged = merge_findings(cells)
    assert merged.seconds == 5.0
    assert merged.caveats == ["c", "c0", "c1"]


def test_a_check_passes_only_if_every_seed_passed() -> None:
    good = Check(name="floor", passed=True, value=0.1, expected="<= 0.2")
    bad = Check(name="floor", passed=False, value=0.5, expected="<= 0.2")
    (merged,) = merge_checks([[good], [bad], [good]])
    assert (merged.passed, merged.value, merged.detail) == (False, 0.5, "failed in 1 of 3 seeds")
    assert merge_checks([[good], [good]]) == [good]


def test_checks_about_different_subjects_stay_apart() -> None:
    checks = [Check(name="masking", passed=s == "a", expected="", subject=s) for s in ("a", "b")]
    assert [c.passed for c in merge_checks([checks])] == [True, False]


def test_curves_with_one_x_are_averaged_and_others_keep_the_first_seed() -> None:
    same = [
        Curve(plot="p", label="l", x=[0, 1], y=[0.0, v], low=[0.0, v], high=[0.0, v], counts=[1, 2])
        for v in (0.4, 0.8)
    ]
    (mean,) = merge_curves([(0, [same[0]]), (1, [same[1]])])
    assert mean.y == pytest.approx([0.0, 0.6])
    assert mean.counts == [2, 4]
    t_1, spread = 12.706204736432095, math.sqrt(0.08)
    assert mean.low is not None
    assert mean.low[1] == pytest.approx(max(0.0, 0.6 - t_1 * spread / math.sqrt(2)))
    other = Curve(plot="p", label="l", x=[0, 2], y=[0.0, 1.0])
    (first,) = merge_curves([(3, [same[0]]), (4, [other])])
    assert (first.label, first.y) == ("l (seed 3)", same[0].y)


def test_points_that_are_not_numbers_are_dropped() -> None:
    curve = Curve(plot="p", label="l", x=[0, math.nan, 2], y=[1, 1, math.inf], low=[0.5, 0.5, 0.5])
    (clean,) = merge_curves([(0, [curve])])
    assert (clean.x, clean.y, clean.low) == ([0], [1], [0.5])


def test_plain_makes_json_of_anything() -> None:
    assert plain({"a": (1, math.inf, -math.inf, math.nan), 2: object, "b": True}) == {
        "a": [1, "infinity", "-infinity", "NaN"], "2": "<class 'object'>", "b": True,
    }  # fmt: skip
