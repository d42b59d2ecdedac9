"""Images as few frequencies: the coefficients of a cosine transform that differ most between the records of a class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ddaudit.distillation.canvas import Canvas, Start
from ddaudit.distillation.synthesis import draw_records, labels_of

_RECORDS = 256
"""Records of a class that its frequencies are chosen by."""


@dataclass(frozen=True)
class Frequency:
    """S = inverse DCT of a few free coefficients; the budget of an image buys 1 / share images.

    Every class keeps the frequencies whose coefficients vary most between its records, the same for all its images and
    channels (as the paper says; its code looks at the starting images alone). The transform is orthonormal, so that a
    step in frequencies is as long as the step in pixels and an objective's learning rate stays what it was.

    Attributes:
        init: "real" starts from random records of each class and lets records choose the frequencies; "noise" from
            N(0, 1), with the lowest frequencies, a choice that depends on no record.
        share: of an image's frequencies that are kept, in (0, 1].

    Source: Shin, Shin & Moon, "Frequency Domain-Based Dataset Distillation" (FreD), NeurIPS 2023, arXiv 2311.08819,
        section 3, and the authors' code, whose transform is not normalised.
    """

    init: Literal["real", "noise"] = "real"
    share: float = 1 / 16

    def __post_init__(self) -> None:
        if self.init not in ("real", "noise"):
            raise ValueError(f"synthesis.init is 'real' or 'noise', not '{self.init}'")
        if not 0 < self.share <= 1:
            raise ValueError(f"synthesis.share must lie in (0, 1], got {self.share:g}")

    @property
    def parallel(self) -> bool:
        """K runs are K blocks of coefficients, each with frequencies of its own."""
        return True

    def from_noise(self) -> Frequency:
        """The lowest frequencies, from N(0, 1)."""
        return replace(self, init="noise")

    def start(self, given: Start) -> Canvas:
        """K x (num_classes * floor(ipc / share)) images in class-major order.

        Stored are the coefficients and, where records chose them, one bit per class and frequency.

        Raises:
            BadInput: real initialisation of a class without any record.
        """
        data = given.data
        channels, height, width = data.shape
        kept = max(1, round(self.share * height * width))
        per_class = given.ipc * height * width // kept
        labels = labels_of(data.num_classes, per_class)
        k, m = len(given.members), len(labels)
        if self.init == "noise":
            x = torch.randn(k, m, *data.shape, generator=given.generator)
            chosen = lowest(height, width, kept).expand(k, data.num_classes, -1)
            mask = 0
        else:
            picks = draw_records(data, given.members, per_class, given.generator)
            x = (data.pixels(picks.flatten()).view(k, m, *data.shape) - given.mean) / given.std
            # Always the same: a run's frequencies depend on its records alone.
            seen = [
                draw_records(data, row[None], _RECORDS, torch.Generator().manual_seed(0))[0]
                for row in given.members
            ]
            chosen = torch.stack(
                [most_varied(dct(data.pixels(i) / given.std), data.num_classes, kept) for i in seen]
            )
            mask = data.num_classes * math.ceil(height * width / 8)
        # Every image takes the frequencies of its class.
        where = chosen[:, labels][:, :, None].expand(-1, -1, channels, -1).to(given.device)
        values = dct(x.to(given.device)).flatten(-2).gather(-1, where).requires_grad_(True)

        def decode() -> Tensor:
            empty = values.new_zeros(k, m, channels, height * width)
            return idct(empty.scatter(-1, where, values).unflatten(-1, (height, width)))

        return Canvas(
            [values],
            labels.to(given.device),
            decode,
            image_bytes=4 * values[0].numel(),
            decoder_bytes=mask,
        )


def dct(x: Tensor) -> Tensor:
    """Orthonormal two-dimensional DCT-II of (..., H, W)."""
    return _cosines(x.shape[-2], x) @ x @ _cosines(x.shape[-1], x).T


def idct(x: Tensor) -> Tensor:
    """The inverse of :func:`dct`."""
    return _cosines(x.shape[-2], x).T @ x @ _cosines(x.shape[-1], x)


def most_varied(coefficients: Tensor, num_classes: int, kept: int) -> Tensor:
    """(num_classes, kept) flat positions of the frequencies that vary most between the images of each class.

    Args:
        coefficients: (num_classes * n, C, H, W), class by class; channels are averaged first.
        num_classes, kept: how many classes, and how many frequencies of each.
    """
    c = coefficients.mean(1).flatten(-2).unflatten(0, (num_classes, -1))
    chosen: Tensor = c.var(1, correction=0).topk(kept, -1).indices
    return chosen


def lowest(height: int, width: int, kept: int) -> Tensor:
    """(kept,) flat positions of the lowest frequencies, in cycles per image side."""
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
    return (rows + columns).flatten().argsort(stable=True)[:kept]


def _cosines(n: int, like: Tensor) -> Tensor:
    """(n, n) orthonormal DCT-II matrix; row k is frequency k."""
    k = torch.arange(n, dtype=torch.float64)
    table = (math.pi / n * (k + 0.5) * k[:, None]).cos() * math.sqrt(2 / n)
    table[0] /= math.sqrt(2)
    return table.to(like.device, like.dtype)
