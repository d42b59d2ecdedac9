"""Smooth ECE: calibration error without bins, by a kernel as wide as the error that it reads."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

CELLS = 256
"""Confidences are rounded to so many cells of [0, 1]; residuals are not rounded."""


def residual_cells(confidence: Tensor, correct: Tensor) -> Tensor:
    """(N, CELLS) correctness less confidence of each record, in the cell of its confidence.

    Linear in the records, so weights @ cells / sum of the weights gives the mean residuals of any resample.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) 0 or 1.
    """
    cells = torch.zeros(len(confidence), CELLS, dtype=torch.float64)
    residual = correct.double() - confidence.double()
    return cells.scatter_(1, _cell(confidence)[:, None], residual[:, None])


def drawn_cells(confidence: Tensor, hits: Tensor) -> Tensor:
    """(S, CELLS) mean residuals of answers (S, N) that share their confidences (N,)."""
    sums = torch.zeros(len(hits), CELLS, dtype=torch.float64)
    sums.index_add_(1, _cell(confidence), hits.double() - confidence.double())
    return sums / len(confidence)


def smooth_ece(totals: Tensor) -> Tensor:
    """(S,) smooth ECE of mean residuals by cell (S, CELLS).

    The mean absolute residual after a Gaussian, reflected at 0 and 1, has smoothed it. Of a wider kernel it is
    smaller, so there is one width that equals the error it reads: that error is the value, found by bisection.

    Source: Blasiok and Nakkiran, "Smooth ECE", ICLR 2024, arXiv 2309.12236, section 3.
    """
    frequency, waves = _waves()
    amplitude = totals @ waves

    def error(width: Tensor) -> Tensor:
        damped = amplitude * torch.exp(-((frequency * width[:, None]) ** 2) / 2)
        return (damped @ waves.T).abs().sum(1)

    low = torch.full((len(totals),), 1 / CELLS, dtype=torch.float64)
    high = torch.ones_like(low)
    for _ in range(16):
        middle = (low * high).sqrt()
        wider = error(middle) > middle
        low, high = torch.where(wider, middle, low), torch.where(wider, high, middle)
    return error(low)


@lru_cache(maxsize=1)
def _waves() -> tuple[Tensor, Tensor]:
    """Angular frequencies (CELLS,) and orthonormal cosines (CELLS, CELLS): a reflected Gaussian only damps them."""
    k = torch.arange(CELLS, dtype=torch.float64)
    waves = torch.cos(math.pi * (k[:, None] + 0.5) / CELLS * k[None]) * math.sqrt(2 / CELLS)
    waves[:, 0] = math.sqrt(1 / CELLS)
    return math.pi * k, waves


def _cell(confidence: Tensor) -> Tensor:
    return (confidence.double() * CELLS).long().clamp(0, CELLS - 1)
