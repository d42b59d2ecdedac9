"""Lessons: how often teachers see each record, for methods that know records only through teachers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation import Recipe
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.targets import protected


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


def teach_evenly(recipe: Recipe, *, by_group: bool, source: str) -> Recipe | None:
    """The recipe with an even lesson for its teachers; None where it has targets, or no teachers."""
    if recipe.target is not None or not isinstance(recipe.networks, Experts):
        return None
    old = recipe.networks.lesson
    by_group = by_group or (isinstance(old, Even) and old.by_group)
    what = "(class, group)" if by_group else "class"
    note = (
        f"every {what} is seen equally often: by the teachers, in statistics and among crops' records "
        "(records of smaller ones repeat)"
    )
    return replace(
        recipe,
        networks=replace(recipe.networks, lesson=Even(by_group)),
        status="ours",
        source=f"{source}, on: {recipe.source}",
        deviations=(*recipe.deviations, note),
    )
