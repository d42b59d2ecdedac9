"""``npz``: anybody's NumPy archive with the arrays ``images`` and ``labels``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ddaudit.sets._types import DistilledSet
from ddaudit.sets.formats import _names
from ddaudit.sets.formats._base import FORMATS, Format
from ddaudit.sets.formats._plain import NAMES, PLAIN_OPTIONS, from_arrays, named, pair_in
from ddaudit.sets.formats._safe import load_npz, npz_names


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read ``images`` (N, C, H, W), (N, H, W, C) or (N, H, W) and ``labels`` (N,) or (N, K), or what people call so."""
    names = npz_names(path)
    images, labels = pair = named(names, path) if pair_in(names) else NAMES[0]
    arrays = load_npz(path, pair)
    return from_arrays(
        arrays[images], arrays[labels], path,
        num_classes=num_classes, shape=shape, mean=mean, std=std, options=options,
    )  # fmt: skip


def sniff(path: Path) -> bool:
    """True for an .npz with both arrays that is not named like KIP's and does not hold RFAD's."""
    kip = _names.from_kip_name(path).method is not None
    names = npz_names(path) if path.suffix == ".npz" and not kip else set()
    return pair_in(names) is not None and not {"k", "jit"} <= names


FORMATS.add(
    "npz",
    Format(
        name="npz",
        summary=".npz with the arrays images and labels, of a range that is said",
        source="NumPy",
        read=read,
        sniff=sniff,
        options=PLAIN_OPTIONS,
    ),
)
