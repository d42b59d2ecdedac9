"""Verdicts on differences: what a difference between two subjects may be said to show, and over how many.

A published number rests on one or several draws (distillations), on a few victims and on test records. A
difference between two subjects is real where it exceeds what all three explain. The draws are the part that a
single run cannot see: its spread is then borrowed from a reference that was drawn several times, so that
"better" means "better than draws of the reference are among themselves".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ddaudit.stats.intervals import normal, student


@dataclass(frozen=True)
class Spread:
    """How far draws lie apart: the variance of one draw's value, and the degrees of freedom behind it."""

    variance: float
    freedom: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """From the values of at least two draws; None of fewer."""
        if len(values) < 2:
            return None
        mean = math.fsum(values) / len(values)
        squares = math.fsum((v - mean) ** 2 for v in values)
        return cls(squares / (len(values) - 1), len(values) - 1)


@dataclass(frozen=True)
class Reading:
    """One subject's number.

    Attributes:
        value: the mean over draws.
        draws: how many.
        spread: of its draws, or borrowed; None where nothing is known of it.
        down, up: half-widths of the 95 % interval of test records and victims, below and above.
    """

    value: float
    draws: int
    spread: Spread | None
    down: float
    up: float


def half_widths(a: Reading, b: Reading, confidence: float = 0.95) -> tuple[float, float]:
    """How far ``a - b`` may lie below and above its value.

    Draws enter by Student's t with Satterthwaite's degrees of freedom (a spread that both readings share counts
    once), records and victims as the root of the sum of squares of the two half-widths. The two readings are
    taken as independent although subjects answer the same test images: wider than necessary, never narrower. A
    reading without a spread adds none.

    Source: Welch, Biometrika 34 (1947); Newcombe, Statistics in Medicine 17 (1998), method 10 (square-and-add).
    """
    weights: dict[Spread, float] = {}
    for r in (a, b):
        if r.spread is not None:
            weights[r.spread] = weights.get(r.spread, 0.0) + 1 / r.draws
    parts = [(w * s.variance, s.freedom) for s, w in weights.items() if s.variance > 0]
    total = math.fsum(v for v, _ in parts)
    between = 0.0
    if total > 0:
        freedom = total**2 / math.fsum(v * v / f for v, f in parts)
        between = student(freedom, confidence) * math.sqrt(total)
    scale = normal(confidence) / normal(0.95)
    low = math.hypot(between, scale * math.hypot(a.down, b.up))
    return low, math.hypot(between, scale * math.hypot(a.up, b.down))


def p_value(a: Reading, b: Reading) -> float:
    """Two-sided: one minus the confidence at which the interval of :func:`half_widths` just reaches 0."""
    gap = a.value - b.value
    if gap == 0:
        return 1.0
    side = 0 if gap > 0 else 1
    low, high = math.log(1e-12), 0.0  # of log p: excluded at p = high, if at all
    if half_widths(a, b, 1 - math.exp(low))[side] < abs(gap):
        return math.exp(low)
    for _ in range(50):
        middle = (low + high) / 2
        excluded = half_widths(a, b, 1 - math.exp(middle))[side] < abs(gap)
        low, high = (low, middle) if excluded else (middle, high)
    return math.exp(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: those at most 0.05 hold together with an error of 5 %.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, worst = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted
