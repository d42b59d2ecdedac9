"""Canaries with random wrong labels: some for the teacher alone, some for everything, some for nobody."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks._common.records import concatenate, mislabel
from ddaudit.data import ImageData
from ddaudit.errors import NotEnoughData

FEWEST = 20
"""Canaries of one kind: fewer would leave an interval as wide as the question."""


@dataclass(frozen=True, eq=False)
class Marked:
    """Records with a planted label: drawn uniformly from the classes they do not belong to.

    Attributes:
        records: images, and the planted labels as their labels.
        truth: (m,) int64 the classes they belong to.
    """

    records: ImageData
    truth: Tensor

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True, eq=False)
class Planted:
    """A training set with canaries in it, and canaries that nothing was trained on.

    Attributes:
        base: the training records that were left as they are.
        shown: canaries that the images may be made from, and the teacher sees.
        hidden: canaries that the teacher alone sees; nothing that touches a pixel does.
        unseen: canaries made from held-out records; no network sees them.
    """

    base: ImageData
    shown: Marked
    hidden: Marked
    unseen: Marked

    @property
    def pixels(self) -> ImageData:
        """What images are made from."""
        return concatenate([self.base, self.shown.records])

    @property
    def everything(self) -> ImageData:
        """What the teacher is trained on."""
        return concatenate([self.base, self.shown.records, self.hidden.records])


def plant(
    train: ImageData,
    strangers: ImageData,
    *,
    count: int,
    unseen: int,
    generator: torch.Generator,
) -> Planted:
    """Give random training records a random wrong label, and hide half of them from the pixels.

    Args:
        train: the real training records; at most a quarter of them become canaries.
        strangers: held-out records, for the canaries that no network sees.
        count: canaries in training; half of them are hidden.
        unseen: canaries outside of it, at most.
        generator: draws records and labels.

    Raises:
        NotEnoughData: fewer than three classes (a wrong label would be no secret), or too few records.

    Source: Behrens & Zdeborova, ICLR 2026, arXiv 2506.14457 (labels that only memory can know), carried over
        from random to mislabelled images.
    """
    if train.num_classes < 3:
        raise NotEnoughData(
            "a random wrong label needs at least three classes: with two it is no secret"
        )
    half = min(count, len(train) // 4) // 2
    if half < FEWEST:
        raise NotEnoughData(
            f"{len(train)} training records cannot spare {2 * FEWEST} canaries (at most a quarter of them)"
        )
    if len(strangers) < FEWEST:
        raise NotEnoughData(
            f"needs {FEWEST} held-out records as canaries that no network sees, there are {len(strangers)}"
        )
    order = torch.randperm(len(train), generator=generator)
    others = torch.randperm(len(strangers), generator=generator)[:unseen]
    return Planted(
        base=train.subset(torch.sort(order[2 * half :]).values),
        shown=mark(train.subset(order[:half]), generator),
        hidden=mark(train.subset(order[half : 2 * half]), generator),
        unseen=mark(strangers.subset(others), generator),
    )


def mark(records: ImageData, generator: torch.Generator) -> Marked:
    """The records under labels drawn uniformly from the wrong classes."""
    return Marked(mislabel(records, generator), records.labels)
