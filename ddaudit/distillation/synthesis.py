"""Syntheses: the free parameters behind the synthetic images, and how they start."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.canvas import Canvas, Start, Synthesis
from ddaudit.distillation.clusters import central_records, records_of
from ddaudit.errors import BadInput


@dataclass(frozen=True)
class Pixels:
    """Every pixel is a free parameter.

    ``init="real"`` starts from random real images of each class, which releases real records as a starting
    point: private readers refuse it; ``init="centres"`` from those nearest to the centres of as many clusters of a
    random network's embeddings (DREAM's way). ``init="noise"`` starts from N(0, 1) in normalised space.
    """

    init: Literal["real", "centres", "noise"] = "real"
    factor: int = 1
    """Multi-formation: every image holds factor x factor sub-images, cut out and enlarged before use. The
    released file holds the enlarged ones (factor^2 * ipc per class) at the storage budget of ``ipc`` images.

    Source: Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC), ICML 2022,
    section 4; factor 2 is "PEA" in Dosser, ICCV 2025, arXiv 2508.01749.
    """
    space: Literal["normalised", "unit"] = "normalised"
    """What is optimised: normalised pixels, never clipped (the DC family's way), or pixels in [0, 1], which every new
    network finds clipped; noise is then N(1/2, 1/4) (IDC's way). Standardised values have no such range."""

    def __post_init__(self) -> None:
        if self.init not in ("real", "centres", "noise"):
            raise ValueError(f"synthesis.init is 'real', 'centres' or 'noise', not '{self.init}'")
        if self.space not in ("normalised", "unit"):
            raise ValueError(f"synthesis.space is 'normalised' or 'unit', not '{self.space}'")
        if self.factor < 1:
            raise ValueError(f"synthesis.factor must be at least 1, got {self.factor}")

    @property
    def parallel(self) -> bool:
        """K runs are K blocks of pixels."""
        return True

    def from_noise(self) -> Pixels:
        """From N(0, 1) in normalised space."""
        return replace(self, init="noise")

    def start(self, given: Start) -> Canvas:
        """K x (num_classes * ipc) images in class-major order; with a factor, of sub-images.

        Raises:
            BadInput: real initialisation of a class without any record; images too small for the factor.
        """
        data = given.data
        if self.factor > 1 and min(data.shape[1:]) < 2 * self.factor:
            raise BadInput(
                f"synthesis.factor={self.factor}",
                f"cuts images of {data.shape[1]} x {data.shape[2]} pixels into less than 2 x 2",
            )
        unit = self.space == "unit" and data.space == "pixels"
        if self.init == "noise":
            k, m = len(given.members), data.num_classes * given.ipc
            x = torch.randn(k, m, *data.shape, generator=given.generator)
            x = (x / 4 + 0.5).clamp_(0, 1) if unit else x
        else:
            count = given.ipc * self.factor**2
            if self.init == "centres":
                picks = central_records(
                    data,
                    given.members,
                    count,
                    mean=given.mean,
                    std=given.std,
                    generator=given.generator,
                )
            else:
                picks = draw_records(data, given.members, count, given.generator)
            pieces = data.pixels(picks.flatten()).view(*picks.shape, *data.shape)
            x = assemble(pieces if unit else (pieces - given.mean) / given.std, self.factor)
        x = x.to(given.device).requires_grad_(True)
        labels = labels_of(data.num_classes, given.ipc * self.factor**2).to(given.device)
        size = None if self.factor == 1 else 4 * x[0].numel()
        if not unit:
            return Canvas([x], labels, lambda: dissect(x, self.factor), image_bytes=size)
        mean, std = given.mean.to(given.device), given.std.to(given.device)

        def decode() -> Tensor:
            return (dissect(x, self.factor) - mean) / std

        def clip() -> None:
            x.detach().clamp_(0, 1)

        return Canvas([x], labels, decode, confine=clip, image_bytes=size)


@dataclass(frozen=True)
class Wrapped:
    """A synthesis around another one, whose images it changes; subclasses say how in ``start``."""

    inner: Synthesis = field(default_factory=Pixels)

    @property
    def init(self) -> str:
        """That of the synthesis inside."""
        return self.inner.init

    @property
    def parallel(self) -> bool:
        """When the synthesis inside is."""
        return self.inner.parallel

    def from_noise(self) -> Synthesis:
        """Around the synthesis inside, from noise."""
        return replace(self, inner=self.inner.from_noise())

    def start(self, given: Start) -> Canvas:
        """The images of the synthesis inside.

        Raises:
            BadInput: as the synthesis inside.
        """
        return self.inner.start(given)


@dataclass(frozen=True)
class Records:
    """Random real records of each class, left as they are: something else is learned, such as their labels."""

    init: Literal["real"] = "real"

    @property
    def parallel(self) -> bool:
        """K runs are K draws."""
        return True

    def from_noise(self) -> Records:
        """Refused: they are records.

        Raises:
            BadInput: always.
        """
        raise BadInput(
            "synthesis Records",
            "releases real records as they are, and no noise elsewhere can hide them",
            "Use a method that optimises its images, such as dm+dp.",
        )

    def start(self, given: Start) -> Canvas:
        """K x (num_classes * ipc) records in class-major order, and nothing to optimise.

        Raises:
            BadInput: a class without any record.
        """
        data = given.data
        picks = draw_records(data, given.members, given.ipc, given.generator)
        x = (data.pixels(picks.flatten()).view(*picks.shape, *data.shape) - given.mean) / given.std
        x = x.to(given.device)
        labels = labels_of(data.num_classes, given.ipc).to(given.device)
        return Canvas([], labels, lambda: x, records=picks)


def draw_records(
    data: ImageData, members: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """(K, num_classes * count) positions of random records of each class among those that each run may see.

    Classes with fewer records than ``count`` repeat records (the long-tail convention).

    Raises:
        BadInput: a class without any record.
    """
    picks = []
    for row in members:
        for c in range(data.num_classes):
            index = records_of(data, row, c)
            order = torch.randperm(len(index), generator=generator)
            picks.append(index[order.repeat(-(-count // len(index)))[:count]])
    return torch.cat(picks).view(len(members), -1)


def labels_of(num_classes: int, ipc: int) -> Tensor:
    """(num_classes * ipc,) int64 class-major hard labels."""
    return torch.arange(num_classes).repeat_interleave(ipc)


def dissect(x: Tensor, factor: int) -> Tensor:
    """Cut every image of (K, M, C, H, W) into factor x factor sub-images and enlarge them to (H, W).

    Returns:
        (K, M * factor^2, C, H, W); the sub-images of an image follow each other, row by row. Where the size is
        no multiple of the factor, sub-images overlap by up to a pixel instead of losing one.
    """
    if factor == 1:
        return x
    k, m, c, h, w = x.shape
    flat = x.flatten(0, 1)
    tall, wide = -(-h // factor), -(-w // factor)
    parts = []
    for i in range(factor):
        for j in range(factor):
            top, left = min(i * tall, h - tall), min(j * wide, w - wide)
            parts.append(flat[:, :, top : top + tall, left : left + wide])
    cut = torch.stack(parts, 1).flatten(0, 1)
    grown = F.interpolate(cut, size=(h, w), mode="bilinear", align_corners=False)
    return grown.view(k, m * factor**2, c, h, w)


def assemble(x: Tensor, factor: int) -> Tensor:
    """Shrink (K, M * factor^2, C, H, W) images and lay factor x factor of them out in one."""
    if factor == 1:
        return x
    k, m, c, h, w = x.shape
    tall, wide = -(-h // factor), -(-w // factor)
    small = F.interpolate(x.flatten(0, 1), size=(tall, wide), mode="area")
    small = small.view(k, m // factor**2, factor, factor, c, tall, wide)
    out = x.new_empty(k, m // factor**2, c, h, w)
    for i in range(factor):
        for j in range(factor):
            top, left = min(i * tall, h - tall), min(j * wide, w - wide)
            out[..., top : top + tall, left : left + wide] = small[:, :, i, j]
    return out
