"""Plain arrays ``images`` and ``labels``: which range and layout they are in, said or refused, never guessed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.files import afford
from ddaudit.sets._types import Card, DistilledSet
from ddaudit.sets.formats import _labels
from ddaudit.sets.formats._base import assemble, choice
from ddaudit.sets.formats._pixels import RANGES, Pixels, as_pixels
from ddaudit.sets.formats._safe import array_tensor, described, is_plain, widened
from ddaudit.sets.formats._soft import SOFT_OPTIONS

PLAIN_RANGES = (*RANGES, "standard")
LAYOUTS = ("nchw", "nhwc")
NAMES = (
    ("images", "labels"),
    ("x", "y"),
    ("X", "y"),
    ("X", "Y"),
    ("data", "targets"),
    ("image", "label"),
    ("imgs", "labels"),
    ("data", "labels"),
    ("image_syn", "label_syn"),
    ("images_syn", "labels_syn"),
)
"""What people call images and labels. A file holds one such pair; other entries are left alone."""
_EIGHT_BITS = 127
"""Whole numbers that go beyond it have 8 bits: a lower depth ends there or before."""

PLAIN_OPTIONS = {
    "range": "what values are: 0-1, 0-255, -1-1, normalised (by mean and std), or standard (a table)",
    "layout": "nchw or nhwc, where both fit",
    **SOFT_OPTIONS,
}


def named(held: Collection[Any], path: Path) -> tuple[str, str]:
    """What images and labels are called in a file that holds these entries.

    Raises:
        BadInput: it has no such pair, or several.
    """
    pairs = _pairs(held)
    if not pairs:
        what = f"holds no images and labels ({', '.join(map(str, held))[:100] or 'nothing'})"
        raise BadInput(path, what, "Call them images and labels. Is it another format?")
    if len(pairs) > 1:
        what = f"holds {' and '.join(f'({images}, {labels})' for images, labels in pairs)}"
        raise BadInput(path, what, "Save the images and labels that are meant without the others.")
    return pairs[0]


def pair_in(held: Collection[Any]) -> tuple[str, str] | None:
    """The first of :data:`NAMES` among the entries of a file."""
    return next(iter(_pairs(held)), None)


def _pairs(held: Collection[Any]) -> list[tuple[str, str]]:
    """All of :data:`NAMES` among the entries; of several, those that are arrays: ``data`` may be a data set's name."""
    pairs = [pair for pair in NAMES if set(pair) <= set(held)]
    if len(pairs) < 2 or not isinstance(held, Mapping):
        return pairs
    arrays = {name for name, value in held.items() if isinstance(value, Tensor | np.ndarray)}
    return [pair for pair in pairs if set(pair) <= arrays] or pairs


def from_arrays(
    images: Any,
    labels: Any,
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """A set of two stored arrays or tensors; the card says what range was found and what was assumed.

    Raises:
        BadInput: two readings are plausible (the line names the option that decides), or none is.
    """
    values = _tensor(images, path)
    kind = choice(options, "range", PLAIN_RANGES, default="") if "range" in options else ""
    table = kind == "standard" and values.ndim == 2
    x = values[:, None, None, :] if table else _channels_first(values, shape, options, path)
    if x.numel() == 0:
        raise BadInput(path, "holds no images", "An empty set cannot be audited.")
    low, high = float(x.min()), float(x.max())
    kind = kind or _only_range(x, low, high, path)
    if kind == "standard":
        notes = [f"stored values run from {low:g} to {high:g}, read as {kind}"]
        made = Pixels(x.float().contiguous(), notes)
    else:
        made = as_pixels(x, kind, mean=mean, std=std, where=path)
    targets, note = _labels.hard_or_soft(_labels.tensor(labels, path), path, options)
    card = Card(
        notes=[*made.notes, *filter(None, [note])],
        modality="tabular" if kind == "standard" else "image",
        space="standard" if kind == "standard" else "pixels",
        mean=made.mean,
        std=made.std,
    )
    return assemble(path, made.images, targets, num_classes=num_classes, card=card)


def _tensor(value: Any, path: Path) -> Tensor:
    """Integer or floating-point values of a stored array, finite, on the CPU."""
    if isinstance(value, np.ndarray):
        value = array_tensor(value, path, "images")
    if not isinstance(value, Tensor) or not is_plain(value):
        raise BadInput(path, f"images are {described(value)}, expected a numeric array")
    if value.dtype == torch.bool:
        raise BadInput(path, "images are true or false, expected numbers")
    afford(path, 4 * value.numel(), "pixels")
    tensor = widened(value.detach().cpu(), path, "images")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise BadInput(path, "images contain NaN or infinity", "Distillation probably diverged.")
    return tensor


def _channels_first(
    x: Tensor, shape: tuple[int, int, int] | None, options: Mapping[str, str], path: Path
) -> Tensor:
    """(N, C, H, W) of (N, H, W), (N, C, H, W) or (N, H, W, C)."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        todo = "Wanted: (N, C, H, W), (N, H, W, C) or (N, H, W); a table of (N, D) needs range=standard."
        raise BadInput(path, f"images have shape {tuple(x.shape)}", todo)
    last: Tensor = x.permute(0, 3, 1, 2)
    if "layout" in options:
        return last if choice(options, "layout", LAYOUTS, default="") == "nhwc" else x
    if shape is not None and (tuple(x.shape[1:]) == shape) != (tuple(last.shape[1:]) == shape):
        return x if tuple(x.shape[1:]) == shape else last
    fits = [y for y in (x, last) if y.shape[1] in (1, 3)]
    if len(fits) != 1:
        both = "its first and its last axis may" if fits else "neither axis can"
        what = f"images have shape {tuple(x.shape)}: {both} hold the channels"
        raise BadInput(path, what, "Pass --set layout=nchw or --set layout=nhwc.")
    return fits[0]


def _only_range(x: Tensor, low: float, high: float, path: Path) -> str:
    """The one range that values can be in; refused where there are two."""
    whole = not x.is_floating_point() or bool((x == x.round()).all())
    if low >= 0 and high <= 1 and not (whole and not x.is_floating_point()):
        return "0-1"
    if low >= 0 and _EIGHT_BITS < high <= 255 and whole:
        return "0-255"
    todo = f"Pass --set range={'|'.join(PLAIN_RANGES)}."
    if low < 0 and high <= 1 and low >= -1:
        plausible = "-1-1 or normalised (or 0-1 that overshoots)"
    elif low < 0:
        plausible = "normalised, or 0-1 or -1-1 that overshoots"
    elif high <= 1:
        plausible = "0-1 or 0-255: integers of 0 and 1"
    elif whole and high <= _EIGHT_BITS:
        plausible = "0-255, or another depth"
        todo = "Pass --set range=0-255, or divide them by the largest value."
    elif high <= 255:
        plausible = "0-255 or 0-1 that overshoots"
    elif whole and high <= 65535:
        plausible = "integers of 16 bits, say"
        todo = "Divide them by 65535, or by the largest value that they can have."
    else:
        plausible = "none of the usual ranges"
    what = (
        f"values run from {low:g} to {high:g} and the file does not say what they are: {plausible}"
    )
    raise BadInput(path, what, todo)
