"""Verdicts on differences: what a difference between two subjects may be said to show, and over how many.

A published number rests on one or several draws (distillations), on a few victims and on test records. A
difference between two subjects is real where it exceeds what all three explain. The draws are the part that a
single run cannot see: its spread is then borrowed from a reference that was drawn several times, so that
"better" means "better than draws of the reference are among themselves".

Subjects answer the same test records. Where their numbers are known on the same resamples of these
(``ddaudit.stats.resampling``) the records enter as pairs; where not, as two independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special
from torch import Tensor

from ddaudit.stats.intervals import normal, student


@dataclass(frozen=True)
class Spread:
    """How far draws lie apart: the variance of one draw's value, and the degrees of freedom behind it.

    Attributes:
        records: the part of the variance that is there because a draw meets a finite number of test records. Paired
            records hold it already.
        networks: how far single networks of one draw lie apart.
    """

    variance: float
    freedom: float
    records: float = 0.0
    networks: Spread | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """From the values of at least two draws; None of fewer."""
        if len(values) < 2:
            return None
        mean = math.fsum(values) / len(values)
        squares = math.fsum((v - mean) ** 2 for v in values)
        return cls(squares / (len(values) - 1), len(values) - 1)


def pooled(own: Spread | None, other: Spread | None) -> Spread | None:
    """One variance from two, where they look alike; ``own`` where it is clearly the larger (F test at 5 %).

    A few networks say little of their own spread; those of another subject, trained alike, say more.
    """
    if own is None or other is None:
        return own or other
    limit = float(special.fdtri(own.freedom, other.freedom, 0.95))
    return own if own.variance > limit * other.variance else together(own, other)


def together(one: Spread, other: Spread) -> Spread:
    """One spread from two samples of it."""
    freedom = one.freedom + other.freedom

    def mean(x: float, y: float) -> float:
        return (x * one.freedom + y * other.freedom) / freedom

    return Spread(
        mean(one.variance, other.variance), freedom, records=mean(one.records, other.records)
    )


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


@dataclass(frozen=True)
class Records:
    """What test records contribute to a difference whose two numbers are paired on them.

    Attributes:
        variance: of the difference, over resamples of the records.
        step: half of a step by which it can move at all, added on both sides.
    """

    variance: float
    step: float = 0.0

    @classmethod
    def of(cls, a: Tensor, b: Tensor, *, n: int, step: float = 0.0) -> Records:
        """From (S, B) replicates of each subject, a row per draw; B resamples that both share.

        Two records on which they disagree, one each way, are added, as there are in Bonett and Price's interval for
        paired rates: subjects that agree on n records may still differ on the next.
        """
        gap = a.mean(0) - b.mean(0)
        return cls(float(gap.var()) + 2 / (n + 2) ** 2, step)


def records_within(draws: Tensor) -> float:
    """The part of the variance between (S, B) draws that test records cause; 0 of a single draw.

    All draws meet the same records, so that only what a draw does to single records moves them apart.
    """
    s = len(draws)
    if s < 2:
        return 0.0
    return float((draws - draws.mean(0)).var(1).sum()) / (s - 1)


def half_widths(
    a: Reading, b: Reading, confidence: float = 0.95, *, records: Records | None = None
) -> tuple[float, float]:
    """How far ``a - b`` may lie below and above its value.

    Draws enter by Student's t with Satterthwaite's degrees of freedom (spreads of :func:`_spreads`; one that both
    share counts once). Without ``records`` the two readings are taken as independent: test records and victims enter
    as the root of the sum of squares of the two half-widths, wider than necessary, never narrower. With ``records``,
    paired ones: their variance less what the spread of draws holds of it, as in a two-way layout, and never below
    what either source says alone; victims are then in the spread. A reading without a spread adds none.

    Source: Welch, Biometrika 34 (1947); Newcombe, Statistics in Medicine 17 (1998), method 10 (square-and-add);
        two-way random-effects layout, as ``ddaudit.stats.crossed_mean``.
    """
    weights: dict[Spread, float] = {}
    for spread, draws in zip(_spreads(a, b), (a.draws, b.draws), strict=True):
        if spread is not None:
            weights[spread] = weights.get(spread, 0.0) + 1 / draws
    parts = [(w * s.variance, s.freedom) for s, w in weights.items() if s.variance > 0]
    total = math.fsum(v for v, _ in parts)
    between = 0.0
    if total > 0:
        freedom = total**2 / math.fsum(v * v / f for v, f in parts)
        between = student(freedom, confidence) * math.sqrt(total)
    if records is not None:
        twice = math.fsum(w * s.records for s, w in weights.items())
        z = normal(confidence)
        rest = z * math.sqrt(max(records.variance - twice, 0.0))
        half = max(math.hypot(between, rest), z * math.sqrt(records.variance)) + records.step
        return half, half
    scale = normal(confidence) / normal(0.95)
    low = math.hypot(between, scale * math.hypot(a.down, b.up))
    return low, math.hypot(between, scale * math.hypot(a.up, b.down))


def _spreads(a: Reading, b: Reading) -> tuple[Spread | None, Spread | None]:
    """Each reading's own spread; pooled where the one with fewer draws has the smaller.

    Three draws lie close together by chance. Welch's t then takes the smaller spread for known, and at the levels
    that Holm's correction asks for it errs three times too often (3 against 10 draws at 0.2 %). Pooled, the half-width
    is at least that of Student's two-sample t in every case, whose error is exact where both are draws of one method;
    where they are not, and the few lie further apart, their own spread counts. See docs/statistics.md.
    """
    few, many = (a, b) if a.draws < b.draws else (b, a)
    if few.spread is None or many.spread is None or not 1 < few.draws < many.draws:
        return a.spread, b.spread
    if few.spread.variance > many.spread.variance:
        return a.spread, b.spread
    both = together(few.spread, many.spread)
    return both, both


def p_value(a: Reading, b: Reading, *, records: Records | None = None) -> float:
    """Two-sided: one minus the confidence at which the interval of :func:`half_widths` just reaches 0."""
    gap = a.value - b.value
    if gap == 0:
        return 1.0
    side = 0 if gap > 0 else 1
    low, high = math.log(1e-12), 0.0  # of log p: excluded at p = high, if at all
    if half_widths(a, b, 1 - math.exp(low), records=records)[side] < abs(gap):
        return math.exp(low)
    for _ in range(50):
        middle = (low + high) / 2
        excluded = half_widths(a, b, 1 - math.exp(middle), records=records)[side] < abs(gap)
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
