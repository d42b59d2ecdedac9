"""From the value ranges in circulation back to pixels in [0, 1]: range, normalisation, layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.files import afford
from ddaudit.sets.formats._base import choice
from ddaudit.sets.formats._safe import array_tensor

RANGES = ("0-1", "0-255", "-1-1", "normalised")
RANGE_OPTION = {
    "range": "what stored values are, where two readings are plausible: " + ", ".join(RANGES)
}
_WIDE = 10.0
"""Optimised pixels overshoot [0, 1] or [-1, 1], but no published set comes near this."""
_OVERSHOOT = 0.25
"""Values that stay this near to [0, 1] or [-1, 1] may be pixels: normalised pictures run from below -1 to above 2."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images in pixel space: what was done to get there, and the constants it took (None: none)."""

    images: Tensor
    notes: list[str]
    mean: list[float] | None = None
    std: list[float] | None = None


def images_4d(value: Any, where: Path) -> Tensor:
    """(N, C, H, W) or (N, H, W, C) float32 of a stored float tensor or array.

    Raises:
        BadInput: not a 4-D floating-point tensor.
    """
    if isinstance(value, np.ndarray):
        value = array_tensor(value, where, "images")
    if not isinstance(value, Tensor) or value.is_sparse or value.ndim != 4:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise BadInput(where, f"images are {found}, expected a tensor (N, C, H, W)")
    if not value.is_floating_point():
        name = str(value.dtype).removeprefix("torch.")
        raise BadInput(
            where, f"images are {name}, expected floating point", "Is it another format?"
        )
    afford(where, 4 * value.numel(), "pixels")
    return value.detach().cpu().float().contiguous()


def channels_first(images: Tensor, where: Path) -> tuple[Tensor, str | None]:
    """(N, C, H, W) of images in either layout, and a note when they were channels-first already.

    The formats that come through here are written channels-last: that reading wins if both fit.

    Raises:
        BadInput: neither the first nor the last axis has 1 or 3 channels.
    """
    if images.shape[3] in (1, 3):
        return images.permute(0, 3, 1, 2).contiguous(), None
    if images.shape[1] in (1, 3):
        return images, "images were stored (N, C, H, W), not (N, H, W, C) as the format has it"
    raise BadInput(where, f"images have shape {tuple(images.shape)}: no axis of 1 or 3 channels")


def pixels_of(
    images: Tensor,
    *,
    usual: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
    where: Path,
) -> Pixels:
    """Pixels of values that the format stores in the range ``usual``, unless they look like another one.

    Args:
        images: (N, C, H, W) as stored.
        usual: what the format's own code writes: "normalised" or "0-1".
        options: may hold ``range``, which decides.

    Raises:
        BadInput: the values may be in another range, cannot be in the one that is said, or constants are not known.
    """
    low, high = _ends(images)
    if "range" in options:
        return as_pixels(
            images, choice(options, "range", RANGES, default=""), mean=mean, std=std, where=where
        )
    other = _also(low, high, usual, std) if low < high else None
    if other is not None:
        what = f"values run from {low:g} to {high:g}: {usual}, as the format has it, or {other} already"
        raise BadInput(where, what, f"Pass --set range={usual} or --set range={other}.")
    return as_pixels(images, usual, mean=mean, std=std, where=where)


def as_pixels(
    images: Tensor,
    kind: str,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    where: Path,
) -> Pixels:
    """Pixels of values in the range ``kind``, one of ``RANGES``; the notes say what was found and assumed.

    Raises:
        BadInput: the values cannot be in it, or constants are not known.
    """
    low, high = _ends(images)
    impossible = {
        "0-1": high > _WIDE or low < -_WIDE,
        "-1-1": high > _WIDE or low < -_WIDE,
        "0-255": low < 0 or high > 255 or high <= 1,
    }.get(kind, False)
    if impossible:
        what = f"values run from {low:g} to {high:g}, which is not {kind}"
        raise BadInput(where, what, f"Pass another --set range={'|'.join(RANGES)}.")
    notes = [f"stored values run from {low:g} to {high:g}, read as {kind}"]
    x = images.float().contiguous()
    if kind == "normalised":
        pixels = unnormalise(x, mean=mean, std=std, where=where)
        return Pixels(pixels, [*notes, said(mean, std)], _listed(mean), _listed(std))
    return Pixels(x / 255.0 if kind == "0-255" else (x + 1.0) / 2.0 if kind == "-1-1" else x, notes)


def _ends(images: Tensor) -> tuple[float, float]:
    return (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)


def _also(low: float, high: float, usual: str, std: Sequence[float] | None) -> str | None:
    """Another range that the values may be in.

    With a std near 0.5, normalised pixels run from -1 to 1 as well: the two readings are one.
    """
    if low >= 0 and high > 25:
        return "0-255"
    unit = low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT
    if usual == "0-1":
        return "normalised" if low < -2 * _OVERSHOOT or high > 1 + 2 * _OVERSHOOT else None
    if unit:
        return "0-1"
    both = low >= -1 - _OVERSHOOT and high <= 1 + _OVERSHOOT
    return "-1-1" if both and (std is None or max(std) < 0.4) else None


def unnormalise(
    images: Tensor, *, mean: Sequence[float] | None, std: Sequence[float] | None, where: Path
) -> Tensor:
    """Undo ``(x - mean) / std`` per channel.

    Raises:
        BadInput: constants not known, or not one per channel.
    """
    if mean is None or std is None:
        raise BadInput(
            where,
            "images are normalised and the file does not say with which mean and std",
            "Pass --data NAME, or --set mean=M,.. --set std=S,..",
        )
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise BadInput(
            where,
            f"images have {channels} channels but {len(mean)} means and {len(std)} stds are known",
            "Was this set distilled from other data? Pass the right --data.",
        )
    scale, shift = (
        torch.tensor(list(v), dtype=torch.float32).view(1, -1, 1, 1) for v in (std, mean)
    )
    return images * scale + shift


def said(mean: Sequence[float] | None, std: Sequence[float] | None) -> str:
    """The note that names the constants used."""
    means, stds = (", ".join(f"{v:g}" for v in values or ()) for values in (mean, std))
    return f"un-normalised with mean {means} and std {stds}"


def _listed(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else list(values)
