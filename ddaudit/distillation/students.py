"""Students: networks that take a few steps on the synthetic set from a point of an expert's path, and how far they get.

What is left of the way to the expert's later point is the loss; its gradient in images, labels and learning rate comes
from the student's whole training, or step by step in constant memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ddaudit.distillation.imbalance import Loss
from ddaudit.distillation.unrolled import unroll
from ddaudit.models import Network
from ddaudit.training.augment import AugmentParams, apply, draw

Parameters = Mapping[str, Tensor]
Lesson = Callable[[Parameters, Tensor, Tensor], Tensor]
"""The loss of a student's step, from its parameters, all images (M, C, H, W) and all labels."""
ALL = slice(None)


def left(reached: Parameters, start: Parameters, goal: Parameters, counted: slice = ALL) -> Tensor:
    """The squared distance from ``reached`` to ``goal`` over that from ``start`` to ``goal``: 1 for a student that
    stayed.

    Args:
        reached, start, goal: parameters by name; ``start`` in order from the input side.
        counted: which of the numbers count, in that order.
    """
    names = list(start)
    miss, way = (_flat(at, names, counted) - _flat(goal, names, counted) for at in (reached, start))
    return miss.square().sum() / way.square().sum()


def unrolled(
    lessons: Sequence[Lesson],
    images: Tensor,
    labels: Tensor,
    rate: Tensor,
    *,
    start: Parameters,
    goal: Parameters,
    counted: slice = ALL,
) -> Tensor:
    """What is :func:`left` after a student's steps, differentiable through all of them.

    Args:
        lessons: one per step.
        images, labels: what they are shown.
        rate: of plain gradient descent.
        start, goal, counted: as in :func:`left`.
    """
    following = iter(lessons)
    reached = unroll(
        start, lambda at: next(following)(at, images, labels), rate=rate, steps=len(lessons)
    )
    return left(reached, start, goal, counted)


def stepwise(
    lessons: Sequence[Lesson],
    images: Tensor,
    labels: Tensor,
    rate: Tensor,
    *,
    start: Parameters,
    goal: Parameters,
    counted: slice = ALL,
) -> Tensor:
    """The same value as :func:`unrolled`, with the gradient that takes the parameters at each step as constants.

    With G the sum of the steps' gradients g_i and r the rate, start - r G is where the student ends, and the loss moves
    with step i by -2 r (start - r G - goal)' dg_i over the squared way. The training runs twice and holds one step.

    Source: Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory" (TESLA), ICML 2023, arXiv
    2211.10586, section 3.2.
    """
    step = rate.detach()
    sources = [t for t in (images, labels) if t.requires_grad]
    shown = [t.detach().requires_grad_(t.requires_grad) for t in (images, labels)]
    leaves = [t for t in shown if t.requires_grad]

    def walk(use: Callable[[Sequence[Tensor]], None] | None) -> dict[str, Tensor]:
        at = {n: p.detach() for n, p in start.items()}
        for lesson in lessons:
            here = {n: p.requires_grad_(True) for n, p in at.items()}
            loss = lesson(here, *shown)
            slopes = torch.autograd.grad(loss, list(here.values()), create_graph=use is not None)
            if use is not None:
                use(slopes)
            at = {
                n: (p - step * g).detach() for (n, p), g in zip(here.items(), slopes, strict=True)
            }
        return at

    reached = walk(None)
    names = list(start)
    first, last = _flat(start, names, counted), _flat(goal, names, counted)
    way = first - last
    scale = 2 / way.square().sum()
    arrived = _flat(reached, names, counted)
    miss, moved = arrived - last, arrived - first
    total = [torch.zeros_like(t) for t in leaves]

    def collect(slopes: Sequence[Tensor]) -> None:
        flat = torch.cat([g.flatten() for g in slopes])[counted]
        pull = -step * scale * (miss @ flat)
        for sum_, g in zip(total, torch.autograd.grad(pull, leaves), strict=True):
            sum_ += g

    if leaves:
        walk(collect)
    # moved = -r G, so that the derivative in r, 2 miss' (-G) / way^2, is this:
    slope = scale * (miss @ moved) / step
    value = miss.square().sum() * scale / 2
    ways = [*sources, rate]
    return (
        value
        + torch.stack(
            [((t - t.detach()) * g).sum() for t, g in zip(ways, [*total, slope], strict=True)]
        ).sum()
    )


def plan_lessons(
    student: Network,
    shape: Sequence[int],
    *,
    steps: int,
    batch: int | None,
    strategy: str,
    generator: torch.Generator,
    loss: Loss = F.cross_entropy,
    fixed: Parameters | None = None,
) -> list[Lesson]:
    """Cross-entropy on batches of the set: which images each step sees, and how they are augmented.

    Args:
        student: whose body is trained, at parameters of its own.
        shape: (M, C, H, W) of the images.
        steps: how many; all images are gone through before one is seen again.
        batch: images a step; None: all.
        strategy: of DSA, drawn for every step, with parameters of its own for every image.
        generator: draws both.
        loss: of a batch.
        fixed: parameters that are not trained.
    """
    constants = {**dict(student.body.named_buffers()), **(fixed or {})}
    lessons: list[Lesson] = []
    batches: list[Tensor] = []
    for _ in range(steps):
        if not batches:
            order = torch.randperm(shape[0], generator=generator).to(student.device)
            batches = list(order.split(batch or shape[0]))
        index = batches.pop()
        seen = draw(strategy, generator, len(index), shape=tuple(shape[1:]))

        def lesson(
            at: Parameters, x: Tensor, y: Tensor, index: Tensor = index, seen: AugmentParams = seen
        ) -> Tensor:
            shown = apply(x[index], seen)
            logits: Tensor = functional_call(student.body, {**constants, **at}, (shown,))
            return loss(logits, y[index])

        lessons.append(lesson)
    return lessons


def _flat(at: Parameters, names: Sequence[str], counted: slice) -> Tensor:
    """(P,) the counted ones of the parameters, in the order of ``names``."""
    return torch.cat([at[n].flatten() for n in names])[counted]
