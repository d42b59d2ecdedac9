"""Encoded pictures (PNG, JPEG, ...) to one uint8 tensor; every error names the file at fault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ddaudit.containers import open_picture
from ddaudit.data.classes import spelled
from ddaudit.errors import BadInput
from ddaudit.files import afford

if TYPE_CHECKING:
    from PIL.Image import Image

GREY_MODES = ("1", "L")
"""PIL modes of :func:`flatten`'s result that hold one channel of light."""
_COLOUR_MODES = ("P", "RGB", "RGBX", "CMYK", "YCbCr")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_TWELVE_BITS = 4095
_SAME_LEVEL = 8
"""Levels of 255 that the channels of a grey picture may be apart once JPEG has stored it in colour."""


def decode_images(
    sources: Iterable[tuple[str, bytes | Path]], *, size: int, channels: int | None = None
) -> Tensor:
    """Decode pictures that must end up with one shape.

    Args:
        sources: (name for messages, encoded bytes or file) of each picture.
        size: 0 keeps the stored size; else the shorter side is resized to it and the centre
            square cut out.
        channels: 1 or 3, of the data; None: 1 when every picture is grey, else 3.

    Returns:
        (N, C, H, W) uint8.

    Raises:
        BadInput: a picture that cannot be read or is not plain (see :func:`flatten`), in colour where one channel was
            asked for, or sizes that differ.
    """
    pictures, grey, held, peaks = [], True, 0, dict[str, int]()
    shape: tuple[int, ...] | None = None
    for name, source in sources:
        with open_picture(source, name) as stored:
            picture, peak = flatten(stored, name)
            grey = grey and picture.mode in GREY_MODES
            array = _array(picture, name, size=size, channels=channels)
        if peak is not None:
            peaks[name] = peak
        if shape is not None and array.shape[:2] != shape[:2]:
            what = f"is {_wh(array.shape)} pixels but the pictures before it are {_wh(shape)}"
            raise BadInput(name, what, "Add size=32 (or another side length) to the data spec.")
        shape = array.shape
        held += array.nbytes
        afford(name, held, "pixels of this picture and those before it")
        pictures.append(array)
    check_depth(peaks)
    stacked = np.stack(pictures)
    if channels == 1 or (channels is None and grey):
        # The three channels of a converted grey picture are equal.
        stacked = stacked[..., :1]
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))


def flatten(picture: Image, name: str) -> tuple[Image, int | None]:
    """The picture with 8 bits per channel and without alpha, and the largest value where it had 16 bits.

    16 bits of grey are scaled by their depth: 65535 is white. Alpha that hides nothing is left out.

    Raises:
        BadInput: several frames; 32 bits or floating point, whose white nobody states; transparent pixels, which look
            different on every background; a pixel type that is no picture.
    """
    from PIL import Image

    if (frames := getattr(picture, "n_frames", 1)) > 1:
        raise BadInput(
            name, f"holds {frames} frames, expected one picture", "Store the one that is meant."
        )
    mode, hidden = picture.mode, "transparency" in picture.info
    if mode.startswith("I;16") and not hidden:
        values = np.asarray(picture).astype(np.uint16)
        return Image.fromarray((values / 257.0).round().astype(np.uint8)), int(values.max())
    if mode in _ALPHA_MODES or (hidden and mode in (*GREY_MODES, *_COLOUR_MODES)):
        opaque = picture.convert("RGBA")
        if np.asarray(opaque.getchannel("A")).min() < 255:
            what = "has transparent pixels, and no background is stated"
            raise BadInput(
                name, what, "Flatten it onto its background, or remove its alpha channel."
            )
        return opaque.convert("L" if mode in (*GREY_MODES, "LA", "La") else "RGB"), None
    if mode not in (*GREY_MODES, *_COLOUR_MODES):
        kind = {"F": "floating point", "I": "32 bits"}.get(mode, mode)
        what = f"has pixels of {kind}, and nothing says which value is white"
        raise BadInput(name, what, "Scale it to 8 bits (255 is white) or 16 bits (65535 is white).")
    return picture, None


def one_channel(picture: Image, name: str) -> Image:
    """The grey picture of one that may be stored in colour.

    Args:
        picture: of :func:`flatten`.

    Raises:
        BadInput: its channels differ: it is in colour, and the data are grey.
    """
    if picture.mode not in GREY_MODES:
        levels = np.asarray(picture.convert("RGB"))
        if int((levels.max(2) - levels.min(2)).max(initial=0)) > _SAME_LEVEL:
            todo = "Convert it to grey where that is meant, or use data in colour."
            raise BadInput(name, "has 3 channels, the data 1", todo)
    return picture.convert("L")


def check_depth(peaks: Mapping[str, int]) -> None:
    """Refuse 16-bit pictures that hold fewer bits, which would all be dark.

    Args:
        peaks: largest value of each 16-bit picture, by name.

    Raises:
        BadInput: none of them goes beyond 12 bits.
    """
    if peaks and max(peaks.values()) <= _TWELVE_BITS:
        name, peak = max(peaks.items(), key=lambda item: item[1])
        what = f"is of 16 bits, but no picture has a value above {peak}: 12 bits or fewer, or dark"
        raise BadInput(name, what, "Scale the pictures to 8 bits, or so that 65535 is white.")


def index_classes(names: Sequence[str], known: Sequence[str], *, where: object) -> Tensor:
    """(N,) int64 position of each name in ``known``.

    Raises:
        BadInput: a name that is not known.
    """
    position = {name: number for number, name in enumerate(known)}
    own = [spelled(name) for name in names]
    for name in own:
        if name not in position:
            what = f"holds class '{name}', which the training data does not have"
            raise BadInput(where, what, f"Training classes: {', '.join(known)}.")
    return torch.tensor([position[name] for name in own], dtype=torch.int64)


def _array(picture: Image, name: str, *, size: int, channels: int | None) -> np.ndarray:
    """(H, W, C) uint8 with C = 3, or 1 when one channel was asked for."""
    from PIL import Image

    picture = one_channel(picture, name) if channels == 1 else picture.convert("RGB")
    if size and picture.size != (size, size):
        width, height = picture.size
        scale = size / min(width, height)
        wide, high = max(size, round(width * scale)), max(size, round(height * scale))
        afford(name, wide * high * 4, "pixels at that size")
        picture = picture.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = (wide - size) // 2, (high - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    array = np.asarray(picture, dtype=np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _wh(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def in_colour(image: Tensor) -> Tensor:
    """(C, H, W) of 1 to 4 channels -> (3, H, W), for looking at: of two their mean, of four the first three."""
    if len(image) < 3:
        image = image.mean(0, keepdim=True)
    return image.expand(3, -1, -1) if len(image) == 1 else image[:3]
