"""COBRA's barycentre on any matching objective, and the controls that tell FairDD's target from its step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.defenses.fairness.fairdd import Barycentre, group_count
from ddaudit.distillation import DEFENSES, Defense, Recipe, register
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.parts import Layout, PrivateDefaults, TargetRule
from ddaudit.distillation.pool import Warm
from ddaudit.distillation.recipes.dc import DC
from ddaudit.distillation.recipes.dm import DM
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.training import PROTOCOLS

COBRA = "COBRA, ICML 2026, arXiv 2605.00185"


@dataclass(frozen=True)
class PerGroup:
    """The class target once for every protected group: the step of FairDD without its target.

    For squared distances sum_a ||m - s||^2 = G ||m - s||^2, so that the images move G times as far.
    """

    def layout(self, data: ImageData) -> Layout:
        """Class-major rows.

        Raises:
            BadInput: the data have no protected attribute.
        """
        groups = group_count(data)
        slots = torch.arange(data.num_classes).repeat_interleave(groups)
        return Layout(
            slots, tuple(f"{c}, time {g + 1}" for c in data.class_names for g in range(groups))
        )

    def bind(self, data: ImageData, drawn: Tensor | None = None) -> PerGroup:
        """Needs nothing of the data."""
        return self

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(num_classes * groups, B) class indicators over the root of the number of groups."""
        groups = group_count(data)
        return ByClass().rows(data, index).repeat_interleave(groups, 0) / math.sqrt(groups)

    def bounded(self) -> ByClass:
        """One row per class."""
        return ByClass()

    def couples_records(self) -> bool:
        """Never: a record's class is its own."""
        return False

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class L1Embedding(MeanEmbedding):
    """Mean embeddings, compared by the sum of absolute differences.

    Source: COBRA's code (mhmoslemi/COBRA, commit aa567ff, train_dm.py).
    """

    squared: ClassVar[bool] = False

    def private_defaults(self) -> PrivateDefaults | None:
        """Nothing is published."""
        return None

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) sums of absolute differences."""
        return (target - synthetic).abs().sum(-1)


def _instead(recipe: Recipe, name: str, rule: TargetRule, source: str) -> Recipe:
    """The recipe with another rule in the place of its class targets.

    Raises:
        BadInput: it has none.
    """
    if not isinstance(recipe.target, ByClass):
        raise BadInput(
            f"{recipe.name}+{name}",
            f"'{name}' changes plain class targets, and this method has none, or others already",
            "Use it on dm, dc, dsa or idc, without '+fair'.",
        )
    private = recipe.reader is not None and recipe.reader.private
    return replace(
        recipe,
        target=rule.bounded() if private else rule,
        status="ours",
        source=f"{source}, on: {recipe.source}",
    )


def barycentre(recipe: Recipe) -> Recipe:
    """Match every class to the unweighted mean of its group means.

    Raises:
        BadInput: a method without plain class targets.
    """
    return _instead(recipe, "barycentre", Barycentre(in_batch=True), COBRA)


def group_step(recipe: Recipe) -> Recipe:
    """Count every class target once per protected group.

    Raises:
        BadInput: a method without plain class targets.
    """
    return _instead(recipe, "group-step", PerGroup(), "control of FairDD's step size")


DEFENSES.add(
    "barycentre",
    Defense(
        "barycentre",
        "one target per class, the mean of its group means: FairDD's optimum at the plain step",
        COBRA,
        barycentre,
        order=11,
    ),
)
DEFENSES.add(
    "group-step",
    Defense(
        "group-step",
        "plain class targets at FairDD's step, once per group: a control",
        "control of FairDD's step size: with squared distances its targets differ from their mean by a factor alone",
        group_step,
        order=11,
    ),
)

register(
    replace(
        barycentre(DM),
        name="cobra",
        purpose="class means with groups alike, on networks warmed up on the set",
        status="faithful",
        source=f"{COBRA}; values of the authors' code for 10 images per class",
        objective=L1Embedding(),
        networks=Warm(epochs=10),
        reader=replace(DM.reader, per_class=600),  # type: ignore[type-var]
        loop=replace(DM.loop, iterations=2600),  # type: ignore[type-var]
        protocol=replace(PROTOCOLS["dc"], name="cobra", epochs=1500),
        published_ipc=10,
        small={
            "loop.iterations": 150,
            "loop.lr": 0.5,
            "networks.width": 32,
            "networks.epochs": 5,
            "reader.per_class": 64,
        },
        deviations=(
            "the first network is not warmed up (source: on the images that the set starts from)",
        ),
    )
)
register(
    replace(
        barycentre(DC),
        name="cobra-dc",
        purpose="gradients of classes with their groups alike",
        status="faithful",
        source=COBRA,
        synthesis=Pixels(init="real"),
        loop=replace(DC.loop, table="cobra"),  # type: ignore[type-var]
        protocol=replace(PROTOCOLS["dc"], name="cobra-dc", augment="", epochs_plain=1000),
        deviations=(),
    )
)
