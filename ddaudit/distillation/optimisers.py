"""Optimisers of synthetic sets that PyTorch does not have: LAMB and AdaBelief."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class _Moments(torch.optim.Optimizer):
    """Adam's bookkeeping: running means of a gradient and of a square, corrected for their start at zero."""

    betas = (0.9, 0.999)

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter with a gradient; ``closure`` is not used."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(steps=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
                state["steps"] += 1
                p.sub_(group["lr"] * self.direction(p, p.grad, state))

    def direction(self, p: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """What is subtracted, times the learning rate."""
        raise NotImplementedError

    def corrected(self, state: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Both means without the weight of their zero starts."""
        first, second = (1 - beta ** state["steps"] for beta in self.betas)
        return state["mean"] / first, state["square"] / second


class Lamb(_Moments):
    """Adam's direction of every parameter, as long as the parameter itself.

    The length is taken per run (the first dimension), so that runs in one tensor stay independent; it is 1 where
    parameter or direction are zero. No weight decay, as FRePo's code uses it.

    Args:
        groups: parameters with the runs as first dimension.
        lr: share of its own length that a parameter moves.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020,
    arXiv 1904.00962, algorithm 2; epsilon 1e-6.
    """

    epsilon = 1e-6

    def direction(self, p: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """Adam's direction at the parameter's length."""
        state["mean"].lerp_(gradient, 1 - self.betas[0])
        state["square"].lerp_(gradient.square(), 1 - self.betas[1])
        mean, square = self.corrected(state)
        way = mean / (square.sqrt() + self.epsilon)
        own, length = (t.flatten(1).norm(dim=1) for t in (p, way))
        ratio = torch.where((own > 0) & (length > 0), own / length.clamp_min(1e-30), 1.0)
        return way * ratio.view(-1, *[1] * (p.ndim - 1))


class AdaBelief(_Moments):
    """Adam whose steps shrink where gradients differ from their running mean, not where they are large.

    Source: Zhuang et al., "AdaBelief Optimizer", NeurIPS 2020, arXiv 2010.07468, algorithm 2; epsilon 1e-16, as
    RFAD's code uses it, inside and outside of the root.
    """

    epsilon = 1e-16

    def direction(self, p: Tensor, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """The running mean of gradients over the root of their squared surprise."""
        state["mean"].lerp_(gradient, 1 - self.betas[0])
        surprise = (gradient - state["mean"]).square()
        state["square"].lerp_(surprise, 1 - self.betas[1]).add_(self.epsilon)
        mean, square = self.corrected(state)
        return mean / (square.sqrt() + self.epsilon)


def optimiser_named(name: str, groups: list[dict[str, Any]], *, lr: float) -> torch.optim.Optimizer:
    """The optimiser called "adam", "lamb" or "adabelief"."""
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr)
    return {"lamb": Lamb, "adabelief": AdaBelief}[name](groups, lr=lr)
