"""Auto-PGD: projected gradient ascent with momentum that chooses its own step sizes.

Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020, algorithm 1. Differs from the authors' code in one place: its count of successful steps compares
the first step of a run with 0 instead of with the loss at the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks.adversarial.ball import Ball, Noise
from ddaudit.attacks.adversarial.execution import Model
from ddaudit.attacks.adversarial.losses import LossName, loss, rivals, targeted
from ddaudit.attacks.adversarial.targets import each_target, without

MOMENTUM, ENOUGH = 0.75, 0.75
"""Weight of the new step; share of steps that must improve for the step size to stay."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""Logits (N, K), aims (N, 2) int64 = (label, target) -> (N,)."""


@dataclass(frozen=True)
class APGD:
    """Untargeted, on cross-entropy or DLR, from a point on the ball's surface."""

    loss: LossName = "ce"
    steps: int = 100
    repeats: int = 1
    """Passes averaged at each point, for networks that are random (20 in AutoAttack's "rand")."""

    @property
    def name(self) -> str:
        return f"apgd-{self.loss}"

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        start = ball.surface(x, noise)
        return climb(
            model, x, torch.stack([y, y], 1), ball, start, steps=self.steps, repeats=self.repeats,
            objective=lambda z, aims: loss(self.loss, z, aims[:, 0]),
        )[0]  # fmt: skip


@dataclass(frozen=True)
class APGDTargeted:
    """One run per target on the targeted DLR loss: the ``targets`` strongest rivals, or all K - 1 if fewer."""

    steps: int = 100
    targets: int = 9

    @property
    def name(self) -> str:
        return "apgd-t"

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        aims = rivals(model.logits(x), y, self.targets)

        def search(images: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
            starts = []
            for rank in ranks.unique().tolist():
                mine = images[ranks == rank]
                own = Noise(noise.seed, noise.images[mine.cpu()]).fork("target", rank)
                starts.append(ball.surface(x[mine], own))
            return climb(
                model, x[images], torch.stack([y[images], aims[images, ranks]], 1), ball,
                torch.cat(starts), steps=self.steps, owners=images,
                objective=lambda z, pair: targeted(z, pair[:, 0], pair[:, 1]),
            )  # fmt: skip

        return each_target(x, aims.shape[1], model.room, search)


def climb(
    model: Model,
    x: Tensor,
    aims: Tensor,
    ball: Ball,
    start: Tensor,
    *,
    steps: int,
    objective: Objective,
    repeats: int = 1,
    owners: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One run; images leave as soon as they are broken.

    Args:
        x: (N, C, H, W); ``aims`` (N, 2): label and target of each.
        start: (N, C, H, W) in the ball.
        owners: (N,) int64 the image that each row is a run of, where an image has several: once one is broken, all
            leave. None: each is its own.

    Returns:
        (N, C, H, W) the first x' that broke the network, x where none did; (N,) bool whether it did.
    """
    made, ids = x.clone(), torch.arange(len(x), device=x.device)
    owners = ids if owners is None else owners
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    at, before = start, start
    logits, value, gradient = model.gradient(at, lambda z: objective(z, aims), repeats=repeats)
    best, best_gradient, best_value = at, gradient, value
    last_value, checked_value = value, value
    step = torch.full_like(value, 2 * ball.eps)
    rises, halved = torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool)
    period, shorter, shortest = (max(int(f * steps), 1) for f in (0.22, 0.03, 0.06))
    since = 0
    for i in range(steps + 1):
        stays = logits.argmax(1) == aims[:, 0]
        if not bool(stays.all()):
            made[ids[~stays]], broken[ids[~stays]] = at[~stays], True
            stays = without(owners, ~stays)
            x, aims, ids, owners, at, before, gradient, value = (
                t[stays] for t in (x, aims, ids, owners, at, before, gradient, value)
            )
            best, best_gradient, best_value = (t[stays] for t in (best, best_gradient, best_value))
            last_value, checked_value = last_value[stays], checked_value[stays]
            step, rises, halved = step[stays], rises[stays], halved[stays]
        if i == steps or not len(ids):
            break
        if i:
            rises += value > last_value
            last_value, better = value, value > best_value
            wide = better.view(-1, 1, 1, 1)
            best, best_gradient = (
                torch.where(wide, at, best),
                torch.where(wide, gradient, best_gradient),
            )
            best_value = torch.where(better, value, best_value)
            since += 1
            if since == period:
                stuck = ~halved & (best_value <= checked_value)
                halved = (rises <= ENOUGH * period) | stuck
                checked_value = best_value
                step = torch.where(halved, step / 2, step)
                wide = halved.view(-1, 1, 1, 1)
                at, gradient = (
                    torch.where(wide, best, at),
                    torch.where(wide, best_gradient, gradient),
                )
                rises, since = torch.zeros_like(rises), 0
                period = max(period - shorter, shortest)
        move = ball.project(x, at + step.view(-1, 1, 1, 1) * ball.steepest(gradient))
        weight = MOMENTUM if i else 1.0
        after = ball.project(x, at + weight * (move - at) + (1 - weight) * (at - before))
        at, before = after, at
        logits, value, gradient = model.gradient(at, lambda z: objective(z, aims), repeats=repeats)  # noqa: B023
    return made, broken
