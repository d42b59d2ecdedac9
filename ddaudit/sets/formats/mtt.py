"""``mtt``: image and label files of the trajectory-matching family (MTT, TESLA, FTD, DATM, PAD)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.sets._types import Card, DistilledSet
from ddaudit.sets.formats import _labels, haba
from ddaudit.sets.formats._base import FORMATS, Format, assemble
from ddaudit.sets.formats._pixels import Pixels, images_4d
from ddaudit.sets.formats._safe import load_torch
from ddaudit.sets.formats._soft import SOFT_OPTIONS
from ddaudit.sets.formats._zca import ZCA_OPTIONS, undo_preprocessing

_IMAGES = re.compile(r"(?P<average>ema_)?images_(?P<view>zca_)?(?P<tag>best|\d+)\.pt")


_MOST_LR = 1000


@dataclass(frozen=True)
class _Pair:
    images: Path
    labels: Path
    tag: str
    unwhitened: bool
    """True for MTT's own inverse-ZCA view, which is in pixel space already."""


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``images_TAG.pt`` and ``labels_TAG.pt``, two bare tensors in one folder.

    Images are (C * ipc, ch, H, W), normalised, or whitened (ZCA) where the run used ``--zca``; the
    file does not say which, but a folder that holds ``images_zca_*.pt`` was. Those files are the
    inverse-ZCA view, in pixel space, and can be imported as they are. Labels are int64 (MTT, TESLA,
    FTD) or float logits (DATM, PAD).

    FTD writes the moving averages of its images as ``ema_images_TAG.pt`` and ``ema_labels_TAG.pt``; its
    paper's numbers are theirs.

    Source: GeorgeCazenavette/mtt-distillation, distill.py and utils.py; NUS-HPC-AI-Lab/DATM,
    distill/DATM.py; AngusDujw/FTD-distillation, distill/distill_FTD.py.
    """
    pair = _find(path, options)
    images = images_4d(load_torch(pair.images), pair.images)
    stored = _labels.tensor(load_torch(pair.labels), pair.labels)
    labels, label_note = _labels.hard_or_soft(stored, pair.labels, options)
    if len(labels) != len(images):
        raise BadInput(pair.labels, f"holds {len(labels)} labels for {len(images)} images")
    if pair.unwhitened:
        view = "the run's own inverse-ZCA view: networks see un-whitened pixels, unlike there"
        pixels = Pixels(images, [view])
    else:
        whitened = True if any(pair.images.parent.glob("images_zca_*.pt")) else None
        pixels = undo_preprocessing(
            images, mean=mean, std=std, options=options, whitened=whitened, where=pair.images
        )
    lr = _learned_lr(pair)
    notes = [*pixels.notes, *filter(None, [label_note]), *_remarks(pair, lr)]
    if num_classes == 100 and pixels.mean is not None:
        notes.append("MTT's code normalises CIFAR-100 with the constants of CIFAR-10")
    card = Card(mean=pixels.mean, std=pixels.std, notes=notes, learned_lr=lr)
    return assemble(pair.images, pixels.images, labels, num_classes=num_classes, card=card)


def _find(path: Path, options: Mapping[str, str]) -> _Pair:
    if path.is_dir():
        path = _best_of(path)
    named = _IMAGES.fullmatch(path.name)
    tag = named["tag"] if named else ""
    if "labels_file" in options:
        labels = Path(options["labels_file"])
    elif named:
        labels = path.with_name(f"{named['average'] or ''}labels_{tag}.pt")
    else:
        what = "is not named images_best.pt or images_ITERATION.pt"
        raise BadInput(path, what, "Name the file with its labels: --set labels_file=FILE.")
    if not labels.is_file():
        todo = "Both files of the pair are needed; --set labels_file=FILE names the other one."
        raise BadInput(path, f"has no labels file {labels.name}", todo)
    return _Pair(path, labels, tag, bool(named and named["view"]))


def _best_of(folder: Path) -> Path:
    """``images_best.pt``, else FTD's averages, else the latest iteration; DATM puts them in a folder ``Normal``."""
    for place in (folder, folder / "Normal"):
        for best in ("images_best.pt", "ema_images_best.pt"):
            if (place / best).is_file():
                return place / best
        tagged = [(p, _IMAGES.fullmatch(p.name)) for p in place.glob("*images_*.pt")]
        numbered = [(int(m["tag"]), p) for p, m in tagged if m and not m["view"]]
        if numbered:
            return max(numbered)[1]
    raise BadInput(folder, "holds no images_best.pt or images_ITERATION.pt")


def _learned_lr(pair: _Pair) -> float | None:
    """The rate in ``lr_TAG.pt``; None without one, or where it is no rate (it may diverge below 0)."""
    file = pair.images.with_name(f"lr_{pair.tag}.pt")
    value = load_torch(file) if pair.tag and file.is_file() else None
    if isinstance(value, Tensor) and value.numel() == 1:
        value = float(value.detach().double())
    return value if isinstance(value, float) and 0 < value <= _MOST_LR else None


def _remarks(pair: _Pair, lr: float | None) -> list[str]:
    """What a reader must know of a set that was tuned like these."""
    remarks = []
    if pair.tag == "best":
        remarks.append("images_best is the iteration with the best TEST accuracy: it is optimistic")
    rate = "not in the files, or no rate" if lr is None else f"{lr:.6g} (lr_{pair.tag}.pt)"
    use = "audits use their own unless asked for the card's"
    return [*remarks, f"the learned student learning rate is {rate}; {use}"]


def sniff(path: Path) -> bool:
    """True for an images file of a pair, or a folder with one; with hallucinators beside it it is HaBa's."""
    if haba.sniff(path):
        return False
    if path.is_dir():
        places = (path, path / "Normal")
        return any(
            _IMAGES.fullmatch(p.name) for place in places for p in place.glob("*images_*.pt")
        )
    return _IMAGES.fullmatch(path.name) is not None


FORMATS.add(
    "mtt",
    Format(
        name="mtt",
        summary="images_best.pt + labels_best.pt of MTT, TESLA, FTD, DATM, PAD (file or folder)",
        source="GeorgeCazenavette/mtt-distillation",
        read=read,
        sniff=sniff,
        options={
            **ZCA_OPTIONS,
            **SOFT_OPTIONS,
            "labels_file": "the labels file, where it is not named labels_TAG.pt",
        },
    ),
)
