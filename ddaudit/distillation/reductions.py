"""Row reductions: how the distances of one step's target rows become one loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


class Reduction(Protocol):
    """From the distances of rows to a loss; a frozen dataclass.

    On the scale of the sum: a row that counts, counts as much as it does in the sum, so that one step size serves
    all reductions.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def reduce(self, losses: Tensor, live: Tensor) -> Tensor:
        """(K,) losses from weighted distances (K, R); rows that are not ``live`` (K, R) bool had no records."""


@dataclass(frozen=True)
class Sum:
    """Every row counts: the published form of matching methods."""

    def reduce(self, losses: Tensor, live: Tensor) -> Tensor:
        """(K,) sums; rows without records weigh nothing already."""
        return losses.sum(-1)


@dataclass(frozen=True)
class CVaR:
    """The worst ``share`` of the rows counts: the conditional value at risk at level 1 - share, times the number of
    rows it averages over.

    Attributes:
        share: in (0, 1]; 1 is the sum.

    Source: Rockafellar & Uryasev, "Optimization of Conditional Value-at-Risk", Journal of Risk, 2000.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"reduction.share must lie in (0, 1], got {self.share:g}")

    def reduce(self, losses: Tensor, live: Tensor) -> Tensor:
        """(K,) sums of the worst share of live rows, the last one in part."""
        return cvar(losses, live, share=self.share) * self.share * live.sum(-1)


@dataclass(frozen=True)
class Max:
    """Only the worst row of a step counts.

    Source: the inner maximum of group DRO, Sagawa et al., ICLR 2020, equation 4, at every step's own distances.
    """

    def reduce(self, losses: Tensor, live: Tensor) -> Tensor:
        """(K,) largest losses of live rows; 0 where there are none."""
        worst = losses.masked_fill(~live, -torch.inf).amax(-1)
        return torch.where(live.any(-1), worst, 0.0)


def cvar(losses: Tensor, live: Tensor | None = None, *, share: float) -> Tensor:
    """Mean of the worst ``share`` of losses, the row at the edge with the fraction that belongs to it.

    Args:
        losses: (..., R); larger is worse.
        live: (..., R) bool, the rows there are; None: all of them.
        share: in (0, 1].

    Returns:
        (...) means, differentiable; 0 where no row is live.
    """
    if live is None:
        live = torch.ones_like(losses, dtype=torch.bool)
    order = losses.detach().masked_fill(~live, -torch.inf).argsort(-1, descending=True)
    count = share * live.sum(-1, keepdim=True).to(losses.dtype)
    rank = torch.arange(losses.shape[-1], device=losses.device)
    weight = (count - rank).clamp(0, 1)
    total = (weight * losses.gather(-1, order)).sum(-1)
    mean: Tensor = total / count.squeeze(-1).clamp_min(torch.finfo(losses.dtype).tiny)
    return mean
