"""Verdicts on differences: draws count, and so does the number of verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_ind

from ddaudit.stats.verdicts import Reading, Spread, half_widths, holm, p_value


def _reading(values: list[float], down: float = 0.0, up: float = 0.0) -> Reading:
    return Reading(sum(values) / len(values), len(values), Spread.of(values), down, up)


def test_a_wider_spread_of_few_draws_is_welchs_t_test() -> None:
    a, b = [0.61, 0.69, 0.60], [0.55, 0.58, 0.54, 0.56, 0.60]
    theirs = ttest_ind(a, b, equal_var=False)
    assert p_value(_reading(a), _reading(b)) == pytest.approx(theirs.pvalue, rel=1e-6)
    low, high = half_widths(_reading(a), _reading(b))
    ci = theirs.confidence_interval(0.95)
    assert (low, high) == pytest.approx(((ci.high - ci.low) / 2,) * 2)


def test_a_smaller_spread_of_few_draws_is_students_t_test() -> None:
    a, b = [0.61, 0.63, 0.60], [0.55, 0.58, 0.54, 0.56, 0.60]
    theirs = ttest_ind(a, b)
    assert p_value(_reading(a), _reading(b)) == pytest.approx(theirs.pvalue, rel=1e-6)
    assert p_value(_reading(b), _reading(a)) == pytest.approx(theirs.pvalue, rel=1e-6)
    # Draws in equal number have no reason to be trusted more or less: Welch.
    even = ttest_ind(a, b[:3], equal_var=False)
    assert p_value(_reading(a), _reading(b[:3])) == pytest.approx(even.pvalue, rel=1e-6)


_draws = st.lists(st.integers(0, 1000), min_size=2, max_size=5, unique=True)


@settings(max_examples=100, deadline=None)
@given(_draws, st.lists(st.integers(0, 1000), min_size=5, max_size=10, unique=True))
def test_draws_of_one_method_are_called_different_no_more_often_than_the_level_says(few, many):
    """Student's t is exact for them, and every half-width is at least his: at every level, of any size of report."""
    a, b = _reading([x / 1000 for x in few]), _reading([x / 1000 for x in many])
    for level in (0.05, 0.002):
        interval = ttest_ind(few, many).confidence_interval(1 - level)
        student = (interval.high - interval.low) / 2000
        assert half_widths(a, b, 1 - level)[0] >= student * (1 - 1e-9)


def test_welch_alone_would_err_three_times_too_often() -> None:
    """The reason for the rule: 3 against 10 draws at the level that Holm asks of the best of 22 verdicts."""
    g = np.random.default_rng(0)
    welch = ttest_ind(g.normal(size=(3, 40_000)), g.normal(size=(10, 40_000)), equal_var=False)
    assert np.mean(welch.pvalue < 0.05 / 22) > 2 * 0.05 / 22  # 92 expected, 8 standard errors more


def test_one_draw_is_held_against_the_range_of_one_more_draw() -> None:
    """The prediction interval of a sixth draw, from five."""
    reference = _reading([0.39, 0.40, 0.40, 0.40, 0.41])
    lone = Reading(0.43, 1, reference.spread, 0.0, 0.0)
    sd = np.std([0.39, 0.40, 0.40, 0.40, 0.41], ddof=1)
    half = t.ppf(0.975, 4) * sd * math.sqrt(1 + 1 / 5)
    assert half_widths(lone, reference) == pytest.approx((half, half))


def test_without_draws_it_is_square_and_add() -> None:
    a, b = Reading(0.5, 1, None, 0.03, 0.02), Reading(0.4, 1, None, 0.04, 0.01)
    assert half_widths(a, b) == pytest.approx((math.hypot(0.03, 0.01), math.hypot(0.02, 0.04)))


def test_equal_numbers_and_far_ones() -> None:
    a = Reading(0.5, 1, Spread(0.0, 1.0), 0.01, 0.01)
    assert p_value(a, a) == 1.0
    far = Reading(0.9, 1, Spread(0.0, 1.0), 0.01, 0.01)
    assert p_value(far, a) == pytest.approx(1e-12)
    near = Reading(0.5 + math.hypot(0.01, 0.01), 1, Spread(0.0, 1.0), 0.01, 0.01)
    assert p_value(near, a) == pytest.approx(0.05, rel=1e-3)


def test_holm_on_the_textbook_example() -> None:
    """Holm 1979 by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then monotone."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.9]) == [1.0, 1.0]
