"""``idc``: un-decoded multi-formation files of IDC, IDC-I and DREAM."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.errors import BadInput
from ddaudit.files import read_json
from ddaudit.sets._types import Card, DistilledSet, StorageBytes
from ddaudit.sets.formats import _labels
from ddaudit.sets.formats._base import FORMATS, Format, assemble, balanced, choice, integer
from ddaudit.sets.formats._pixels import RANGE_OPTION, images_4d, pixels_of
from ddaudit.sets.formats._safe import load_torch


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``data.pt`` = ``[X, y]``, X (C * ipc, ch, H, W) in pixel space, and decode it.

    With factor f every stored image is f x f small ones: decoding cuts it and enlarges the pieces
    to full size, f * f images for each stored one. The factor is taken from ``factor``, else from
    the run's ``args.txt`` beside the file, else from ``factorN`` in the folder's name, else 1.

    Source: snu-mllab/Efficient-Dataset-Condensation, condense.py and test.py (decode_zoom).
    """
    file = path / "data.pt" if path.is_dir() else path
    content = load_torch(file)
    if not isinstance(content, list | tuple) or len(content) != 2:
        raise BadInput(
            file, "is not a pair [images, labels]", "Is it another format? Try --format dc."
        )
    images = images_4d(content[0], file)
    labels = _labels.hard(_labels.tensor(content[1], file), file)
    if len(images) != len(labels):
        raise BadInput(file, f"holds {len(labels)} labels for {len(images)} images")
    if images.numel() == 0:
        raise BadInput(file, "holds no images", "An empty set cannot be audited.")
    run = _run_of(file)
    factor = integer(options, "factor", default=run.factor or 1)
    kind = choice(options, "decode", ("single", "multi"), default=run.decode)
    if factor < 1 or factor > min(images.shape[2:]):
        raise BadInput(
            f"--set factor={factor}", f"does not fit images of {tuple(images.shape[2:])}"
        )
    stored = pixels_of(images, usual="0-1", mean=mean, std=std, options=options, where=file)
    notes = _notes(factor, kind, known="factor" in options or run.factor is not None)
    pixels, decoded_labels = decode(stored.images, labels, factor=factor, kind=kind, where=file)
    card = Card(
        data=run.data,
        ipc=balanced(labels),
        mean=stored.mean,
        std=stored.std,
        bytes=StorageBytes(images=4 * stored.images.numel(), labels=8 * len(labels)),
        notes=[*stored.notes, *notes],
    )
    return assemble(file, pixels, decoded_labels, num_classes=num_classes, card=card)


def decode(
    images: Tensor, labels: Tensor, *, factor: int, kind: str, where: Path
) -> tuple[Tensor, Tensor]:
    """Cut stored images into factor x factor pieces and enlarge each to full size.

    Args:
        images: (M, C, S, S).
        labels: (M,).
        kind: "single" decodes with ``factor``; "multi" with 1, 2, ... ``factor`` in turn.

    Returns:
        (M * n, C, S, S) and (M * n,), class by class, piece by piece within a class as the source
        orders them; n = factor ** 2, or 1 + 4 + ... + factor ** 2.

    Raises:
        BadInput: images are not square.
    """
    if factor == 1:
        return images, labels
    if images.shape[2] != images.shape[3]:
        raise BadInput(
            where, f"images of {tuple(images.shape[2:])} cannot be decoded", "Not square."
        )
    factors = range(1, factor + 1) if kind == "multi" else (factor,)
    out_images, out_labels = [], []
    for label in torch.unique(labels, sorted=True):  # type: ignore[no-untyped-call]
        mine = images[labels == label]
        for f in factors:
            pieces = _zoom(mine, f)
            out_images.append(pieces)
            out_labels.append(label.expand(len(pieces)))
    return torch.cat(out_images), torch.cat(out_labels)


def _zoom(images: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return images
    size = images.shape[-1]
    rest = size % factor
    if rest:
        images = F.pad(images, (0, factor - rest, 0, factor - rest), value=0.5)
    side = ceil(size / factor)
    rows = [images[:, :, i * side : (i + 1) * side] for i in range(factor)]
    pieces = [row[:, :, :, j * side : (j + 1) * side] for row in rows for j in range(factor)]
    return F.interpolate(torch.cat(pieces), size=(size, size), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class _Run:
    factor: int | None = None
    decode: str = "single"
    data: str | None = None


def _run_of(file: Path) -> _Run:
    """What the run's ``args.txt`` (JSON) or its folder's name says."""
    args: Any = None
    record = file.with_name("args.txt")
    if record.is_file():
        with contextlib.suppress(BadInput):  # another program's args.txt
            args = read_json(record)
    if isinstance(args, dict) and isinstance(args.get("factor"), int):
        kind = args.get("decode_type")
        data = args.get("dataset")
        return _Run(
            factor=max(1, args["factor"]),
            decode=kind if kind in ("single", "multi") else "single",
            data=data if isinstance(data, str) else None,
        )
    named = re.search(r"factor(\d+)", file.parent.name)
    return _Run(factor=int(named.group(1))) if named else _Run()


def _notes(factor: int, kind: str, *, known: bool) -> list[str]:
    if factor > 1:
        how = f"factors 1 to {factor}" if kind == "multi" else f"factor {factor}"
        return [f"decoded with {how}; images per class counts the stored images"]
    if known:
        return []
    return ["not decoded: no factor was given or found (IDC's own files use 2, on ImageNet 3)"]


def sniff(path: Path) -> bool:
    """True for ``data.pt``, or a folder with one."""
    return path.name == "data.pt" or (path / "data.pt").is_file()


FORMATS.add(
    "idc",
    Format(
        name="idc",
        summary="data.pt of IDC, IDC-I, DREAM (file or folder)",
        source="snu-mllab/Efficient-Dataset-Condensation",
        read=read,
        sniff=sniff,
        options={
            "factor": "multi-formation factor; default: from args.txt or the folder's name, else 1",
            "decode": "single or multi; default: from args.txt, else single",
            **RANGE_OPTION,
        },
    ),
)
