"""``image-folder``: one folder per class (SRe2L, CDA, G-VBSM, RDED, or anybody's)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ddaudit.data.classes import class_order
from ddaudit.errors import BadInput
from ddaudit.files import files_below, kind_of, read_bytes
from ddaudit.sets._types import Card, DistilledSet
from ddaudit.sets.formats._base import FORMATS, Format, assemble
from ddaudit.sets.formats._decode import decode_images

_SUFFIXES = (".png", ".jpg", ".jpeg")


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``CLASS/*.png|jpg``.

    Folders named by one word and a number, or a number alone, are classes by that number where the numbers are
    class indices (``new000``, ``00003``); other folders are classes in the order of their names. The names go on the
    card, and where data are given that know the same names, names decide. Hidden folders are no classes.

    Source: VILA-Lab/SRe2L and LINs-lab/RDED folder layouts; torchvision ImageFolder.
    """
    if kind_of(path) != "folder":
        raise BadInput(path, "is not a folder", "Give the folder that holds one folder per class.")
    classes = _class_folders(path)
    if not classes:
        what = "holds no class folders with .png or .jpg images"
        raise BadInput(path, what, "Expected CLASS/IMAGE.png, one folder per class.")
    names = [folder.name for folder in classes]
    numbered = _numbered(names, num_classes)
    if numbered is not None:
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
    card = Card(class_names=class_names, notes=[note, *stored])
    return assemble(path, images, labels, num_classes=len(class_names), card=card)


def _class_folders(path: Path) -> dict[Path, list[Path]]:
    """Class folder -> its images; hidden folders and those without images are no classes."""
    classes: dict[Path, list[Path]] = {}
    for file in files_below(path, *_SUFFIXES, depth=2):
        if file.parent != path:
            classes.setdefault(file.parent, []).append(file)
    return classes


def _numbered(names: list[str], num_classes: int | None) -> tuple[list[int], list[str]] | None:
    """Class of each folder, and a name for every class, where one word and a number name them: ``7``, ``new007``.

    None where the numbers are no class indices, or words differ: an ending may mean anything then.
    """
    parsed = [re.fullmatch(r"(.*?)(\d{1,9})", name) for name in names]
    parts = [(m.group(1), m.group(2)) for m in parsed if m]
    if len(parts) < len(names) or len({word for word, _ in parts}) > 1:
        return None
    numbers = [int(digits) for _, digits in parts]
    count = num_classes if num_classes is not None else len(names)
    if len(set(numbers)) < len(names) or max(numbers) >= count:
        return None
    word = parts[0][0]
    width = max((len(d) for _, d in parts if d.startswith("0") and len(d) > 1), default=1)
    class_names = [f"{word}{number:0{width}d}" for number in range(count)]
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
        summary="CLASS/*.png or *.jpg, one folder per class (SRe2L, CDA, G-VBSM, RDED)",
        source="torchvision ImageFolder",
        read=read,
        sniff=sniff,
    ),
)
