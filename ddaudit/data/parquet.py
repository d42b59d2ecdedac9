"""Data sets in parquet files, Hugging Face style: a column of pictures and a column of labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ddaudit.containers import ParquetFile, as_list, hub_names, read_parquet
from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.classes import index_names
from ddaudit.data.decode import decode_images
from ddaudit.data.files import SIZE, assemble
from ddaudit.data.groups import with_groups
from ddaudit.data.names import CIFAR10_CLASSES, numbered
from ddaudit.data.registry import Request, dataset
from ddaudit.data.spec import Option
from ddaudit.data.splits import VALIDATION
from ddaudit.data.vision import BENCHMARKS
from ddaudit.errors import BadInput
from ddaudit.files import kind_of

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")

JPEG_NOTE = (
    "CIFAR-10 (JPEG): the images are re-encoded as JPEG; numbers are not those of plain CIFAR-10."
)


@dataset(
    "parquet",
    "a folder with train*.parquet and test*.parquet (Hugging Face style)",
    options=(
        Option("path", "", "the folder", required=True),
        Option("image", "", "picture column; default img or image"),
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
    columns = _Columns(
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
        columns=_Columns(class_names=CIFAR10_CLASSES),
        mean=constants.mean,
        std=constants.std,
        notes=(JPEG_NOTE,),
    )
    return replace(made, origin="cifar10")


@dataclass(frozen=True)
class _Columns:
    image: str = ""
    label: str = ""
    group: str = ""
    size: int = 0
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Table:
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
    columns: _Columns,
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
    tables = {t.where: t for t in (train, validation, test) if t is not None}
    found, labels = index_names(
        {where: t.labels for where, t in tables.items()},
        kind="label",
        names=columns.class_names or train.names,
    )
    class_names = found or numbered(1 + max(int(part.max()) for part in labels.values()))
    made = {
        where: ImageData(images=t.images, labels=labels[where], class_names=class_names)
        for where, t in tables.items()
    }
    if columns.group:
        cells = {where: t.groups or [] for where, t in tables.items()}
        made, said = with_groups(made, cells, column=columns.group, names=train.group_names)
        notes = (*notes, *said)
    return assemble(
        request,
        train=made[train.where],
        validation=None if validation is None else made[validation.where],
        test=made[test.where],
        where=folder,
        mean=mean,
        std=std,
        notes=notes,
    )


def _channels(table: _Table | None) -> int | None:
    return None if table is None else int(table.images.shape[1])


def _read(
    folder: Path, prefixes: tuple[str, ...], columns: _Columns, *, channels: int | None = None
) -> _Table | None:
    files = _files(folder, prefixes)
    if not files:
        return None
    first, where = ParquetFile(files[0]), str(files[0])
    image = _column(first.names, columns.image, IMAGE_COLUMNS, "image", where)
    label = _column(first.names, columns.label, LABEL_COLUMNS, "label", where)
    group = _column(first.names, columns.group, (), "group", where) if columns.group else None
    table = read_parquet(files, (image, label, *([group] if group else [])))
    if table.num_rows == 0:
        raise BadInput(where, "holds no rows")
    pictures = table.column(image)
    return _Table(
        where=where,
        images=decode_images(
            _pictures(pictures, image, where), size=columns.size, channels=channels
        ),
        labels=as_list(table, label, where),
        groups=as_list(table, group, where) if group else None,
        names=hub_names(first.metadata, label),
        group_names=hub_names(first.metadata, columns.group),
    )


def _files(folder: Path, prefixes: tuple[str, ...]) -> list[Path]:
    """The files of a split: ``train.parquet`` or the Hub's numbered parts, here or in ``data``."""
    for place in (folder, folder / "data"):
        for prefix in prefixes:
            exact = place / f"{prefix}.parquet"
            if kind_of(exact) is not None:
                return [exact]
            parts = sorted(place.glob(f"{prefix}-*.parquet"))
            if parts:
                return parts
    return []


def _column(names: list[str], wanted: str, usual: tuple[str, ...], option: str, where: str) -> str:
    for name in (wanted,) if wanted else usual:
        if name in names:
            return name
    looked = wanted or " or ".join(usual)
    todo = f"Columns: {', '.join(names)}. Name one with {option}=COLUMN."
    raise BadInput(where, f"has no column {looked}", todo)


def _pictures(column: Any, name: str, where: str) -> Iterator[tuple[str, bytes]]:
    row = 0
    for chunk in column.chunks:
        for value in chunk.to_pylist():
            data = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(data, bytes):
                what = f"column '{name}' holds no encoded picture"
                todo = "Store pictures as bytes, or as {bytes, path} like the Hugging Face Hub."
                raise BadInput(f"{where}: row {row}", what, todo)
            yield f"{where}: row {row}", data
            row += 1
