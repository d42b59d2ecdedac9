"""Paired comparisons: two subjects scored on the same images.

The same images are easy or hard for both subjects, so the difference is known far better than
either accuracy; comparing two separate intervals throws that away.
"""

from __future__ import annotations

import torch

from ddaudit.errors import NotEnoughData
from ddaudit.stats.crossing import adjusted_wald, crossed_difference
from ddaudit.stats.intervals import Interval, Values, as_float, mean_t


def paired_difference(a: Values, b: Values, confidence: float = 0.95) -> Interval:
    """Interval of ``mean(a) - mean(b)`` over the same N images.

    Args:
        a, b: (N,) per-image results (correct or not, or the share of victims that were correct), or
            (V, N) one row per victim; rows need not correspond, images must.

    Returns:
        The difference, positive where ``a`` is better, inside [-1, 1]. Correct-or-not vectors get
        the adjusted Wald interval of Bonett and Price (it stays honest with few disagreements),
        shares a t interval over images, several victims an interval over images and victims.

    Raises:
        NotEnoughData: fewer than 2 images.
        ValueError: the image counts differ.

    Source: Bonett and Price, J. Educational and Behavioral Statistics 37 (2012).
    """
    x, y = as_float(a), as_float(b)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"paired results over {x.shape[-1]} and {y.shape[-1]} images")
    n = x.shape[-1]
    if n < 2:
        raise NotEnoughData(f"a paired comparison over {n} image(s)")
    if x.ndim == 2 and y.ndim == 2 and min(len(x), len(y)) > 1:
        rows = min(len(x), len(y))
        return crossed_difference(_spread_rows(x, rows) - _spread_rows(y, rows), confidence)
    x, y = x.reshape(-1, n).mean(0), y.reshape(-1, n).mean(0)
    d = x - y
    if bool(((x == 0) | (x == 1)).all()) and bool(((y == 0) | (y == 1)).all()):
        return adjusted_wald(float((d > 0).sum()), float((d < 0).sum()), n, confidence)
    return mean_t(d, confidence).clamp(-1.0, 1.0)


def _spread_rows(x: torch.Tensor, rows: int) -> torch.Tensor:
    """(rows, N): victims averaged into ``rows`` blocks, to pair off those of two subjects."""
    return torch.stack([part.mean(0) for part in torch.tensor_split(x, rows)])
