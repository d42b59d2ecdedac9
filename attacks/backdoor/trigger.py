"""The white-square trigger of NAIVEATTACK, stamped in uint8 pixel space, and the poisoned training set it makes.

Source: Liu et al., "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv 2301.01197, and its released code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.errors import BadInput

PUBLISHED_SIZE = 32
PUBLISHED_SIDE = 2


@dataclass(frozen=True)
class SquareTrigger:
    """A square of one brightness near the bottom-right corner.

    Attributes:
        side: pixels.
        margin: pixels left free below and to the right of it.
        value: brightness in every channel, 0 to 255.
    """

    side: int
    margin: int = 1
    value: int = 255

    @classmethod
    def published(cls, shape: tuple[int, int, int]) -> SquareTrigger:
        """NAIVEATTACK's trigger for (C, H, W) images: 2 pixels of 32, in proportion elsewhere, at least one."""
        return cls(side=max(1, round(PUBLISHED_SIDE * min(shape[1:]) / PUBLISHED_SIZE)))

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns it covers: [size - margin - side, size - margin).

        Raises:
            BadInput: it does not fit.
        """
        if self.side < 1 or self.margin < 0 or self.side + self.margin > min(height, width):
            raise BadInput(
                f"trigger of side {self.side}", f"does not fit into {height} x {width} images"
            )
        end_row, end_col = height - self.margin, width - self.margin
        return slice(end_row - self.side, end_row), slice(end_col - self.side, end_col)

    def stamp(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> a stamped copy, uint8: valid pixels by construction, so a clamp changes nothing."""
        if images.dtype != torch.uint8:
            raise ValueError(f"triggers are stamped on uint8 pixels, not {images.dtype}")
        rows, columns = self.window(int(images.shape[2]), int(images.shape[3]))
        out = images.clone()
        out[:, :, rows, columns] = self.value
        return out


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A training set with a backdoor, and which of its records carry it."""

    train: ImageData
    index: Tensor
    """(n,) int64 positions of the stamped and relabelled records."""


def poison(
    train: ImageData,
    trigger: SquareTrigger,
    *,
    ratio: float,
    target: int,
    generator: torch.Generator,
) -> Poisoned:
    """Stamp and relabel a share of the training set, drawn once over all classes, the target class included.

    Args:
        ratio: share of the whole training set, in (0, 1]; at least one record.
        target: the label the poisoned records get ("dirty label").

    Raises:
        BadInput: ratio outside (0, 1], or no such class.
    """
    if not 0 < ratio <= 1:
        raise BadInput(f"poison ratio {ratio}", "is not in (0, 1]")
    if not 0 <= target < train.num_classes:
        raise BadInput(
            f"target class {target}", f"does not exist among {train.num_classes} classes"
        )
    count = max(1, round(ratio * len(train)))
    index = torch.randperm(len(train), generator=generator)[:count].sort().values
    images, labels = train.images.clone(), train.labels.clone()
    images[index] = trigger.stamp(train.images[index])
    labels[index] = target
    return Poisoned(replace(train, images=images, labels=labels), index)
