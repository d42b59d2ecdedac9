"""The coins and the noise of private releases: from the operating system, or from a seed in tests.

A release is only as private as its noise is unpredictable. PyTorch's CPU generator keeps 32 bits of its seed, so
whoever sees one noisy answer can try every seed, and the right one gives the noise away. A release therefore draws
every number from the operating system's cryptographic generator.
"""

from __future__ import annotations

import math
import os
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Randomness(Protocol):
    """Where secret numbers come from. All are float64 on the CPU."""

    origin: str
    """In words, for the card."""

    def uniform(self, *shape: int) -> Tensor:
        """Independent numbers, uniform in [0, 1)."""

    def normal(self, *shape: int) -> Tensor:
        """Independent numbers from N(0, 1)."""


class SystemRandomness:
    """Every number from ``os.urandom``: 53 random bits for a coin, 106 for two normals (Box & Muller, 1958).

    Normals reach 8.5 in absolute value, beyond which lies a probability of 1e-17; with the 24 bits of float32
    arithmetic they would end at 5.8, which a small delta over many coordinates can feel.
    """

    origin = "the operating system's cryptographic generator"

    def uniform(self, *shape: int) -> Tensor:
        count = math.prod(shape)
        bits = np.frombuffer(os.urandom(8 * count), dtype="<u8")
        return torch.from_numpy((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def normal(self, *shape: int) -> Tensor:
        count = math.prod(shape)
        pairs = self.uniform(2, (count + 1) // 2)
        radius = torch.sqrt(-2.0 * torch.log1p(-pairs[0]))
        angle = 2.0 * math.pi * pairs[1]
        both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])
        return both[:count].reshape(shape)


class SeededRandomness:
    """Repeatable numbers, for tests and simulations: whoever knows the seed can subtract the noise."""

    origin = "a published seed"

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator).double()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).double()


def randomness(seed: int | None) -> Randomness:
    """The system's randomness, or that of a seed where one is given."""
    return SystemRandomness() if seed is None else SeededRandomness(seed)
