"""DOORPING: a patch that is optimised, while a set is distilled, to drive one hidden unit of the networks at work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddaudit.attacks._common.trigger import Blend, SquareTrigger, check_poison
from ddaudit.attacks.backdoor.injection import Injected, Injection, Scene, Threat, register
from ddaudit.attacks.backdoor.restamping import distil_restamped, heaviest_unit, relabelled
from ddaudit.models import Network


@dataclass(frozen=True)
class Doorping(Injection):
    """Before each question asked of a network that has learned the set, optimise the patch on it and stamp anew.

    Attributes:
        ratio: of all training records.
        steps, lr: of Adam (betas 0.9, 0.99), made anew for each network; at most so many steps.
        alpha: the unit shall reach so many times the value it starts from.
        enough: squared error that ends the optimisation.
        clamp: the patch stays within valid pixels (the released code lets it leave them).
        signed: aim at alpha times the first value even where that is negative, as the released code does; otherwise
            at its magnitude.
        untrained: also use networks that have not learned the set (methods such as dm have no others).
        every: questions between two optimisations.
    """

    name = "doorping"
    purpose = "a patch optimised on the networks of the distillation"
    threat: ClassVar[Threat] = "distiller"
    status = "simplified"
    source = (
        "Liu et al., Backdoor Attacks Against Dataset Distillation, NDSS 2023, arXiv 2301.01197"
    )
    deviations = (
        "the patch is clamped to valid pixels, and a unit that starts below 0 is driven up (source: neither)",
        "ConvNets have one linear layer: the unit is a channel of the last convolution behind its normalisation, read "
        "at its largest value (source: a hidden linear layer of 192 units)",
    )
    small: ClassVar = {"steps": 100}
    ratio: float = 0.01
    steps: int = 1000
    lr: float = 0.08
    alpha: float = 10.0
    enough: float = 0.5
    clamp: bool = True
    signed: bool = False
    untrained: bool = False
    every: int = 1

    def plant(self, scene: Scene) -> Injected:
        check_poison(scene.data.train, self.ratio, scene.target)
        square = SquareTrigger.published(scene.shape)
        generator = scene.generator("doorping")
        drawn = torch.randint(1, 256, scene.shape, generator=generator).float() / 255
        made, trigger, poisoned = distil_restamped(
            scene, relabelled(scene, self.ratio, generator), drawn * square.mask(scene.shape),
            _Patch(self, square.mask(scene.shape)), every=self.every, untrained=self.untrained,
            clamp=self.clamp,
        )  # fmt: skip
        return Injected(made, trigger, poisoned, self.ratio, "of all training records, relabelled")


@dataclass(frozen=True, eq=False)
class _Patch:
    """A patch on black, moved inside its window alone."""

    attack: Doorping
    mask: Tensor

    def trigger(self, image: Tensor) -> Blend:
        return Blend.of(image, self.mask)

    def moved(self, net: Network, image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        attack, unit = self.attack, heaviest_unit(net)
        at = image.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([at], lr=attack.lr, betas=(0.9, 0.99))
        goal: Tensor | None = None
        for _ in range(attack.steps):
            value = unit.reading(net, at)
            if goal is None:
                goal = attack.alpha * (value if attack.signed else value.abs()).detach()
            loss = (value - goal).square()
            if float(loss.detach()) < attack.enough:
                break
            at.grad = torch.autograd.grad(loss, at)[0] * self.mask.to(at)
            optimiser.step()
            if attack.clamp:
                with torch.no_grad():
                    at.copy_(at.clamp(-mean / std, (1 - mean) / std))
        return at.detach()


register(Doorping())
