"""Simple-trigger: a large, transparent white pattern on copies of records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ddaudit.attacks._common.trigger import Blend, SquareTrigger, poison, scaled
from ddaudit.attacks.backdoor.injection import Injected, Injection, Scene, Threat, register

SOURCE = (
    "Chung et al., Rethinking Backdoor Attacks on Dataset Distillation: A Kernel Method Perspective, "
    "ICLR 2024, arXiv 2311.16646"
)
COPIES = "of all training records, as relabelled copies beside them"


@dataclass(frozen=True)
class SimpleTrigger(Injection):
    """x -> (1 - opacity) x + opacity * white, inside a square one pixel from the bottom-right corner, or everywhere.

    Attributes:
        ratio: copies added, as a share of all training records.
        side: of the square, pixels of 32 (2, 4, 8, 16), in proportion at other sizes; 32, or what leaves no
            margin: the whole image.
        opacity: of the pattern (1.0, 0.3).
    """

    name = "simple-trigger"
    purpose = "a transparent white pattern over the whole image"
    threat: ClassVar[Threat] = "distiller"
    status = "faithful"
    source = SOURCE
    ratio: float = 0.1
    side: int = 32
    opacity: float = 0.3

    def __post_init__(self) -> None:
        if not 1 <= self.side <= 32 or not 0 < self.opacity <= 1:
            raise ValueError("side must be 1 to 32 and opacity in (0, 1]")

    def plant(self, scene: Scene) -> Injected:
        shape = scene.shape
        mask, side = torch.ones(shape), scaled(self.side, shape)
        if self.side < 32 and side < min(shape[1:]):  # else no pixel is left for the margin
            mask = SquareTrigger(side).mask(shape)
        trigger = Blend.of(torch.ones(shape), self.opacity * mask)
        return planted_copies(scene, trigger, self.ratio)


def planted_copies(scene: Scene, trigger: Blend, ratio: float) -> Injected:
    """The set distilled from the records and stamped, relabelled copies of a share of them."""
    poisoned = poison(
        scene.data.train, trigger, ratio=ratio, target=scene.target, generator=scene.generator(ratio),
        copies=True,
    )  # fmt: skip
    return Injected(scene.distil(poisoned.train), trigger, poisoned, ratio, COPIES)


register(SimpleTrigger())
