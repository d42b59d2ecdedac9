"""Jitter: how a batch of synthetic images is shown to a teacher in one step, and a curriculum of crops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddaudit.training.augment import AugmentParams, apply
from ddaudit.training.views import crop_and_flip, draw_boxes


@dataclass(frozen=True)
class Jitter:
    """One random crop, mirror and shift for a whole batch, anew in every step.

    Attributes:
        smallest: area of the smallest crop, as a fraction of the image; 1 keeps images whole.
        curriculum: how the smallest crop falls from the whole image to ``smallest``: "none" starts there, "step"
            jumps, "linear" and "cosine" glide.
        milestone: share of the steps that the fall takes.
        pad: largest shift either way, as a fraction of the side; what comes in is the mean image.
        roll: largest cyclic shift down and to the right, as a fraction of the side.

    Source: SRe2L, NeurIPS 2023, arXiv 2306.13092 (multi-crop, cyclic shifts); Yin & Shen, CDA, TMLR 2024, arXiv
    2311.18838, section 3.2 (curriculum); the authors' code, in which all images of a batch share a crop.
    """

    smallest: float = 0.08
    curriculum: Literal["none", "step", "linear", "cosine"] = "none"
    milestone: float = 1.0
    pad: float = 0.0
    roll: float = 0.0

    def __post_init__(self) -> None:
        if self.curriculum not in ("none", "step", "linear", "cosine"):
            raise ValueError(
                f"jitter.curriculum is none, step, linear or cosine, not '{self.curriculum}'"
            )
        if not (0 < self.smallest <= 1 and 0 < self.milestone <= 1):
            raise ValueError("jitter.smallest and jitter.milestone must lie in (0, 1]")
        if not (0 <= self.pad <= 1 and 0 <= self.roll <= 1):
            raise ValueError("jitter.pad and jitter.roll must lie in [0, 1]")

    def floor(self, step: int, steps: int) -> float:
        """Area of the smallest crop at ``step`` (from 0) of ``steps``."""
        done = step / (self.milestone * steps)
        if self.curriculum == "none" or done >= 1:
            return self.smallest
        left = {
            "step": 1.0,
            "linear": 1 - done,
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        }[self.curriculum]
        return self.smallest + (1 - self.smallest) * left

    def show(
        self, x: Tensor, step: int, steps: int, *, mirror: bool, generator: torch.Generator
    ) -> Tensor:
        """Normalised images (M, C, H, W) as they are shown at a step; differentiable."""
        h, w = x.shape[-2:]
        flips = (torch.rand(1, generator=generator) < 0.5).expand(len(x)) if mirror else None
        floor = self.floor(step, steps)
        boxes = None
        if floor < 1:
            boxes = draw_boxes((floor, 1.0), generator, 1, h, w).expand(len(x), 4)
        if boxes is not None or flips is not None:
            x = crop_and_flip(x, boxes, flips)
        if self.pad > 0:
            reach = [round(self.pad * side) for side in (h, w)]
            shifts = [_up_to(2 * r, generator) - r for r in reach]
            x = apply(x, AugmentParams("crop", torch.tensor([shifts], dtype=torch.float32)))
        if self.roll > 0:
            shifts = [_up_to(round(self.roll * side), generator) for side in (h, w)]
            x = torch.roll(x, shifts, (2, 3))
        return x


def _up_to(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(most + 1, (), generator=generator))
