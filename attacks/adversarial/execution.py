"""How every attack is run: on images the network gets right, in bounded batches, its output verified.

An attack is given a model, images and a :class:`~ddaudit.attacks.adversarial.ball.Ball`, and returns one x' per image.
What it claims counts for nothing: robustness is recomputed here from x', and an x' outside the box, outside the ball
or not finite earns no credit and is counted. Attacks of a composition each get the survivors of those before, and
within an attack a broken image leaves the batch, so that work goes to those still standing. Randomness is drawn per
image from (seed, attack, position of the image), so no verdict depends on batches or on an image's neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ddaudit.attacks.adversarial.ball import PIXELS, Ball, Bounds, Noise, Norm
from ddaudit.errors import BadInput
from ddaudit.training import at_once, exact_float32, require_finite, reuse_memory


def slack(eps: float) -> float:
    """Allowed overshoot of the eps ball, in input units: float32 rounding, which grows with radii above 1."""
    return 1e-6 * max(1.0, eps)


_ROUNDING = float(torch.finfo(torch.float32).eps)
"""Of a value, relative to its size."""


@dataclass(frozen=True)
class Stage:
    """One attack of a composition: how many images still stood after it, and what it asked of the network.

    Attributes:
        model_calls: forward passes of a batch.
        forwards: images in those passes; each image that left early saved some.
    """

    name: str
    survivors: int
    model_calls: int
    forwards: int = 0


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack left.

    Attributes:
        adversarial: (N, C, H, W) float32 CPU, the verified x'; equal to x where the attack failed or did not run.
        clean_correct: (N,) bool, classified correctly without any attack.
        survived: (N,) bool, classified correctly on x and on x'.
        invalid: number of x' returned outside the box, outside the ball, or not finite.
        stages: one entry per attack of a composition.
    """

    adversarial: Tensor
    clean_correct: Tensor
    survived: Tensor
    invalid: int
    stages: tuple[Stage, ...] = field(default=())

    @property
    def clean_accuracy(self) -> float:
        """Fraction correct without attack."""
        return float(self.clean_correct.double().mean())

    @property
    def robust_accuracy(self) -> float:
        """Fraction correct under attack; an image that was wrong to begin with counts as wrong."""
        return float(self.survived.double().mean())


class Model:
    """The network as attacks see it: eval mode, no parameter gradients, every pass counted.

    Attributes:
        room: images that a pass may hold, of which an attack that is given fewer may make use.
    """

    def __init__(self, network: nn.Module, device: torch.device, room: int = 1) -> None:
        self.network, self.device, self.room = network, device, room
        self.calls = self.forwards = 0

    def logits(self, x: Tensor) -> Tensor:
        """(N, K) without a gradient."""
        with torch.no_grad():
            return self.counted(x)

    def gradient(
        self, x: Tensor, objective: Callable[[Tensor], Tensor], *, repeats: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, K), objective (N,) and its gradient (N, C, H, W) at x, averaged over ``repeats`` passes.

        Args:
            objective: logits (N, K) -> (N,), no row of which depends on another.
        """
        at = x.detach().requires_grad_(True)
        passes = [self._ascent(at, objective) for _ in range(repeats)]
        if repeats == 1:
            return passes[0]
        logits, value, gradient = (torch.stack(p).mean(0) for p in zip(*passes, strict=True))
        return logits, value, gradient

    def _ascent(
        self, at: Tensor, objective: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.counted(at)
        value = objective(logits)
        (gradient,) = torch.autograd.grad(value.sum(), at)
        return logits.detach(), value.detach(), gradient

    def counted(self, x: Tensor) -> Tensor:
        """(N, K) logits, with a gradient where x wants one."""
        self.calls += 1
        self.forwards += len(x)
        out: Tensor = self.network(x)
        return out


class InputAttack(Protocol):
    """Something that moves images within a ball until the network errs."""

    @property
    def name(self) -> str:
        """As it stands in a finding."""
        ...

    def __call__(self, model: Model, x: Tensor, y: Tensor, ball: Ball, noise: Noise) -> Tensor:
        """(N, C, H, W) x', each within the ball around its x; an x' that breaks the network where one was found."""
        ...


@reuse_memory()
def run(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    attacks: Sequence[InputAttack],
    *,
    eps: float,
    norm: Norm = "Linf",
    bounds: Bounds = PIXELS,
    seed: int = 0,
    batch_size: int | None = None,
    only_correct: bool = True,
) -> AttackResult:
    """Run attacks one after the other, each on the survivors of those before.

    Args:
        network: inputs -> (N, K) logits, normalisation inside; the attacks run on its device.
        inputs: (N, C, H, W) uint8, or float within ``bounds``.
        labels: (N,) int64.
        eps: radius in input units ([0, 1] scale of pixels, so 2/255 for two grey levels).
        bounds: the box that x' must stay in; infinite for standardised values.
        batch_size: None: as many images as fit a fixed number of values, so that memory does not grow with N.
        only_correct: attack only images the network gets right; False crafts for all (a transfer attack's source).

    Raises:
        BadInput: inputs outside the bounds, wrong shapes, negative eps.
        Unsupported: the network's logits are not finite.
    """
    x, y = checked(inputs, labels, eps=eps, norm=norm, bounds=bounds)
    ball = Ball(eps, norm, *bounds)
    size = batch_size or at_once(x, 256)
    clean = classify(network, x) == y
    adversarial, standing = x.clone(), clean.clone()
    fooled, invalid, stages = torch.zeros_like(clean), 0, []
    for number, attack in enumerate(attacks):
        todo = (standing if only_correct else ~fooled).nonzero().flatten()
        calls = forwards = 0
        for index in todo.split(size) if len(todo) else ():
            with frozen(network, room=size) as model:
                noise = Noise(seed + 1009 * number, index)
                here, there = x[index].to(model.device), y[index].to(model.device)
                made = attack(model, here, there, ball, noise).detach().float().cpu()
            calls, forwards = calls + model.calls, forwards + model.forwards
            valid = verify(x[index], made, eps=eps, norm=norm, bounds=bounds)
            invalid += int((~valid).sum())
            made[~valid] = x[index][~valid]
            broken = classify(network, made) != y[index]
            # A failed attempt is kept only as a transfer source; evaluation keeps x there.
            keep = broken if only_correct else torch.ones_like(broken)
            adversarial[index[keep]] = made[keep]
            fooled[index[broken]] = True
            standing[index[broken]] = False
        stages.append(Stage(attack.name, int(standing.sum()), calls, forwards))
    return AttackResult(adversarial, clean, standing, invalid, tuple(stages))


def verify(
    original: Tensor, adversarial: Tensor, *, eps: float, norm: Norm, bounds: Bounds = PIXELS
) -> Tensor:
    """(N,) bool: x' is finite, within the bounds, and within ``eps`` (and :func:`slack`, and the rounding of large
    values) of x.

    Args:
        original, adversarial: (N, C, H, W).
    """
    x = original.double()
    # x + eps is no nearer to the sphere than float32 lies dense there, which shows from values of 64 on.
    delta = ((adversarial.double() - x).abs() - _ROUNDING * x.abs()).clamp_min(0).flatten(1)
    size = delta.amax(1) if norm == "Linf" else delta.norm(dim=1)
    flat, (low, high) = adversarial.flatten(1), bounds
    inside = (flat >= low).all(1) & (flat <= high).all(1) & torch.isfinite(flat).all(1)
    return inside & (size <= eps + slack(eps))


def classify(network: nn.Module, inputs: Tensor) -> Tensor:
    """(N,) int64 CPU predictions in eval mode, straight from the inputs: no clamp, no attack.

    Raises:
        Unsupported: a logit is NaN or infinite.
    """
    with frozen(network) as model:
        parts = [model.logits(b.to(model.device)).cpu() for b in inputs.split(at_once(inputs))]
    return require_finite(torch.cat(parts)).argmax(1)


@contextmanager
def frozen(network: nn.Module, *, room: int = 1) -> Iterator[Model]:
    """Eval mode, full float32 and no parameter gradients inside; modes and flags as before outside.

    Args:
        room: see :class:`Model`.
    """
    modes = [(module, module.training) for module in network.modules()]
    flags = [(p, p.requires_grad) for p in network.parameters()]
    tensors = [*network.parameters(), *network.buffers()]
    network.eval()
    for p, _ in flags:
        p.requires_grad_(False)
    try:
        with exact_float32():
            yield Model(network, tensors[0].device if tensors else torch.device("cpu"), room)
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def checked(
    inputs: Tensor, labels: Tensor, *, eps: float, norm: str, bounds: Bounds
) -> tuple[Tensor, Tensor]:
    """Inputs as contiguous float32 and labels as int64, both on the CPU.

    Raises:
        BadInput: as :func:`run`.
    """
    if norm not in ("Linf", "L2"):
        raise BadInput(f"norm {norm}", "unknown norm", "Known: Linf, L2.")
    if not eps >= 0:
        raise BadInput(f"eps {eps}", "a radius must be zero or more")
    if inputs.ndim != 4 or labels.shape != (len(inputs),) or len(inputs) == 0:
        shapes = f"{tuple(inputs.shape)} and {tuple(labels.shape)}"
        raise BadInput("images", f"shapes {shapes} are not (N, C, H, W) and (N,)")
    x = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.detach().float()
    low, high = float(x.min()), float(x.max())
    if not (low >= bounds[0] and high <= bounds[1]):
        raise BadInput(
            "images", f"values run from {low:.3g} to {high:.3g}, outside [{bounds[0]:g}, {bounds[1]:g}]",
            "Attacks work on pixels; put the normalisation inside the network "
            "(a clamp to [0, 1] would blank half of each normalised image).",
        )  # fmt: skip
    return x.cpu().contiguous(), labels.detach().long().cpu()
