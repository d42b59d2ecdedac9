"""Where an attack may go: the eps ball around each image, the box of valid inputs, and draws inside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddaudit.seeds import stable_seed
from ddaudit.training.robust import within

Norm = Literal["Linf", "L2"]
Bounds = tuple[float, float]

PIXELS: Bounds = (0.0, 1.0)
"""The box of images."""
UNBOUNDED: Bounds = (-math.inf, math.inf)
"""The box of standardised values: there is none."""

_TINY = 1e-12


@dataclass(frozen=True)
class Ball:
    """All x' with ||x' - x|| <= eps and every value in [low, high]. Images are (N, C, H, W)."""

    eps: float
    norm: Norm
    low: float = 0.0
    high: float = 1.0

    def project(self, x: Tensor, moved: Tensor) -> Tensor:
        """``moved`` pulled back: onto the ball, then into the box (which cannot leave the ball)."""
        if self.norm == "Linf":
            return within(x, moved, self.eps, self.low, self.high)
        delta = moved - x
        delta = delta * (self.eps / _per_image(self.size(delta)).clamp_min(_TINY)).clamp_max(1)
        return (x + delta).clamp(self.low, self.high)

    def size(self, delta: Tensor) -> Tensor:
        """(N,) norms."""
        flat = delta.flatten(1)
        if self.norm == "Linf":
            return flat.abs().amax(1)
        # A sum of 150,000 squares in float32 is off by more than a ball may be overshot.
        length: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
        return length.to(delta.dtype)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The unit step that raises a linear function most."""
        if self.norm == "Linf":
            return gradient.sign()
        return gradient / _per_image(gradient.flatten(1).norm(dim=1)).clamp_min(_TINY)

    def normalised(self, delta: Tensor) -> Tensor:
        """``delta`` scaled to norm 1 (0 stays 0)."""
        return delta / _per_image(self.size(delta)).clamp_min(_TINY)

    def inside(self, x: Tensor, noise: Noise) -> Tensor:
        """A start drawn in the ball: uniform in Linf; in L2 a uniform direction, and a uniform distance."""
        if self.norm == "Linf":
            delta = (2 * noise.uniform(x) - 1) * self.eps
        else:
            away = noise.fork("distance").uniform(x[:, :1, :1, :1])
            delta = self.normalised(noise.normal(x)) * away * self.eps
        return (x + delta).clamp(self.low, self.high)

    def surface(self, x: Tensor, noise: Noise) -> Tensor:
        """A start drawn on the sphere of radius eps."""
        delta = 2 * noise.uniform(x) - 1 if self.norm == "Linf" else noise.normal(x)
        return (x + self.eps * self.normalised(delta)).clamp(self.low, self.high)


@dataclass(frozen=True, eq=False)
class Noise:
    """Random numbers that belong to an image, whatever batch it comes in.

    Attributes:
        seed: of the attack.
        images: (N,) int64 position of each image in the data.
    """

    seed: int
    images: Tensor

    def fork(self, *name: object) -> Noise:
        """Other numbers for the same images."""
        return Noise(stable_seed(self.seed, *name), self.images)

    def shared(self, *name: object) -> torch.Generator:
        """A generator for draws that all images share."""
        return torch.Generator().manual_seed(stable_seed(self.seed, *name))

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform in [0, 1), one image's numbers by its own generator; shape and device of ``like``."""
        return torch.stack([torch.rand(like.shape[1:], generator=g) for g in self._each()]).to(like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, otherwise as :meth:`uniform`."""
        return torch.stack([torch.randn(like.shape[1:], generator=g) for g in self._each()]).to(
            like
        )

    def _each(self) -> list[torch.Generator]:
        # Two large odd multipliers keep (seed, image) pairs apart without hashing each.
        seeds = (self.seed * 0x9E3779B1 + i * 0x85EBCA77 for i in self.images.tolist())
        return [torch.Generator().manual_seed(s % 2**63) for s in seeds]


def _per_image(values: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
