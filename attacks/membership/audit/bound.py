"""From canary scores to an epsilon: guesses fixed in advance, counted, and a bound at 95 %."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.stats import Interval, clopper_pearson
from ddaudit.stats.one_run import epsilon_one_run, epsilon_one_run_gdp, p_value

Shares = tuple[float, float]
"""(share of canaries guessed "in", share guessed "out"); the rest is left open."""

TRIES = (1, 2, 3, 5, 10, 20, 50, 100)
"""Numbers of seeds for which a bound says what it would be worth as the best of that many."""


@dataclass(frozen=True)
class Bound:
    """What one attack proves.

    Attributes:
        epsilon: one-run lower bound, valid for any (epsilon, delta)-DP mechanism.
        epsilon_gdp: one-run lower bound under the assumption of a Gaussian trade-off curve.
        accuracy: share of right guesses at the first pair of shares, with its interval.
        canaries: m.
        confidence: of each of the two bounds, after correction for the number of pairs tried.
    """

    epsilon: float
    epsilon_gdp: float
    accuracy: Interval
    canaries: int
    confidence: float


def bound(
    scores: Tensor,
    included: Tensor,
    *,
    shares: Sequence[Shares],
    delta: float,
    confidence: float = 0.95,
) -> Bound:
    """The best one-run bound over a few pairs of shares; the error is split evenly over them.

    Args:
        scores: (m,) higher means "more likely in the pool".
        included: (m,) bool, the coins.
        shares: pairs that were chosen before any score was seen; Bonferroni over them.
        delta: in (0, 1).
        confidence: of the result.

    Raises:
        BadInput: probabilities out of range.
    """
    each = 1 - (1 - confidence) / len(shares)
    m = len(scores)
    counts = [count(scores, included, pair) for pair in shares]
    correct, guesses = counts[0]
    return Bound(
        epsilon=max(
            epsilon_one_run(v, r, canaries=m, delta=delta, confidence=each) for v, r in counts
        ),
        epsilon_gdp=max(
            epsilon_one_run_gdp(v, r, canaries=m, delta=delta, confidence=each) for v, r in counts
        ),
        accuracy=clopper_pearson(correct, guesses),
        canaries=m,
        confidence=confidence,
    )


def joint(
    attacks: Sequence[Tensor],
    included: Tensor,
    *,
    shares: Sequence[Shares],
    delta: float,
    confidence: float = 0.95,
) -> float:
    """The best bound of several attacks on one run: it holds however many were tried.

    Args:
        attacks: one (m,) tensor of scores each; the error is split evenly over them.
        included, shares, delta, confidence: as in :func:`bound`.
    """
    each = 1 - (1 - confidence) / len(attacks)
    return max(
        bound(scores, included, shares=shares, delta=delta, confidence=each).epsilon
        for scores in attacks
    )


def refutation(
    attacks: Sequence[Tensor],
    included: Tensor,
    *,
    shares: Sequence[Shares],
    delta: float,
    epsilon: float,
) -> float:
    """p-value of "the run was (epsilon, delta)-DP", over all attacks and pairs of shares.

    It is below 1 - c exactly where :func:`joint` at confidence c lies above ``epsilon``.

    Args:
        attacks, included, shares, delta: as in :func:`joint`.
        epsilon: the claim, >= 0.
    """
    counts = [count(scores, included, pair) for scores in attacks for pair in shares]
    m = len(included)
    found = (p_value(v, r, canaries=m, epsilon=epsilon, delta=delta) for v, r in counts)
    return min(1.0, len(counts) * min(found))


def confidences(confidence: float) -> dict[int, float]:
    """How sure a bound must be to hold as the best of k runs, by k: the error is split over them.

    How many runs there will be is not known when one of them is audited, and one more run must not
    change what the others stored: so each run stores its bound for several k.
    """
    return {k: 1 - (1 - confidence) / k for k in TRIES}


def count(scores: Tensor, included: Tensor, shares: Shares) -> tuple[int, int]:
    """(right guesses, guesses) when the highest scores are called "in" and the lowest "out"."""
    m = len(scores)
    top, bottom = round(shares[0] * m), round(shares[1] * m)
    top, bottom = max(top, 1 if shares[0] > 0 else 0), min(bottom, m - top)
    order = torch.argsort(torch.nan_to_num(scores, nan=0.0), stable=True)
    right = int(included[order[m - top :]].sum()) + int((~included[order[:bottom]]).sum())
    return right, top + bottom


def ceiling(canaries: int, *, shares: Sequence[Shares], delta: float) -> float:
    """The bound of an attack that gets every bit right: what this many canaries can show at most."""
    included = torch.arange(canaries) % 2 == 0
    perfect = included.float()
    return bound(perfect, included, shares=shares, delta=delta).epsilon
