"""ZCA whitening, which files do not mention: undone with its transform, refused without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.sets.formats._base import flag
from ddaudit.sets.formats._pixels import RANGE_OPTION, Pixels, pixels_of, said, unnormalise
from ddaudit.sets.formats._safe import load_arrays

ZCA_OPTIONS = {
    "zca": "false: the images were never ZCA-whitened; true: they were",
    "transform": "file with the inverse whitening: FRePo's zca/*.npz, or kornia's transform_inv "
    "and mean_vector (.npz or .pt)",
    **RANGE_OPTION,
}
_KORNIA = ("transform_inv", "mean_vector")
_FREPO = ("rev_whitening_transform", "zca_mean")


def undo_preprocessing(
    images: Tensor,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
    whitened: bool | None,
    where: Path,
) -> Pixels:
    """Pixels of images that are normalised, and whitened or not.

    Args:
        images: (N, C, H, W) as stored.
        options: may hold ``zca``, ``transform`` and ``range``: a range of pixels says that they are not whitened.
        whitened: what the file itself says; None when it says nothing. Single-channel sets are
            never whitened in published code, and what is on an 8-bit grid is not: None means no for them.

    Raises:
        BadInput: whitened without a transform, or not known whether.
    """
    zca = flag(options, "zca")
    if "transform" in options:
        if zca is False:
            raise BadInput("--set zca=false", "contradicts --set transform", "Give one of them.")
        return _unwhiten(images, Path(options["transform"]), mean=mean, std=std, where=where)
    zca = whitened if zca is None else zca
    stated = options.get("range", "normalised") != "normalised"
    if zca is None and (images.shape[1] == 1 or stated or eight_bit(images, mean=mean, std=std)):
        zca = False
    if zca is None:
        raise BadInput(
            where,
            "does not say whether its images are ZCA-whitened, as most colour sets are",
            "If not, pass --set zca=false; if so, --set transform=FILE with the inverse transform.",
        )
    if zca:
        raise BadInput(
            where,
            "images are ZCA-whitened and the transform is not in the file",
            "Pass --set transform=FILE with the inverse, or --set zca=false if they are not.",
        )
    pixels = pixels_of(images, usual="normalised", mean=mean, std=std, options=options, where=where)
    notes = [*pixels.notes, *(["taken as not ZCA-whitened"] if images.shape[1] != 1 else [])]
    return replace(pixels, notes=notes)


def eight_bit(images: Tensor, *, mean: Sequence[float] | None, std: Sequence[float] | None) -> bool:
    """True where every value is a whole number of 255, as stored or once it is un-normalised.

    Whitening mixes all pixels of a picture, and leaves none on that grid. Nothing else that a file shows tells
    whitened from plain: pictures optimised from noise have no shapes to lose either, and of coloured Fashion-MNIST
    whitening leaves most of them.
    """
    readings = [images.double(), 255 * images.double()]
    if mean is not None and std is not None and len(mean) == len(std) == images.shape[1]:
        scale, shift = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (std, mean))
        readings.append(255 * (images * scale + shift))
    varied = bool(images.min() < images.max())
    return varied and any(bool(((x - x.round()).abs() < 1e-3).all()) for x in readings)


def _unwhiten(
    images: Tensor,
    transform: Path,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    where: Path,
) -> Pixels:
    """Apply a stored inverse whitening.

    kornia's (MTT family) is fitted on channels-first pixels in [0, 1]; FRePo's on channels-last,
    mean/std-normalised ones.
    """
    note = f"inverse ZCA by {transform.name}; networks see un-whitened pixels, unlike there"
    kornia = load_arrays(transform, _KORNIA)
    if kornia is not None:
        pixels = _affine(images, kornia["transform_inv"], kornia["mean_vector"], transform)
        return Pixels(pixels, [note])
    frepo = load_arrays(transform, _FREPO)
    if frepo is None:
        keys = " and ".join(_KORNIA) + ", nor " + " and ".join(_FREPO)
        raise BadInput(transform, f"holds neither {keys}", "See docs/formats.md for the layout.")
    last = images.permute(0, 2, 3, 1).contiguous()
    undone = _affine(last, frepo["rev_whitening_transform"], frepo["zca_mean"], transform)
    pixels = unnormalise(undone.permute(0, 3, 1, 2), mean=mean, std=std, where=where)
    notes = [note, said(mean, std)]
    return Pixels(
        pixels.contiguous(), notes, *(None if v is None else list(v) for v in (mean, std))
    )


def _affine(images: Tensor, matrix: Any, shift: Any, where: Path) -> Tensor:
    size = images[0].numel()
    if matrix.dtype.kind not in "fiu" or shift.dtype.kind not in "fiu":
        raise BadInput(where, f"transform is {matrix.dtype}, expected numbers")
    if matrix.shape != (size, size) or shift.size != size:
        what = f"transform is {matrix.shape} for images of {size} values"
        raise BadInput(where, what, "Is it the transform of this data set?")
    flat = images.flatten(1).double()
    undone = flat @ torch.from_numpy(np.array(matrix, dtype=np.float64))
    undone += torch.from_numpy(np.array(shift, dtype=np.float64)).view(1, -1)
    return undone.float().view(images.shape)
