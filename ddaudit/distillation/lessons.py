"""Lessons: what networks that train on the records are shown of them, and how their loss counts classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.targets import protected
from ddaudit.training import Extras, log_shares


class Lesson(Protocol):
    """What networks are taught of the records; a frozen dataclass, whose ``repr`` names it in the store."""

    def records(self, train: ImageData) -> Tensor:
        """(n,) positions of the records that a pass takes, with repeats: how often one stands there is its weight.

        Raises:
            BadInput: the data lack what the lesson needs (a protected attribute, say).
        """

    def shift(self, train: ImageData) -> Tensor | None:
        """(num_classes,) constants added to the logits in training, as logit adjustment does; None adds none."""

    def tilt(self, train: ImageData) -> Tensor | None:
        """(num_classes,) weights of the classes in the loss at the end of training, towards which they move from 1
        as the square of the time; None: 1 throughout."""


@dataclass(frozen=True)
class Even:
    """Every class is seen as often as the largest: its records are repeated.

    Attributes:
        by_group: every protected group of a class, too.
    """

    by_group: bool = False

    def records(self, train: ImageData) -> Tensor:
        """(n,) positions, the largest cell's once.

        Raises:
            BadInput: ``by_group`` and the data have no protected attribute.
        """
        cell = train.labels
        if self.by_group:
            groups = protected(train)
            cell = cell * (int(groups.max()) + 1) + groups
        own = [(cell == c).nonzero().squeeze(1) for c in cell.unique()]
        most = max(map(len, own))
        return torch.cat([index.repeat(-(-most // len(index)))[:most] for index in own])

    def shift(self, train: ImageData) -> Tensor | None:
        """Nothing: cells are even by their records."""
        return None

    def tilt(self, train: ImageData) -> Tensor | None:
        """Nothing."""
        return None


@dataclass(frozen=True)
class Adjusted:
    """Logit adjustment: while a network trains, ``tau`` times the log of the class shares is added to its logits.

    What it has learnt is then the logits of classes that are equally frequent.

    Source: Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, arXiv 2007.07314, equation 10.
    """

    tau: float = 1.0

    def records(self, train: ImageData) -> Tensor:
        """Every record once."""
        return torch.arange(len(train))

    def shift(self, train: ImageData) -> Tensor | None:
        """(num_classes,) tau * log of the class shares."""
        return self.tau * log_shares(train.labels, train.num_classes)

    def tilt(self, train: ImageData) -> Tensor | None:
        """Nothing."""
        return None


@dataclass(frozen=True)
class Deferred:
    """Rare classes weigh more and more: a class of share r by r^-power over the sum of those of all, at the end.

    Source: Cui et al., "Rethinking Long-tailed Dataset Distillation", AAAI 2026, arXiv 2511.18858, the debiasing loss:
    alpha * weighted + (1 - alpha) * plain cross-entropy with alpha = (t / T)^2. Weights here are those of the paper
    times the number of classes, so that the loss keeps its size.
    """

    power: float = 1.0

    def records(self, train: ImageData) -> Tensor:
        """Every record once."""
        return torch.arange(len(train))

    def shift(self, train: ImageData) -> Tensor | None:
        """Nothing."""
        return None

    def tilt(self, train: ImageData) -> Tensor | None:
        """(num_classes,) weights whose mean is 1."""
        share = log_shares(train.labels, train.num_classes)
        return torch.softmax(-self.power * share, 0) * train.num_classes


def teach(lesson: Lesson | None, train: ImageData) -> tuple[ImageData, Extras]:
    """The records of a pass, and what the engine is told besides; ``train`` and nothing without a lesson."""
    if lesson is None:
        return train, Extras()
    seen = train.subset(lesson.records(train))
    return seen, Extras(shift=lesson.shift(train), tilt=lesson.tilt(train))
