"""NAIVEATTACK: a white square on a few real records, before distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ddaudit.attacks._common.trigger import SquareTrigger, poison
from ddaudit.attacks.backdoor.injection import Injected, Injection, Scene, Threat, register


@dataclass(frozen=True)
class Naive(Injection):
    """Stamp and relabel a share of the records, then distil as ever.

    Attributes:
        ratio: of all training records.
    """

    name = "naive"
    purpose = "a white square on relabelled records"
    threat: ClassVar[Threat] = "distiller"
    status = "faithful"
    source = (
        "Liu et al., Backdoor Attacks Against Dataset Distillation, NDSS 2023, arXiv 2301.01197"
    )
    ratio: float = 0.01

    def plant(self, scene: Scene) -> Injected:
        trigger = SquareTrigger.published(scene.shape).blend(scene.shape)
        poisoned = poison(
            scene.data.train, trigger, ratio=self.ratio, target=scene.target,
            generator=scene.generator(self.ratio),
        )  # fmt: skip
        made = scene.distil(poisoned.train)
        return Injected(made, trigger, poisoned, self.ratio, "of all training records, relabelled")


register(Naive())
