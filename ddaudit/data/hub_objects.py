"""Objects of the ``datasets`` library as data sets, known by what they offer; the library itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ddaudit.data._types import Dataset
from ddaudit.data.coins import coins
from ddaudit.data.parquet import Columns, Table, join_tables, read_table
from ddaudit.data.registry import Request
from ddaudit.data.shards import IMAGE_COLUMNS, LABEL_COLUMNS
from ddaudit.data.spec import show
from ddaudit.errors import BadInput

_VALIDATION = ("validation", "valid", "val")


def from_datasets(
    splits: Any,
    *,
    image: str = "",
    label: str = "",
    group: str = "",
    size: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    name: str = "",
) -> Dataset:
    """A data set from a ``datasets.DatasetDict`` with train and test, or from one ``datasets.Dataset``.

    Args:
        splits: the object. Its class names and positions are kept.
        image, label, group: columns; default: image or img, label, labels or fine_label, else the only Image and
            ClassLabel features; no groups.
        size: 0 keeps the stored size; else the shorter side is resized to it and the centre square cut out.
        validation: share of train that is held out where there is no validation split.
        test: share of the records that is held out where one ``Dataset`` is given, each by a hash of its own image.
        name: what it is called; default: ``datasets:`` and its name on the Hub.

    Raises:
        BadInput: no train or test, a stream, columns that are not there, or what :func:`load_data` refuses.
    """
    parts = dict(splits) if isinstance(splits, Mapping) else {"train": splits}
    known = getattr(getattr(parts.get("train"), "info", None), "dataset_name", None)
    name = name or (f"datasets:{known}" if known else "datasets")
    good = all(hasattr(p, "features") and hasattr(p, "with_format") for p in parts.values())
    if not good or "train" not in parts:
        raise BadInput(
            name,
            "is no datasets.Dataset, and no DatasetDict with train and test",
            "Images and labels in memory: ddaudit.data.Dataset of an ImageData for each split (docs/data.md).",
        )
    if not all(hasattr(p, "__len__") for p in parts.values()):
        raise BadInput(name, "is a stream", "Load it without streaming=True.")
    if isinstance(splits, Mapping) and "test" not in parts:
        todo = "Give one split alone, and a fifth of it is held out for the test."
        raise BadInput(name, f"has no test split (it has {', '.join(map(str, parts))})", todo)
    features = parts["train"].features
    columns = Columns(
        image=image or _by_kind(features, "Image", IMAGE_COLUMNS),
        label=label or _by_kind(features, "ClassLabel", LABEL_COLUMNS),
        group=group,
        size=size,
    )
    tables: dict[str, Table] = {}
    for split in ("train", "test", *_VALIDATION):
        if split in parts:
            channels = int(tables["train"].images.shape[1]) if tables else None
            tables[split] = _read(parts[split], f"{name}: {split}", columns, channels)
    train, notes = tables["train"], tuple[str, ...]()
    if "test" not in tables:
        held = torch.from_numpy(coins(train.images, "test") < test)
        tables["test"] = _part(train, held, f"{name}: test")
        train = _part(train, ~held, train.where)
        count = f"{int(held.sum())} of {len(held)} records are held out for the test"
        notes = (f"{count} (test={show(test)}, each record by a hash of its own image).",)
    given = next((tables[v] for v in _VALIDATION if v in tables), None)
    request = Request(name, {"validation": validation}, None, False)
    made = join_tables(
        request, train, tables["test"], given, where=name, columns=columns, notes=notes
    )
    return replace(made, origin=known or name)


def _read(split: Any, where: str, columns: Columns, channels: int | None) -> Table:
    columns = columns.among(list(split.features), where)
    table = split.select_columns(list(columns.wanted)).with_format("arrow")[:]
    return read_table({where: table}, columns, channels=channels, paths=True)


def _by_kind(features: Mapping[str, Any], kind: str, usual: tuple[str, ...]) -> str:
    """The only feature of a kind; empty where the usual names decide, or there is none such."""
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    return found[0] if len(found) == 1 and not set(usual) & set(features) else ""


def _part(table: Table, kept: torch.Tensor, where: str) -> Table:
    """The rows that a mask keeps."""
    rows = kept.nonzero()[:, 0].tolist()
    groups = table.groups
    return replace(
        table,
        where=where,
        images=table.images[kept],
        labels=[table.labels[i] for i in rows],
        groups=None if groups is None else [groups[i] for i in rows],
    )
