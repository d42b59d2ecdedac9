"""The protected attribute of records that come as files: a column of values, or a table of (file, group)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ddaudit.containers import ParquetFile, as_list
from ddaudit.data._types import ImageData
from ddaudit.data.classes import index_names
from ddaudit.data.names import numbered
from ddaudit.errors import BadInput


def with_groups(
    splits: Mapping[str, ImageData],
    values: Mapping[str, Sequence[Any]],
    *,
    column: str,
    names: Sequence[str] | None = None,
) -> tuple[dict[str, ImageData], tuple[str, ...]]:
    """Splits with the group of each record, by the same rule as classes; and what must be said of it.

    A record whose group was not recorded is in no group, so no gap can be measured on it: it is left out, and the
    note says how many were.

    Args:
        splits: file or folder -> its records.
        values: the same keys -> one value per record, None (or NaN, or an empty text) where it was not recorded.
        column: for messages.
        names: the groups where the file declares them.

    Raises:
        BadInput: values that are no groups (negative, fractional, mixed), or none recorded at all.
    """
    found, indexed = index_names(values, kind="group", names=names, missing=True)
    for where, index in indexed.items():
        if len(index) and bool((index < 0).all()):
            raise BadInput(where, f"column '{column}' records no group at all")
    group_names = found
    if group_names is None:
        # Numbers are positions where none is left out; else (postal codes, years) each that occurs is a group.
        present = torch.cat(list(indexed.values())).unique()
        present = present[present >= 0]
        group_names = numbered(len(present), kind="group")
        if int(present[-1]) >= len(present):
            group_names = tuple(f"group {int(value)}" for value in present)
            indexed = {
                where: torch.where(index < 0, -1, torch.searchsorted(present, index))
                for where, index in indexed.items()
            }
    made, notes = {}, []
    for where, split in splits.items():
        known = indexed[where] >= 0
        absent = int((~known).sum())
        if absent:
            notes.append(
                f"{Path(where).name}: {absent} of {len(split)} records have no '{column}' and are left out."
            )
        whole = replace(split, groups=indexed[where].clamp_min(0), group_names=group_names)
        made[where] = whole.subset(known) if absent else whole
    return made, tuple(notes)


def read_group_table(path: Path) -> dict[str, Any]:
    """File name (with /) -> group, of a CSV or parquet table with the columns file and group.

    Raises:
        BadInput: unreadable, columns missing, or a file named twice.
    """
    files, groups = _columns(path)
    out: dict[str, Any] = {}
    for file, group in zip(files, groups, strict=True):
        name = str(file).replace("\\", "/").removeprefix("./")
        if name in out:
            raise BadInput(path, f"names '{name}' twice", "One row per picture.")
        out[name] = group
    if not out:
        raise BadInput(path, "holds no rows", "Wanted: the columns file and group.")
    return out


def groups_of(
    files: Mapping[str, Sequence[str]], table: Mapping[str, Any], *, where: Path
) -> dict[str, list[Any]]:
    """The group of each picture, by its path below the data folder.

    Raises:
        BadInput: pictures that the table lacks, or rows without a picture; the line counts both.
    """
    pictures = {name for names in files.values() for name in names}
    lacking = sorted(pictures - set(table))
    idle = sorted(set(table) - pictures)
    if lacking or idle:
        parts = []
        if lacking:
            parts.append(f"{len(lacking)} of {len(pictures)} pictures have no row ('{lacking[0]}')")
        if idle:
            parts.append(f"{len(idle)} of {len(table)} rows have no picture ('{idle[0]}')")
        todo = "The column file holds paths below the data folder: train/CLASS/NAME.png."
        raise BadInput(where, " and ".join(parts), todo)
    return {split: [table[name] for name in names] for split, names in files.items()}


def _columns(path: Path) -> tuple[Sequence[Any], Sequence[Any]]:
    """The columns file and group."""
    content: dict[str, Sequence[Any]]
    if path.suffix == ".parquet":
        stored = ParquetFile(path)
        header = stored.names
        wanted: list[str] = [name for name in ("file", "group") if name in header]
        table = stored.read(wanted)
        content = {name: as_list(table, name, path) for name in wanted}
    else:
        from ddaudit.data.tabular import read_csv

        header, rows = read_csv(path, ",")
        content = {name: [row[name] for row in rows] for name in header}
    for name in ("file", "group"):
        if name not in header:
            raise BadInput(path, f"has no column '{name}'", f"Columns: {', '.join(header)}.")
    return content["file"], content["group"]
