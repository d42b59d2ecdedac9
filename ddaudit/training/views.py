"""How a batch is looked at: RandomResizedCrop, mirror, CutMix. Drawn once, applied anywhere, or replayed.

A view is a box of the image enlarged to its full size, mirrored or not, with a rectangle of a
partner's view pasted in. Drawing and applying are separate, so that a label store can keep what a
teacher saw and a student can see exactly the same.

Sources: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6 (areas and ratios of
crops; torchvision's RandomResizedCrop); Yun et al., "CutMix", ICCV 2019, section 3; Zhang et al.,
"mixup", ICLR 2018; Shen and Xing,
"A Fast Knowledge Distillation Framework" (FKD), ECCV 2022 (labels kept per crop).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_RATIOS = (3 / 4, 4 / 3)  # width by height of a crop
_TRIES = 10  # as torchvision; then the whole image


@dataclass(frozen=True, eq=False)
class Views:
    """One view of each of N images; parts that are None leave images as they are.

    Attributes:
        boxes: (N, 4) float32 top, left, height, width, as fractions of the image.
        flips: (N,) bool, mirrored left to right.
        partners: (N,) int64 position in the batch of the image pasted in.
        patches: (N, 4) int64 top, left, height, width of the pasted rectangle, pixels; an empty
            rectangle pastes nothing.
        shares: (N,) how much of the partner is blended in, in [0, 1]; instead of patches.
    """

    boxes: Tensor | None = None
    flips: Tensor | None = None
    partners: Tensor | None = None
    patches: Tensor | None = None
    shares: Tensor | None = None


class Replay(Protocol):
    """Views and labels of E epochs over M images, as a set's label store keeps them.

    ``boxes`` (E, M, 4), ``flips`` (E, M), ``partners`` (E, M) positions in the set or None,
    ``patches`` (E, M, 4) or None, ``logits`` (E, M, K) of the teacher on the views. A partner is
    pasted in as its own view of the same epoch shows it.
    """

    @property
    def boxes(self) -> Tensor: ...
    @property
    def flips(self) -> Tensor: ...
    @property
    def partners(self) -> Tensor | None: ...
    @property
    def patches(self) -> Tensor | None: ...
    @property
    def logits(self) -> Tensor: ...


def draw_views(
    generator: torch.Generator,
    n: int,
    *,
    shape: Sequence[int],
    crop: tuple[float, float] | None = None,
    flip: bool = False,
    cutmix: float = 0.0,
    mixup: float = 0.0,
) -> Views:
    """Draw a view for each of ``n`` images of a batch; on the CPU.

    Args:
        shape: ends in (H, W).
        crop: (smallest, largest) area of a crop, fractions.
        flip: mirror with probability 1/2.
        cutmix: probability that the batch is mixed: one rectangle for all, partners by permutation.
        mixup: above 0: instead, one share of the partners for all is blended in, of a Beta distribution with both
            parameters this.
    """
    h, w = int(shape[-2]), int(shape[-1])
    boxes = None if crop is None else draw_boxes(crop, generator, n, h, w)
    flips = torch.rand(n, generator=generator) < 0.5 if flip else None
    if mixup > 0:
        seed = int(torch.randint(2**31, (), generator=generator))
        share = float(np.random.default_rng(seed).beta(mixup, mixup))
        partners = torch.randperm(n, generator=generator)
        return Views(boxes, flips, partners, shares=torch.full((n,), share))
    if cutmix == 0:
        return Views(boxes, flips)
    mixed = bool(torch.rand((), generator=generator) < cutmix)
    partners = torch.randperm(n, generator=generator)
    patch = _draw_patch(generator, h, w) if mixed else torch.zeros(4, dtype=torch.int64)
    return Views(boxes, flips, partners, patch.expand(n, 4))


def draw_boxes(
    areas: tuple[float, float],
    generator: torch.Generator,
    n: int,
    h: int,
    w: int,
    *,
    ratios: tuple[float, float] = _RATIOS,
) -> Tensor:
    """(n, 4) boxes of RandomResizedCrop: area uniform, log-ratio uniform, position uniform.

    Boxes are not rounded to pixels. Where no try fits into the image, the box is the whole image.
    """
    area = areas[0] + (areas[1] - areas[0]) * torch.rand(n, _TRIES, generator=generator)
    low, high = (math.log(r) for r in ratios)
    ratio = torch.exp(low + (high - low) * torch.rand(n, _TRIES, generator=generator))
    tall, wide = (area / ratio * (w / h)).sqrt(), (area * ratio * (h / w)).sqrt()
    fits = (tall <= 1) & (wide <= 1)
    first = fits.float().argmax(1, keepdim=True)
    any_fits = fits.any(1)
    tall = torch.where(any_fits, tall.gather(1, first)[:, 0], 1.0)
    wide = torch.where(any_fits, wide.gather(1, first)[:, 0], 1.0)
    at = torch.rand(2, n, generator=generator)
    return torch.stack([(1 - tall) * at[0], (1 - wide) * at[1], tall, wide], 1)


def apply_views(x: Tensor, views: Views) -> Tensor:
    """See (N, C, H, W) images through their views; partners are other images of the batch."""
    seen = crop_and_flip(x, views.boxes, views.flips)
    if views.partners is not None and views.shares is not None:
        share = views.shares.to(x).view(-1, 1, 1, 1)
        return seen + share * (seen[views.partners.to(x.device)] - seen)
    if views.partners is None or views.patches is None:
        return seen
    return paste(seen, seen[views.partners.to(x.device)], views.patches)


def crop_and_flip(x: Tensor, boxes: Tensor | None, flips: Tensor | None) -> Tensor:
    """Enlarge each image's box to (H, W), bilinearly, and mirror where asked.

    Args:
        x: (N, C, H, W).
        boxes: (N, 4) fractions, or None for whole images.
        flips: (N,) bool, or None.
    """
    if boxes is None:
        return (
            x if flips is None else torch.where(flips.to(x.device).view(-1, 1, 1, 1), x.flip(3), x)
        )
    top, left, tall, wide = boxes.to(x.device, torch.float32).unbind(1)
    across = wide if flips is None else torch.where(flips.to(x.device), -wide, wide)
    zero = torch.zeros_like(top)
    rows = [across, zero, 2 * left + wide - 1, zero, tall, 2 * top + tall - 1]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def paste(x: Tensor, partner: Tensor, patches: Tensor) -> Tensor:
    """(N, C, H, W) images with the rectangles ``patches`` (N, 4) of ``partner`` in their place."""
    top, left, tall, wide = patches.to(x.device).unsqueeze(2).unbind(1)  # each (N, 1)
    rows, cols = (torch.arange(s, device=x.device) for s in x.shape[-2:])
    in_rows = ((rows >= top) & (rows < top + tall)).view(len(x), 1, -1, 1)
    in_cols = ((cols >= left) & (cols < left + wide)).view(len(x), 1, 1, -1)
    return torch.where(in_rows & in_cols, partner, x)


def mix_labels(y: Tensor, views: Views, *, shape: Sequence[int]) -> Tensor:
    """(N, K) distributions mixed with the partners', by the share of the image each one covers or is blended in."""
    if views.partners is None or (views.patches is None and views.shares is None):
        return y
    if views.shares is not None:
        share = views.shares.to(y)
    else:
        assert views.patches is not None, "asked above"
        patches = views.patches.to(y.device)
        share = (patches[:, 2] * patches[:, 3]).to(y.dtype) / (shape[-2] * shape[-1])
    return y + share[:, None] * (y[views.partners.to(y.device)] - y)


def stack_views(views: Sequence[Views], n: int) -> Views:
    """The views of several batches of ``n`` images put one after the other; all were drawn alike."""

    def join(parts: list[Tensor | None]) -> Tensor | None:
        kept = [p for p in parts if p is not None]
        return torch.cat(kept) if kept else None

    partners = [None if v.partners is None else v.partners + k * n for k, v in enumerate(views)]
    return Views(
        join([v.boxes for v in views]), join([v.flips for v in views]),
        join(list(partners)), join([v.patches for v in views]), join([v.shares for v in views]),
    )  # fmt: skip


def _draw_patch(generator: torch.Generator, h: int, w: int) -> Tensor:
    """A rectangle of uniform area share, centre uniform, cut off at the border: (4,) pixels."""
    u = torch.rand(3, generator=generator).tolist()
    tall, wide = int(h * math.sqrt(u[0])), int(w * math.sqrt(u[0]))
    row, col = int(u[1] * h), int(u[2] * w)
    top, left = max(row - tall // 2, 0), max(col - wide // 2, 0)
    bottom, right = min(row - tall // 2 + tall, h), min(col - wide // 2 + wide, w)
    return torch.tensor([top, left, bottom - top, right - left])
