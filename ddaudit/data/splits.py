"""Splitting real data: a fixed validation split, splits made on demand, statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.coins import coins
from ddaudit.data.spec import Option, show

VALIDATION = Option(
    "validation", 0.1, "fraction of the training images held out for validation", low=0.0, high=0.5
)
"""The option that every data set without a validation split of its own offers."""


def hold_out(data: ImageData, fraction: float) -> tuple[ImageData, ImageData]:
    """Split training data into (train, validation), each record by its own coin.

    A record is held out when its coin falls below ``fraction``: its role depends on its own image alone, as a privacy
    claim needs it (see ``ddaudit.data.coins``), and copies of one image stay together. Of n records about
    ``fraction * n`` are held out, of every class and group alike up to chance. Record order is kept in both parts.
    """
    held = torch.from_numpy(coins(data.images, "validation") < fraction)
    return data.subset(~held), data.subset(held)


def with_validation(data: Dataset, fraction: float) -> Dataset:
    """``data`` (whose validation split is empty) with that fraction of train held out."""
    if fraction == 0:
        return data
    train, validation = hold_out(data.train, fraction)
    note = (
        f"{len(validation)} of the {len(data.train)} training images are held out for model "
        f"selection (validation={show(fraction)}, each record by a hash of its own image); published protocols "
        "train on all of them (validation=0)."
    )
    return replace(data, train=train, validation=validation, notes=(*data.notes, note))


def copies(train: ImageData, others: Mapping[str, ImageData]) -> dict[str, int]:
    """How many images of other splits are, byte for byte, among those of train; only splits that have any.

    Reports say it of test records.
    """
    known = coins(train.images, "copies")
    found = {
        name: int(np.isin(coins(split.images, "copies"), known).sum())
        for name, split in others.items()
    }
    return {name: count for name, count in found.items() if count}


def empty_like(data: ImageData) -> ImageData:
    """No records, same classes, groups and shape."""
    return data.subset(torch.empty(0, dtype=torch.int64))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of (N, C, H, W) uint8 images, for pixels in [0, 1], to 4 digits.

    Computed from the histogram of each channel: exact, and without a float copy of the images.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].reshape(-1), minlength=256).double()
        share = counts / counts.sum()
        mean = float(share @ levels)
        means.append(round(mean, 4))
        # A constant channel has no spread; 1 keeps the normalisation finite.
        stds.append(round(float((share @ (levels - mean) ** 2).sqrt()), 4) or 1.0)
    return tuple(means), tuple(stds)


class LazySplits(Mapping[str, ImageData]):
    """Named splits made when first asked for (Fashion-MNIST in every colour is 300 MB)."""

    def __init__(self, makers: Mapping[str, Callable[[], ImageData]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, ImageData] = {}

    def __getitem__(self, name: str) -> ImageData:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
