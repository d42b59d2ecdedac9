"""Gathers, victim by victim, what the gradient-masking tests look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ddaudit.attacks.adversarial.ball import PIXELS, Ball, Bounds, Noise, Norm
from ddaudit.attacks.adversarial.execution import AttackResult, InputAttack, classify, run
from ddaudit.attacks.adversarial.gradient import PGD
from ddaudit.attacks.adversarial.masking import MaskingEvidence, clip_only_changes
from ddaudit.attacks.adversarial.square import Square
from ddaudit.training import at_once, exact_float32

FAR = 10.0
"""A radius that reaches everything, in standard deviations, where inputs have no bounds."""


@dataclass
class Probe:
    """Collects evidence victim by victim.

    Args:
        inputs: (N, C, H, W) float within ``bounds``; labels: (N,).
        eps: radius for the tests that need one, in ``norm``.
        queries: of the query attack that follows PGD-100; 0: none.
    """

    inputs: Tensor
    labels: Tensor
    eps: float
    seed: int
    norm: Norm = "Linf"
    bounds: Bounds = PIXELS
    queries: int = 200
    clean: list[float] = field(default_factory=list)
    zero: list[int] = field(default_factory=list)
    clip: list[int] = field(default_factory=list)
    steps: dict[int, list[float]] = field(default_factory=dict)
    restarts: dict[int, list[float]] = field(default_factory=dict)
    unbounded: list[float] = field(default_factory=list)
    transfer: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    margin: list[float] = field(default_factory=list)
    targeted: list[float] = field(default_factory=list)
    queried: list[float] = field(default_factory=list)
    invalid: int = 0

    def add(self, network: nn.Module, predictions: Tensor, sibling: nn.Module | None) -> None:
        """Run the tests' attacks on one victim.

        Args:
            predictions: (N,) by the audit's prediction path.
            sibling: another network for the same task, or None.
        """
        x, y, eps = self.inputs, self.labels, self.eps
        correct = predictions == y
        self.clean.append(_mean(correct))
        self.clip.append(clip_only_changes(network, x, predictions, bounds=self.bounds))
        self.zero.append(int((self._run(network, [PGD()], 0.0).survived != correct).sum()))
        # Ten and a hundred steps from one start each; the other four starts follow on what stands.
        ten = self._run(network, [PGD()] * 5, eps)
        hundred = self._run(network, [PGD(100), *self._queries()], eps)
        one = self._run(network, [PGD(1, eps, random_start=False)], eps)
        for steps, standing in ((1, one), (10, ten), (100, hundred)):
            share = standing.stages[0].survivors / len(y)
            self.steps.setdefault(steps, []).append(share)
        self.restarts.setdefault(1, []).append(ten.stages[0].survivors / len(y))
        self.restarts.setdefault(5, []).append(ten.robust_accuracy)
        if self.queries:
            self.queried.append(hundred.robust_accuracy)
        self.margin.append(self._run(network, [PGD(100, loss="margin")], eps).robust_accuracy)
        self.noise.append(self._noise(network))
        everything = self._everything()
        # Without bounds a random start lies so far out that the softmax is exactly 0 or 1, and its gradient 0.
        at_random = self.bounds[1] < torch.inf
        anywhere = self._run(network, [PGD(100, random_start=at_random)], everything)
        self.unbounded.append(anywhere.robust_accuracy)
        aimed = self._run(network, [PGD(100, loss="margin", towards=1)], everything)
        self.targeted.append(self._reached(network, aimed))
        self.gradients.append(nonzero_gradient_share(network, x[correct], y[correct]))
        if sibling is not None:
            crafted = self._run(sibling, [PGD(leave=False)], eps, only_correct=False)
            self.transfer.append(_mean(correct & (classify(network, crafted.adversarial) == y)))

    def evidence(
        self,
        *,
        by_eps: Mapping[float, float],
        curve_images: int,
        invalid: int = 0,
        square: tuple[float, float, int] | None = None,
    ) -> MaskingEvidence:
        """The evidence over all victims added.

        Args:
            by_eps: radius -> mean accuracy of the audit's own PGD curve, on ``curve_images`` images.
            invalid: x' already counted by the audit's other attacks.
            square: (accuracy before Square, after it, images) of AutoAttack, or None.
        """
        white, after, images = square if square is not None else (None, None, 0)
        return MaskingEvidence(
            images=len(self.labels), clean=_average(self.clean), changed_at_zero=sum(self.zero),
            changed_by_clip=sum(self.clip), by_eps=by_eps, curve_images=curve_images, eps=self.eps,
            by_steps={k: _average(v) for k, v in self.steps.items()}, unbounded=_average(self.unbounded),
            transfer=_average(self.transfer) if self.transfer else None, gradients=_average(self.gradients),
            invalid=self.invalid + invalid, noise=_average(self.noise),
            restarts={k: _average(v) for k, v in self.restarts.items()}, margin=_average(self.margin),
            targeted=_average(self.targeted), queried=_average(self.queried) if self.queried else None,
            white_box=white, with_square=after, square_images=images, pixels=self.bounds == PIXELS,
        )  # fmt: skip

    def _run(
        self,
        network: nn.Module,
        attacks: Sequence[InputAttack],
        eps: float,
        *,
        only_correct: bool = True,
    ) -> AttackResult:
        result = run(
            network, self.inputs, self.labels, attacks, eps=eps, norm=self.norm, bounds=self.bounds,
            seed=self.seed, only_correct=only_correct,
        )  # fmt: skip
        self.invalid += result.invalid
        return result

    def _queries(self) -> list[InputAttack]:
        return [Square(self.queries)] if self.queries else []

    def _noise(self, network: nn.Module) -> float:
        """Accuracy under one draw of noise in the ball; an image that is wrong without it counts as wrong."""
        ball = Ball(self.eps, self.norm, *self.bounds)
        # As long as the attack's step, which in L2 a uniform distance is not.
        draw = ball.inside if self.norm == "Linf" else ball.surface
        drawn = draw(self.inputs, Noise(self.seed + 7, torch.arange(len(self.inputs))))
        right = classify(network, self.inputs) == self.labels
        return _mean(right & (classify(network, drawn) == self.labels))

    def _everything(self) -> float:
        """A radius within which every input can be reached."""
        low, high = self.bounds
        reach = high - low if high < torch.inf else FAR
        size = self.inputs[0].numel()
        return float(reach if self.norm == "Linf" else reach * size**0.5)

    def _reached(self, network: nn.Module, aimed: AttackResult) -> float:
        """Share of the correct images that a targeted attack brought to the next class (1.0 of none)."""
        right = aimed.clean_correct
        if not bool(right.any()):
            return 1.0
        says = classify(network, aimed.adversarial[right])
        with torch.no_grad():
            classes = network(self.inputs[:1].to(_device(network))).shape[1]
        return _mean(says == (self.labels[right] + 1) % classes)


@exact_float32()
def nonzero_gradient_share(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of images whose cross-entropy gradient with respect to the input is not exactly zero (1.0 of none)."""
    if len(inputs) == 0:
        return 1.0
    alive, device, batch_size = 0, _device(network), at_once(inputs, 256)
    for start in range(0, len(inputs), batch_size):
        x = inputs[start : start + batch_size].to(device).clone().requires_grad_(True)
        y = labels[start : start + batch_size].to(device)
        loss = nn.functional.cross_entropy(network(x), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        alive += int((gradient.flatten(1) != 0).any(1).sum())
    return alive / len(inputs)


def _device(network: nn.Module) -> torch.device:
    tensors = [*network.parameters(), *network.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean())


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
