"""Three accountants on one kind of ledger, each with the range that its numbers can be trusted in.

PLD (dp-accounting) and PRV (Opacus) keep a grid of privacy losses. Outside of its range a grid needs more memory than
there is, or its truncated tails outweigh delta; then :class:`OutOfRange` says so, and RDP (Opacus), which needs no grid
and holds everywhere, is what is left.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Literal, TypeAlias

from scipy.stats import norm

from ddaudit.stats.gdp import epsilon_from_mu, mu_from_epsilon

Accountant = Literal["pld", "prv", "rdp"]
Relation = Literal["add-or-remove-one", "replace-one"]

Steps: TypeAlias = tuple[tuple[float, float, int], ...]
"""(sigma, q, count) of each kind of query."""

RESOLVED_DELTA = 1e-12
"""Both grids drop tails of about 1e-15; below this delta what is dropped decides the answer."""

GRID_POINTS = 2**23
"""The longest grid of losses that is made: a few hundred MB, some seconds."""

_PRECISION = 5e-4
"""Relative discretisation error allowed in a PLD epsilon (it errs upwards)."""
_LOSSES, _MANY = (2000, 500_000), 10_000_000
"""With fewer or more losses of one query on its grid, more queries than this keep PLD busy for minutes."""
_MOST_ERROR = 6.5e-3
"""Relative error bound above which PRV's epsilon, which contains it, says nothing against another accountant's."""
_ORDERS = tuple(
    [1.01, 1.02, 1.05]
    + [1 + k / 10 for k in range(1, 100)]
    + list(range(12, 64))
    + [64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768, 1024]
)
"""Renyi orders: Opacus' own list, with both ends extended for very large and very small epsilon.

Opacus' binomials overflow above 1029, so a larger order would never win.
"""
_FEW_ORDERS = (2, 3, 4, 5, 6, 8, 11, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Enough for a bound that is right within some 30 %; whole orders are a hundred times cheaper."""


class OutOfRange(ValueError):
    """An accountant whose grid cannot hold this ledger; the message says why."""


@lru_cache(maxsize=4096)
def epsilon_by(steps: Steps, delta: float, accountant: Accountant, relation: Relation) -> float:
    """epsilon of the steps at delta by one accountant, rounded up where it must be; infinity without noise.

    Raises:
        OutOfRange: the accountant's grid cannot hold the ledger or resolve delta.
    """
    try:
        if accountant == "rdp":
            return _rdp(steps, delta)
        if delta < RESOLVED_DELTA:
            raise OutOfRange(
                f"delta {delta:g} is below {RESOLVED_DELTA:g}, which {accountant} resolves"
            )
        if accountant == "prv":
            return _prv(steps, delta)
        return _pld(steps, delta, relation)
    except (OverflowError, ZeroDivisionError):  # noise so small that exp(1 / sigma^2) is no number
        return math.inf
    except MemoryError:
        raise OutOfRange(
            f"{accountant}'s grid of losses for this ledger does not fit into memory"
        ) from None


def rough(steps: Steps, delta: float) -> float:
    """A bound by RDP that is right within some 30 %, in milliseconds."""
    return _rdp(steps, delta, _FEW_ORDERS)


def _rdp(steps: Steps, delta: float, orders: tuple[float, ...] = _ORDERS) -> float:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = list(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "optimal order is the largest": looser, still valid
        return max(0.0, float(accountant.get_epsilon(delta, alphas=list(orders))))


def _prv(steps: Steps, delta: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(steps)
    # The bound contains eps_error; Opacus' fixed 0.01 would be 1 % of an epsilon of 1.
    bound = rough(steps, delta)
    # For small rates the central limit is nearer to epsilon than the largest Renyi order is.
    near = min(bound, 1.5 * epsilon_from_mu(_central(steps), delta))
    error = min(1.0, max(1e-4, 4e-3 * near))
    # Opacus' grid: step error / sqrt(k / 2 log(12 / delta_error)), over at least the range of losses.
    step = error / math.sqrt(sum(c for _, _, c in steps) / 2 * math.log(12 / (delta / 1000)))
    _check_grid("prv", 2 * (bound + 3) / step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # log(0) at q = 1
        found = float(accountant.get_epsilon(delta, eps_error=error))
    if error > _MOST_ERROR * found:
        raise OutOfRange(f"prv's own error of {error:.1g} is no small part of an epsilon so small")
    return found


def _pld(steps: Steps, delta: float, relation: Relation) -> float:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    kinds = dp_accounting.NeighboringRelation
    relations = {"add-or-remove-one": kinds.ADD_OR_REMOVE_ONE, "replace-one": kinds.REPLACE_ONE}
    steps = tuple(map(_merged, steps))
    accountant = PLDAccountant(
        relations[relation], value_discretization_interval=_interval(steps, delta)
    )
    for sigma, q, count in steps:
        event = dp_accounting.GaussianDpEvent(sigma)
        accountant.compose(
            event if q == 1 else dp_accounting.PoissonSampledDpEvent(q, event), count
        )
    return max(0.0, float(accountant.get_epsilon(delta)))


def _merged(step: tuple[float, float, int]) -> tuple[float, float, int]:
    """k sums of every record are one, with sigma / sqrt(k): exact, and a grid of one loss instead of k."""
    sigma, q, count = step
    return (sigma / math.sqrt(count), 1.0, 1) if q == 1 else step


def _interval(steps: Steps, delta: float) -> float:
    """The coarsest privacy-loss grid that keeps epsilon within ``_PRECISION``.

    Rounding each of k losses to a grid of step h adds about k h^2 / 6 to the variance mu^2 of their
    sum, and epsilon is close to mu^2 / 2 + mu z with z = Phi^-1(1 - delta): solve for h.

    Raises:
        OutOfRange: the losses would need more than ``GRID_POINTS`` steps of it.
    """
    bound = rough(steps, delta)
    if bound <= 0:
        return 1e-4
    mu = mu_from_epsilon(bound, delta)
    slope = 0.5 + float(norm.isf(delta)) / (2 * mu)
    count = sum(c for _, _, c in steps)
    step = math.sqrt(6 * _PRECISION * bound / max(slope, 0.5) / count)
    step = min(step, max(1e-2, 1e-4 * bound))
    # dp-accounting raises the number of losses of one query, where they are few, to the power of the count; where
    # they are many, their sum has as many times more.
    sizes = [_largest_loss(s, q) / step for s, q, c in steps if c > _MANY]
    if any(not _LOSSES[0] <= size <= _LOSSES[1] for size in sizes):
        raise OutOfRange("pld's grid cannot compose so many queries of so small a rate")
    # The composed loss lies within about ten deviations of its mean. For very small rates the central limit knows
    # the deviation better than the largest Renyi order does.
    spread = min(mu, 2 * _central(steps))
    _check_grid("pld", (spread * spread + 20 * spread) / step)
    return step


def _largest_loss(sigma: float, q: float) -> float:
    """The privacy loss of one query ten deviations out."""
    return math.log1p(q * math.expm1(min(700.0, (20 * sigma + 1) / (2 * sigma**2))))


def _central(steps: Steps) -> float:
    """mu of the Gaussian mechanism that many small steps come to."""
    return math.sqrt(sum(c * q * q * math.expm1(min(700.0, s**-2)) for s, q, c in steps))


def _check_grid(accountant: str, points: float) -> None:
    if not points <= GRID_POINTS:
        raise OutOfRange(f"{accountant} would need a grid of {points:.2g} losses for this ledger")
