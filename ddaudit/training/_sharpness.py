"""Sharpness-aware gradients: what a step descends so that it ends where the loss is flat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_TINY = 1e-12


def sharpness_aware(
    loss: Callable[[], Tensor],
    leaves: Sequence[Tensor],
    *,
    radius: float,
    surrogate: float = 0.0,
    stacked: bool = False,
) -> None:
    """Set the ``grad`` of ``leaves`` to that of adaptive SAM, or of GSAM.

    The leaves w climb to w + e, e = radius w^2 g / ||w g||, g being the gradient at w (products by element, the norm
    over all leaves together). With g' the gradient there, ``grad`` is g' - surrogate * (the part of g at right angles
    to g'): the surrogate gap, the loss at w + e minus that at w, shrinks as well.

    Args:
        loss: the loss at the leaves' present values; called twice, and must see the same data both times.
        leaves: parameters; what is in their ``grad`` is lost.
        radius: rho.
        surrogate: alpha of GSAM; 0: adaptive SAM.
        stacked: leaves hold one network a row, and the loss is a sum over networks: each has norms of its own.

    Source: Kwon et al., "ASAM", ICML 2021, equation 8; Zhuang et al., "Surrogate Gap Minimization Improves
    Sharpness-Aware Training", ICLR 2022, algorithm 1; both as in the code of FTD (AngusDujw/FTD-distillation,
    commit 711532a, buffer/gsam/gsam.py).
    """
    dims = 1 if stacked else 0

    def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """(K,), or a scalar."""
        return torch.stack([(u * v).flatten(dims).sum(-1) for u, v in zip(a, b, strict=True)]).sum(
            0
        )

    def spread(factor: Tensor, like: Tensor) -> Tensor:
        return factor.view(-1, *[1] * (like.ndim - 1)) if stacked else factor

    flat = torch.autograd.grad(loss(), leaves)
    with torch.no_grad():
        weighted = [p.abs() * g for p, g in zip(leaves, flat, strict=True)]
        scale = radius / (dot(weighted, weighted).sqrt() + _TINY)
        start = [p.detach().clone() for p in leaves]
        for p, g in zip(leaves, flat, strict=True):
            p.add_(p.square() * g * spread(scale, p))
    high = torch.autograd.grad(loss(), leaves)
    with torch.no_grad():
        along = dot(flat, high) / (dot(high, high) + _TINY)
        for p, old, g, up in zip(leaves, start, flat, high, strict=True):
            p.copy_(old)
            # In the parameter's own layout: fused optimisers read a transposed gradient in the wrong order.
            p.grad = torch.empty_like(p).copy_(up - surrogate * (g - spread(along, g) * up))
