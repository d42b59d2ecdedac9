"""Noise floors: what a perfect subject scores on this test set by chance alone.

A gap "largest minus smallest group" of small cells is never 0, even for a perfectly fair model; a
number near its floor says nothing about the subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.stats.intervals import as_float


@dataclass(frozen=True)
class Floor:
    """Chance level of a metric that is 0 for an ideal subject.

    Attributes:
        mean: expected value for the ideal subject.
        low, high: central 95 % range for the ideal subject.
        q95: value it exceeds in 5 % of test sets; a reading below it is no evidence of a gap.
    """

    mean: float
    low: float
    high: float
    q95: float

    @classmethod
    def of(cls, simulated: Tensor) -> Floor:
        """Summary of (B,) simulated values; NaN rows (metric undefined) are dropped."""
        x = simulated[torch.isfinite(simulated)].double()
        if len(x) == 0:
            return cls(float("nan"), float("nan"), float("nan"), float("nan"))
        q = torch.quantile(x, torch.tensor([0.025, 0.975, 0.95], dtype=torch.float64))
        return cls(float(x.mean()), float(q[0]), float(q[1]), float(q[2]))

    @classmethod
    def average_of(cls, floors: Sequence[Floor]) -> Floor:
        """The mean of each number over several floors."""
        rows = [(f.mean, f.low, f.high, f.q95) for f in floors]
        return cls(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class GapFloor:
    """Floors of the largest (``worst``) and of the mean (``average``) max-min gap over classes."""

    worst: Floor
    average: Floor

    @classmethod
    def average_of(cls, floors: Sequence[GapFloor]) -> GapFloor:
        """Floors of several networks, number by number: see :func:`fair_gap_floor` on quantiles."""
        return cls(
            worst=Floor.average_of([f.worst for f in floors]),
            average=Floor.average_of([f.average for f in floors]),
        )


def fair_gap_floor(counts: Tensor, rates: Tensor, *, n_sim: int = 2000, seed: int = 0) -> GapFloor:
    """Max-min gap over groups of a perfectly fair model: in each class all groups share one rate.

    Args:
        counts: (G, K) number of test images of each group and class; empty cells are left out.
        rates: (K,) the rate of each class, or (V, K) for V networks: floors of the networks are
            averaged. The quantiles are those of one network: networks share their test images, so
            averaging them narrows the range by an unknown, smaller amount.
        n_sim: simulated test sets.

    Source: simulation in the spirit of FairDD's DEO_M / DEO_A, NeurIPS 2025, arXiv 2411.19623.
    """
    n = as_float(counts)
    table = as_float(rates)
    table = table[None] if table.ndim == 1 else table
    g = torch.Generator().manual_seed(seed)
    floors = []
    for p in table:
        probability = torch.nan_to_num(p, nan=0.0).clamp(0, 1).expand(n_sim, *n.shape).contiguous()
        hits = torch.binomial(n.expand(n_sim, *n.shape).contiguous(), probability, generator=g)
        gaps = max_min_gap(hits / n)  # 0 / 0 is NaN: an empty cell
        largest = gaps.nan_to_num(nan=-1.0).amax(-1)
        floors.append(GapFloor(Floor.of(largest), Floor.of(torch.nanmean(gaps, -1))))
    return GapFloor.average_of(floors)


def max_min_gap(rates: Tensor) -> Tensor:
    """Largest minus smallest over groups: (..., G, K) -> (..., K).

    NaN cells are left out; a class with fewer than two groups has no gap and gives NaN.
    """
    known = torch.isfinite(rates)
    high = torch.where(known, rates, -torch.inf).amax(-2)
    low = torch.where(known, rates, torch.inf).amin(-2)
    return torch.where(known.sum(-2) >= 2, high - low, torch.nan)
