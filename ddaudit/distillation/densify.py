"""Densification: images of a class are to differ from one another, or all of them end up alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.parts import View


@dataclass(frozen=True)
class Densify:
    """The spectrum of each class's Gram matrix is pulled towards a flatter one of itself.

    KL divergence of softmax(l) from softmax(l / tau), a constant; l are the eigenvalues of x x^T over the images of a
    class, as they are shown. 0 where a class has one image.

    Source: Shao et al., G-VBSM, CVPR 2024, arXiv 2311.17950, section 3.1 (data densification), and the authors' code.
    """

    weight: float = 1.0
    tau: float = 4.0

    def __post_init__(self) -> None:
        if not (self.weight > 0 and self.tau > 0):
            raise ValueError("Densify.weight and Densify.tau must be positive")

    def loss(self, view: View) -> Tensor:
        """(K,) sums over classes."""
        totals = []
        for run in view.matched:
            total = run.new_zeros(())
            for c in view.labels.unique():
                flat = run[view.labels == c].flatten(1)
                spectrum = torch.linalg.eigvalsh(flat @ flat.T)
                flatter = (spectrum / self.tau).softmax(0).detach()
                total = total + F.kl_div(spectrum.log_softmax(0), flatter, reduction="sum")
            totals.append(total)
        return torch.stack(totals)
