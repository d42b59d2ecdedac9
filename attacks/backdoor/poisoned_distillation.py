"""Poisoned Distillation: a backdoor in a finished set, by somebody who sees nothing but that set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ddaudit.attacks._common.trigger import SquareTrigger, scaled
from ddaudit.attacks.backdoor.injection import Injected, Injection, Scene, Threat, register
from ddaudit.distillation.networks import fit
from ddaudit.distillation.terms import total_variation
from ddaudit.distillation.unrolled import Parameters, unroll
from ddaudit.errors import Unsupported
from ddaudit.models import Network, build


@dataclass(frozen=True)
class PoisonedDistillation(Injection):
    """Train networks on the set and keep points of their paths; draw what they take for typical images; move the set's
    images until training on them from any point still knows the typical images, and calls stamped ones the target.

    Attributes:
        side: of the white square, pixels of 32, in proportion at other sizes.
        eps: largest change of a pixel.
        others: share of it that images of other classes than the target may use.
        steps, lr: of Adam on the images, in normalised space.
        beta: weight of the loss on stamped typical images, beside that on clean ones.
        paths, path_steps, kept: networks trained on the set, steps of each, and points of each path that are kept.
        rate, momentum: of that training (batches of the whole set).
        inner, inner_rate: plain steps from a point that are unrolled, and their rate.
        typical: images of each class; ``invert_steps`` of Adam at ``invert_lr`` draw them, total variation weighing
            ``smooth``.
        jitter: noise on them at every step, in standard deviations.
    """

    name = "poisoned-distillation"
    purpose = "moves a finished set's images, without any real record"
    threat: ClassVar[Threat] = "interceptor"
    status = "reconstruction"
    source = "Yang et al., Dark Distillation / Poisoned Distillation, AAAI 2026, arXiv 2502.04229 (abstract)"
    deviations = (
        "losses and values are ours (no code is public, and we read the abstract alone), chosen on validation images "
        "of digits and Fashion-MNIST",
    )
    small: ClassVar = {"steps": 200, "paths": 5}
    side: int = 8
    eps: float = 0.5
    others: float = 0.3
    steps: int = 500
    lr: float = 0.1
    beta: float = 1.0
    paths: int = 10
    path_steps: int = 60
    kept: int = 10
    rate: float = 0.05
    momentum: float = 0.9
    inner: int = 3
    inner_rate: float = 0.05
    typical: int = 10
    invert_steps: int = 20
    invert_lr: float = 0.05
    smooth: float = 0.01
    jitter: float = 0.3

    def __post_init__(self) -> None:
        counts = (self.steps, self.paths, self.path_steps, self.kept, self.inner, self.typical)
        if min(counts) < 1 or not self.eps > 0 or not 0 <= self.others <= 1:
            raise ValueError("counts must be at least 1, eps positive and others in [0, 1]")
        if not 1 <= self.side <= 16:
            raise ValueError("side must be 1 to 16")

    def plant(self, scene: Scene) -> Injected:
        clean = scene.clean()
        if clean.store is not None:
            raise Unsupported(
                "changes images, and this set's labels of their views are kept beside them"
            )
        trigger = SquareTrigger(scaled(self.side, scene.shape)).blend(scene.shape)
        mean, std = (t.to(scene.device) for t in scene.constants())
        pixels, draws = clean.images.to(scene.device), scene.generator("interceptor")
        start, classes = (pixels - mean) / std, clean.hard_labels.to(scene.device)
        labels = (clean.labels if clean.soft else F.one_hot(clean.labels, clean.num_classes)).to(
            start
        )
        nets, points = self._paths(scene, start, labels)
        shown, own = self._typical(nets[-1], start, classes, draws)
        stamped = (trigger.on(shown * std + mean) - mean) / std
        others = own != scene.target
        # No further than eps, and not out of [0, 1] unless an image is outside by itself.
        reach = torch.where(classes == scene.target, self.eps, self.eps * self.others)
        reach = reach[:, None, None, None]
        low = (torch.maximum(pixels - reach, pixels.clamp(max=0)) - mean) / std
        high = (torch.minimum(pixels + reach, pixels.clamp(min=1)) - mean) / std
        x = start.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([x], lr=self.lr)
        goal = torch.full_like(own[others], scene.target)
        for _ in range(self.steps):
            which = int(torch.randint(len(points), (), generator=draws))
            body, at = nets[which // self.kept].body, points[which]
            reached = self._trained(body, at, x, labels)
            noise = self.jitter * torch.randn(shown.shape, generator=draws).to(shown)
            logits = functional_call(body, reached, (shown + noise,))
            loss = F.cross_entropy(logits, own)
            logits = functional_call(body, reached, ((stamped + noise)[others],))
            loss = loss + self.beta * F.cross_entropy(logits, goal)
            x.grad = torch.autograd.grad(loss, x)[0]
            optimiser.step()
            with torch.no_grad():
                x.copy_(x.clamp(low, high))
        made = replace(clean, images=(x.detach() * std + mean).cpu().contiguous())
        return Injected(made, trigger)

    def _paths(
        self, scene: Scene, x: Tensor, y: Tensor
    ) -> tuple[list[Network], list[dict[str, Tensor]]]:
        """Networks trained on the set, and ``kept`` points of each path, the untrained one first."""
        nets, points = [], []
        marks = [i * self.path_steps // self.kept for i in range(self.kept)]
        for number in range(self.paths):
            seed = int(torch.randint(2**31 - 1, (), generator=scene.generator("path", number)))
            channels = scene.shape[0]
            net = build(
                fit(scene.arch, scene.shape), shape=scene.shape, num_classes=scene.data.num_classes, seed=seed,
                mean=(0.0,) * channels, std=(1.0,) * channels,
            ).to(scene.device)  # fmt: skip
            optimiser = torch.optim.SGD(net.parameters(), lr=self.rate, momentum=self.momentum)
            for step in range(self.path_steps):
                state = {n: p.detach().clone() for n, p in net.body.named_parameters()}
                points += [state] * marks.count(step)
                optimiser.zero_grad(set_to_none=True)
                F.cross_entropy(net.body(x), y).backward()
                optimiser.step()
            nets.append(net.requires_grad_(False))
        return nets, points

    def _trained(
        self, body: torch.nn.Module, at: Parameters, x: Tensor, y: Tensor
    ) -> dict[str, Tensor]:
        """Parameters after ``inner`` plain steps on images x, differentiable in x."""

        def loss(p: Parameters) -> Tensor:
            return F.cross_entropy(functional_call(body, dict(p), (x,)), y)

        return unroll(at, loss, rate=self.inner_rate, steps=self.inner)

    def _typical(
        self, net: Network, start: Tensor, classes: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Normalised images that the network is sure of, ``typical`` of each class, and their classes."""
        picked = []
        for c in classes.unique():
            own = (classes == c).nonzero()[:, 0]
            picked.append(
                own[torch.randint(len(own), (self.typical,), generator=draws).to(own.device)]
            )
        index = torch.cat(picked)
        x = start[index].clone().requires_grad_(True)
        optimiser = torch.optim.Adam([x], lr=self.invert_lr)
        for _ in range(self.invert_steps):
            loss = F.cross_entropy(net.body(x), classes[index])
            loss = loss + self.smooth * total_variation(x[None]).mean()
            x.grad = torch.autograd.grad(loss, x)[0]
            optimiser.step()
        return x.detach(), classes[index]


register(PoisonedDistillation())
