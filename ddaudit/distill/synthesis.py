"""Syntheses: the free parameters behind the synthetic images, and how they start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.errors import BadInput


@dataclass(frozen=True)
class Pixels:
    """Every pixel is a free parameter, optimised in normalised space and never clipped (the DC family's way).

    ``init="real"`` starts from random real images of each class, which releases real records as a starting
    point: private readers refuse it. ``init="noise"`` starts from N(0, 1) in normalised space.
    """

    init: Literal["real", "noise"] = "real"

    def __post_init__(self) -> None:
        if self.init not in ("real", "noise"):
            raise ValueError(f"synthesis.init is 'real' or 'noise', not '{self.init}'")

    def start(
        self,
        data: ImageData,
        members: Tensor,
        *,
        ipc: int,
        mean: Tensor,
        std: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """(K, num_classes * ipc, C, H, W) normalised starting images in class-major order.

        Classes with fewer than ``ipc`` records repeat records (the long-tail convention).

        Raises:
            BadInput: real initialisation of a class without any record.
        """
        k, m = len(members), data.num_classes * ipc
        if self.init == "noise":
            return torch.randn(k, m, *data.shape, generator=generator)
        picks = []
        for row in members:
            for c in range(data.num_classes):
                index = ((data.labels == c) & row).nonzero().squeeze(1)
                if len(index) == 0:
                    raise BadInput(
                        f"class '{data.class_names[c]}'",
                        "has no training record to start from",
                        "Use --set synthesis.init=noise.",
                    )
                order = torch.randperm(len(index), generator=generator)
                picks.append(index[order.repeat(-(-ipc // len(index)))[:ipc]])
        x = (data.pixels(torch.cat(picks)) - mean) / std
        return x.view(k, m, *data.shape)


def labels_of(num_classes: int, ipc: int) -> Tensor:
    """(num_classes * ipc,) int64 class-major hard labels."""
    return torch.arange(num_classes).repeat_interleave(ipc)
