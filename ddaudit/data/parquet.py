"""Data sets in parquet files, Hugging Face style: a column of pictures and a column of labels.

Objects of the ``datasets`` library hold the same tables (``ddaudit.data.from_datasets``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ddaudit.containers import ParquetFile, read_parquet
from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.classes import index_names
from ddaudit.data.decode import decode_images
from ddaudit.data.files import SIZE, assemble
from ddaudit.data.groups import with_groups
from ddaudit.data.names import CIFAR10_CLASSES, numbered
from ddaudit.data.registry import Request, dataset
from ddaudit.data.shards import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    check_whole,
    class_column,
    column_among,
    one_order,
)
from ddaudit.data.spec import Option
from ddaudit.data.splits import VALIDATION
from ddaudit.data.vision import BENCHMARKS
from ddaudit.errors import BadInput

JPEG_NOTE = (
    "CIFAR-10 (JPEG): the images are re-encoded as JPEG; numbers are not those of plain CIFAR-10."
)


@dataset(
    "parquet",
    "a folder with train*.parquet and test*.parquet (Hugging Face style)",
    options=(
        Option("path", "", "the folder", required=True),
        Option("image", "", "picture column; default image or img"),
        Option("label", "", "label column; default label, labels or fine_label"),
        Option("group", "", "column of the protected attribute"),
        SIZE,
        VALIDATION,
    ),
)
def parquet(request: Request) -> Dataset:
    """Read train, test and, if there, validation files of a folder (or of its folder ``data``)."""
    folder = request.user_path(
        request.text("path"), get="Give a folder that holds train.parquet and test.parquet."
    )
    columns = Columns(
        image=request.text("image"),
        label=request.text("label"),
        group=request.text("group"),
        size=request.whole("size"),
    )
    return _load(request, folder, columns=columns)


@dataset(
    "cifar10-jpeg",
    "CIFAR-10 (JPEG): CIFAR-10 re-encoded as JPEG, from cifar10_jpeg/{train,test}.parquet",
    options=(VALIDATION,),
)
def cifar10_jpeg(request: Request) -> Dataset:
    """CIFAR-10 (JPEG), with CIFAR-10's normalisation constants.

    Its rows are in class-balanced order (row i has class i mod 10), so a contiguous slice is no
    random sample.
    """
    folder = request.find(
        ("cifar10_jpeg", "cifar10-jpeg"),
        marker="train.parquet",
        get="put its train.parquet and test.parquet at ROOT/cifar10_jpeg/; there is no download.",
    )
    constants = BENCHMARKS["cifar10"]
    made = _load(
        request,
        folder,
        columns=Columns(class_names=CIFAR10_CLASSES),
        mean=constants.mean,
        std=constants.std,
        notes=(JPEG_NOTE,),
    )
    return replace(made, origin="cifar10")


@dataclass(frozen=True)
class Columns:
    """Which columns are meant, and how pictures are read; an empty name is not said yet, or no group."""

    image: str = ""
    label: str = ""
    group: str = ""
    size: int = 0
    class_names: tuple[str, ...] | None = None

    def among(self, names: Sequence[str], where: str) -> Columns:
        """With the columns that there are.

        Raises:
            BadInput: one that is needed is not there, or two have usual names.
        """
        group = column_among(names, self.group, (), "group=", where) if self.group else ""
        label = column_among(names, self.label, LABEL_COLUMNS, "label=", where)
        if group == label:
            what = f"column '{label}' is asked for as label and as group, so every group would hold one class"
            raise BadInput(where, what, "Leave group= out, or name another column.")
        return replace(
            self,
            image=column_among(names, self.image, IMAGE_COLUMNS, "image=", where),
            label=label,
            group=group,
        )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns to read."""
        return tuple(filter(None, (self.image, self.label, self.group)))


@dataclass(frozen=True)
class Table:
    """One split before its labels are numbered: pictures, and label and group columns as stored."""

    where: str
    images: torch.Tensor
    labels: list[Any]
    groups: list[Any] | None
    names: tuple[str, ...] | None
    group_names: tuple[str, ...] | None


def _load(
    request: Request,
    folder: Path,
    *,
    columns: Columns,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    train = _read(folder, ("train",), columns)
    test = _read(folder, ("test",), columns, channels=_channels(train))
    validation = _read(folder, ("validation", "valid", "val"), columns, channels=_channels(train))
    if train is None or test is None:
        missing = "train" if train is None else "test"
        todo = "Wanted: train.parquet and test.parquet, or the Hub's train-00000-of-00001.parquet."
        raise BadInput(folder, f"holds no {missing}.parquet", todo)
    return join_tables(
        request, train, test, validation,
        where=folder, columns=columns, mean=mean, std=std, notes=notes,
    )  # fmt: skip


def join_tables(
    request: Request,
    train: Table,
    test: Table,
    validation: Table | None,
    *,
    where: object,
    columns: Columns,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A data set of the splits' tables: one numbering of labels and groups for all of them.

    Raises:
        BadInput: labels or groups that are none, pictures of different sizes.
    """
    tables = {t.where: t for t in (train, validation, test) if t is not None}
    values, names = one_order(
        {name: (t.labels, t.names) for name, t in tables.items()},
        kind="label",
        names=columns.class_names,
    )
    found, labels = index_names(values, kind="label", names=names, gaps=False)
    class_names = found or numbered(1 + max(int(part.max()) for part in labels.values()))
    made = {
        name: ImageData(images=t.images, labels=labels[name], class_names=class_names)
        for name, t in tables.items()
    }
    if columns.group:
        cells, names = one_order(
            {name: (t.groups or [], t.group_names) for name, t in tables.items()}, kind="group"
        )
        made, said = with_groups(made, cells, column=columns.group, names=names)
        notes = (*notes, *said)
    return assemble(
        request,
        train=made[train.where],
        validation=None if validation is None else made[validation.where],
        test=made[test.where],
        where=where,
        mean=mean,
        std=std,
        notes=notes,
    )


def _channels(table: Table | None) -> int | None:
    return None if table is None else int(table.images.shape[1])


def _read(
    folder: Path, prefixes: tuple[str, ...], columns: Columns, *, channels: int | None = None
) -> Table | None:
    files = _files(folder, prefixes)
    if not files:
        return None
    check_whole(files)
    columns = columns.among(ParquetFile(files[0]).names, str(files[0]))
    return read_table(read_parquet(files, columns.wanted), columns, channels=channels)


def read_table(
    tables: Mapping[str, Any],
    columns: Columns,
    *,
    channels: int | None = None,
    paths: bool = False,
) -> Table:
    """The rows of pyarrow tables, one below the other.

    Args:
        tables: what messages call it (a file) -> its rows; its schema's metadata may name classes.
        columns: each named.
        channels: see ``decode_images``.
        paths: read pictures that are stored as a path; not for files of others.

    Raises:
        BadInput: no rows, cells that are no pictures, or classes declared in different ways.
    """
    first = next(iter(tables))
    if not any(table.num_rows for table in tables.values()):
        raise BadInput(first, "holds no rows")
    pictures = chain.from_iterable(
        _pictures(table.column(columns.image), columns.image, where, paths=paths)
        for where, table in tables.items()
    )
    images = decode_images(pictures, size=columns.size, channels=channels)
    labels, names = class_column(tables, columns.label, kind="label")
    groups, group_names = (
        class_column(tables, columns.group, kind="group") if columns.group else (None, None)
    )
    return Table(first, images, labels, groups, names, group_names)


def _files(folder: Path, prefixes: tuple[str, ...]) -> list[Path]:
    """The files of a split: ``train.parquet`` or parts (the Hub's numbered ones, say), here or in ``data``.

    Raises:
        BadInput: both, so that one of them would be left out.
    """
    for place in (folder, folder / "data"):
        for prefix in prefixes:
            exact = place / f"{prefix}.parquet"
            # Not every name that begins so: train_unlabelled and test_ood are other splits.
            alike = re.compile(rf"{prefix}(-.*|\d+)?\.parquet")
            parts = sorted(p for p in place.glob(f"{prefix}*.parquet") if alike.fullmatch(p.name))
            if exact in parts and len(parts) > 1:
                others = ", ".join(p.name for p in parts if p != exact)
                what = f"holds {exact.name} and {others}: one file, or all of them?"
                raise BadInput(
                    place, what, f"Number them (train-00000-of-00002.parquet), or move {others}."
                )
            if parts:
                return parts
    return []


def _pictures(
    column: Any, name: str, where: str, *, paths: bool
) -> Iterator[tuple[str, bytes | Path]]:
    row = 0
    for chunk in column.chunks:
        for value in chunk.to_pylist():
            data = value.get("bytes") if isinstance(value, dict) else value
            if data is None and paths and isinstance(value, dict) and value.get("path"):
                data = Path(value["path"])
            if not isinstance(data, bytes | Path):
                what = f"column '{name}' holds no encoded picture"
                todo = "Store pictures as bytes, or as {bytes, path} like the Hugging Face Hub."
                raise BadInput(f"{where}: row {row}", what, todo)
            yield f"{where}: row {row}", data
            row += 1
