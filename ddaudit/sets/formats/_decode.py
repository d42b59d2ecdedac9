"""Encoded images (PNG, JPEG) to pixels in [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddaudit.errors import BadInput

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
    from PIL import Image  # slow to import, and only these formats need it

    pictures: list[tuple[str, Image.Image]] = []
    jpeg = False
    for name, data in encoded:
        try:
            picture: Image.Image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
            picture.load()
        except Exception as err:  # Pillow raises a dozen kinds for damaged or oversized files
            raise BadInput(f"{where}: {name}", "is not a readable PNG or JPEG image") from err
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
