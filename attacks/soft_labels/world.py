"""A recipe run once more with canaries in its data, each kept away from whatever must not see it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddaudit.attacks._common.nonmembers import held_out
from ddaudit.attacks._common.records import concatenate
from ddaudit.attacks.soft_labels.canaries import Marked, Planted, plant
from ddaudit.attacks.soft_labels.measure import chance, recalled
from ddaudit.auditing import Context, Subject
from ddaudit.errors import NotEnoughData, Unsupported
from ddaudit.sets import DistilledSet
from ddaudit.stats import clopper_pearson


@dataclass(frozen=True, eq=False)
class World:
    """A set made with canaries, and who saw what.

    Attributes:
        planted: the canaries.
        made: the set, with soft labels.
        tested: the canaries whose trace is looked for.
        memory: (m,) bool, the teacher itself recalls the planted label; None where labels and images come together.
        temperature: of the labels, None where unknown.
    """

    planted: Planted
    made: DistilledSet
    tested: Marked
    memory: Tensor | None
    temperature: float | None

    @property
    def separate(self) -> bool:
        """True when a teacher wrote the labels after the images were made."""
        return self.memory is not None

    @property
    def remembered(self) -> bool:
        """False when the teacher recalls its canaries no better than chance: then there is nothing to leak."""
        if self.memory is None:
            return True
        found = clopper_pearson(int(self.memory.sum()), len(self.memory))
        return found.low > chance(self.made.num_classes)


def make_world(subject: Subject, ctx: Context, *, canaries: int, unseen: int, seed: int) -> World:
    """Distil with canaries; those of the teacher stay away from the pixels where the recipe allows it.

    A recipe with a label model is run in two steps: images from the base and the shown canaries, labels by a teacher
    of these and the hidden ones. Any other makes images and labels in one go, from all canaries.

    Args:
        subject: with a recipe that makes soft labels.
        canaries, unseen: see :func:`~ddaudit.attacks.soft_labels.canaries.plant`.

    Raises:
        Unsupported: too few classes or records.
    """
    recipe = subject.recipe
    if recipe is None:
        raise Unsupported(f"needs the recipe to distil again, and a {subject.kind} is its result")
    try:
        planted = plant(
            ctx.data.train,
            held_out(ctx).records,
            count=canaries,
            unseen=unseen,
            generator=ctx.generator("soft-labels", "canaries", seed),
        )
    except NotEnoughData as error:
        raise Unsupported(str(error)) from None
    at = ctx.seed_for("soft-labels", "distil", seed)
    hidden, shown, model = planted.hidden, planted.shown, recipe.labels
    if model is None:
        made = ctx.redistill(subject, planted.everything, at)
        everyone = Marked(
            concatenate([hidden.records, shown.records]), torch.cat([hidden.truth, shown.truth])
        )
        return World(planted, made, everyone, None, None)
    plain = replace(subject, recipe=replace(recipe, labels=None))
    made = ctx.redistill(plain, planted.pixels, at)
    # One call, so that the teacher is trained once: it labels the set, and the canaries to show what it remembers.
    labels = model.relabel(
        torch.cat([made.images, hidden.records.pixels()]),
        torch.cat([made.hard_labels, hidden.truth]),
        train=planted.everything,
        data=ctx.data,
        seed=at,
        device=ctx.device,
    )
    memory = recalled([labels[len(made) :].log()], hidden)
    made = replace(made, labels=labels[: len(made)])
    return World(planted, made, hidden, memory, getattr(model, "temperature", None))
