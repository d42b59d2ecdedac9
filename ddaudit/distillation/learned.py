"""Learned labels and learning rates: what is optimised together with the images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.parts import Canvas, FreeRate, SoftLabels
from ddaudit.later import later
from ddaudit.sets.simplex import to_simplex, to_sum_one


@dataclass(frozen=True)
class LearnedLabels:
    """One label distribution per image, moved by the loop's own gradients; loops that regress on labels centre them.

    Attributes:
        form: "clamped" optimises the probabilities and projects them back onto the distributions after every step;
            "clipped" likewise cuts them to [0, 1] and divides by their sum; "logits" optimises what a softmax turns
            into them; "targets" optimises any numbers, which loops regress on as they are: labels minus 1 / classes,
            divided by sqrt(classes / 10) where ``scaled``, at the start. Released are the distributions nearest to
            them.
        lr: step size of the labels; None: that of the images.
        confidence: probability of an image's own class at the start, above 1 / classes; 1 (one-hot) not with
            "logits". The rest is shared evenly. None: all classes alike.
        momentum: of their steps, in optimisers with momentum; None: that of the images.
        margin: weight of the loss that keeps an image's largest label above its second: minus their difference, up to
            1 / classes, averaged over images, beside a regression loss that is summed over classes.
        scaled: of "targets": FRePo divides them, RFAD does not.

    Source: Nguyen, Chen & Lee (KIP), ICLR 2021, arXiv 2011.00050, section 2 (labels optimised as well); Bohdal et al.,
    arXiv 2006.08572 and the authors' code (clipped); Zhou, Nezhadarya & Ba (FRePo), NeurIPS 2022, arXiv 2206.00719,
    and the authors' code (targets, margin); Guo et al. (DATM), ICLR 2024, arXiv 2310.05773, section 3 (logits).
    Published regression labels are any numbers; a set's soft labels are distributions, so these are too.
    """

    form: Literal["clamped", "clipped", "logits", "targets"] = "clamped"
    lr: float | None = None
    confidence: float | None = 1.0
    momentum: float | None = None
    margin: float = 0.0
    scaled: bool = later(True)

    def __post_init__(self) -> None:
        if self.form not in ("clamped", "clipped", "logits", "targets"):
            raise ValueError(
                f"labels.form is 'clamped', 'clipped', 'logits' or 'targets', not '{self.form}'"
            )
        if not self.margin >= 0:
            raise ValueError(f"labels.margin must be at least 0, got {self.margin:g}")
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"labels.lr must be positive, got {self.lr:g}")
        sure = 1 / 2 if self.confidence is None else self.confidence
        if not 0 < sure <= 1 or (self.form == "logits" and sure == 1):
            raise ValueError(
                "labels.confidence must lie in (0, 1], and below 1 with labels.form=logits"
            )

    def start(self, canvas: Canvas, runs: int, num_classes: int) -> Canvas:
        """The canvas with labels among its parameters."""
        own = 1 / num_classes if self.confidence is None else self.confidence
        hard = F.one_hot(canvas.labels[: canvas.size], num_classes).float()
        rest = (1 - own) / max(1, num_classes - 1)
        values = hard * own + (1 - hard) * rest
        if self.form == "logits":
            values = values.log()
        centre, scale = 1 / num_classes, math.sqrt(num_classes / 10) if self.scaled else 1.0
        if self.form == "targets":
            values = (values - centre) / scale
        values = values.expand(runs, -1, -1).clone().requires_grad_(True)

        def decode(v: Tensor) -> Tensor:
            if self.form == "logits":
                v = v.softmax(-1)
            elif self.form == "targets":
                v = v + centre
            return v.repeat(1, canvas.copies, 1) if canvas.copies > 1 else v

        def release(labels: Tensor) -> Tensor:
            return to_simplex((labels - centre) * scale + centre)

        keep = {"clamped": to_simplex, "clipped": to_sum_one}.get(self.form)
        released = release if self.form == "targets" else None
        soft = SoftLabels(values, self.lr, decode, keep, released, self.momentum)

        def penalty() -> Tensor:
            # The loops' regression losses are means over classes.
            margin = self.margin / num_classes * label_margins(decode(values)).mean(1).sum()
            return margin if canvas.penalty is None else margin + canvas.penalty()

        parameters = [*canvas.parameters, values]
        return replace(
            canvas,
            parameters=parameters,
            soft=soft,
            penalty=penalty if self.margin else canvas.penalty,
        )


def label_margins(labels: Tensor) -> Tensor:
    """(...) minus the difference of the two largest entries of rows (..., C), differences above 1 / C counting as that.

    Source: Zhou, Nezhadarya & Ba (FRePo), NeurIPS 2022, arXiv 2206.00719, and the authors' code.
    """
    first, second = labels.topk(2, -1).values.unbind(-1)
    return -(first - second).clamp_max(1 / labels.shape[-1])


@dataclass(frozen=True)
class FixedRate:
    """A learning rate that stays what it is, and is the protocol's business on the card.

    Attributes:
        start_at: the rate.
    """

    start_at: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.start_at <= 100:
            raise ValueError(f"rate.start_at must lie in (0, 100], got {self.start_at:g}")

    def start(self, canvas: Canvas, runs: int) -> Canvas:
        """The canvas as it is."""
        return canvas


@dataclass(frozen=True)
class LearnedRate:
    """The learning rate of networks trained on the set, moved by the loop's own gradients; the card carries it.

    Attributes:
        start_at: the rate at the start.
        lr: step size of the free number; None: that of the images.
        form: "softplus": a rate is the softplus of a free number, so that it stays positive; "plain": the number
            itself, which may leave the positive numbers, and the loop stops there.
        least: a "plain" number below this goes back to it after every step; None: it does not.

    Source: Wang et al., "Dataset Distillation", arXiv 1811.10959, section 3.2; softplus as in the authors' code, plain
    as in that of MTT (CVPR 2022).
    """

    start_at: float = 0.02
    lr: float | None = None
    form: Literal["softplus", "plain"] = "softplus"
    least: float | None = later(None)

    def __post_init__(self) -> None:
        if self.form not in ("softplus", "plain"):
            raise ValueError(f"rate.form is 'softplus' or 'plain', not '{self.form}'")
        if not 0 < self.start_at <= 100:
            raise ValueError(f"rate.start_at must lie in (0, 100], got {self.start_at:g}")
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"rate.lr must be positive, got {self.lr:g}")
        if self.least is not None and (self.form != "plain" or not self.least > 0):
            raise ValueError("rate.least is a positive number, for the form 'plain'")

    def start(self, canvas: Canvas, runs: int) -> Canvas:
        """The canvas with one rate per run among its parameters."""
        plain = self.form == "plain"
        free = self.start_at if plain else self.start_at + math.log(-math.expm1(-self.start_at))
        like = canvas.parameters[0]
        values = torch.full((runs,), free, dtype=like.dtype, device=like.device).requires_grad_(
            True
        )
        parameters = [*canvas.parameters, values]
        rate = FreeRate(values, self.lr, (lambda v: v) if plain else F.softplus, self.least)
        return replace(canvas, parameters=parameters, free_rate=rate)
