"""Encoded images (PNG, JPEG) to pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddaudit.containers import open_picture
from ddaudit.errors import BadInput
from ddaudit.files import afford

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY = ("1", "L")
_MODES = (*_GREY, "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr")


def decode_images(
    encoded: Iterable[tuple[str, bytes]], *, shape: tuple[int, int, int] | None, where: Path
) -> tuple[Tensor, bool]:
    """(M, C, H, W) float32 of PNG or JPEG bytes, and whether any of them was a JPEG.

    Args:
        encoded: (name, bytes) pairs.
        shape: (C, H, W) to expect; without it greyscale stays one channel if all images are grey.
        where: for messages.

    Raises:
        BadInput: not an image, or not one size.
    """
    pictures: list[tuple[str, Image]] = []
    jpeg, pixels = False, 0
    for name, data in encoded:
        picture = open_picture(data, f"{where}: {name}", formats=("PNG", "JPEG"))
        pixels += picture.size[0] * picture.size[1]
        afford(where, 12 * pixels, "pixels")
        if picture.mode not in _MODES:
            raise BadInput(f"{where}: {name}", f"has pixel type {picture.mode}, expected 8 bits")
        jpeg = jpeg or picture.format == "JPEG"
        pictures.append((name, picture))
    if not pictures:
        raise BadInput(where, "holds no images", "An empty set cannot be audited.")
    grey = shape[0] == 1 if shape else all(p.mode in _GREY for _, p in pictures)
    first_name, first = pictures[0]
    size = (shape[2], shape[1]) if shape else first.size
    rows = []
    for name, picture in pictures:
        if picture.size != size:
            expected = "the data set's" if shape else f"that of {first_name}"
            what = f"is {picture.size[0]} x {picture.size[1]}, not {expected} {size[0]} x {size[1]}"
            raise BadInput(f"{where}: {name}", what, "All images must have one size.")
        array = np.array(picture.convert("L" if grey else "RGB"), dtype=np.uint8)
        rows.append(torch.from_numpy(array[None] if grey else array.transpose(2, 0, 1).copy()))
    return torch.stack(rows).float().div_(255.0), jpeg


JPEG_NOTE = "images are 8-bit JPEG: the pixels carry its compression"
PNG_NOTE = "images are 8-bit: pixels were clipped to [0, 1] and rounded"
