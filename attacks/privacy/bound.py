"""From canary scores to an epsilon: guesses fixed in advance, counted, and a bound at 95 %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddaudit.errors import Unsupported
from ddaudit.findings import CLAIMED, Metric
from ddaudit.stats import Interval, clopper_pearson
from ddaudit.stats.one_run import TRIES, epsilon_one_run, epsilon_one_run_gdp, p_value

Adversary = Literal["final-set", "nearest-copy", "victims", "intermediate"]

Shares = tuple[float, float]
"""(share of canaries guessed "in", share guessed "out"); the rest is left open."""


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
    chances = (p_value(v, r, canaries=m, epsilon=epsilon, delta=delta) for v, r in counts)
    return min(1.0, len(counts) * min(chances))


def confidences(confidence: float) -> dict[int, float]:
    """How sure a bound must be to hold as the best of k runs, by k: the error is split over them.

    How many runs there will be is not known when one of them is audited, and one more run must not
    change what the others stored: so each run stores its bound for several k.
    """
    return {k: 1 - (1 - confidence) / k for k in TRIES}


def count(scores: Tensor, included: Tensor, shares: Shares) -> tuple[int, int]:
    """(right guesses, guesses) when the highest scores are called "in" and the lowest "out".

    Raises:
        Unsupported: a score is NaN: an attack that broke down proves nothing, and 0 would be a score like another.
    """
    if bool(scores.isnan().any()):
        raise Unsupported(
            "a score of an attack on canaries is NaN, so that no bound follows from it"
        )
    m = len(scores)
    top, bottom = round(shares[0] * m), round(shares[1] * m)
    top, bottom = max(top, 1 if shares[0] > 0 else 0), min(bottom, m - top)
    order = torch.argsort(scores, stable=True)
    right = int(included[order[m - top :]].sum()) + int((~included[order[:bottom]]).sum())
    return right, top + bottom


def ceiling(canaries: int, *, shares: Sequence[Shares], delta: float) -> float:
    """The bound of an attack that gets every bit right: what this many canaries can show at most."""
    included = torch.arange(canaries) % 2 == 0
    perfect = included.float()
    return bound(perfect, included, shares=shares, delta=delta).epsilon


def metrics(
    bounds: Mapping[Adversary, Mapping[int, Bound]],
    best: Mapping[int, float],
    *,
    decides: bool = True,
) -> list[Metric]:
    """Bounds by adversary and by the number of seeds that they would be the best of.

    One of them may refute a claim: it assumes nothing, and counts every attack that was tried.

    Args:
        decides: False where it lies above the card's claim, and not above that of the set it was measured on.
    """
    count = next(iter(bounds.values()))[1].canaries
    decisive = _lower("any", "one-run", best, count)
    out = [decisive.model_copy(update={"headline": True, "refutes": CLAIMED if decides else None})]
    for adversary, by_tries in bounds.items():
        accuracy = by_tries[1].accuracy
        out += [
            _lower(adversary, "one-run", {k: b.epsilon for k, b in by_tries.items()}, count),
            _lower(
                adversary, "one-run-gdp", {k: b.epsilon_gdp for k, b in by_tries.items()}, count
            ),
            Metric.of(
                "privacy.canary_accuracy",
                accuracy,
                direction="lower",
                floor=0.5,
                two_sided=True,
                params={"adversary": adversary},
            ),
        ]
    return out


def _lower(adversary: str, method: str, by_tries: Mapping[int, float], count: int) -> Metric:
    """A lower bound is its own one-sided interval: the truth may be anything above."""
    return Metric(
        name="privacy.epsilon_lower_bound",
        value=by_tries[1],
        low=by_tries[1],
        n=count,
        unit="epsilon",
        direction="lower",
        floor=0.0,
        params={"adversary": adversary, "method": method},
        merge="bound",
        best_of=dict(by_tries),
    )
