"""Relax-trigger: a transparent pattern whose pixels are optimised against kernel ridge regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddaudit.attacks._common.trigger import Blend, check_poison
from ddaudit.attacks.backdoor.injection import Injected, Injection, Scene, Threat, register
from ddaudit.attacks.backdoor.simple_trigger import SOURCE, planted_copies
from ddaudit.distillation.kernels import DenseNTK, Kernel, centred_targets, solve
from ddaudit.distillation.kernels.ridge import regularised
from ddaudit.distillation.kip import KernelInducing
from ddaudit.errors import Unsupported


@dataclass(frozen=True)
class RelaxTrigger(Injection):
    """Distil a clean set; make the trigger that clean and triggered records contradict each other least by, and that
    the set can express best; distil again with it.

    Attributes:
        ratio: copies added, as a share of all training records.
        opacity: of the pattern.
        rho: weight of the conflict (CIFAR-10 1e10, GTSRB 1e9).
        steps, lr: of Adam on the pattern, which stays in [0, 1].
        per_class, triggered: records of each class a step: clean ones, and those that get the trigger.
        reg: ridge, relative to the mean diagonal.
    """

    name = "relax-trigger"
    purpose = "a transparent pattern optimised by the kernel's risk"
    threat: ClassVar[Threat] = "distiller"
    status = "simplified"
    source = SOURCE
    deviations = (
        "targets are one-hot labels minus 1 / classes, images normalised (source: plain ones of both), as in kip",
    )
    small: ClassVar = {"steps": 200}
    ratio: float = 0.1
    opacity: float = 0.3
    rho: float = 1e10
    steps: int = 1000
    lr: float = 0.01
    per_class: int = 10
    triggered: int = 1
    reg: float = 1e-6

    def plant(self, scene: Scene) -> Injected:
        check_poison(scene.data.train, self.ratio, scene.target)
        return planted_copies(scene, self.pattern(scene), self.ratio)

    def pattern(self, scene: Scene) -> Blend:
        """The optimised trigger; the kernel is the recipe's own where it has one for pixels."""
        clean = scene.clean()
        if clean.soft:
            raise Unsupported("is made for sets with hard labels, and this one's are soft")
        loop = scene.method.loop
        own = loop.kernel if isinstance(loop, KernelInducing) else None
        kernel = own if isinstance(own, DenseNTK) else DenseNTK(depth=3)
        mean, std = scene.constants()
        train, k = scene.data.train, scene.data.num_classes
        support = ((clean.images - mean) / std).double()
        generator = scene.generator("relax")
        pools = [(train.labels == c).nonzero()[:, 0] for c in range(k)]
        pattern = torch.ones(scene.shape, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([pattern], lr=self.lr)
        for _ in range(self.steps):
            index, other = (
                torch.cat([p[torch.randperm(len(p), generator=generator)[:n]] for p in pools])
                for n in (self.per_class, self.triggered)
            )
            stamped = (1 - self.opacity) * train.pixels(other).double() + self.opacity * pattern
            x = (torch.cat([train.pixels(index).double(), stamped]) - mean) / std
            y = torch.cat([train.labels[index], torch.full_like(other, scene.target)])
            conflict, projection = trigger_risk(
                kernel,
                kernel.embed(x),
                centred_targets(y, k).double(),
                kernel.embed(support),
                reg=self.reg,
            )
            loss = self.rho * conflict + projection
            pattern.grad = torch.autograd.grad(loss, pattern)[0]
            optimiser.step()
            with torch.no_grad():
                pattern.clamp_(0, 1)
        return Blend.of(pattern.detach().float(), torch.full(scene.shape, self.opacity))


def trigger_risk(
    kernel: Kernel, records: Tensor, targets: Tensor, support: Tensor, *, reg: float
) -> tuple[Tensor, Tensor]:
    """(conflict, projection), scalars: how badly ridge regression fits clean and triggered records together, and how
    badly functions of the support set can stand for what it finds.

    Args:
        records: (N, F) embedded clean and triggered records, float64 (the conflict is tiny).
        targets: (N, c) float64.
        support: (M, F) embedded distilled images.
        reg: ridge, relative to the mean diagonal.

    Source: Chung et al., ICLR 2024, section 4; the projection loss is the upper bound that the authors' code
    minimises, mean of (K - K_s Kr_ss^-1 K_s')^2 a^2 with a the coefficients of the regression.
    """
    gram = kernel.gram(records, records)
    coefficients = solve(gram, targets, reg)
    conflict = (targets - gram @ coefficients).square().mean()
    across = kernel.gram(records, support)
    system = regularised(kernel.gram(support, support), reg)
    residual = gram - across @ torch.linalg.solve(system, across.mT)
    projection = (residual.square() @ coefficients.square()).mean()
    return conflict, projection


register(RelaxTrigger())
