"""Normal distributions over long vectors: a round floor plus a few long axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SMALLEST_AXIS = 1e-6
"""Axes whose variance is below this share of the floor change nothing."""


@dataclass(frozen=True, eq=False)
class LowRankNormal:
    """Zero-mean normal with covariance ``floor * I + axes diag(energy) axes^T``.

    Attributes:
        floor: variance along every direction, positive.
        axes: (D, r) orthonormal columns; r may be 0. Or (B, D, r), one distribution for each of B vectors.
        energy: (r,) or (B, r) variance along each axis on top of the floor.
    """

    floor: float
    axes: Tensor
    energy: Tensor

    def squared(self, e: Tensor) -> Tensor:
        """(B,) squared Mahalanobis lengths of vectors (B, D)."""
        along = (e[:, None] @ self.axes).squeeze(1)
        across = e - (along[:, None] @ self.axes.mT).squeeze(1)
        inside: Tensor = (along.square() / (self.energy + self.floor)).sum(-1)
        outside: Tensor = across.square().sum(-1) / self.floor
        return inside + outside

    def pick(self, which: Tensor) -> LowRankNormal:
        """Of J stacked distributions, one for each entry of ``which`` (B,)."""
        return LowRankNormal(self.floor, self.axes[which], self.energy[which])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, D) draws of a single distribution; ``generator`` lives on the CPU."""
        device, width = self.axes.device, self.axes.shape[0]
        round_ = torch.randn(count, width, generator=generator).to(device) * self.floor**0.5
        long = torch.randn(count, len(self.energy), generator=generator).to(device)
        drawn: Tensor = round_ + (long * self.energy.sqrt()) @ self.axes.T
        return drawn


def low_rank_normal(rows: Tensor, *, floor: float) -> LowRankNormal:
    """The normal with covariance ``floor * I + rows^T rows``.

    Args:
        rows: (n, D), n may be 0.
        floor: positive.
    """
    if len(rows) == 0:
        return LowRankNormal(floor, rows.new_zeros(rows.shape[1], 0), rows.new_zeros(0))
    _, length, axes = torch.linalg.svd(rows, full_matrices=False)
    energy = length.square()
    keep = energy > _SMALLEST_AXIS * floor
    return LowRankNormal(floor, axes[keep].T.contiguous(), energy[keep])


def stack(normals: Sequence[LowRankNormal]) -> LowRankNormal:
    """J distributions of one floor, to :meth:`LowRankNormal.pick` from; missing axes are filled with zeros."""
    most = max(len(n.energy) for n in normals)
    axes = [torch.nn.functional.pad(n.axes, (0, most - len(n.energy))) for n in normals]
    energy = [torch.nn.functional.pad(n.energy, (0, most - len(n.energy))) for n in normals]
    return LowRankNormal(normals[0].floor, torch.stack(axes), torch.stack(energy))
