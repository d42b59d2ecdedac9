"""From scores to a proven epsilon: closed forms and the rate of false alarms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import logit

from ddaudit.attacks.privacy.bound import (
    bound,
    ceiling,
    confidences,
    count,
    joint,
    refutation,
)
from ddaudit.errors import Unsupported
from ddaudit.stats.gdp import mu_from_epsilon

SHARES = ((0.4, 0.4), (0.1, 0.1), (0.05, 0.0))


def test_highest_are_called_in_and_lowest_out() -> None:
    scores = torch.tensor([0.9, 0.1, 0.5, 0.8, 0.2])
    included = torch.tensor([True, False, True, False, True])
    assert count(scores, included, (0.4, 0.4)) == (
        2,
        4,
    )  # 0.9 right, 0.8 wrong, 0.1 right, 0.2 wrong
    assert count(scores, included, (0.2, 0.0)) == (1, 1)
    assert count(scores, included, (0.6, 0.4)) == (3, 5)
    assert count(torch.tensor([0.9, -torch.inf, 0.5, torch.inf, 0.2]), included, (0.2, 0.2)) == (
        1,
        2,
    )


def test_scores_that_are_no_numbers_prove_nothing() -> None:
    """Read as 0 they would rank among the others: an attack that broke down would have guessed."""
    scores = torch.tensor([0.9, 0.1, torch.nan, 0.8, 0.2])
    with pytest.raises(Unsupported, match="NaN"):
        count(scores, torch.ones(5, dtype=torch.bool), (0.4, 0.4))


@pytest.mark.parametrize("m", [100, 1000])
def test_ceiling_is_the_closed_form_of_all_guesses_right(m: int) -> None:
    expected = logit((0.05 / 3) ** (1 / (0.8 * m)))
    assert ceiling(m, shares=SHARES, delta=1e-12) == pytest.approx(expected, abs=1e-6)
    assert ceiling(m, shares=((0.5, 0.5),), delta=1e-12) == pytest.approx(
        logit(0.05 ** (1 / m)), abs=1e-6
    )


def test_useless_scores_rarely_prove_anything() -> None:
    """False alarms in at most 5 % of 1000 audits (4 sd allowed), although three pairs are tried."""
    g = torch.Generator().manual_seed(0)
    audits, alarms = 1000, 0
    for _ in range(audits):
        included = torch.rand(60, generator=g) < 0.5
        found = bound(torch.rand(60, generator=g), included, shares=SHARES, delta=1e-5)
        alarms += found.epsilon > 0
    assert alarms / audits <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / audits)
    assert alarms > 0  # a bound that never moves would pass too


def test_four_useless_attacks_together_rarely_prove_anything() -> None:
    """False alarms in at most 5 % of 500 audits (4 sd allowed); without the correction 2 in 10."""
    g = torch.Generator().manual_seed(2)
    audits, corrected, naive = 500, 0, 0
    for _ in range(audits):
        included = torch.rand(200, generator=g) < 0.5
        attacks = [torch.rand(200, generator=g) for _ in range(4)]
        knobs = {"shares": ((0.4, 0.4),), "delta": 1e-5}
        corrected += joint(attacks, included, **knobs) > 0  # type: ignore[arg-type]
        naive += max(bound(s, included, **knobs).epsilon for s in attacks) > 0  # type: ignore[arg-type]
    allowed = 0.05 + 4 * math.sqrt(0.05 * 0.95 / audits)
    assert corrected / audits <= allowed < naive / audits


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_bounds_of_a_gaussian_mechanism_stay_below_its_epsilon(epsilon: float) -> None:
    """False alarms in at most 5 % of 200 audits each (4 sd allowed); half the noise is noticed."""
    g = torch.Generator().manual_seed(1)
    mu = mu_from_epsilon(epsilon, 1e-5)

    def rates(scale: float) -> tuple[float, float]:
        over = [0, 0]
        for _ in range(200):
            included = torch.rand(400, generator=g) < 0.5
            scores = scale * mu * included + torch.randn(400, generator=g)
            found = bound(scores, included, shares=SHARES, delta=1e-5)
            over[0] += found.epsilon > epsilon
            over[1] += found.epsilon_gdp > epsilon
        return over[0] / 200, over[1] / 200

    allowed = 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)
    assert max(rates(1.0)) <= allowed
    assert rates(4.0)[1] > 0.9  # planted bug: a quarter of the noise


def test_accuracy_is_that_of_the_first_pair() -> None:
    included = torch.arange(100) % 2 == 0
    found = bound(included.float(), included, shares=((0.3, 0.3), (0.5, 0.5)), delta=1e-12)
    assert found.accuracy.value == 1.0
    assert found.accuracy.n == 60
    assert found.accuracy.low == pytest.approx(0.025 ** (1 / 60), abs=1e-6)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_a_p_value_and_its_bound_say_the_same(confidence: float) -> None:
    """The bound is the epsilon at which the p-value is one minus the confidence."""
    g = torch.Generator().manual_seed(4)
    included = torch.rand(300, generator=g) < 0.5
    attacks = [included + torch.randn(300, generator=g) / k for k in (1, 2)]
    knobs = {"shares": SHARES, "delta": 1e-5}
    best = joint(attacks, included, confidence=confidence, **knobs)  # type: ignore[arg-type]
    p = refutation(attacks, included, epsilon=best, **knobs)  # type: ignore[arg-type]
    assert p == pytest.approx(1 - confidence, abs=1e-6)
    assert refutation(attacks, included, epsilon=best + 1, **knobs) > p  # type: ignore[arg-type]


def test_the_error_is_split_over_the_seeds() -> None:
    sure = confidences(0.9)
    assert sure[1] == pytest.approx(0.9)
    assert sure[5] == pytest.approx(0.98)
    assert all(k * (1 - c) == pytest.approx(0.1) for k, c in sure.items())
