"""Confidence intervals of one sample: exact and score intervals for rates, t, bootstrap.

Every function returns an :class:`Interval`, whose ``value`` always lies inside ``[low, high]``. All
intervals are two-sided and 95 % unless ``confidence`` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from scipy import special
from torch import Tensor

from ddaudit.errors import NotEnoughData

Values: TypeAlias = Tensor | Sequence[float] | Sequence[int]
Statistic: TypeAlias = Callable[[Tensor], Tensor]

_CHUNK = 4_000_000  # resampled values held at once: 32 MB of float64


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it.

    Attributes:
        value: the point estimate.
        low, high: bounds; ``low <= value <= high``.
        n: number of independent records behind the value.
        within: half-widths below and above the value that the records alone explain, where the interval covers
            another sample too (networks).
    """

    value: float
    low: float
    high: float
    n: int
    within: tuple[float, float] | None = None

    @property
    def half_width(self) -> float:
        """Half of ``high - low``."""
        return (self.high - self.low) / 2

    def clamp(self, low: float = 0.0, high: float = 1.0) -> Interval:
        """The same interval cut to a range that the quantity cannot leave."""
        cut = [min(max(v, low), high) for v in (self.value, self.low, self.high)]
        return replace(self, value=cut[0], low=cut[1], high=cut[2])

    def at_least(self, records: Interval) -> Interval:
        """On each side the wider of this interval and another one of the same value, over records alone."""
        both = replace(self, low=min(self.low, records.low), high=max(self.high, records.high))
        if self.within is None:
            return both
        down, up = self.value - records.low, records.high - self.value
        return replace(both, within=(max(self.within[0], down), max(self.within[1], up)))

    def __contains__(self, x: float) -> bool:
        return self.low <= x <= self.high


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact binomial interval of the rate ``k / n``: covers at least ``confidence``, never less.

    Raises:
        NotEnoughData: ``n`` is 0.
        ValueError: ``k`` outside [0, n].

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    _check_rate(k, n)
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1 - tail))
    return Interval(k / n, low, high, n)


def wilson(k: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson score interval of the rate ``k / n``: covers ``confidence`` on average over rates.

    ``k`` and ``n`` may be fractional: hits averaged over networks that share the same images.

    Raises:
        NotEnoughData: ``n`` is 0.
        ValueError: ``k`` outside [0, n].

    Source: Wilson, JASA 22 (1927).
    """
    _check_rate(k, n)
    z = normal(confidence)
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))
    return Interval(p, low, high, math.floor(n + 0.5))


def mean_t(values: Values, confidence: float = 0.95) -> Interval:
    """Student-t interval of the mean of independent values.

    One value says nothing about the spread: its interval is infinite.

    Raises:
        NotEnoughData: no values.
    """
    x = as_float(values).flatten()
    n = len(x)
    if n == 0:
        raise NotEnoughData("the mean of no values")
    mean = float(x.mean())
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = student(n - 1, confidence) * float(x.std()) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def bootstrap(
    values: Values,
    statistic: Statistic | None = None,
    n_boot: int = 1000,
    *,
    generator: torch.Generator | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap over independent records.

    Args:
        values: (N,) one value per record, or (N, D) one row per record.
        statistic: maps resamples (B, N) or (B, N, D) to (B,); the mean over records (and columns)
            without it.
        n_boot: number of resamples.
        generator, seed: the randomness; ``generator`` wins.

    Raises:
        NotEnoughData: no values.
    """
    x = as_float(values)
    if len(x) == 0:
        raise NotEnoughData("a bootstrap of no values")
    of = statistic or (lambda r: r.flatten(1).mean(1))
    value = float(of(x[None])[0])
    g = generator if generator is not None else torch.Generator().manual_seed(seed)
    replicates = torch.cat([of(x[i]) for i in resamples(len(x), n_boot, g, width=x[0].numel())])
    low, high = quantiles(replicates, confidence)
    return Interval(value, min(low, value), max(high, value), len(x))


def weight_chunks(
    n: int, n_boot: int, generator: torch.Generator, *, drawn: int | None = None
) -> Iterator[Tensor]:
    """Bootstrap resamples as weights: pieces (b, n) of how often each of n records was drawn.

    Rows sum to ``drawn`` (n without it). Pieces are cut so that ``b * n`` values stay small;
    together they have ``n_boot`` rows.
    """
    step = max(1, _CHUNK // max(1, n))
    for start in range(0, n_boot, step):
        size = (min(step, n_boot - start), n if drawn is None else drawn)
        index = torch.randint(n, size, generator=generator)
        ones = torch.ones(size, dtype=torch.float64)
        yield torch.zeros(size[0], n, dtype=torch.float64).scatter_add_(1, index, ones)


def stratified_replicates(
    values: Tensor,
    strata: Tensor,
    n_boot: int,
    generator: torch.Generator,
    *,
    pseudo: Tensor | None = None,
) -> Tensor:
    """Bootstrap means within strata: each stratum keeps its size, as in a designed test set.

    Args:
        values: (N, D) float, one row per record.
        strata: (N,) int64 in [0, S).
        pseudo: (S, D) one made-up record per stratum that can be drawn too (a smoothed bootstrap).
            Without it a stratum whose few records all agree never varies, and looks certain.

    Returns:
        (n_boot, S, D) float64 means; NaN for an empty stratum.
    """
    count = int(strata.max()) + 1 if pseudo is None else len(pseudo)
    out = torch.full((n_boot, count, values.shape[1]), torch.nan, dtype=torch.float64)
    for stratum in torch.unique(strata).tolist():
        rows = values[strata == stratum].double()
        size = len(rows)
        if pseudo is not None:
            rows = torch.cat([rows, pseudo[stratum][None].double()])
        start = 0
        for weights in weight_chunks(len(rows), n_boot, generator, drawn=size):
            out[start : start + len(weights), stratum] = weights @ rows / size
            start += len(weights)
    return out


def resamples(
    n: int, n_boot: int, generator: torch.Generator, *, width: int = 1
) -> Iterator[Tensor]:
    """Bootstrap resamples as (b, n) int64 positions, in pieces of small ``b * n * width``."""
    step = max(1, _CHUNK // max(1, n * width))
    for start in range(0, n_boot, step):
        yield torch.randint(n, (min(step, n_boot - start), n), generator=generator)


def as_float(values: Values) -> Tensor:
    """float64 CPU copy of numbers, booleans or a tensor of them."""
    return torch.as_tensor(values).detach().to("cpu", torch.float64)


def quantiles(replicates: Tensor, confidence: float) -> tuple[float, float]:
    """The two quantiles that cut off equal tails of (B,) replicates: a further one lies beyond each with just that
    chance, ``(1 - confidence) / 2`` (rank (B + 1) p; the usual rank 1 + (B - 1) p cuts off 3.4 % of 100, not 2.5 %).

    Source: Hyndman and Fan, The American Statistician 50 (1996), definition 6.
    """
    tail, count = (1 - confidence) / 2, len(replicates)
    at = min(max(((count + 1) * tail - 1) / max(count - 1, 1), 0.0), 0.5)
    q = torch.quantile(replicates, torch.tensor([at, 1 - at], dtype=replicates.dtype))
    return float(q[0]), float(q[1])


def normal(confidence: float) -> float:
    """Two-sided quantile of the standard normal: 1.96 for 0.95."""
    return float(special.ndtri((1 + confidence) / 2))


def student(freedom: float, confidence: float) -> float:
    """Two-sided quantile of Student's t: 12.7 for 1 degree of freedom and 0.95."""
    return float(special.stdtrit(freedom, (1 + confidence) / 2))


def _check_rate(k: float, n: float) -> None:
    if n <= 0:
        raise NotEnoughData("a rate of no trials")
    if not 0 <= k <= n:
        raise ValueError(f"{k} hits of {n} trials")
