"""INVISIBLE: a faint pattern over the whole image, added to it, that drives one hidden unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddaudit.attacks._common.trigger import Blend, check_poison
from ddaudit.attacks.backdoor.injection import Injected, Injection, Scene, Threat, register
from ddaudit.attacks.backdoor.restamping import distil_restamped, heaviest_unit, relabelled
from ddaudit.errors import Unsupported
from ddaudit.models import Network


@dataclass(frozen=True)
class Invisible(Injection):
    """As DOORPING, with a pattern that is added to records and shrinks while it drives the unit.

    Attributes:
        ratio: of all training records.
        steps, lr: of Adam (betas 0.9, 0.99) for each network.
        alpha: the unit shall reach so many times the value it starts from.
        shrink: factor of the bound whenever the whole pattern is below it; entries above it are penalised.
        weight: of the unit's squared error beside the penalty.
        clamp, untrained, every: as of DOORPING.
    """

    name = "invisible"
    purpose = "a faint additive pattern optimised on the networks of the distillation"
    threat: ClassVar[Threat] = "distiller"
    status = "simplified"
    source = (
        "Liu et al., Backdoor Attacks Against Dataset Distillation, NDSS 2023, arXiv 2301.01197"
    )
    deviations = (
        "the unit is driven to a fixed multiple of its first value (released code: of its present one, which drives "
        "it to 0)",
        "every stamp starts from the clean record (released code: adds up), in valid pixels; black adds nothing "
        "(released code: normalised values are added, so that the mean pixel adds nothing)",
        "starts from the first training image of the target class (released code: a test image)",
        "steps and rate are those for DC on every method (released code on DD: 50 of 0.001)",
    )
    small: ClassVar = {"steps": 50}
    ratio: float = 0.01
    steps: int = 100
    lr: float = 0.08
    alpha: float = 10.0
    shrink: float = 0.9
    weight: float = 0.8
    clamp: bool = True
    untrained: bool = False
    every: int = 1

    def plant(self, scene: Scene) -> Injected:
        check_poison(scene.data.train, self.ratio, scene.target)
        train = scene.data.train
        of_target = (train.labels == scene.target).nonzero().flatten()
        if not len(of_target):
            raise Unsupported(
                "starts its trigger at a record of the target class, and there is none"
            )
        first = int(of_target[0])
        made, trigger, poisoned = distil_restamped(
            scene, relabelled(scene, self.ratio, scene.generator("invisible")),
            train.pixels(torch.tensor([first]))[0], _Pattern(self), every=self.every,
            untrained=self.untrained, clamp=self.clamp,
        )  # fmt: skip
        return Injected(made, trigger, poisoned, self.ratio, "of all training records, relabelled")


@dataclass(frozen=True, eq=False)
class _Pattern:
    attack: Invisible

    def trigger(self, image: Tensor) -> Blend:
        return Blend(torch.ones_like(image), image)

    def moved(self, net: Network, image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        attack, unit = self.attack, heaviest_unit(net)
        at = image.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([at], lr=attack.lr, betas=(0.9, 0.99))
        bound = 1 / float(std.min())
        goal: Tensor | None = None
        for _ in range(attack.steps):
            value = unit.reading(net, at)
            goal = attack.alpha * value.detach().abs() if goal is None else goal
            size = (at + mean / std).abs()  # from black
            loss = attack.weight * (value - goal).square() + size[size > bound].sum()
            if float(size.detach().max()) < bound:
                bound *= attack.shrink
            at.grad = torch.autograd.grad(loss, at)[0]
            optimiser.step()
            if attack.clamp:
                with torch.no_grad():
                    at.copy_(at.clamp(-mean / std, (1 - mean) / std))
        return at.detach()


register(Invisible())
