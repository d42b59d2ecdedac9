"""Masked images: what is matched are the synthetic images with random pixels left out, what is released the images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddaudit.distillation.canvas import Canvas, Start
from ddaudit.distillation.synthesis import Wrapped


@dataclass(frozen=True)
class Masked(Wrapped):
    """Another synthesis, whose pixels are each set to the mean with some probability, anew for every match.

    No few pixels can then carry a class alone. Images that are taken without a gradient, as networks learn of them
    and as they are released, are whole.

    Attributes:
        inner: makes the images.
        drop: probability that a pixel is left out, all channels together.

    Source: Zhu et al., "Rethinking Data Distillation: Do Not Overlook Calibration", ICCV 2023, arXiv 2307.12463 (masked
        distillation training).
    """

    drop: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.drop < 1:
            raise ValueError(f"synthesis.drop must lie strictly between 0 and 1, got {self.drop:g}")

    def start(self, given: Start) -> Canvas:
        """The images of the synthesis inside.

        Raises:
            BadInput: as the synthesis inside.
        """
        canvas = super().start(given)
        seed = int(torch.randint(2**31, (), generator=given.generator))
        generator = torch.Generator().manual_seed(seed)

        def decode() -> Tensor:
            x = canvas.decode()
            if not torch.is_grad_enabled():
                return x
            kept = torch.rand(*x.shape[:2], 1, *x.shape[3:], generator=generator) >= self.drop
            return x * kept.to(x)

        return replace(canvas, decode=decode)
