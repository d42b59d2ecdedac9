"""``rtp``: addressable memories of RTP, decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.files import afford
from ddaudit.sets._types import Card, DistilledSet, StorageBytes
from ddaudit.sets.formats._base import FORMATS, Format, assemble
from ddaudit.sets.formats._safe import is_plain, load_torch
from ddaudit.sets.formats._zca import ZCA_OPTIONS, undo_preprocessing


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``*_compressor.pt`` = ``{'compressor': {'basis.weight': (B, c * h * w), 'imgs.weight': (K * n, B)}}``.

    An image is its address times the bases, enlarged bilinearly to the images' size; without ``basis.weight`` the rows
    of ``imgs.weight`` are images. Rows are class by class. Values are normalised, or whitened.

    Source: princetonvisualai/RememberThePast-DatasetDistillation, compressors/imgs_embedding_basis_minibatch.py and
    runners/sgld_runner_standard.py.
    """
    memory = _memory(load_torch(path), path)
    if num_classes is None or shape is None:
        raise BadInput(path, "says neither classes nor image size", "Pass --data NAME.")
    addresses, bases = memory["imgs.weight"], memory.get("basis.weight")
    if len(addresses) % num_classes:
        raise BadInput(
            path, f"holds {len(addresses)} images, not equally many for {num_classes} classes"
        )
    images = decode(addresses, bases, shape=shape, where=path)
    pixels = undo_preprocessing(
        images, mean=mean, std=std, options=options, whitened=None, where=path
    )
    per_class = len(addresses) // num_classes
    stored = sum(m.numel() for m in memory.values())
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    notes = [
        *pixels.notes,
        f"decoded: {per_class} images of every class; images per class counts what the same numbers would hold",
        "labels are those of the file's order, class by class",
    ]
    card = Card(
        method="rtp",
        ipc=max(1, round(stored / (num_classes * math.prod(shape)))),
        mean=pixels.mean,
        std=pixels.std,
        notes=notes,
        bytes=StorageBytes(images=4 * stored, labels=8 * len(labels)),
    )
    return assemble(path, pixels.images, labels, num_classes=num_classes, card=card)


def decode(
    addresses: Tensor, bases: Tensor | None, *, shape: tuple[int, int, int], where: Path
) -> Tensor:
    """(M, C, H, W) images of addresses (M, B) and bases (B, c * h * w), or of images as rows.

    Raises:
        BadInput: bases of no size that is a whole part of the images'.
    """
    channels, height, width = shape
    afford(where, 4 * len(addresses) * math.prod(shape), "pixels")
    flat = addresses if bases is None else bases
    for scale in range(1, min(height, width) + 1):
        small = (channels, height // scale, width // scale)
        if flat.shape[1] == math.prod(small):
            break
    else:
        what = f"rows of {flat.shape[1]} numbers are no images of {shape}, nor smaller ones"
        raise BadInput(where, what, "Is it a memory of other data? Pass the right --data.")
    if bases is not None and addresses.shape[1] != len(bases):
        what = f"addresses of {addresses.shape[1]} numbers for {len(bases)} bases"
        raise BadInput(where, what)
    images = (addresses if bases is None else addresses @ bases).view(-1, *small)
    if small == shape:
        return images
    return F.interpolate(images, size=shape[1:], mode="bilinear", align_corners=False)


def _memory(content: Any, where: Path) -> dict[str, Tensor]:
    """The two matrices, or the one."""
    state = content.get("compressor") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or "imgs.weight" not in state:
        raise BadInput(where, "holds no memory ('compressor', 'imgs.weight')")
    memory = {}
    for name in ("imgs.weight", "basis.weight"):
        value = state.get(name)
        if value is None:
            continue
        plain = isinstance(value, Tensor) and is_plain(value) and value.is_floating_point()
        if not plain or value.ndim != 2 or value.numel() == 0:
            raise BadInput(where, f"'{name}' is no matrix of numbers")
        memory[name] = value.detach().cpu().float()
    return memory


def sniff(path: Path) -> bool:
    """True by the name that the source gives its files."""
    return path.is_file() and path.name.endswith("_compressor.pt")


FORMATS.add(
    "rtp",
    Format(
        name="rtp",
        summary="*_compressor.pt of RTP, a memory of bases and addresses",
        source="princetonvisualai/RememberThePast-DatasetDistillation",
        read=read,
        sniff=sniff,
        options=ZCA_OPTIONS,
    ),
)
