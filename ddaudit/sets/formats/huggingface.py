"""``huggingface``: parquet files of the Hugging Face hub with an image and a label column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddaudit.containers import ParquetFile, as_list, read_parquet
from ddaudit.data.classes import index_names
from ddaudit.data.shards import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    check_whole,
    class_column,
    column_among,
    part_note,
)
from ddaudit.errors import BadInput
from ddaudit.files import files_below, open_file
from ddaudit.sets._types import Card, DistilledSet
from ddaudit.sets.formats import _labels
from ddaudit.sets.formats._base import FORMATS, Format, assemble
from ddaudit.sets.formats._decode import decode_images
from ddaudit.sets.formats._soft import SOFT_OPTIONS


def read(
    path: Path,
    *,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    options: Mapping[str, str],
) -> DistilledSet:
    """Read parquet rows ``{image: {bytes, path}, label}``; a folder is read shard by shard.

    Labels are class indices, or lists of K probabilities or logits. Class names come from the
    ``huggingface`` entry of the schema's metadata; each shard's numbers are positions in its own.

    Source: Hugging Face datasets, Image and ClassLabel features.
    """
    files = _files(path, options)
    there = ParquetFile(files[0]).names
    image_column, label_column = (
        column_among(there, options.get(option, ""), usual, f"--set {option}=", str(path))
        for option, usual in (("image", IMAGE_COLUMNS), ("label", LABEL_COLUMNS))
    )
    tables = read_parquet(files, (image_column, label_column))
    cells = chain.from_iterable(as_list(t, image_column, where) for where, t in tables.items())
    encoded = _encoded(cells, image_column, path)
    images, stored = decode_images(encoded, shape=shape, where=path)
    values, declared = class_column(tables, label_column, kind="label")
    names, labels, note = _read_labels(values, label_column, path, declared, options)
    if num_classes is not None and declared is not None and len(declared) != num_classes:
        what = f"names {len(declared)} classes but the data set has {num_classes}"
        raise BadInput(path, what, "Was this set distilled from other data? Pass --data.")
    part = part_note(path) if path.is_file() else None
    notes = [*stored, *filter(None, (note, part))]
    texts = names is not None and declared is None
    card = Card(class_names=names, names_sorted=texts, notes=notes)
    # Names found in the column are matched with the data's afterwards.
    count = num_classes if names is None else len(names)
    return assemble(path, images, labels, num_classes=count, card=card)


def _files(path: Path, options: Mapping[str, str]) -> list[Path]:
    """The shards to read; ``train-*`` where a folder holds several splits."""
    if path.is_file():
        return [path]
    split = options.get("split")
    shards = files_below(path, ".parquet", depth=20)
    if not shards:
        raise BadInput(path, "holds no .parquet files")
    splits = {shard: _split(shard) for shard in shards}
    if split is None:
        named = set(splits.values())
        split = "train" if "train" in named and len(named) > 1 else None
    chosen = [shard for shard in shards if split is None or splits[shard] == split]
    if not chosen:
        known = ", ".join(sorted(set(splits.values())))
        raise BadInput(
            f"--set split={split}", f"no shard of {path} is of that split", f"Known: {known}."
        )
    check_whole(chosen)
    return chosen


def _split(shard: Path) -> str:
    """``data/train-00000-of-00001.parquet``, ``default/train/0000.parquet``: both of train."""
    name = shard.stem.split("-")[0]
    return shard.parent.name if name.isdecimal() else name


def _encoded(values: Iterable[Any], column: str, path: Path) -> Iterator[tuple[str, bytes]]:
    for row, value in enumerate(values):
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            what = f"row {row} of column '{column}' holds no image bytes"
            raise BadInput(path, what, "Images stored by path are not in the file.")
        yield f"row {row}", data


def _read_labels(
    values: list[Any],
    column: str,
    path: Path,
    declared: Sequence[str] | None,
    options: Mapping[str, str],
) -> tuple[list[str] | None, Tensor, str | None]:
    """Class names, labels and a note: one class per row by the rule of data sets, or K numbers per row."""
    if not any(isinstance(value, list) for value in values):
        names, indexed = index_names({str(path): values}, kind="label", names=declared)
        return None if names is None else list(names), indexed[str(path)], None
    try:
        labels = torch.tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as err:
        what = f"column '{column}' holds no class indices"
        raise BadInput(path, what, "Expected integers, or lists of K numbers.") from err
    return None if declared is None else list(declared), *_labels.hard_or_soft(
        labels, path, options
    )


def sniff(path: Path) -> bool:
    """True for a parquet file, or a folder with some."""
    if path.is_dir():
        return bool(files_below(path, ".parquet", depth=3))
    try:
        with open_file(path, whole=False) as file:
            return file.read(4) == b"PAR1"
    except BadInput:
        return False


FORMATS.add(
    "huggingface",
    Format(
        name="huggingface",
        summary="parquet with columns image|img and label (file or folder of shards)",
        source="Hugging Face datasets",
        read=read,
        sniff=sniff,
        options={
            "image": "name of the image column; default: image or img",
            "label": "name of the label column; default: label, labels or fine_label",
            **SOFT_OPTIONS,
            "split": "which split of a folder; default: train where there are several",
        },
    ),
)
