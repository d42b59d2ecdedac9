"""Gaussian differential privacy: mu against (epsilon, delta), and ceilings that bind any attack.

``mu`` is the distance of the two unit normals an attacker has to tell apart: one Gaussian release
with noise multiplier sigma has mu = 1 / sigma. Rates are fractions in [0, 1].
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import norm

from ddaudit.errors import BadInput


def delta_at(epsilon: float, *, mu: float) -> float:
    """The smallest delta for which a mu-GDP mechanism is (epsilon, delta)-DP.

    Args:
        epsilon: any real number (0 gives the total-variation distance).
        mu: > 0.

    Source: Balle & Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018,
        theorem 8; Dong, Roth & Su, "Gaussian Differential Privacy", arXiv 1905.02383, cor. 2.13.
    """
    _positive("mu", mu)
    first = float(norm.cdf(-epsilon / mu + mu / 2))
    # In logs, because e^epsilon alone overflows.
    second = epsilon + float(norm.logcdf(-epsilon / mu - mu / 2))
    return max(0.0, first - math.exp(min(second, 0.0)))


def epsilon_from_mu(mu: float, delta: float) -> float:
    """The smallest epsilon >= 0 for which a mu-GDP mechanism is (epsilon, delta)-DP.

    Args:
        mu: >= 0; infinity gives infinity.
        delta: in (0, 1).

    Raises:
        BadInput: negative mu, or delta outside (0, 1).

    Source: as :func:`delta_at`.
    """
    check_delta_range(delta)
    if math.isnan(mu) or mu < 0:
        raise BadInput("mu", f"must be >= 0, got {mu}")
    if mu == 0:
        return 0.0
    if math.isinf(mu):
        return math.inf
    if delta_at(0.0, mu=mu) <= delta:
        return 0.0
    # delta(e) <= Phi(-e/mu + mu/2), so the quantile at delta bounds epsilon from above.
    high = mu * mu / 2 + mu * float(norm.isf(delta)) + 1e-6
    return float(brentq(lambda e: delta_at(e, mu=mu) - delta, 0.0, high, xtol=1e-12, rtol=1e-12))


def mu_from_epsilon(epsilon: float, delta: float) -> float:
    """The largest mu for which mu-GDP still gives (epsilon, delta)-DP; its inverse is sigma.

    Args:
        epsilon: >= 0; infinity gives infinity.
        delta: in (0, 1).

    Raises:
        BadInput: negative epsilon, or delta outside (0, 1).

    Source: as :func:`delta_at`.
    """
    check_delta_range(delta)
    if math.isnan(epsilon) or epsilon < 0:
        raise BadInput("epsilon", f"must be >= 0, got {epsilon}")
    if math.isinf(epsilon):
        return math.inf

    def excess(mu: float) -> float:
        return delta_at(epsilon, mu=mu) - delta

    high = 1.0
    while excess(high) < 0:
        high *= 2
    low = high
    while excess(low) > 0:
        low /= 2
    return float(brentq(excess, low, high, xtol=1e-13, rtol=1e-12))


def tpr_ceiling_gdp(fpr: float, *, mu: float) -> float:
    """The largest TPR of any attack on a mu-GDP mechanism: Phi(Phi^-1(fpr) + mu)."""
    _rate("fpr", fpr)
    return float(norm.cdf(norm.ppf(fpr) + mu))


def tpr_ceiling(fpr: float, *, epsilon: float, delta: float) -> float:
    """The largest TPR that any attack on an (epsilon, delta)-DP mechanism can reach at this FPR.

    Both directions of the definition are used: TPR <= e^eps FPR + delta and
    1 - FPR <= e^eps (1 - TPR) + delta.

    Source: Kairouz, Oh & Viswanath, "The Composition Theorem for Differential Privacy", ICML 2015.
    """
    _rate("fpr", fpr)
    first = math.exp(min(epsilon, 700.0)) * fpr + delta
    second = 1 - math.exp(-min(epsilon, 700.0)) * (1 - fpr - delta)
    return max(0.0, min(1.0, first, second))


def check_delta_range(delta: float) -> None:
    """Raise BadInput unless delta lies in (0, 1)."""
    if not 0 < delta < 1:
        todo = "1e-5 is usual for 50 000 records."
        raise BadInput("delta", f"must lie in (0, 1), got {delta}", todo)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise BadInput(name, f"must be > 0, got {value}")


def _rate(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise BadInput(name, f"must lie in [0, 1], got {value}")
