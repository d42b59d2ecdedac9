"""``+balanced``: every class counts the same in targets, loss and draws, however many records it has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.defenses.fairness.fairdd import by_groups
from ddaudit.defenses.fairness.lessons import teach_evenly, teachable, untreated
from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.lessons import Even
from ddaudit.distillation.parts import Layout
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.selection import Selection
from ddaudit.distillation.targets import Weighted
from ddaudit.errors import BadInput


@dataclass(frozen=True)
class Balanced:
    """Class-balanced weights.

    Within a row that pools classes (:class:`Joint`), a record of class c weighs d_min / d_c, d_c being how many
    records of c a question takes on average: the row becomes the mean of the class means. Within a row of one class
    the weight would cancel in the mean, and only make a noisy sum smaller; there it is 1. In the loss every class
    counts the same (:meth:`Layout.weigh`): where noisy sums are matched, a class of fewer records than a batch, or of
    any size when all records are drawn alike, would count by the square of what it holds; and with one row per
    (class, group), a class whose groups are missing from the batch would count less.
    """

    weight: Tensor | None = field(default=None, repr=False, compare=False)
    """(num_classes,) of a record; filled by :meth:`bind`."""

    @property
    def even(self) -> bool:
        """Always."""
        return True

    def bind(self, data: ImageData, layout: Layout, drawn: Tensor | None) -> Balanced:
        """Settle the weights from what is drawn of each class, or else from the class counts of ``data``."""
        if self.weight is not None:
            return self
        if not _pools(layout):
            return replace(self, weight=torch.ones(data.num_classes))
        d = (data.class_counts() if drawn is None else drawn).float()
        smallest = torch.where(d > 0, d, torch.inf).min()
        return replace(self, weight=torch.where(d > 0, smallest / d, 1.0))

    def weigh(self, data: ImageData, index: Tensor) -> Tensor:
        """(B,) the weights of the records' classes."""
        assert self.weight is not None
        return self.weight[data.labels[index]]

    def couples_records(self) -> bool:
        """Never, given the counts."""
        return False

    def assumed(self, layout: Layout) -> tuple[str, ...]:
        """The class counts, where a row pools classes."""
        return ("class counts",) if _pools(layout) else ()


def _pools(layout: Layout) -> bool:
    return bool((layout.slots < 0).any())


def balanced(recipe: Recipe) -> Recipe:
    """Let every class count the same; with one target per group, draw every group equally often.

    Of ``full``, the records of smaller classes repeat. A method with one target per class whose batches take as many
    records of each class (dm, dc, dsa, kip) is balanced already, and the card says so.

    Raises:
        BadInput: a method without targets, or one that is balanced already.
    """
    where = f"{recipe.name}+balanced"
    taught = teach_evenly(recipe, where, by_group=False, source=SOURCE)
    if isinstance(recipe.loop, Selection) and recipe.loop.takes_all:
        note = "records of smaller classes repeat until every class has as many as the largest"
        return replace(
            taught or recipe,
            loop=replace(recipe.loop, even=True),
            status="ours",
            source=f"{SOURCE}, on: {recipe.source}",
            deviations=(*(taught or recipe).deviations, note),
        )
    if taught is not None:
        return taught
    if isinstance(recipe.loop, Selection) or recipe.target is None:
        raise BadInput(
            where,
            "'balanced' changes targets, and this method selects as many records of each class already",
            "Use it on full, dm, dc, dsa, psg or ndpdc.",
        )
    reader, notes, grouped = recipe.reader, recipe.deviations, by_groups(recipe.target)
    networks = teachable(recipe)
    if networks is not None:
        untreated(recipe, where)
        networks = replace(networks, lesson=Even())
        notes += ("networks that are trained on the records see every class equally often",)
    elif isinstance(reader, Minibatch) and not grouped:
        notes += (
            "balanced: as many records of each class are drawn and every class has one target, so the method "
            "itself is balanced already and 'balanced' changes nothing before 'dp' or 'fair' is added",
        )
    if isinstance(reader, Minibatch) and grouped:
        reader = replace(reader, by_group=True)
    return replace(
        recipe,
        target=Weighted(recipe.target, Balanced()),
        reader=reader,
        networks=networks or recipe.networks,
        status="ours",
        source=f"{SOURCE}, on: {recipe.source}",
        deviations=notes,
    )


SOURCE = (
    "class-balanced means (mean of class means) and losses, the plain remedy for class imbalance"
)

DEFENSES.add(
    "balanced",
    Defense(
        "balanced",
        "every class counts the same in targets, loss and draws (long-tailed data)",
        SOURCE,
        balanced,
        order=14,
    ),
)
