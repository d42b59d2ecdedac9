"""``image-folder``: one folder per class (SRe2L, CDA, G-VBSM, RDED, or anybody's)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ddaudit.data.classes import class_order, spelled
from ddaudit.data.files import PICTURES
from ddaudit.errors import BadInput
from ddaudit.files import files_below, is_hidden, kind_of, read_bytes
from ddaudit.sets._types import Card, DistilledSet, StorageBytes
from ddaudit.sets.formats._base import FORMATS, Format, assemble, choice, integer
from ddaudit.sets.formats._decode import decode_images
from ddaudit.sets.formats._fkd import FKD_OPTIONS, PROTOCOL, SEED, read_store

_DEEPEST = 20
"""Folders down that files are looked for which nobody reads."""


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``CLASS/*.png``, or pictures of the other kinds that data sets have.

    Folders named by one word and a number, or a number alone, are classes by that number where the numbers are
    class indices (``new000``, ``00003``); other folders are classes in the order of their names. The names go on the
    card, and where data are given that know the same names, names decide. Hidden folders are no classes.
    Files that are not read are noted. The option ``fkd`` names a folder of labels of their views, one file a batch.

    Source: VILA-Lab/SRe2L and LINs-lab/RDED folder layouts; torchvision ImageFolder.
    """
    if kind_of(path) != "folder":
        raise BadInput(path, "is not a folder", "Give the folder that holds one folder per class.")
    classes = _class_folders(path)
    if not classes:
        what = f"holds no class folders with pictures ({', '.join(PICTURES)})"
        raise BadInput(path, what, "Expected CLASS/IMAGE.png, one folder per class.")
    left_out = _left_out(path, classes)
    names = [spelled(folder.name) for folder in classes]
    start = choice(options, "from", ("0", "1"), default="") if "from" in options else ""
    numbered = _numbered(names, num_classes, start=int(start or 0))
    if numbered is not None:
        if 0 not in numbered[0] and not start:
            listed = ", ".join(names[:3]) + (", .." if len(names) > 3 else "")
            what = f"holds folders {listed} and none for class 0: they may count from 0 or from 1"
            todo = "Pass --set from=0 or --set from=1, or name folders by class."
            raise BadInput(path, what, todo)
        indices, class_names = numbered
        note = "classes are the numbers in the folder names"
    else:
        class_names = list(class_order(names))
        indices = [class_names.index(name) for name in names]
        note = "classes are the folders by name, in order of numbers or alphabet"
    ordered = sorted(zip(indices, classes, strict=True))
    files = [(index, file) for index, folder in ordered for file in classes[folder]]
    encoded = ((str(file.relative_to(path)), read_bytes(file)) for _, file in files)
    images, stored = decode_images(encoded, shape=shape, where=path)
    labels = torch.tensor([index for index, _ in files], dtype=torch.int64)
    card = Card(
        class_names=class_names, names_sorted=numbered is None, notes=[note, *left_out, *stored]
    )
    made = assemble(path, images, labels, num_classes=len(class_names), card=card)
    return _with_views(made, [file.relative_to(path) for _, file in files], options)


def _with_views(
    made: DistilledSet, files: Sequence[Path], options: Mapping[str, str]
) -> DistilledSet:
    """With the labels of views that the option ``fkd`` names; as SRe2L is evaluated, its card then says."""
    if "fkd" not in options:
        return made
    folder = Path(options["fkd"])
    order = sorted(range(len(files)), key=lambda i: (str(files[i].parent), files[i].name))
    seed = integer(options, "fkd_seed", default=SEED)
    store = read_store(folder, made.labels, order, seed=seed)
    note = (
        f"labels of {len(store)} epochs of views are those of {folder.name}; the protocol is that of SRe2L's code "
        "(CDA's is the same, G-VBSM's minimises squared errors)"
    )
    card = made.card.model_copy(
        update={
            "protocol": {**PROTOCOL, "epochs": len(store)},
            "bytes": StorageBytes(
                images=4 * made.images.nelement(), labels=8 * len(made.labels) + store.num_bytes
            ),
            "notes": [*made.card.notes, note],
        }
    )
    return replace(made, store=store, card=card).check(folder)


def _class_folders(path: Path) -> dict[Path, list[Path]]:
    """Class folder -> its pictures; hidden folders and those without pictures are no classes."""
    classes: dict[Path, list[Path]] = {}
    for file in files_below(path, *PICTURES, depth=2):
        if file.parent != path:
            classes.setdefault(file.parent, []).append(file)
    return classes


def _left_out(path: Path, classes: Mapping[Path, list[Path]]) -> list[str]:
    """Notes on what is there and not read.

    Raises:
        BadInput: a folder that holds files but no picture: its class would be missing.
    """
    taken = {file for files in classes.values() for file in files}
    others = [file for file in files_below(path, depth=_DEEPEST) if file not in taken]
    folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir()]
    empty = [f for f in folders if f not in classes and not is_hidden(f.name)]
    for folder in empty:
        if held := [str(file.relative_to(folder)) for file in others if folder in file.parents]:
            what = f"holds no picture, but {len(held)} other files ('{held[0]}', say)"
            todo = f"Pictures are CLASS/NAME{'|'.join(PICTURES)}. Move the folder away if it is no class."
            raise BadInput(folder, what, todo)
    notes = []
    if others:
        shown = others[0].relative_to(path)
        notes.append(f"{len(others)} files are no CLASS/PICTURE and are left out ('{shown}', say)")
    if empty:
        names = ", ".join(folder.name for folder in empty)
        notes.append(f"folders without a picture are no classes: {names}")
    return notes


def _numbered(
    names: list[str], num_classes: int | None, *, start: int = 0
) -> tuple[list[int], list[str]] | None:
    """Class of each folder, and a name for every class, where one word and a number name them: ``7``, ``new007``.

    None where the numbers are no class indices, or words differ: an ending may mean anything then.
    """
    parsed = [re.fullmatch(r"(.*?)(\d{1,9})", name) for name in names]
    parts = [(m.group(1), m.group(2)) for m in parsed if m]
    if len(parts) < len(names) or len({word for word, _ in parts}) > 1:
        return None
    numbers = [int(digits) - start for _, digits in parts]
    count = num_classes if num_classes is not None else len(names)
    if len(set(numbers)) < len(names) or max(numbers) >= count or min(numbers) < 0:
        return None
    word = parts[0][0]
    width = max((len(d) for _, d in parts if d.startswith("0") and len(d) > 1), default=1)
    class_names = [f"{word}{number + start:0{width}d}" for number in range(count)]
    for number, name in zip(numbers, names, strict=True):
        class_names[number] = name
    return numbers, class_names


def sniff(path: Path) -> bool:
    """True for a folder of folders with images."""
    return kind_of(path) == "folder" and bool(_class_folders(path))


FORMATS.add(
    "image-folder",
    Format(
        name="image-folder",
        summary="CLASS/*.png, *.jpg or other pictures, one folder per class (SRe2L, CDA, G-VBSM, RDED)",
        source="torchvision ImageFolder",
        read=read,
        sniff=sniff,
        options={
            **FKD_OPTIONS,
            "from": "0 or 1: what numbered folders count from, where none is 0",
        },
    ),
)
