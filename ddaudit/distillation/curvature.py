"""Loss curvature: gradients matched with their spread, which stands for the Hessian's diagonal (LCMat)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ddaudit.distillation.objectives import GradientMatch
from ddaudit.models import Network


@dataclass(frozen=True)
class CurvatureMatch(GradientMatch):
    """Gradient matching, plus the L1 distance of the variances that the rows' gradients have, parameter by parameter.

    The variance of gradients stands for the diagonal of the Hessian (Rame et al., "Fishr", ICML 2022), and so the
    second part bounds how much more the losses can differ where parameters move by ``radius``. Rows without records
    have no part in it. It is taken of aggregates, so that under a private reader it is post-processing.

    Attributes:
        radius: weight of the second part.

    Source: Shin et al., "Loss-Curvature Matching for Dataset Selection and Condensation", AISTATS 2023,
    arXiv 2303.04449. The code of its condensation is not public.
    """

    radius: float = 1.0
    squared: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius < 0:
            raise ValueError(f"objective.radius cannot be negative, got {self.radius:g}")

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) distances of gradients; each row that has records bears an equal part of the second term."""
        near = super().distance(net, target, synthetic)
        there = (target != 0).any(-1)
        apart = (spread(target, there) - spread(synthetic, there)).abs().sum(-1, keepdim=True)
        return near + self.radius * apart * there / there.sum(-1, keepdim=True).clamp_min(1)


def spread(gradients: Tensor, there: Tensor) -> Tensor:
    """(K, P) variances over the rows of (K, R, P) that are ``there`` (K, R) bool; divided by their number."""
    part = there[..., None].to(gradients.dtype)
    count = part.sum(1).clamp_min(1)
    mean = (part * gradients).sum(1) / count
    variance: Tensor = (part * (gradients - mean[:, None]).square()).sum(1) / count
    return variance
