"""Recover: images that teachers, trained on the real records, take for those records (squeeze, recover, relabel)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ddaudit.distillation.jitter import Jitter
from ddaudit.distillation.loops import Constants, Job, Outcome, Unasked, trained_networks
from ddaudit.distillation.parts import Synthesis, Term, View
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.terms import added
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Network


@runtime_checkable
class LearnsOfTeachers(Protocol):
    """A term that must see, before the first step, how teachers answer to the real records."""

    def learn(self, job: Job, teachers: Sequence[Network], constants: Constants) -> Term:
        """This term for the one run of a job; ``teachers`` take images normalised by ``constants``."""


@runtime_checkable
class Judged(Protocol):
    """A synthesis whose start a teacher chooses."""

    def judged(self, teacher: Network) -> Synthesis:
        """This synthesis with ``teacher`` at hand, which takes normalised images."""


@dataclass(frozen=True)
class Recover(Unasked):
    """Adam on the images of one batch after another; the loss is the sum of the recipe's terms on one teacher.

    Teachers take turns, in evaluation mode. The step falls along a cosine to 0, and pixels are kept in [0, 1]. Without
    iterations the start is released as it is. Labels are those of the recipe's label part.

    Attributes:
        iterations: steps per batch; 0 releases the start.
        lr: of Adam at the first step, in normalised space.
        batch: images at a time, at most.
        whole: batches hold all images of a class (of as many classes as fit, at least one); otherwise one image of
            each class (of as many as fit), so that statistics are those of many classes.
        jitter: how a batch is shown to its teacher.

    Source: Yin, Xing & Shen, "Squeeze, Recover and Relabel" (SRe2L), NeurIPS 2023, arXiv 2306.13092, section 3, and
    the authors' code (Adam with betas 0.5 and 0.9).
    """

    takes_terms = True
    iterations: int = 1000
    lr: float = 0.25
    batch: int = 100
    whole: bool = False
    jitter: Jitter = field(default_factory=Jitter)

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.batch < 1 or not self.lr > 0:
            raise ValueError(
                "loop.iterations must not be negative, loop.batch at least 1, loop.lr positive"
            )

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Distil the one set of ``job``.

        Raises:
            BadInput: records that are no images, or parts that are missing.
            DDAuditError: the images diverged, or several runs at once.
        """
        if job.data.modality != "image" or job.data.space != "pixels":
            raise BadInput(
                f"{recipe.name} on '{job.data.name}'", "makes images, and these records are none"
            )
        if recipe.synthesis is None or (self.iterations and not recipe.terms):
            raise BadInput(recipe.name, "lacks a synthesis, or terms to minimise")
        if len(job.members) > 1:
            raise DDAuditError(f"{recipe.name}: runs come one after the other")
        teachers = trained_networks(recipe.networks_for(job), recipe.name)
        job = _taught(recipe, job)
        generator = torch.Generator().manual_seed(job.seed)
        if isinstance(recipe.synthesis, Judged):
            recipe = replace(recipe, synthesis=recipe.synthesis.judged(teachers[0]))
        canvas = recipe.start(job, generator)
        mean, std = recipe.constants(job.data)
        with torch.no_grad():
            images = canvas.decode()[0].clone()
        if self.iterations:
            self._move(recipe, job, teachers, images, canvas.labels, generator)
        pixels = (images.cpu() * std + mean).clamp_(0, 1).contiguous()
        assert recipe.synthesis is not None
        verbatim = recipe.synthesis.init == "real" and not self.iterations
        return [
            Outcome(
                pixels, canvas.labels.cpu(), real_pixels=verbatim or None, teachers=tuple(teachers)
            )
        ]

    def _move(
        self,
        recipe: Recipe,
        job: Job,
        teachers: Sequence[Network],
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Optimise (M, C, H, W) normalised images in place."""
        constants = recipe.constants(job.data)
        mean, std = (c.to(job.device) for c in constants)
        terms = [
            t.learn(job, teachers, constants) if isinstance(t, LearnsOfTeachers) else t
            for t in recipe.terms
        ]
        parts = list(batches(labels, self.batch, self.whole))
        mirror, done = "flip" in job.data.augment, 0
        for index in parts:
            x = images[index].requires_grad_(True)
            optimiser = torch.optim.Adam([x], lr=self.lr, betas=(0.5, 0.9))
            for step in range(self.iterations):
                share = 0.5 * (1 + math.cos(math.pi * step / self.iterations))
                optimiser.param_groups[0]["lr"] = self.lr * share
                shown = self.jitter.show(
                    x, step, self.iterations, mirror=mirror, generator=generator
                )
                view = View(
                    x[None],
                    shown[None],
                    labels[index],
                    job.train.num_classes,
                    teachers[done % len(teachers)],
                    std,
                    done,
                    index=index,
                    seed=job.seed,
                )
                loss = added(terms, view)
                assert loss is not None, "there are terms"
                (x.grad,) = torch.autograd.grad(loss, [x])
                optimiser.step()
                with torch.no_grad():
                    x.copy_(torch.minimum(torch.maximum(x, -mean / std), (1 - mean) / std))
                done += 1
                if job.progress:
                    job.progress(done, self.iterations * len(parts))
            images[index] = x.detach()
        if not bool(torch.isfinite(images).all()):
            raise DDAuditError(
                f"{recipe.name}: the images diverged. Lower --set loop.lr (now {self.lr:g})."
            )


def _taught(recipe: Recipe, job: Job) -> Job:
    """The job on the records as its teachers were taught them, so that all parts see records alike."""
    lesson = getattr(recipe.networks, "lesson", None)
    if lesson is None:
        return job
    train = job.train.subset(job.members[0])
    train = train.subset(lesson.records(train))
    return replace(job, train=train, members=torch.ones(1, len(train), dtype=torch.bool))


def batches(labels: Tensor, size: int, whole: bool) -> Iterator[Tensor]:
    """Positions of the images of one batch after another; see :class:`Recover`."""
    classes = labels.unique()
    if whole:
        most = int(torch.bincount(labels).max())
        for some in classes.split(max(1, size // most)):
            yield torch.isin(labels, some).nonzero().squeeze(1)
        return
    own = [(labels == c).nonzero().squeeze(1) for c in classes]
    for rank in range(max(len(i) for i in own)):
        yield from torch.stack([i[rank] for i in own if rank < len(i)]).split(size)
