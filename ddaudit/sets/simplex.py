"""Any numbers as label distributions: the nearest, or those cut to [0, 1] and divided by their sum."""

from __future__ import annotations

import torch
from torch import Tensor


def to_simplex(v: Tensor) -> Tensor:
    """The nearest distributions, in Euclidean distance, to rows (..., C).

    Source: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008, figure 1.
    """
    ordered = v.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    rank = torch.arange(1, v.shape[-1] + 1, device=v.device)
    count = (ordered * rank > excess).sum(-1, keepdim=True)
    shift = excess.gather(-1, count - 1) / count
    return (v - shift).clamp_min(0)


def to_sum_one(v: Tensor) -> Tensor:
    """Rows (..., C) cut to [0, 1] and divided by their sum; rows of which nothing is left go to the nearest
    distribution."""
    cut = v.clamp(0, 1)
    total = cut.sum(-1, keepdim=True)
    return torch.where(total > 0, cut / total.clamp_min(1e-30), to_simplex(v))
