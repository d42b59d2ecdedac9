"""Canaries: marked records, each put into the training pool by the toss of a coin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ddaudit.attacks._common.records import concatenate, mislabel
from ddaudit.data import ImageData
from ddaudit.errors import BadInput, NotEnoughData

Kind = Literal["mislabelled", "pattern", "natural"]

_FEWEST = 16
"""With fewer canaries no guess, however good, refutes an epsilon of 1.5."""


@dataclass(frozen=True, eq=False)
class Canaries:
    """m canaries, the coins that decided about them, and the records that are in the pool anyway.

    Attributes:
        records: the m canaries.
        included: (m,) bool, fair coins; the secret that an attack has to guess.
        base: the other records, known to the attacker.
    """

    records: ImageData
    included: Tensor
    base: ImageData

    def __len__(self) -> int:
        return len(self.records)

    @property
    def pool(self) -> ImageData:
        """What is distilled: the base and the included canaries."""
        return concatenate([self.base, self.records.subset(self.included)])


def plant(
    train: ImageData, *, count: int, kinds: Sequence[Kind], generator: torch.Generator
) -> Canaries:
    """Make canaries from a training set and toss their coins.

    ``mislabelled`` takes real records out of the set and gives them a random wrong label, ``natural``
    takes them out unchanged, ``pattern`` adds cosine waves, no two alike and orthogonal in pixels.

    Args:
        train: the real training records.
        count: canaries wanted; at most a quarter of the records are used.
        kinds: split evenly over these.
        generator: draws records, labels and coins.

    Raises:
        NotEnoughData: the set is too small to spare 16 canaries.
        BadInput: more patterns wanted than an image has pixels, or wrong labels for a single class.

    Source: Steinke, Nasr & Jagielski, NeurIPS 2023, section 6; Nasr et al., S&P 2021 (mislabelled).
    """
    count = min(count, len(train) // 4)
    if count < _FEWEST:
        raise NotEnoughData(f"{len(train)} training records cannot spare {_FEWEST} canaries")
    order = torch.randperm(len(train), generator=generator)
    shares = [len(part) for part in torch.arange(count).tensor_split(len(kinds))]
    parts: list[ImageData] = []
    taken: list[Tensor] = []
    start = 0
    for kind, share in zip(kinds, shares, strict=True):
        index = order[start : start + share]
        start += share
        parts.append(_make(kind, train.subset(index), generator))
        if kind != "pattern":
            taken.append(index)
    keep = torch.ones(len(train), dtype=torch.bool)
    if taken:
        keep[torch.cat(taken)] = False
    return Canaries(concatenate(parts), toss(count, generator), train.subset(keep))


def toss(count: int, generator: torch.Generator) -> Tensor:
    """(count,) bool, independent fair coins."""
    return torch.rand(count, generator=generator) < 0.5


def _make(kind: Kind, records: ImageData, generator: torch.Generator) -> ImageData:
    if kind == "natural":
        return records
    classes = records.num_classes
    if kind == "pattern":
        labels = torch.randint(classes, (len(records),), generator=generator)
        if records.space != "pixels":
            raise BadInput(
                "canaries",
                "of kind pattern are pictures, and the data are none",
                "Take another kind.",
            )
        waves = _waves(len(records), records.shape)
        if records.images.is_floating_point():
            waves = waves.float() / 255
        return replace(records, images=waves, labels=labels)
    if classes < 2:
        raise BadInput("canaries", "cannot be mislabelled: the data have a single class")
    return mislabel(records, generator)


def _waves(count: int, shape: tuple[int, int, int]) -> Tensor:
    """(count, C, H, W) uint8 cosine waves around grey, the slowest first.

    Colours mix by the discrete cosine transform too, so any two are orthogonal around grey.
    """
    c, h, w = shape
    if count > c * h * w - 1:
        what = f"{count} orthogonal patterns do not fit in {c} x {h} x {w} pixels"
        raise BadInput("canaries", what, f"Use at most {c * h * w - 1}, or add another kind.")
    bases = [_cosines(n) for n in (c, h, w)]
    orders = [(a, u, v) for a in range(c) for u in range(h) for v in range(w)][
        1:
    ]  # not the flat one
    orders.sort(key=lambda o: (o[1] / h) ** 2 + (o[2] / w) ** 2 + 1e-3 * o[0])
    waves = []
    for a, u, v in orders[:count]:
        wave = bases[0][a][:, None, None] * bases[1][u][None, :, None] * bases[2][v][None, None]
        waves.append(127.5 * (1 + wave / wave.abs().max()))
    return torch.stack(waves).round().clamp(0, 255).to(torch.uint8)


def _cosines(n: int) -> Tensor:
    """(n, n) rows of the type-II discrete cosine transform, unnormalised."""
    k = torch.arange(n, dtype=torch.float64)
    return torch.cos(math.pi / n * (k[None] + 0.5) * k[:, None])
