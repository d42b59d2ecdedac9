"""What a rule for few networks and few draws is worth: the two small tables of docs/statistics.md, in a minute.

    OMP_NUM_THREADS=1 python -m benchmarks.few_draws

Coverage of intervals over victims and records is integrated over chi-squared at every ratio of the two standard errors.
Errors and power of verdicts are those of normal draws; the rule is written out for arrays here, and held against
``ddaudit.stats.verdicts`` on some of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from ddaudit.stats.crossing import share_bound
from ddaudit.stats.verdicts import Reading, Spread, half_widths

Array = NDArray[np.float64]
SAMPLES = 300_000
VERDICTS = 22
LEVEL = 0.05 / VERDICTS
"""What Holm's correction asks of the best of so many verdicts."""


def half_width(squares: Array, freedom: int, bound: float) -> Array:
    """Of 95 %, in standard errors of the records, from the squared standard error of the victims."""
    few = np.maximum(bound * squares, 1e-12)
    quantile = special.stdtrit(np.minimum(freedom * (1 + 1 / few) ** 2, 1e9), 0.975)
    width: Array = quantile * np.sqrt(1 + squares)
    return width


def coverage(victims: int) -> str:
    """One row: least coverage without the bound, least and most with it, median half-widths at three ratios."""
    freedom = victims - 1
    chi = stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, freedom) / freedom
    ratios = np.concatenate([np.linspace(0, 5, 51), np.linspace(5.5, 30, 50)])

    def held(bound: float) -> list[float]:
        return [
            float(2 * stats.norm.cdf(half_width(r**2 * chi, freedom, bound) / np.hypot(1, r)).mean() - 1)
            for r in ratios
        ]  # fmt: skip

    def width(r: float, bound: float) -> float:
        return float(np.median(half_width(r**2 * chi, freedom, bound)) / np.hypot(1, r))

    plain, bound = held(1.0), share_bound(freedom)
    now = ", ".join(f"{width(r, bound):.1f}" for r in (0.2, 1, 3))
    before = ", ".join(f"{width(r, 1.0):.1f}" for r in (0.2, 1, 3))
    ends = held(bound)
    return f"| {victims} | {min(plain):.1%} | {min(ends):.1%} to {max(ends):.1%} | {now} (before: {before}) |"


def rules(a: Array, b: Array, level: float) -> tuple[Array, Array]:
    """Half-widths of Welch's t and of ours for (S, n) and (S, m) draws, n < m."""
    n, m = a.shape[1], b.shape[1]
    one, other = a.var(1, ddof=1), b.var(1, ddof=1)
    total = one / n + other / m
    freedom = total**2 / ((one / n) ** 2 / (n - 1) + (other / m) ** 2 / (m - 1))
    welch = special.stdtrit(freedom, 1 - level / 2) * np.sqrt(total)
    both = ((n - 1) * one + (m - 1) * other) / (n + m - 2)
    student = stats.t.ppf(1 - level / 2, n + m - 2) * np.sqrt(both * (1 / n + 1 / m))
    return welch, np.where(one > other, welch, student)


def errors(few: int, many: int, spread: float) -> str:
    """One row: share of the level that is used, and power, by Welch and by our rule."""
    g = np.random.default_rng(0)
    a, b = spread * g.normal(size=(SAMPLES, few)), g.normal(size=(SAMPLES, many))
    gap = a.mean(1) - b.mean(1)
    both = rules(a, b, LEVEL)
    for s in range(50):
        mine, theirs = (Reading(0.0, len(x), Spread.of(x.tolist()), 0.0, 0.0) for x in (a[s], b[s]))
        assert abs(half_widths(mine, theirs, 1 - LEVEL)[0] / both[1][s] - 1) < 1e-6
    used = [f"{float((np.abs(gap) > h).mean()) / LEVEL:.1f}" for h in both]
    power = [", ".join(f"{float((gap + d > h).mean()):.0%}" for d in (2.5, 4)) for h in both]
    return f"| {few} | {spread:g} | {used[0]} | {used[1]} | {power[0]} | {power[1]} |"


def main() -> None:
    """Print both."""
    print("\n".join(coverage(v) for v in (2, 3, 5)))
    print()
    print("\n".join(errors(few, 10, k) for few in (3, 5) for k in (0.5, 1.0, 2.0, 3.0)))


if __name__ == "__main__":
    main()
