"""``image-folder``: one folder per class (SRe2L, CDA, G-VBSM, RDED, or anybody's)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ddaudit.errors import BadInput
from ddaudit.sets._types import Card, DistilledSet
from ddaudit.sets.formats._base import FORMATS, Format, assemble
from ddaudit.sets.formats._decode import JPEG_NOTE, PNG_NOTE, decode_images

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

    Folders that end in a number are classes by that number where the numbers are class indices
    (``new000``, ``00003``); other folders are classes in alphabetical order, as torchvision has it.

    Source: VILA-Lab/SRe2L and LINs-lab/RDED folder layouts; torchvision ImageFolder.
    """
    if not path.is_dir():
        raise BadInput(path, "is not a folder", "Give the folder that holds one folder per class.")
    classes = _class_folders(path)
    if not classes:
        what = "holds no class folders with .png or .jpg images"
        raise BadInput(path, what, "Expected CLASS/IMAGE.png, one folder per class.")
    names = [folder.name for folder in classes]
    indices = _numbers(names, num_classes)
    class_names, note = None, "classes are the numbers that the folder names end in"
    if indices is None:
        class_names, note = names, "classes are the folders in alphabetical order"
        indices = list(range(len(names)))
        if num_classes not in (None, len(names)):
            what = f"holds {len(names)} class folders but the data set has {num_classes} classes"
            raise BadInput(path, what, "Name the folders by class index: 0, 1, 2, ...")
    ordered = sorted(zip(indices, classes, strict=True))
    files = [(index, file) for index, folder in ordered for file in _images(folder)]
    encoded = ((str(file.relative_to(path)), file.read_bytes()) for _, file in files)
    images, jpeg = decode_images(encoded, shape=shape, where=path)
    labels = torch.tensor([index for index, _ in files], dtype=torch.int64)
    card = Card(class_names=class_names, notes=[note, JPEG_NOTE if jpeg else PNG_NOTE])
    return assemble(path, images, labels, num_classes=num_classes, card=card)


def _class_folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and _images(p))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())


def _numbers(names: list[str], num_classes: int | None) -> list[int] | None:
    """The numbers that the names end in, where these are distinct class indices."""
    endings = [re.search(r"(\d{1,9})$", name) for name in names]
    numbers = [int(m.group(1)) for m in endings if m]
    top = num_classes if num_classes is not None else len(names)
    return numbers if len(set(numbers)) == len(names) and max(numbers) < top else None


def sniff(path: Path) -> bool:
    """True for a folder of folders with images."""
    return path.is_dir() and bool(_class_folders(path))


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
