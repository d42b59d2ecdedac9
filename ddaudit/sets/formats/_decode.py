"""Encoded pictures (PNG, JPEG, ...) to pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddaudit.containers import open_picture
from ddaudit.data.decode import GREY_MODES, check_depth, flatten, one_channel
from ddaudit.errors import BadInput
from ddaudit.files import afford

if TYPE_CHECKING:
    from PIL.Image import Image

_LOSSY = ("JPEG", "WEBP")
_PLAIN_NOTE = "images are 8-bit: pixels were clipped to [0, 1] and rounded"
_DEEP_NOTE = "16-bit pictures were scaled by their depth (65535 is white) to 8 bits"


def decode_images(
    encoded: Iterable[tuple[str, bytes]], *, shape: tuple[int, int, int] | None, where: Path
) -> tuple[Tensor, list[str]]:
    """(M, C, H, W) float32 of pictures' bytes, and notes on how they were stored.

    Args:
        encoded: (name, bytes) pairs.
        shape: (C, H, W) to expect; without it greyscale stays one channel if all images are grey.
        where: for messages.

    Raises:
        BadInput: not an image, not plain (see :func:`ddaudit.data.decode.flatten`), in colour where ``shape`` is grey,
            or not one size.
    """
    pictures: list[tuple[str, Image]] = []
    lossy, pixels, peaks = set[str](), 0, dict[str, int]()
    for name, data in encoded:
        picture = open_picture(data, f"{where}: {name}")
        pixels += picture.size[0] * picture.size[1]
        afford(where, 12 * pixels, "pixels")
        if picture.format in _LOSSY:
            lossy.add(picture.format)
        plain, peak = flatten(picture, f"{where}: {name}")
        if peak is not None:
            peaks[f"{where}: {name}"] = peak
        pictures.append((name, plain))
    if not pictures:
        raise BadInput(where, "holds no images", "An empty set cannot be audited.")
    check_depth(peaks)
    grey = shape[0] == 1 if shape else all(p.mode in GREY_MODES for _, p in pictures)
    first_name, first = pictures[0]
    size = (shape[2], shape[1]) if shape else first.size
    rows = []
    for name, picture in pictures:
        if picture.size != size:
            expected = "the data set's" if shape else f"that of {first_name}"
            what = f"is {picture.size[0]} x {picture.size[1]}, not {expected} {size[0]} x {size[1]}"
            raise BadInput(f"{where}: {name}", what, "All images must have one size.")
        flat = one_channel(picture, f"{where}: {name}") if grey else picture.convert("RGB")
        array = np.array(flat, dtype=np.uint8)
        rows.append(torch.from_numpy(array[None] if grey else array.transpose(2, 0, 1).copy()))
    kinds = " and ".join(sorted(lossy))
    stored = f"images are 8-bit {kinds}: the pixels carry its compression" if kinds else _PLAIN_NOTE
    notes = [stored, *([_DEEP_NOTE] if peaks else [])]
    return torch.stack(rows).float().div_(255.0), notes
