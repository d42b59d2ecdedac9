"""Attacks that climb a gradient in fixed steps: FGSM, PGD, MI-FGSM, VMI-FGSM, Jitter.

They share one loop and differ in the direction of a step. A broken image leaves the batch at once (``leave``): the
first x' that fools the network counts, where the published loops look at their last one only. ``leave=False`` is the
published loop, for comparisons image by image and for images that are crafted to be used on another network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddaudit.attacks.adversarial.ball import Ball, Noise
from ddaudit.attacks.adversarial.execution import Model
from ddaudit.attacks.adversarial.losses import LossName, loss

State = dict[str, Tensor]
"""What an attack remembers of each image from step to step: (N, ...) tensors."""

_TINY = 1e-12


@dataclass(frozen=True)
class _Steps:
    """The loop: step in a direction, project, drop what is broken."""

    steps: int = 10
    alpha: float | None = None
    """Step size in input units; None: 2.5 eps / steps, which can cross the ball within the budget (MI-FGSM's paper:
    eps / steps)."""
    random_start: bool = False
    leave: bool = True
    label: ClassVar[str] = ""

    @property
    def name(self) -> str:
        return f"{self.label}-{self.steps}"

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        at = ball.inside(x, noise) if self.random_start else x
        made, ids, state = at.clone(), torch.arange(len(x), device=x.device), State()
        alpha = self._alpha(ball)
        for step in range(self.steps):
            logits, way = self.direction(model, at, x, y, ball, noise, state, step)
            if self.leave:
                stays = self.stands(logits, y)
                if not bool(stays.all()):
                    made[ids[~stays]] = at[~stays]
                    x, y, at, ids, way = (t[stays] for t in (x, y, at, ids, way))
                    state = {k: v[stays] for k, v in state.items()}
                    if not len(ids):
                        return made
            at = ball.project(x, at + alpha * ball.steepest(way))
        made[ids] = at
        return made

    def stands(self, logits: Tensor, y: Tensor) -> Tensor:
        """(N,) bool: not broken yet."""
        return logits.argmax(1) == y

    def direction(
        self, model: Model, at: Tensor, x: Tensor, y: Tensor, ball: Ball, noise: Noise, state: State, step: int
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Logits at ``at`` and the direction (N, C, H, W) of the next step."""
        raise NotImplementedError

    def _alpha(self, ball: Ball) -> float:
        return 2.5 * ball.eps / self.steps if self.alpha is None else self.alpha


@dataclass(frozen=True)
class PGD(_Steps):
    """Projected gradient ascent on a loss.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
    """

    random_start: bool = True
    loss: LossName = "ce"
    hinge: float | None = None
    """With the margin loss: no gain beyond this margin (50 in DD-RobustBench's CW)."""
    towards: int = 0
    """0: away from the label; k: until the network says class (label + k) mod K."""
    label: ClassVar[str] = "pgd"

    def direction(
        self, model: Model, at: Tensor, x: Tensor, y: Tensor, ball: Ball, noise: Noise, state: State, step: int
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        logits, _, gradient = model.gradient(at, lambda z: self._objective(z, y))
        return logits, gradient

    def stands(self, logits: Tensor, y: Tensor) -> Tensor:
        aim = (y + self.towards) % logits.shape[1]
        says = logits.argmax(1)
        return says != aim if self.towards else says == y

    def _objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.towards:
            return -loss(self.loss, logits, (labels + self.towards) % logits.shape[1])
        value = loss(self.loss, logits, labels)
        return value if self.hinge is None else value.clamp_max(self.hinge)


@dataclass(frozen=True)
class FGSM(PGD):
    """One step of length eps on the cross-entropy, from the image itself.

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015.
    """

    steps: int = 1
    random_start: bool = False

    @property
    def name(self) -> str:
        return "fgsm"

    def _alpha(self, ball: Ball) -> float:
        return ball.eps


@dataclass(frozen=True)
class MIFGSM(_Steps):
    """Steps along a momentum of gradients, each scaled to mean absolute value 1.

    Source: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018.
    """

    decay: float = 1.0
    label: ClassVar[str] = "mi-fgsm"

    def direction(
        self, model: Model, at: Tensor, x: Tensor, y: Tensor, ball: Ball, noise: Noise, state: State, step: int
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        logits, _, gradient = model.gradient(at, lambda z: loss("ce", z, y))
        state["momentum"] = self._push(gradient, state)
        return logits, state["momentum"]

    def _push(self, gradient: Tensor, state: State) -> Tensor:
        scaled = gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(_TINY)
        return scaled + self.decay * state.get("momentum", torch.zeros_like(gradient))


@dataclass(frozen=True)
class VMIFGSM(MIFGSM):
    """MI-FGSM with the gradient's variance over neighbours of the current point.

    Source: Wang and He, "Enhancing the Transferability of Adversarial Attacks through Variance Tuning", CVPR 2021.
    """

    neighbours: int = 5
    beta: float = 1.5
    """Neighbours are drawn within beta * eps; all images share the draws."""
    label: ClassVar[str] = "vmi-fgsm"

    def direction(
        self, model: Model, at: Tensor, x: Tensor, y: Tensor, ball: Ball, noise: Noise, state: State, step: int
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        logits, _, gradient = model.gradient(at, lambda z: loss("ce", z, y))
        variance = state.get("variance", torch.zeros_like(gradient))
        state["momentum"] = self._push(gradient + variance, state)
        g, around = noise.shared("neighbours", step), torch.zeros_like(gradient)
        for _ in range(self.neighbours):
            aside = (2 * torch.rand(x.shape[1:], generator=g) - 1) * self.beta * ball.eps
            around += model.gradient(at + aside.to(at), lambda z: loss("ce", z, y))[2]
        state["variance"] = around / self.neighbours - gradient
        return logits, state["momentum"]


@dataclass(frozen=True)
class Jitter(_Steps):
    """Squared distance of noisy, rescaled class probabilities from the label.

    Source: Schwinn et al., "Exploring Misclassifications of Robust Neural Networks to Enhance Adversarial Attacks",
    2021, arXiv 2105.10304.
    """

    random_start: bool = True
    scale: float = 10.0
    std: float = 0.1
    label: ClassVar[str] = "jitter"

    def direction(
        self, model: Model, at: Tensor, x: Tensor, y: Tensor, ball: Ball, noise: Noise, state: State, step: int
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        g, size = noise.shared("jitter", step), ball.size(at - x)

        def objective(logits: Tensor) -> Tensor:
            largest = logits.abs().amax(1, keepdim=True).clamp_min(_TINY)
            probabilities = torch.softmax(self.scale * logits / largest, 1)
            if self.std:
                shaken = torch.randn(logits.shape[1], generator=g).to(logits)
                probabilities = probabilities + self.std * shaken
            wanted = torch.nn.functional.one_hot(y, logits.shape[1]).to(logits)
            cost = (probabilities - wanted).square().mean(1)
            # Once an image is broken, a smaller change is worth more (its size is held constant in the gradient).
            return torch.where(
                (logits.argmax(1) != y) & (size > 0), cost / size.clamp_min(_TINY), cost
            )

        logits, _, gradient = model.gradient(at, objective)
        return logits, gradient
