"""Differences, floors and the grey-out rule."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from ddaudit.findings import Check, Direction, Finding, Metric
from ddaudit.reports.compare import (
    Difference,
    at_floor,
    difference,
    failing_checks,
    inverted,
    mirrored,
    outcome,
)


def _wilson(k: int, n: int) -> Metric:
    ci = binomtest(k, n).proportion_ci(method="wilson")
    return Metric(name="m", value=k / n, low=float(ci.low), high=float(ci.high), n=n)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ],
)
def test_square_and_add_gives_the_published_intervals(
    a: tuple[int, int], b: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe 1998, table II, method 10, contrasts (a), (b) and (d)."""
    diff = difference(_wilson(*a), _wilson(*b))
    assert diff is not None
    assert diff.low == pytest.approx(low, abs=5e-5)
    assert diff.high == pytest.approx(high, abs=5e-5)


def test_symmetric_intervals_add_their_variances() -> None:
    a, b = (
        Metric(name="m", value=0.5, low=0.47, high=0.53),
        Metric(name="m", value=0.4, low=0.36, high=0.44),
    )
    assert difference(a, b) == Difference(
        pytest.approx(0.1), pytest.approx(0.05), pytest.approx(0.15)
    )


def test_no_value_no_difference_and_no_interval_no_bounds() -> None:
    whole, bare, none = (
        Metric(name="m", value=1, low=0, high=2),
        Metric(name="m", value=1),
        Metric(name="m", value=None),
    )
    assert difference(whole, none) is None
    assert difference(whole, bare) == Difference(0.0, None, None)


@pytest.mark.parametrize(
    ("diff", "adjusted", "direction", "word"),
    [
        (Difference(0.1, 0.01, 0.2), 0.05, "higher", "better"),
        (Difference(0.1, 0.01, 0.2), 0.01, "lower", "worse"),
        (Difference(-0.1, -0.2, -0.01), 0.01, "lower", "better"),
        (Difference(-0.1, -0.2, -0.01), 0.01, "none", "lower"),
        (Difference(0.1, 0.01, 0.2), 0.051, "higher", "not distinguishable"),
        (Difference(0.1, 0.01, 0.2), None, "higher", "withheld"),
        (Difference(0.1, None, None), 0.01, "higher", "no interval"),
    ],
)
def test_outcome_words(
    diff: Difference, adjusted: float | None, direction: Direction, word: str
) -> None:
    assert outcome(diff, direction, adjusted) == word


@pytest.mark.parametrize(
    ("value", "low", "high", "direction", "expected"),
    [
        (0.25, 0.15, 0.35, "lower", True),
        (0.25, 0.21, 0.35, "lower", False),
        (0.10, 0.05, 0.15, "lower", True),
        (0.19, None, None, "lower", True),
        (0.25, None, None, "lower", False),
        (0.15, 0.10, 0.19, "higher", False),
        (0.15, 0.10, 0.21, "higher", True),
        (0.15, 0.10, 0.21, "none", False),
    ],
)
def test_at_floor(
    value: float, low: float | None, high: float | None, direction: Direction, expected: bool
) -> None:
    metric = Metric(name="m", value=value, low=low, high=high, direction=direction, floor=0.2)
    assert at_floor(metric) is expected


def test_a_number_without_floor_is_never_at_it() -> None:
    assert not at_floor(Metric(name="m", value=0.0, direction="lower"))


def test_a_failing_check_greys_what_it_affects_and_nothing_else() -> None:
    checks = [
        Check(name="all", passed=False, expected=""),
        Check(name="ece", passed=False, expected="", affects=["calibration.ece"]),
        Check(name="other subject", passed=False, expected="", subject="other"),
        Check(name="fine", passed=True, expected=""),
    ]
    finding = Finding(subject="s", auditor="calibration", checks=checks)
    assert failing_checks(finding, Metric(name="calibration.ece_max", value=0.1)) == ["all", "ece"]
    assert failing_checks(finding, Metric(name="calibration.nll", value=0.1)) == ["all"]
    finding.checks = checks[1:]
    assert failing_checks(finding, Metric(name="calibration.nll", value=0.1)) == []


def _auc(value: float, low: float | None = None, high: float | None = None) -> Metric:
    return Metric(
        name="membership.auc", value=value, low=low, high=high, direction="lower", floor=0.5,
        two_sided=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (_auc(0.7, 0.6, 0.8), (0.7, 0.6, 0.8)),
        (_auc(0.1, 0.05, 0.2), (0.9, 0.8, 0.95)),
        (_auc(0.52, 0.47, 0.57), (0.52, 0.5, 0.57)),
        (_auc(0.48, 0.40, 0.51), (0.52, 0.5, 0.6)),
        (_auc(0.1), (0.9, None, None)),
    ],
)
def test_a_two_sided_number_is_as_bad_as_its_mirror_image(
    metric: Metric, expected: tuple[float, float | None, float | None]
) -> None:
    """Turning every answer round turns an AUC a into 1 - a (Mann-Whitney), its interval likewise."""
    got = mirrored(metric)
    assert (got.value, got.low, got.high) == pytest.approx(expected)


def test_one_sided_floors_are_not_mirrored() -> None:
    noise = Metric(name="bias.deo_m", value=0.1, low=0.05, high=0.15, direction="lower", floor=0.2)
    assert mirrored(noise) == noise
    assert at_floor(noise)
    assert not inverted(noise)


def test_below_a_two_sided_floor_is_neither_at_it_nor_better() -> None:
    wrong, guess = _auc(0.1, 0.05, 0.2), _auc(0.5, 0.48, 0.52)
    assert inverted(wrong)
    assert not at_floor(wrong)
    assert at_floor(guess)
    assert not inverted(guess)
    diff = difference(wrong, guess)
    assert diff is not None
    assert diff.value == pytest.approx(0.4)
    assert outcome(diff, "lower", 0.0) == "worse"


def test_two_numbers_at_a_two_sided_floor_are_never_told_apart() -> None:
    """Intervals that are cut at the floor must not make a difference look real."""
    near = [_auc(v, v - 0.03, v + 0.03) for v in (0.475, 0.49, 0.5, 0.51, 0.525)]
    for a in near:
        for b in near:
            diff = difference(a, b)
            assert diff is not None
            assert diff.low is not None
            assert diff.high is not None
            assert diff.low <= 0 <= diff.high
