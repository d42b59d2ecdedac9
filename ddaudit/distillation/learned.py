"""Learned labels and learning rates: what is optimised together with the images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.parts import Canvas, FreeRate, SoftLabels


@dataclass(frozen=True)
class LearnedLabels:
    """One label distribution per image, moved by the loop's own gradients; loops that regress on labels centre them.

    Attributes:
        form: "clamped" optimises the probabilities and projects them back onto the distributions after every step;
            "logits" optimises what a softmax turns into them.
        lr: step size of the labels; None: that of the images.
        confidence: probability of an image's own class at the start, above 1 / classes; 1 (one-hot) with "clamped"
            only. The rest is shared evenly.
        momentum: of their steps, in optimisers with momentum; None: that of the images.

    Source: Nguyen, Chen & Lee (KIP), ICLR 2021, arXiv 2011.00050, section 2 (labels optimised as well); Bohdal et al.,
    arXiv 2006.08572 (labels kept in [0, 1]); Guo et al. (DATM), ICLR 2024, arXiv 2310.05773, section 3 (logits).
    Published regression labels are any numbers; a set's soft labels are distributions, so these are too.
    """

    form: Literal["clamped", "logits"] = "clamped"
    lr: float | None = None
    confidence: float = 1.0
    momentum: float | None = None

    def __post_init__(self) -> None:
        if self.form not in ("clamped", "logits"):
            raise ValueError(f"labels.form is 'clamped' or 'logits', not '{self.form}'")
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"labels.lr must be positive, got {self.lr:g}")
        if not 0 < self.confidence <= 1 or (self.form == "logits" and self.confidence == 1):
            raise ValueError(
                "labels.confidence must lie in (0, 1], and below 1 with labels.form=logits"
            )

    def start(self, canvas: Canvas, runs: int, num_classes: int) -> Canvas:
        """The canvas with labels among its parameters."""
        hard = F.one_hot(canvas.labels, num_classes).float()
        rest = (1 - self.confidence) / max(1, num_classes - 1)
        values = hard * self.confidence + (1 - hard) * rest
        if self.form == "logits":
            values = values.log()
        values = values.expand(runs, -1, -1).clone().requires_grad_(True)
        decode = (lambda v: v.softmax(-1)) if self.form == "logits" else (lambda v: v)
        keep = to_simplex if self.form == "clamped" else None
        soft = SoftLabels(values, self.lr, decode, keep, momentum=self.momentum)
        return replace(canvas, parameters=[*canvas.parameters, values], soft=soft)


@dataclass(frozen=True)
class LearnedRate:
    """The learning rate of networks trained on the set, moved by the loop's own gradients; the card carries it.

    Attributes:
        start_at: the rate at the start.
        lr: step size of the free number; None: that of the images.
        form: "softplus": a rate is the softplus of a free number, so that it stays positive; "plain": the number
            itself, which may leave the positive numbers, and the loop stops there.

    Source: Wang et al., "Dataset Distillation", arXiv 1811.10959, section 3.2; softplus as in the authors' code, plain
    as in that of MTT (CVPR 2022).
    """

    start_at: float = 0.02
    lr: float | None = None
    form: Literal["softplus", "plain"] = "softplus"

    def __post_init__(self) -> None:
        if self.form not in ("softplus", "plain"):
            raise ValueError(f"rate.form is 'softplus' or 'plain', not '{self.form}'")
        if not 0 < self.start_at <= 100:
            raise ValueError(f"rate.start_at must lie in (0, 100], got {self.start_at:g}")
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"rate.lr must be positive, got {self.lr:g}")

    def start(self, canvas: Canvas, runs: int) -> Canvas:
        """The canvas with one rate per run among its parameters."""
        plain = self.form == "plain"
        free = self.start_at if plain else self.start_at + math.log(-math.expm1(-self.start_at))
        like = canvas.parameters[0]
        values = torch.full((runs,), free, dtype=like.dtype, device=like.device).requires_grad_(
            True
        )
        parameters = [*canvas.parameters, values]
        rate = FreeRate(values, self.lr, (lambda v: v) if plain else F.softplus)
        return replace(canvas, parameters=parameters, free_rate=rate)


def to_simplex(v: Tensor) -> Tensor:
    """The nearest distributions, in Euclidean distance, to rows (..., C).

    Source: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008, figure 1.
    """
    ordered = v.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    rank = torch.arange(1, v.shape[-1] + 1, device=v.device)
    count = (ordered * rank > excess).sum(-1, keepdim=True)
    shift = excess.gather(-1, count - 1) / count
    return (v - shift).clamp_min(0)
