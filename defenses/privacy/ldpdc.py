"""LDPDC: every synthetic image is the noisy average of a random group of records, and nothing is optimised."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import Recipe, register
from ddaudit.distillation.loops import Job, Outcome
from ddaudit.distillation.parts import Query, Targets
from ddaudit.distillation.synthesis import labels_of
from ddaudit.distillation.targets import ByClass
from ddaudit.errors import BadInput

SOURCE = "Zheng & Li, Differentially Private Dataset Condensation (LDPDC, the linear case), NDSS workshop 2024"


@dataclass(frozen=True)
class UnitPixels:
    """The normalised image itself, flattened and divided by sqrt(d): norm at most 1 for pixels in [-1, 1]^d.

    The division makes one clip, 1, right for images of every size. It holds for the public normalisation
    (0.5, 0.5) only: under a data set's own constants pixels leave [-1, 1] (and private recipes refuse them).
    """

    shareable: bool = True

    def signals(self, net: object, x: Tensor, y: Tensor) -> Tensor:
        """(B, C * H * W)."""
        flat = x.flatten(1)
        return flat / math.sqrt(flat.shape[1])

    def real(self, net: object, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, C * H * W)."""
        return rows @ self.signals(net, x, y)


@dataclass(frozen=True)
class GroupMeans:
    """Image j of every class is the answer to question j: the mean of a new random group of its records.

    Groups are the reader's samples (``reader.batch`` expected records of each class), and a private reader
    divides by the expected size, never by the sampled one. Classes are disjoint, so one question yields one image
    of every class. Noise has standard deviation sigma * sqrt(d) in the sum over [-1, 1] pixels.

    Source: LDPDC, and the authors' code.
    """

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """K subsets can always be distilled at once."""
        return True

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        """Question j is the same whatever the size: smaller sets are the beginnings of larger ones."""
        return True

    def queries(self, ipc: int) -> int:
        """One per image of a class."""
        return ipc

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Distil K sets, one per row of ``job.members``.

        Raises:
            BadInput: the recipe lacks a target or a reader, or its target is not made of class rows.
        """
        if recipe.target is None or recipe.reader is None:
            raise BadInput(
                recipe.name, "averages groups of records and needs a target and a reader"
            )
        recipe.check_private()
        train, source = job.train, recipe.open(job)
        slots = source.layout.slots
        if set(slots.tolist()) != set(range(train.num_classes)):
            raise BadInput(recipe.name, "needs rows for every class", "Use a target per class.")
        signal, plain = UnitPixels(), (None,) * train.num_classes
        images = []
        for j in range(job.ipc):
            targets = source.targets(Query(f"group {j}", signal, None, plain))
            images.append(_by_class(targets, slots.to(job.device), train.num_classes))
            if job.progress:
                job.progress(j + 1, job.ipc)
        size = images[0].shape[-1]
        # (K, classes, ipc, d), and back from unit norm to pixels.
        x = (torch.stack(images, 2) * math.sqrt(size)).cpu()
        mean, std = recipe.constants(job.data)
        pixels = x.view(len(job.members), -1, *train.shape) * std + mean
        labels = labels_of(train.num_classes, job.ipc)
        return [Outcome(p, labels, claim) for p, claim in zip(pixels, source.claims(), strict=True)]


def _by_class(targets: Targets, slots: Tensor, num_classes: int) -> Tensor:
    """(K, num_classes, D) means over the rows of each class; rows without records do not count."""
    one_hot = torch.nn.functional.one_hot(slots, num_classes).T.float()
    share = one_hot[None] * (targets.weights > 0).float()[:, None]
    return (share / share.sum(-1, keepdim=True).clamp_min(1.0)) @ targets.values


register(
    Recipe(
        name="ldpdc",
        purpose="noisy means of random groups of records of each class (private)",
        family="distribution",
        status="faithful",
        source=SOURCE,
        loop=GroupMeans(),
        target=ByClass(),
        reader=PoissonGaussian(clip=1.0, batch=50),
        augment="",
        normalise="public",
    )
)
