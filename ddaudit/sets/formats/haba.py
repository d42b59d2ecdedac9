"""``haba``: bases and hallucinators of HaBa, decoded."""

from __future__ import annotations

import re
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
from ddaudit.sets.formats._pixels import images_4d
from ddaudit.sets.formats._safe import is_plain, load_torch
from ddaudit.sets.formats._zca import ZCA_OPTIONS, undo_preprocessing

_IMAGES = re.compile(r"images_(best|\d+)\.pt")
_PARTS = ("enc.weight", "enc.bias", "scale", "shift", "dec.weight", "dec.bias")


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``images_best.pt``, bases (K * n, C, H, W) class by class, and ``weights_best.pt``, the state of n_style
    hallucinators (of other iterations: ``images_IT.pt`` and ``styles_IT.pt``), and decode every base in every style.

    There, every batch of a network's training takes one random style. Labels are not stored: bases are equally many
    for each class. Images are normalised, and on colour sets whitened.

    Source: Huage001/DatasetFactorization, distill_fac.py and utils.py (StyleTranslator).
    """
    bases_file, styles_file = _find(path)
    bases = images_4d(load_torch(bases_file), bases_file)
    if bases.numel() == 0:
        raise BadInput(bases_file, "holds no bases", "An empty set cannot be audited.")
    styles = _styles(load_torch(styles_file), styles_file)
    if num_classes is None:
        raise BadInput(
            bases_file, "does not say how many classes its bases are of", "Pass --data NAME."
        )
    if len(bases) % num_classes:
        raise BadInput(
            bases_file, f"holds {len(bases)} bases, not equally many for {num_classes} classes"
        )
    per_class = len(bases) // num_classes
    images = decode(bases, styles, where=styles_file)
    pixels = undo_preprocessing(
        images, mean=mean, std=std, options=options, whitened=None, where=bases_file
    )
    labels = torch.arange(num_classes).repeat_interleave(per_class * len(styles))
    notes = [
        *pixels.notes,
        f"decoded: {per_class} bases of every class in {len(styles)} styles; images per class counts bases",
        "labels are those of the file's order, class by class",
    ]
    weights = sum(p.numel() for style in styles for p in style.values())
    stored = StorageBytes(images=4 * bases.numel(), labels=8 * len(labels), decoder=4 * weights)
    card = Card(
        method="haba", ipc=per_class, mean=pixels.mean, std=pixels.std, notes=notes, bytes=stored
    )
    return assemble(bases_file, pixels.images, labels, num_classes=num_classes, card=card)


def decode(bases: Tensor, styles: Sequence[Mapping[str, Tensor]], *, where: Path) -> Tensor:
    """(M * S, C', H, W): every base (M, C, H, W) in every style, the styles of a base next to each other.

    A style is a convolution, a scale and a shift for every position, and a transposed convolution.

    Raises:
        BadInput: weights that do not fit each other or the bases.
    """
    grown = len(styles) * len(bases) * styles[0]["dec.bias"].numel() * bases[0, 0].numel()
    afford(where, 8 * grown, "pixels")
    seen = []
    try:
        for style in styles:
            inner = F.conv2d(bases, style["enc.weight"], style["enc.bias"])
            inner = style["scale"] * inner + style["shift"]
            seen.append(F.conv_transpose2d(inner, style["dec.weight"], style["dec.bias"]))
        images = torch.stack(seen, 1).flatten(0, 1)
    except RuntimeError:
        raise BadInput(where, "hallucinators do not fit each other or the bases") from None
    if images.ndim != 4 or images.shape[2:] != bases.shape[2:]:
        raise BadInput(where, f"decodes {tuple(bases.shape[1:])} to {tuple(images.shape[1:])}")
    return images


def _find(path: Path) -> tuple[Path, Path]:
    """The files of bases and of hallucinators; of a folder the best, else the latest."""
    if path.is_dir():
        named = {m.group(1): p for p in path.iterdir() if (m := _IMAGES.fullmatch(p.name))}
        if not named:
            raise BadInput(path, "holds no images_best.pt or images_ITERATION.pt")
        path = named["best"] if "best" in named else named[max(named, key=int)]
    parsed = _IMAGES.fullmatch(path.name)
    if parsed is None:
        raise BadInput(path, "is not named images_best.pt or images_ITERATION.pt")
    tag = parsed.group(1)
    styles = path.with_name("weights_best.pt" if tag == "best" else f"styles_{tag}.pt")
    if not styles.is_file():
        raise BadInput(path, f"has no hallucinators beside it ({styles.name})")
    return path, styles


def _styles(content: Any, where: Path) -> list[dict[str, Tensor]]:
    """The weights of every hallucinator, by the names of its parts."""
    if not isinstance(content, Mapping) or not content:
        raise BadInput(where, "holds no state of hallucinators")
    count = len(content) // len(_PARTS)
    wanted = [{part: f"{i}.{part}" for part in _PARTS} for i in range(count)]
    names = {name for style in wanted for name in style.values()}
    if names != set(content):
        odd = next(iter(sorted(map(str, names ^ set(content)))), "")
        raise BadInput(where, f"is no state of hallucinators: '{odd[:40]}' is missing or too much")
    for name, value in content.items():
        if not isinstance(value, Tensor) or not is_plain(value) or not value.is_floating_point():
            raise BadInput(where, f"'{name}' is no tensor of numbers")
    return [
        {part: content[name].detach().cpu().float() for part, name in style.items()}
        for style in wanted
    ]


def sniff(path: Path) -> bool:
    """True for bases with hallucinators beside them, or a folder with both."""
    try:
        _find(path)
    except BadInput:
        return False
    return True


FORMATS.add(
    "haba",
    Format(
        name="haba",
        summary="images_best.pt + weights_best.pt of HaBa, bases and hallucinators (file or folder)",
        source="Huage001/DatasetFactorization",
        read=read,
        sniff=sniff,
        options=ZCA_OPTIONS,
    ),
)
