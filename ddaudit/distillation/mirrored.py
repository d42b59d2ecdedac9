"""Mirror images: what is matched are the synthetic images and their mirror images, what is released the images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ddaudit.distillation.canvas import Canvas, Start
from ddaudit.distillation.synthesis import Wrapped


@dataclass(frozen=True)
class Mirrored(Wrapped):
    """Another synthesis, whose images are matched together with their left-right mirror images.

    Neither costs storage, and evaluation sees the images alone (its augmentation mirrors them where the data allow).
    Where a mirrored record is no record of its class (digits), this asks images to be what they cannot be.

    Attributes:
        inner: makes the images.
        on: "all" images, or "colour": grey ones, among them the digits, are left as they are.

    Source: Son et al., "FYI: Flip Your Images for Dataset Distillation", ECCV 2024, arXiv 2407.08113, and the
        authors' code; FRePo's code mirrors images of three channels (Zhou et al., NeurIPS 2022).
    """

    on: Literal["all", "colour"] = "all"

    def __post_init__(self) -> None:
        if self.on not in ("all", "colour"):
            raise ValueError(f"synthesis.on is 'all' or 'colour', not '{self.on}'")

    def start(self, given: Start) -> Canvas:
        """The images of the synthesis inside, then their mirror images.

        Raises:
            BadInput: as the synthesis inside.
        """
        canvas = super().start(given)
        if self.on == "colour" and given.data.shape[0] == 1:
            return canvas

        def decode() -> Tensor:
            x = canvas.decode()
            return torch.cat([x, x.flip(-1)], 1)

        labels = canvas.labels.repeat(2)
        return replace(canvas, labels=labels, decode=decode, copies=2 * canvas.copies)
