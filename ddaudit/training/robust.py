"""Training that resists small changes: attacked batches, TRADES, curvature; and the step that every L-infinity attack
takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor, nn

Radius = float | Tensor
"""One number, or a tensor that broadcasts against the images."""
Losses = Callable[[Tensor], Tensor]
"""Images (B, ...) -> (B,) losses, none of which depends on another image."""

_TINY = 1e-12


def within(x: Tensor, moved: Tensor, radius: Radius, low: Radius, high: Radius) -> Tensor:
    """``moved`` pulled back into the L-infinity ball around ``x``, then into the box."""
    return (x + _clamp(moved - x, -radius, radius)).clamp(low, high)  # type: ignore[arg-type]


def climb(
    x: Tensor,
    losses: Losses,
    *,
    radius: Radius,
    size: Radius,
    steps: int,
    start: Tensor | None = None,
    low: Radius = -torch.inf,
    high: Radius = torch.inf,
    sizes: int = 1,
) -> Tensor:
    """Projected sign-gradient ascent from ``start`` (None: from x itself); the result is a constant.

    Args:
        x: (B, ...) images.
        losses: what is raised.
        radius: of the L-infinity ball around x.
        size: of a step.
        low, high: the box.
        sizes: step sizes tried at every step, each half of the one before; every image takes its best.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018; several sizes:
    the line search of C2R, ICML 2026, arXiv 2605.20606.
    """
    at = x.detach() if start is None else start.detach()
    for _ in range(steps):
        probe = at.detach().requires_grad_(True)
        with torch.enable_grad():
            raised = losses(probe).sum()
        (way,) = torch.autograd.grad(raised, probe)
        tried = [
            within(x.detach(), at + size * 0.5**k * way.sign(), radius, low, high)
            for k in range(sizes)
        ]
        at = tried[0] if sizes == 1 else _best(tried, losses)
    return at


@dataclass(frozen=True)
class Ascent:
    """Projected gradient ascent on the loss of single records, as it is used in training.

    Attributes:
        epsilon: L-infinity radius, in pixels in [0, 1].
        steps: of the ascent.
        size: of a step, likewise.
        random_start: starts uniformly in the ball, and not at the record.
        towards: 0: away from the label; k: towards class (label + k) mod classes.
        sizes: step sizes tried at every step, see :func:`climb`.
        space: "pixels"; or "normalised": radius, step and the box [0, 1] are taken of normalised values, which blanks
            what lies below the mean. That is what torchattacks does where nobody tells it of the normalisation.

    Source: Madry et al., ICLR 2018, values for CIFAR-10.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    epsilon: float = 8 / 255
    steps: int = 10
    size: float = 2 / 255
    random_start: bool = True
    towards: int = 0
    sizes: int = 1
    space: Literal["pixels", "normalised"] = "pixels"

    def __post_init__(self) -> None:
        _bounded(self, epsilon=1e6, size=1e6)
        if not (1 <= self.steps <= 10_000 and 1 <= self.sizes <= 10):
            raise ValueError("an attack takes 1 to 10 000 steps and tries 1 to 10 sizes")
        if self.space not in ("pixels", "normalised"):
            raise ValueError(f"attack.space is 'pixels' or 'normalised', not '{self.space}'")

    def aim(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) what the ascent raises: cross-entropy with the labels (B,) or (B, K), or minus that with the class that
        is aimed at."""
        if not self.towards:
            return F.cross_entropy(logits, labels, reduction="none")
        hard = labels.argmax(1) if labels.ndim == 2 else labels
        wanted = (hard + self.towards) % logits.shape[1]
        return -F.cross_entropy(logits, wanted, reduction="none")

    def on(
        self,
        x: Tensor,
        losses: Losses,
        *,
        mean: Tensor,
        std: Tensor,
        generator: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) what becomes of normalised records.

        They stay within [0, 1] in pixels, as far as they lay within it before (augmented and synthetic images need
        not). Records of a single row (tables) have no box.

        Args:
            mean, std: (C, 1, 1) of the normalisation.
            generator: draws the start.
            start: (B, C, H, W) where the ascent starts instead.
        """
        x = x.detach()
        radius: Radius
        size: Radius
        low: Radius
        high: Radius
        if self.space == "normalised":
            radius, size, low, high = self.epsilon, self.size, 0.0, 1.0
        else:
            radius, size = self.epsilon / std, self.size / std
            boxed = x.shape[-2] > 1
            low = torch.minimum(x, -mean / std) if boxed else -torch.inf
            high = torch.maximum(x, (1 - mean) / std) if boxed else torch.inf
        if start is None and self.random_start:
            drawn = torch.rand(x.shape, generator=generator).to(x)
            start = within(x, x + radius * (2 * drawn - 1), radius, low, high)
        return climb(
            x,
            losses,
            radius=radius,
            size=size,
            steps=self.steps,
            start=start,
            low=low,
            high=high,
            sizes=self.sizes,
        )


@dataclass(frozen=True)
class Curvature:
    """A loss beside another: how much the loss's slope in the image changes along itself.

    With g the gradient of a record's loss and z = radius g / |g|: weight * |g(x + z) - g(x)|, not squared, z a
    constant, averaged over records.

    Attributes:
        weight: None: 100 / 128 for "gradient", 1e-4 for "loss". The authors' 100 multiplies slopes of the mean over a
            batch of 128, each of which is a record's own divided by 128.
        radius: h, in normalised units, L2. None: the authors' 3 for 32 x 32 x 3 numbers, at other sizes in proportion
            to an image's length.
        form: "gradient" as above (their CIFAR script); "loss": weight * |mean loss(x + z) - mean loss(x)|, one number
            of a batch (their ImageNet script).

    Source: GUARD, AAAI 2025, arXiv 2403.10045; yumozi/GUARD at 493b19c, pretrain/pretrain_cifar.py and pretrain.py.
    After Moosavi-Dezfooli et al., "Robustness via Curvature Regularization" (CURE), CVPR 2019.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    weight: float | None = None
    radius: float | None = None
    form: Literal["gradient", "loss"] = "gradient"

    def __post_init__(self) -> None:
        _bounded(self, weight=1e6, radius=1e6)
        if self.form not in ("gradient", "loss"):
            raise ValueError(f"curvature.form is 'gradient' or 'loss', not '{self.form}'")

    def penalty(self, losses: Losses, x: Tensor, share: Tensor) -> Tensor:
        """The scalar loss, differentiable in what ``losses`` depends on.

        Args:
            losses: of single records.
            x: (B, ...) records.
            share: (B,) of each record in the mean.
        """
        x = x.detach()
        weight = {"gradient": 100 / 128, "loss": 1e-4}[self.form]
        weight = weight if self.weight is None else self.weight

        def slope(at: Tensor) -> Tensor:
            made: Tensor = torch.func.grad(lambda z: losses(z).sum())(at)
            return made

        here = slope(x)
        flat = here.detach().flatten(1)
        radius = 3 * (flat.shape[1] / 3072) ** 0.5 if self.radius is None else self.radius
        z = radius * (flat / (flat.norm(dim=1, keepdim=True) + _TINY)).view_as(x)
        if self.form == "loss":
            return weight * (share * (losses(x + z) - losses(x))).sum().abs()
        apart = (slope(x + z) - here).flatten(1)
        # The square root has no slope at 0, where a loss is linear.
        return weight * (share * (apart.square().sum(1) + _TINY).sqrt()).sum()


@dataclass(frozen=True)
class Robust:
    """What is changed in a training step so that the network resists small changes of its inputs.

    Attributes:
        attack: batches are attacked before they are learned (PGD-AT); None: they are not.
        trades: weight beta of the divergence KL(f(x) || f(x')) beside the loss on the records as they are, which the
            attack then raises; 0: the loss on attacked records alone.
        curvature: a loss beside the others; None: none.

    Source: Madry et al., ICLR 2018 (PGD-AT); Zhang et al., "Theoretically Principled Trade-off between Robustness and
    Accuracy" (TRADES), ICML 2019, whose beta is 6 and whose start is a normal deviate of 0.001.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    attack: Ascent | None = None
    trades: float = 0.0
    curvature: Curvature | None = None

    def __post_init__(self) -> None:
        _bounded(self, trades=1e6)
        if self.trades and self.attack is None:
            raise ValueError(
                "robust.trades weighs a divergence from attacked records: give an attack"
            )

    def see(
        self,
        body: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        mean: Tensor,
        std: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """(B, C, H, W) the batch x as it is learned, attacked in evaluation mode; x itself without an attack.

        Args:
            y: (B,) labels or (B, K) distributions.
        """
        if self.attack is None:
            return x
        with asked(body):
            if not self.trades:
                aim = self.attack.aim
                return self.attack.on(
                    x, lambda z: aim(body(z), y), mean=mean, std=std, generator=generator
                )
            with torch.no_grad():
                said = body(x).log_softmax(1)
            # At the record itself the divergence has no slope.
            beside = x + 1e-3 * torch.randn(x.shape, generator=generator).to(x)
            return self.attack.on(
                x,
                lambda z: divergence(said, body(z)),
                mean=mean,
                std=std,
                generator=generator,
                start=beside,
            )

    def added(
        self, body: nn.Module, x: Tensor, y: Tensor, plain: Tensor, attacked: Tensor
    ) -> Tensor:
        """What is added to the loss: the divergence of TRADES and the curvature; a scalar.

        Args:
            x, y: the batch as it is.
            plain, attacked: (B, K) logits of it, and of what :meth:`see` made of it.
        """
        total = plain.new_zeros(())
        if self.trades:
            total = total + self.trades * divergence(plain.log_softmax(1), attacked).mean()
        if self.curvature is not None:
            with asked(body):
                share = x.new_full((len(x),), 1 / len(x))
                total = total + self.curvature.penalty(
                    lambda z: F.cross_entropy(body(z), y, reduction="none"), x, share
                )
        return total


def divergence(log_p: Tensor, logits: Tensor) -> Tensor:
    """(B,) KL(p || softmax(logits)) from log-probabilities and logits (B, K)."""
    return (log_p.exp() * (log_p - logits.log_softmax(1))).sum(1)


@contextmanager
def asked(body: nn.Module) -> Iterator[None]:
    """Evaluation mode inside: batch statistics are neither used nor moved."""
    training = body.training
    body.eval()
    try:
        yield
    finally:
        body.train(training)


def _best(tried: list[Tensor], losses: Losses) -> Tensor:
    """Of several versions of each image the one of the largest loss."""
    with torch.no_grad():
        worst = torch.stack([losses(z) for z in tried]).argmax(0)
    return torch.stack(tried)[worst, torch.arange(len(worst), device=worst.device)]


def _clamp(x: Tensor, low: Radius, high: Radius) -> Tensor:
    return x.clamp(low, high)  # type: ignore[arg-type]


def _bounded(part: object, **highest: float) -> None:
    for name, high in highest.items():
        value = getattr(part, name)
        if value is not None and not 0 <= value <= high:
            kind = type(part).__name__.lower()
            raise ValueError(f"{kind}.{name} must lie within 0 and {high:g}, got {value:g}")
