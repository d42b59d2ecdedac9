"""FairDD: one target per (class, protected group), equally weighted, on any matching objective."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.defenses.fairness.lessons import teach_evenly
from ddaudit.distillation import DEFENSES, Defense, Recipe, register
from ddaudit.distillation.parts import Layout, TargetRule
from ddaudit.distillation.recipes.dc import DC, DSA
from ddaudit.distillation.recipes.dm import DM, ONE_STEP
from ddaudit.distillation.selection import Selection
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass, innermost, protected
from ddaudit.errors import BadInput


@dataclass(frozen=True)
class ByGroup:
    """One uniform row per (class, group) that occurs in the training data; groups absent from a batch are skipped.

    Source: FairDD, NeurIPS 2025, arXiv 2411.19623, section 3 (L = sum over y and a of D(phi(T_ya), phi(S_y))).
    """

    def layout(self, data: ImageData) -> Layout:
        """Class-major rows.

        Raises:
            BadInput: the data have no protected attribute.
        """
        groups = group_count(data)
        slots = torch.arange(data.num_classes).repeat_interleave(groups)
        names = tuple(f"{c}, {g}" for c in data.class_names for g in _group_names(data))
        return Layout(slots, names)

    def bind(self, data: ImageData, drawn: Tensor | None = None) -> ByGroup:
        """Needs nothing of the data."""
        return self

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(num_classes * groups, B) indicators."""
        groups = group_count(data)
        assert data.groups is not None
        cell = data.labels[index] * groups + data.groups[index]
        return torch.nn.functional.one_hot(cell, data.num_classes * groups).T.float()

    def bounded(self) -> Barycentre:
        """The barycentre: for squared distances the same optimum with one row per class, so less noise."""
        return Barycentre()

    def couples_records(self) -> bool:
        """Never: a record's class and group are its own."""
        return False

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class Barycentre:
    """One row per class: the unweighted mean of its group means, with every record's weight at most 1.

    A record of group g weighs n_min / n_g, n_min being the class's smallest group (at least
    ``smallest_share`` of the class, so that one rare record cannot set the scale). For squared distances
    sum_a ||m_a - s||^2 = G ||mean_a m_a - s||^2 + constant: FairDD's optimum. Needs the (class, group) counts,
    which a privacy claim then lists as public. ``in_batch``: n_g is the count in the batch, so that the row is the mean
    of the means of the groups that the batch has; the weight of a record then depends on others.

    Source: FairDD (arXiv 2411.19623) and COBRA (arXiv 2605.00185; in the batch) targets; the bound on weights is ours.
    """

    smallest_share: float = 0.01
    in_batch: bool = False
    weight: Tensor | None = field(default=None, repr=False, compare=False)
    """(num_classes, groups) of a record; filled by :meth:`bind`."""

    def layout(self, data: ImageData) -> Layout:
        """One row per class.

        Raises:
            BadInput: the data have no protected attribute.
        """
        group_count(data)
        return Layout(torch.arange(data.num_classes), data.class_names)

    def bind(self, data: ImageData, drawn: Tensor | None = None) -> Barycentre:
        """Weigh the groups of each class by their counts in ``data``.

        Raises:
            BadInput: the data have no protected attribute.
        """
        if self.weight is not None or self.in_batch:
            return self
        groups = group_count(data)
        assert data.groups is not None
        counts = (
            torch.bincount(data.labels * groups + data.groups, minlength=data.num_classes * groups)
            .view(-1, groups)
            .float()
        )
        floor = (counts.sum(1, keepdim=True) * self.smallest_share).clamp_min(1.0)
        eligible = counts.clamp_min(floor)
        smallest = torch.where(counts > 0, eligible, torch.inf).amin(1, keepdim=True)
        # A group that is empty, and so smaller than the smallest, weighs 1: one record more must not weigh more.
        return replace(self, weight=(smallest / eligible).clamp_max(1.0))

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(num_classes, B) weights in [0, 1]."""
        if self.in_batch:
            cells = ByGroup().rows(data, index)
            alike = cells / cells.sum(1, keepdim=True).clamp_min(1)
            return alike.view(data.num_classes, -1, len(index)).sum(1)
        if self.weight is None:
            return self.bind(data).rows(data, index)
        assert data.groups is not None
        return ByClass().rows(data, index) * self.weight[data.labels[index], data.groups[index]]

    def bounded(self) -> Barycentre:
        """One row per class, weighed by the counts of all records."""
        return replace(self, in_batch=False)

    def couples_records(self) -> bool:
        """Never, given the counts of all records."""
        return self.in_batch

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        """How many records there are of each group in each class."""
        return ("(class, group) counts",)


def by_groups(rule: TargetRule | None) -> bool:
    """Whether targets are of protected groups, however they are weighed or reduced."""
    return rule is not None and isinstance(innermost(rule), (ByGroup, Barycentre))


def group_count(data: ImageData) -> int:
    """How many protected groups there are.

    Raises:
        BadInput: the data have no protected attribute.
    """
    return max(len(data.group_names), int(protected(data).max()) + 1)


def _group_names(data: ImageData) -> tuple[str, ...]:
    return data.group_names or tuple(f"group {g}" for g in range(group_count(data)))


def fair(recipe: Recipe) -> Recipe:
    """Split every class target by protected group; a random selection becomes group-balanced, and teachers see every
    group of a class equally often.

    Raises:
        BadInput: a method whose target is not one row per class.
    """
    taught = teach_evenly(recipe, f"{recipe.name}+fair", by_group=True, source=SOURCE)
    if isinstance(recipe.loop, Selection) and recipe.loop.strategy != "full":
        return replace(taught or recipe, loop=replace(recipe.loop, by_group=True))
    if taught is not None:
        return taught
    if isinstance(recipe.loop, Selection):
        raise BadInput(
            f"{recipe.name}+fair",
            "'fair' has nothing to change on the full training set",
            "Use it on dm, dc, dsa, random, herding.",
        )
    if not isinstance(recipe.target, ByClass):
        raise BadInput(
            f"{recipe.name}+fair",
            "'fair' splits one target per class, and this method has "
            + ("none" if recipe.target is None else "targets of another kind"),
            "Use it on dm, dc or dsa.",
        )
    # A row per group would add as much noise to the mean of five records as to that of fifty.
    private = recipe.reader is not None and recipe.reader.private
    target = ByGroup().bounded() if private else ByGroup()
    return replace(recipe, target=target, status="ours", source=f"{SOURCE}, on: {recipe.source}")


SOURCE = "FairDD, NeurIPS 2025, arXiv 2411.19623, section 3"

DEFENSES.add(
    "fair",
    Defense(
        "fair", "one equally weighted target per (class, protected group)", SOURCE, fair, order=10
    ),
)

for _base in (
    replace(DM, deviations=(ONE_STEP,)),
    # The authors' code of gradient matching starts from records, too.
    replace(
        DC, synthesis=Pixels(init="real"), loop=replace(DC.loop, table="fairdd"), deviations=()
    ),
    replace(DSA, loop=replace(DSA.loop, table="fairdd")),
):
    register(
        replace(
            fair(_base),
            name=f"fairdd-{_base.name}",
            status="faithful",
            source=f"{SOURCE}, on {_base.name}",
        )
    )
