"""From the value ranges in circulation back to pixels in [0, 1]: normalisation, ZCA, layout."""

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
from ddaudit.sets.formats._base import flag
from ddaudit.sets.formats._safe import array_tensor, load_arrays

ZCA_OPTIONS = {
    "zca": "false: the images were never ZCA-whitened; true: they were",
    "transform": "file with the inverse whitening: FRePo's zca/*.npz, or kornia's transform_inv "
    "and mean_vector (.npz or .pt)",
}
_KORNIA = ("transform_inv", "mean_vector")
_FREPO = ("rev_whitening_transform", "zca_mean")


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
        options: may hold ``zca`` and ``transform``.
        whitened: what the file itself shows; None when it shows nothing. Single-channel sets are
            never whitened in published code, so None means no for them.

    Raises:
        BadInput: whitened without a transform, or not known whether.
    """
    zca = flag(options, "zca")
    if "transform" in options:
        if zca is False:
            raise BadInput("--set zca=false", "contradicts --set transform", "Give one of them.")
        return _unwhiten(images, Path(options["transform"]), mean=mean, std=std, where=where)
    zca = whitened if zca is None else zca
    if zca is None and images.shape[1] == 1:
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
    notes = [said(mean, std)]
    if images.shape[1] != 1:
        notes.append("taken as not ZCA-whitened")
    pixels = unnormalise(images, mean=mean, std=std, where=where)
    return Pixels(pixels, notes, _listed(mean), _listed(std))


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
    return Pixels(pixels.contiguous(), notes, _listed(mean), _listed(std))


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


def _listed(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else list(values)
