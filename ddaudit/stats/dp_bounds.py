"""Lower bounds on epsilon from attacks: a mechanism is run many times with and without one record.

The attacker names a threshold in advance, then counts its errors: ``false_positives`` of
``runs_out`` runs without the record, ``false_negatives`` of ``runs_in`` runs with it. A bound above
a claimed epsilon refutes the claim. One-run versions: ``one_run``; Gaussian curves: ``gdp``.
"""

from __future__ import annotations

import math

from scipy.stats import beta, norm

from ddaudit.errors import BadInput
from ddaudit.stats.gdp import (
    delta_at,
    epsilon_from_mu,
    mu_from_epsilon,
    tpr_ceiling,
    tpr_ceiling_gdp,
    trade_off,
)
from ddaudit.stats.one_run import epsilon_one_run, epsilon_one_run_gdp, mu_one_run, p_value

__all__ = [
    "delta_at",
    "epsilon_from_mu",
    "epsilon_many_run",
    "epsilon_many_run_gdp",
    "epsilon_one_run",
    "epsilon_one_run_gdp",
    "mu_from_epsilon",
    "mu_many_run",
    "mu_one_run",
    "p_value",
    "tpr_ceiling",
    "tpr_ceiling_gdp",
    "trade_off",
]


def epsilon_many_run(
    false_positives: int,
    false_negatives: int,
    *,
    runs_out: int,
    runs_in: int,
    delta: float = 0.0,
    confidence: float = 0.95,
) -> float:
    """Lower bound on epsilon from error counts, valid for every (epsilon, delta)-DP mechanism.

    R runs per side cannot show more than about log(R / 3.7): 3.28 for 100, 5.60 for 1000.

    Args:
        false_positives: runs without the record that were called "in".
        false_negatives: runs with the record that were called "out".
        runs_out: runs without the record.
        runs_in: runs with the record.
        delta: in [0, 1).
        confidence: probability that the bound is not above the true epsilon.

    Returns:
        epsilon >= 0.

    Raises:
        BadInput: impossible counts, or a probability out of range.

    Example:
        >>> round(epsilon_many_run(0, 0, runs_out=100, runs_in=100), 3)
        3.281

    Source: Jagielski, Ullman & Oprea, "Auditing Differentially Private Machine Learning", NeurIPS
        2020; Nasr et al., "Adversary Instantiation", S&P 2021.
    """
    if not 0 <= delta < 1:
        raise BadInput("delta", f"must lie in [0, 1), got {delta}")
    fpr = _upper(false_positives, runs_out, confidence)
    fnr = _upper(false_negatives, runs_in, confidence)
    bounds = [0.0]
    if 1 - delta - fpr > 0:
        bounds.append(math.log((1 - delta - fpr) / fnr))
    if 1 - delta - fnr > 0:
        bounds.append(math.log((1 - delta - fnr) / fpr))
    return max(bounds)


def mu_many_run(
    false_positives: int,
    false_negatives: int,
    *,
    runs_out: int,
    runs_in: int,
    confidence: float = 0.95,
) -> float:
    """Lower bound on mu from error counts, ASSUMING a Gaussian trade-off curve.

    Exact for one full-batch Gaussian release, approximate for many subsampled ones, meaningless
    otherwise.

    Returns:
        mu >= 0.

    Raises:
        BadInput: impossible counts, or a confidence outside (0, 1).

    Source: Nasr et al., "Tight Auditing of Differentially Private Machine Learning", USENIX
        Security 2023.
    """
    fpr = _upper(false_positives, runs_out, confidence)
    fnr = _upper(false_negatives, runs_in, confidence)
    return max(0.0, float(norm.isf(fpr) - norm.ppf(fnr)))


def epsilon_many_run_gdp(
    false_positives: int,
    false_negatives: int,
    *,
    runs_out: int,
    runs_in: int,
    delta: float,
    confidence: float = 0.95,
) -> float:
    """:func:`mu_many_run` as an epsilon at this delta, under the same assumption."""
    mu = mu_many_run(
        false_positives, false_negatives, runs_out=runs_out, runs_in=runs_in, confidence=confidence
    )
    return epsilon_from_mu(mu, delta)


def _upper(errors: int, runs: int, confidence: float) -> float:
    """One-sided Clopper-Pearson bound on an error rate; both rates share the error probability."""
    if not 0 <= errors <= runs or runs == 0:
        raise BadInput("many-run audit", f"needs 0 <= errors <= runs > 0, got {errors} of {runs}")
    if not 0 < confidence < 1:
        raise BadInput("confidence", f"must lie in (0, 1), got {confidence}")
    if errors == runs:
        return 1.0
    return float(beta.ppf(1 - (1 - confidence) / 2, errors + 1, runs - errors))
