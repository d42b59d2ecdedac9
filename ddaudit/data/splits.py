"""Splitting real data: a fixed stratified validation split, splits made on demand, statistics.

All permutations come from ``numpy.random.RandomState``, whose stream NumPy keeps frozen (NEP 19),
so a split is the same on every machine and version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.spec import Option, show

Integers: TypeAlias = NDArray[np.int64]

SPLIT_SEED = 2024
"""Seed of every validation split of this package."""

VALIDATION = Option(
    "validation", 0.1, "fraction of the training images held out for validation", low=0.0, high=0.5
)
"""The option that every data set without a validation split of its own offers."""


def hold_out(data: ImageData, fraction: float) -> tuple[ImageData, ImageData]:
    """Split training data into (train, validation), stratified by class and group.

    Every (class, group) cell is permuted with a fixed seed and the last of it go to validation, so
    both parts carry the same bias, imbalance and noise. Of a class of n records round(fraction * n)
    are held out, shared among its groups by largest remainder; no cell loses its last training
    record. Record order is kept in both parts.
    """
    rng = np.random.RandomState(SPLIT_SEED)
    labels: Integers = data.labels.numpy()
    groups: Integers = np.zeros_like(labels) if data.groups is None else data.groups.numpy()
    held = np.zeros(len(data), dtype=bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        cells = [of_class[groups[of_class] == group] for group in np.unique(groups[of_class])]
        counts = _share([len(cell) for cell in cells], fraction)
        for cell, count in zip(cells, counts, strict=True):
            shuffled = rng.permutation(cell)
            held[shuffled[len(cell) - count :]] = True
    mask = torch.from_numpy(held)
    return data.subset(~mask), data.subset(mask)


def with_validation(data: Dataset, fraction: float) -> Dataset:
    """``data`` (whose validation split is empty) with that fraction of train held out."""
    if fraction == 0:
        return data
    train, validation = hold_out(data.train, fraction)
    note = (
        f"{len(validation)} of the {len(data.train)} training images are held out for model "
        f"selection (validation={show(fraction)}, fixed and stratified); published protocols "
        "train on all of them (validation=0)."
    )
    return replace(data, train=train, validation=validation, notes=(*data.notes, note))


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


def _share(sizes: list[int], fraction: float) -> list[int]:
    """How many records of each cell are held out: largest remainder, at most size - 1."""
    exact = [fraction * size for size in sizes]
    # The small term keeps 0.1 * 30 at 3 and rounds halves up.
    counts = [int(value + 1e-9) for value in exact]
    missing = int(sum(exact) + 0.5 + 1e-9) - sum(counts)
    by_remainder = sorted(range(len(sizes)), key=lambda i: counts[i] - exact[i])
    for cell in by_remainder[:missing]:
        counts[cell] += 1
    return [min(count, size - 1) for count, size in zip(counts, sizes, strict=True)]
