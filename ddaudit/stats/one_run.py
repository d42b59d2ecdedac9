"""Privacy auditing in one run: how many inclusion bits were guessed, and the epsilon that refutes.

``canaries`` records were each included independently with probability 1/2 in the input of one run.
An attacker saw the output, guessed ``guesses`` of the bits (in or out), abstained on the rest, and
got ``correct`` right. How many bits are guessed must be fixed before the true bits are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtrc, expit, ndtr, ndtri

from ddaudit.errors import BadInput
from ddaudit.stats.gdp import check_delta_range, epsilon_from_mu

TRIES = (1, 2, 3, 5, 10, 20, 50, 100)
"""Numbers of seeds for which a bound says what it would be worth as the best of that many."""

_LARGEST = 512.0
"""Where the searches stop; no number of canaries that fits a computer gets near it."""


def epsilon_one_run(
    correct: int, guesses: int, *, canaries: int, delta: float, confidence: float = 0.95
) -> float:
    """Lower bound on epsilon from one run, valid for every (epsilon, delta)-DP mechanism.

    Args:
        correct: right guesses.
        guesses: bits guessed, at most ``canaries``.
        canaries: bits drawn; only matters for delta > 0.
        delta: in [0, 1).
        confidence: probability that the bound is not above the true epsilon.

    Returns:
        The largest refuted epsilon, >= 0; 0 when nothing is refuted.

    Raises:
        BadInput: impossible counts, or a probability out of range.

    Example:
        >>> round(epsilon_one_run(100, 100, canaries=100, delta=0.0), 3)
        3.493

    Source: Steinke, Nasr & Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023,
        theorem 5.2 and algorithm 1.
    """
    _check(correct, guesses, canaries, confidence)

    def evidence(epsilon: float) -> float:
        found = p_value(correct, guesses, canaries=canaries, epsilon=epsilon, delta=delta)
        return found - (1 - confidence)

    return _largest_refuted(evidence)


def p_value(correct: int, guesses: int, *, canaries: int, epsilon: float, delta: float) -> float:
    """Bound on the chance of at least ``correct`` right guesses against an (epsilon, delta)-DP run.

    Returns:
        A valid p-value in [0, 1] of the hypothesis "the mechanism is (epsilon, delta)-DP", for every canary's coin and
        so for class counts, too: a guess by counts that a claim takes as public would refute no such claim.

    Raises:
        BadInput: impossible counts, negative epsilon, or delta outside [0, 1).

    Source: as :func:`epsilon_one_run`.
    """
    _check(correct, guesses, canaries, 0.95)
    if not epsilon >= 0:
        raise BadInput("epsilon", f"must be >= 0, got {epsilon}")
    if delta != 0:
        check_delta_range(delta)
    if correct == 0:
        return 1.0
    rate = float(expit(epsilon))
    tail = float(bdtrc(correct - 1, guesses, rate))
    if delta == 0:
        return tail
    # A failure of probability delta may hand the attacker up to i bits: the worst i is charged for.
    i = np.arange(1, correct + 1)
    just_below = bdtrc(correct - i - 1, guesses, rate) - tail
    return min(1.0, tail + 2 * canaries * delta * max(0.0, float((just_below / i).max())))


def mu_one_run(correct: int, guesses: int, *, canaries: int, confidence: float = 0.95) -> float:
    """Lower bound on mu from one run, ASSUMING that the trade-off curve is Gaussian.

    The whole curve is tested rather than one (epsilon, delta) point, which makes the bound tighter
    for Gaussian noise and meaningless for mechanisms whose curve is far from Gaussian.

    Returns:
        The largest refuted mu, >= 0.

    Raises:
        BadInput: impossible counts, or a confidence outside (0, 1).

    Source: Mahloujifar, Melis & Chaudhuri, "Auditing f-Differential Privacy in One Run",
        arXiv 2410.22235 (procedure "audit_rh_with_cap").
    """
    _check(correct, guesses, canaries, confidence)
    if correct == 0:
        return 0.0
    significance = 1 - confidence

    def evidence(mu: float) -> float:
        right = significance * correct / canaries
        wrong = significance * (guesses - correct) / canaries
        for i in range(correct - 1, -1, -1):
            larger = max(wrong, float(ndtr(ndtri(right) - mu)))
            if larger == wrong:
                break  # nothing changes from here on
            right = min(1.0, right + i / (guesses - i) * (larger - wrong))
            wrong = larger
        return guesses / canaries - (right + wrong)

    return _largest_refuted(evidence)


def epsilon_one_run_gdp(
    correct: int, guesses: int, *, canaries: int, delta: float, confidence: float = 0.95
) -> float:
    """:func:`mu_one_run` as an epsilon at this delta, under the same assumption."""
    mu = mu_one_run(correct, guesses, canaries=canaries, confidence=confidence)
    return epsilon_from_mu(mu, delta)


def _check(correct: int, guesses: int, canaries: int, confidence: float) -> None:
    if not 0 <= correct <= guesses <= canaries:
        what = f"needs 0 <= correct <= guesses <= canaries, got {correct}, {guesses}, {canaries}"
        raise BadInput("one-run audit", what)
    if canaries == 0:
        raise BadInput("one-run audit", "needs at least one canary")
    if not 0 < confidence < 1:
        raise BadInput("confidence", f"must lie in (0, 1), got {confidence}")


def _largest_refuted(evidence: Callable[[float], float]) -> float:
    """The root of an increasing function that is negative where the hypothesis is refuted."""
    if evidence(0.0) >= 0:
        return 0.0
    high = 1.0
    while evidence(high) < 0:
        high *= 2
        if high > _LARGEST:
            return math.inf
    return float(brentq(evidence, 0.0, high, xtol=1e-9))
