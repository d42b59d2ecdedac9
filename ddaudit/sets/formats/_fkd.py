"""Labels of views beside a folder of images: one file a batch, as FKD writes them (SRe2L, CDA, G-VBSM)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from ddaudit.errors import BadInput
from ddaudit.files import afford, files_below, kind_of
from ddaudit.sets._store import LabelStore
from ddaudit.sets.formats._safe import is_plain, load_torch

FKD_OPTIONS = {
    "fkd": "folder of the views' labels, epoch_0/batch_0.tar and so on",
    "fkd_seed": "what their order was drawn with, if not 42",
}
SEED = 42
"""``--fkd-seed`` of the public code."""
PROTOCOL = {
    "name": "sre2l", "batch_size": 1024, "lr": 1e-3, "weight_decay": 0.01, "augment": "", "optimiser": "adamw",
    "lr_schedule": "cosine", "loss": "kl", "temperature": 20.0, "labels": "store",
}  # fmt: skip
"""How networks are trained on views with labels: train_FKD.py of SRe2L with the numbers of its script."""
_TODO = "Expected what SRe2L's generate_soft_label.py writes, epoch_0/batch_0.tar and so on."
_PARTS = (6, 7)
"""With a seventh, as G-VBSM writes it: which images a batch is of."""
_ENOUGH = 200
"""Views by which it is decided whether answers name the classes of images."""


def read_store(folder: Path, labels: Tensor, order: Sequence[int], *, seed: int) -> LabelStore:
    """The label store of a set's images.

    A batch holds ``[coords, flip, mix_index, mix_lam, mix_bbox, logits]``, and G-VBSM's the numbers of its images as
    well. Without those they are the ones that a sampler with this seed draws, epoch after epoch.

    Args:
        folder: of ``epoch_E/batch_B.tar``.
        labels: (M,) int64 classes of the images.
        order: positions of the images as torchvision's ImageFolder counts them.
        seed: of the sampler.

    Raises:
        BadInput: other files, of other images or mixed by mixup, or drawn with another seed: their answers do not name
            the classes of these images.

    Source: VILA-Lab/SRe2L at 8d00cba, relabel/generate_soft_label.py, relabel/utils_fkd.py;
    shaoshitong/G_VBSM_Dataset_Condensation at 1ed80b0, relabel/generate_soft_label_with_db.py.
    """
    epochs, size = _epochs(folder), len(labels)
    at, parts = torch.tensor(order), list[LabelStore]()
    if not 0 <= seed < 2**63:
        raise BadInput(f"--set fkd_seed={seed}", "is no seed")
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(range(size), generator=generator)
    for number, batches in enumerate(epochs):
        parts.append(_epoch(batches, at, torch.tensor(list(sampler))))
        if number == 0:
            afford(folder, parts[0].num_bytes * len(epochs), "labels of views")
    mixed = parts[0].partners is not None
    if any((part.partners is not None) != mixed for part in parts):
        raise BadInput(folder, "mixes images in some epochs and in others not", _TODO)
    names = ("boxes", "flips", "logits", *(("partners", "patches") if mixed else ()))
    stacked = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    store = LabelStore(**stacked)
    _require_fit(store, labels, folder)
    return store


def _epochs(folder: Path) -> list[list[Path]]:
    """The batches of every epoch, in order."""
    if kind_of(folder) != "folder":
        raise BadInput(folder, "no such folder of labels", _TODO)
    found: dict[int, dict[int, Path]] = {}
    for file in files_below(folder, ".tar", depth=2):
        epoch = re.fullmatch(r"epoch_(\d{1,6})", file.parent.name)
        batch = re.fullmatch(r"batch_(\d{1,9})", file.stem)
        if epoch and batch:
            found.setdefault(int(epoch.group(1)), {})[int(batch.group(1))] = file
    if not found:
        raise BadInput(folder, "holds no labels of views", _TODO)
    for epoch_number, batches in found.items():
        if (missing := _gap(batches)) is not None:
            raise BadInput(folder, f"epoch_{epoch_number} lacks batch_{missing}.tar", _TODO)
    if (missing := _gap(found)) is not None:
        raise BadInput(folder, f"lacks epoch_{missing}", _TODO)
    return [[found[e][b] for b in range(len(found[e]))] for e in range(len(found))]


def _epoch(batches: Sequence[Path], at: Tensor, order: Tensor) -> LabelStore:
    """One epoch's store.

    Args:
        at: (M,) where the set holds the images that ImageFolder counts.
        order: (M,) their numbers in the order of the batches, where the batches do not say.
    """
    read = [_batch(file) for file in batches]
    if sum(len(batch.logits) for batch in read) != len(order):
        what = (
            f"holds labels of {sum(len(b.logits) for b in read)} views, the set {len(order)} images"
        )
        raise BadInput(batches[0].parent, what, "Is it of another set?")
    for file, batch in zip(batches, read, strict=True):
        if batch.kind != read[0].kind:
            raise BadInput(file, "holds labels of another kind than the batches before it", _TODO)
    named = [batch.images for batch in read if batch.images is not None]
    if named:
        order = torch.cat(named)
        if not torch.equal(order.sort().values, torch.arange(len(at))):
            what = f"does not name each of the {len(at)} images once"
            raise BadInput(batches[0].parent, what, "Is it of another set?")
    drawn = at[order]
    own = drawn.split([len(batch.logits) for batch in read])
    back = drawn.argsort()

    def joined(rows: list[Tensor]) -> Tensor:
        """(1, M, ...) in the order of the images."""
        return torch.cat(rows)[back][None]

    boxes, flips = joined([b.boxes for b in read]), joined([b.flips for b in read])
    logits = joined([b.logits for b in read])
    if read[0].patch is None:
        return LabelStore(boxes, flips, logits)
    partners = [mine[b.partners] for mine, b in zip(own, read, strict=True)]
    patches = [torch.tensor([b.patch] * len(b.logits), dtype=torch.int16) for b in read]
    return LabelStore(boxes, flips, logits, joined(partners).int(), joined(patches))


@dataclass(frozen=True)
class _Batch:
    """(B, 4) boxes, (B,) flips, (B, K) logits; (B,) partners in the batch and what they cover, numbers of the images,
    or None."""

    boxes: Tensor
    flips: Tensor
    logits: Tensor
    partners: Tensor | None = None
    patch: tuple[int, int, int, int] | None = None
    images: Tensor | None = None

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """Classes, whether images are mixed, and whether it says which they are."""
        return int(self.logits.shape[1]), self.patch is not None, self.images is not None


def _batch(file: Path) -> _Batch:
    """A batch of labels.

    Raises:
        BadInput: it is none.
    """
    content = load_torch(file)
    if not isinstance(content, list | tuple) or len(content) not in _PARTS:
        raise BadInput(file, "is no batch of labels of views", _TODO)
    coords, mirrored, index, _, box, said, *rest = content
    if rest and not (_tensor(rest[0], 1) and not rest[0].is_floating_point()):
        raise BadInput(file, "does not say in numbers which images it is of", _TODO)
    images = rest[0].long() if rest else None
    if not (
        _tensor(coords, 2) and _tensor(mirrored, 1) and _tensor(said, 2)
        and len(coords) == len(mirrored) == len(said) > 0 and coords.shape[1] == 4
        and (images is None or len(images) == len(said))
    ):  # fmt: skip
        raise BadInput(file, "is no batch of labels of views", _TODO)
    if index is None and box is None:
        return _Batch(coords.float(), mirrored.bool(), said.half(), images=images)
    if box is None:
        raise BadInput(
            file,
            "mixes images by mixup, which a label store does not keep",
            "Write the labels with --mix-type cutmix.",
        )
    fits = _tensor(index, 1) and len(index) == len(said) and not index.is_floating_point()
    if not fits or not bool(((index >= 0) & (index < len(said))).all()):
        raise BadInput(file, "mixes images with others that are not in the batch", _TODO)
    if not (
        isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(v, int) for v in box)
    ):
        raise BadInput(file, "has no rectangle for what is mixed", _TODO)
    top, left, bottom, right = box  # rows first: the code slices [bbx1:bbx2, bby1:bby2] of (H, W)
    if not (0 <= top <= bottom < 2**15 and 0 <= left <= right < 2**15):
        raise BadInput(file, "has a rectangle that is none", _TODO)
    patch = (top, left, bottom - top, right - left)
    return _Batch(coords.float(), mirrored.bool(), said.half(), index.long(), patch, images)


def _tensor(value: Any, dims: int) -> bool:
    return isinstance(value, Tensor) and is_plain(value) and value.ndim == dims


def _gap(numbers: Mapping[int, object]) -> int | None:
    """The first number from 0 on that is not there; None where all are."""
    return next((n for n in range(len(numbers)) if n not in numbers), None)


def _require_fit(store: LabelStore, labels: Tensor, folder: Path) -> None:
    """Refuse answers that name the images' classes no more often than those of other images.

    A view shows its image and a partner, and either may be named. Held against the same answers one class further:
    what is drawn with another seed, or is of another set, names neither more often. Asked of some epochs at a time,
    so that none hides behind others.
    """
    classes, seen = int(store.logits.shape[-1]), len(labels.unique())
    if int(labels.max()) >= classes:
        what = f"holds labels of {classes} classes, and the images are of {int(labels.max()) + 1}"
        raise BadInput(folder, what, "Is it of another set?")
    if seen == 1:
        return
    other = labels.roll(max(1, len(labels) // seen))
    many = max(1, min(len(store), -(-_ENOUGH // len(labels))))
    starts = range(0, len(store) - many + 1, many)
    for start in starts:
        part = slice(start, len(store) if start == starts[-1] else start + many)
        found, chance = _named(store, part, labels), _named(store, part, other)
        views = len(labels) * len(store.flips[part])
        spread = math.sqrt((found * (1 - found) + chance * (1 - chance)) / views)
        if found - chance <= 3 * spread:
            what = (
                f"from epoch_{start} on, {found:.0%} of the views' labels name the class of their image or its "
                f"partner, {chance:.0%} that of others"
            )
            todo = "Is it of another set, or drawn with another seed (--set fkd_seed=N)?"
            raise BadInput(folder, what, todo)


def _named(store: LabelStore, part: slice, classes: Tensor) -> float:
    """Share of some epochs' labels that name the class (M,) of their image or of its partner."""
    said = store.logits[part].argmax(-1)
    right = said == classes
    if store.partners is not None:
        right |= said == classes[store.partners[part].long()]
    return float(right.double().mean())
