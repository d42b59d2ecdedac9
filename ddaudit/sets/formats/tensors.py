"""``tensors``: a PyTorch or safetensors file that holds ``images`` and ``labels``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ddaudit.containers import check_safetensors
from ddaudit.errors import BadInput
from ddaudit.sets._types import DistilledSet
from ddaudit.sets.formats._base import FORMATS, Format
from ddaudit.sets.formats._plain import PLAIN_OPTIONS, from_arrays, named, pair_in
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
    """Read a dict ``{"images": ..., "labels": ...}``, or of other names that people give them; other entries are left
    alone. Nothing is unpickled but tensors and plain containers."""
    content = _safetensors(path) if path.suffix == ".safetensors" else load_torch(path)
    if not isinstance(content, Mapping):
        what = f"holds no dict of images and labels ({type(content).__name__})"
        raise BadInput(path, what, "Is it another format?")
    images, labels = named(content, path)
    return from_arrays(
        content[images], content[labels], path,
        num_classes=num_classes, shape=shape, mean=mean, std=std, options=options,
    )  # fmt: skip


def _safetensors(path: Path) -> dict[str, Any]:
    check_safetensors(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            if "ddaudit.card" in (file.metadata() or {}):
                raise BadInput(path, "is a ddaudit set file already", "It needs no import.")
            return {name: file.get_tensor(name) for name in named(list(file.keys()), path)}
    except (SafetensorError, OSError) as error:
        raise BadInput(path, f"is not a readable safetensors file ({error})") from error


def sniff(path: Path) -> bool:
    """True for a safetensors file with both tensors and no card; PyTorch files are told by their content."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        check_safetensors(path)
        with safe_open(str(path), framework="pt", device="cpu") as file:
            held, header = list(file.keys()), file.metadata() or {}
            return pair_in(held) is not None and "ddaudit.card" not in header
    except (SafetensorError, OSError, BadInput):
        return False


FORMATS.add(
    "tensors",
    Format(
        name="tensors",
        summary=".pt or .safetensors with the tensors images and labels, of a range that is said",
        source="PyTorch",
        read=read,
        sniff=sniff,
        options=PLAIN_OPTIONS,
    ),
)
