"""Canaries with random wrong labels: some for the teacher alone, some for everything, some for nobody.

A student that never met a canary still knows what the picture shows, so its first guess is the true class and
means nothing. Its second guess is what counts: among the wrong classes the planted one was drawn uniformly, so
whoever has no trace of it is right with probability 1 / (classes - 1), exactly, whatever the pictures are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddaudit.attacks._common.nonmembers import held_out
from ddaudit.attacks._common.records import concatenate, mislabel
from ddaudit.attacks._common.signals import logit_margin
from ddaudit.auditing import Context, Subject
from ddaudit.data import ImageData
from ddaudit.distillation.parts import LabelModel
from ddaudit.errors import NotEnoughData, Unsupported
from ddaudit.sets import DistilledSet
from ddaudit.stats import clopper_pearson

FEWEST = 20
"""Canaries of one kind: fewer would leave an interval as wide as the question."""

HARD_LABELS = "its labels are hard: they name a class and say nothing of a teacher's doubts"


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
    others: ImageData,
    *,
    count: int,
    unseen: int,
    generator: torch.Generator,
) -> Planted:
    """Give random training records a random wrong label, and hide half of them from the pixels.

    Args:
        train: the real training records; at most a quarter of them become canaries.
        others: held-out records, for the canaries that no network sees.
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
    if len(others) < FEWEST:
        raise NotEnoughData(
            f"needs {FEWEST} held-out records as canaries that no network sees, there are {len(others)}"
        )
    order = torch.randperm(len(train), generator=generator)
    outside = torch.randperm(len(others), generator=generator)[:unseen]
    return Planted(
        base=train.subset(torch.sort(order[2 * half :]).values),
        shown=mark(train.subset(order[:half]), generator),
        hidden=mark(train.subset(order[half : 2 * half]), generator),
        unseen=mark(others.subset(outside), generator),
    )


def mark(records: ImageData, generator: torch.Generator) -> Marked:
    """The records under labels drawn uniformly from the wrong classes."""
    return Marked(mislabel(records, generator), records.labels)


@dataclass(frozen=True, eq=False)
class CanaryRun:
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
        rate = clopper_pearson(int(self.memory.sum()), len(self.memory))
        return rate.low > chance(self.made.num_classes)


def run_with_canaries(
    subject: Subject, ctx: Context, *, canaries: int, unseen: int, seed: int
) -> CanaryRun:
    """Distil with canaries; those of the teacher stay away from the pixels where the recipe allows it.

    A recipe with a label model is run in two steps: images from the base and the shown canaries, labels by a teacher
    of these and the hidden ones. Any other makes images and labels in one go, from all canaries.

    Args:
        subject: with a recipe that makes soft labels.
        canaries, unseen: see :func:`plant`.

    Raises:
        Unsupported: hard labels, or too few classes or records.
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
    if not isinstance(model, LabelModel):
        # Whatever wrote the labels is part of the method: there is no teacher to ask about the canaries.
        made = ctx.redistill(subject, planted.everything, at)
        if not made.soft:
            raise Unsupported(HARD_LABELS)
        everyone = Marked(
            concatenate([hidden.records, shown.records]), torch.cat([hidden.truth, shown.truth])
        )
        return CanaryRun(planted, made, everyone, None, None)
    plain = replace(subject, recipe=replace(recipe, labels=None))
    made = ctx.redistill(plain, planted.pixels, at)
    # One call, so that the teacher is trained once: it labels the set, and the canaries to show what it remembers.
    labels, _ = model.relabel(
        torch.cat([made.images, hidden.records.pixels()]),
        torch.cat([made.hard_labels, hidden.truth]),
        train=planted.everything,
        data=ctx.data,
        seed=at,
        device=ctx.device,
    )
    if labels.ndim == 1:
        raise Unsupported(HARD_LABELS)
    memory = recalled([labels[len(made) :].log()], hidden)
    made = replace(made, labels=labels[: len(made)])
    return CanaryRun(planted, made, hidden, memory, getattr(model, "temperature", None))


def recalled(logits: Sequence[Tensor], marked: Marked) -> Tensor:
    """(m,) bool: the planted label is the students' favourite among the wrong classes.

    Args:
        logits: one (m, K) per student; their log-probabilities are averaged, so that every canary is guessed
            once and guesses are independent.
    """
    joint = torch.stack([torch.log_softmax(z.double(), dim=1) for z in logits]).mean(0)
    return _without_truth(joint, marked).argmax(1) == marked.records.labels


def planted_margin(logits: Sequence[Tensor], marked: Marked) -> Tensor:
    """(m,) float64 log-odds of the planted label against the other wrong classes, averaged over students."""
    margins = [
        logit_margin(_without_truth(z.double(), marked), marked.records.labels) for z in logits
    ]
    return torch.stack(margins).mean(0)


def chance(classes: int) -> float:
    """The share of planted labels that are recalled without any trace of them."""
    return 1 / (classes - 1)


def _without_truth(scores: Tensor, marked: Marked) -> Tensor:
    return scores.scatter(1, marked.truth[:, None], -torch.inf)
