"""Containers of arrays that others wrote, opened through the door of ``ddaudit.files``: budget first, then bytes.

Zip archives (NumPy, PyTorch), safetensors, parquet, IDX and pictures. Nothing in them is ever executed.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from ddaudit.errors import BadInput
from ddaudit.files import MB, afford, open_file, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_HEADER_BYTES = 16 * MB
"""Of a safetensors file: 250 000 tensors, or as many ledger entries."""
MOST_PICKLE_BYTES = 4 * MB
"""Of the pickle in a PyTorch file, without its tensors. Each byte of it can make an object, slowly."""
MOST_READS = 1_000_000
"""Of the pickles in a PyTorch file of the old kind, whose tensors lie between them."""
MOST_ENTRIES = 100_000
"""Files in a zip archive."""

PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
"""What Pillow may try. Others run programs (EPS) or are nobody's data."""

_AGAIN = "Make or download it again."


def start_of(file: BinaryIO, path: Path) -> bytes:
    """The first 8 bytes of an open file, fewer where there are fewer.

    Raises:
        BadInput: there are none.
    """
    start = file.read(8)
    if not start:
        raise BadInput(path, "is empty", _AGAIN)
    return start


# ---- zip archives ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive.

    Raises:
        BadInput: see :func:`open_file`; or too many entries.
        zipfile.BadZipFile: it is none.
    """
    with open_file(path, whole=False) as file:
        _count_entries(file, path)
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # a damaged directory can also be a number of files that is not there, or a bad name
            raise zipfile.BadZipFile(str(error)) from None
        with archive:
            yield archive


def read_npy(archive: zipfile.ZipFile, name: str, where: Path) -> np.ndarray[Any, Any]:
    """One array of a NumPy archive.

    Raises:
        OverBudget: it unpacks to too much.
        ValueError: damaged, or it holds pickled objects.
    """
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)  # type: ignore[no-untyped-call]
        else:
            raise ValueError(f"version {version} of the array format")
        if dtype.hasobject:
            raise ValueError("pickled objects")
        need = math.prod(shape) * dtype.itemsize
        afford(where, need, f"values in '{name}'")
        raw, filled = bytearray(need), 0
        stream: Any = file  # typed as IO, which promises no readinto
        while count := stream.readinto(memoryview(raw)[filled:]):
            filled += count
    if filled != need or dtype.itemsize == 0:
        raise ValueError("truncated")
    flat = np.frombuffer(raw, dtype=dtype)
    return flat.reshape(shape[::-1]).transpose() if fortran else flat.reshape(shape)


def _count_entries(file: BinaryIO, path: Path) -> None:
    """Refuse an archive of a million files before a table of them is built."""
    entries = 0
    while chunk := file.read(16 * MB):
        entries += chunk.count(b"PK\x01\x02")
        if entries > MOST_ENTRIES:
            raise BadInput(path, f"is an archive of more than {MOST_ENTRIES:,} files")
    file.seek(0)


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_torch(path: Path) -> Iterator[BinaryIO]:
    """A file of ``torch.save`` for the restricted loader: nothing in it unpacks to more than the budget.

    Raises:
        BadInput: see :func:`open_file`; empty; compressed (torch.save stores plainly), or a pickle that is no state of
            a few thousand tensors.
    """
    with open_file(path) as file:
        if start_of(file, path)[:4] == b"PK\x03\x04":
            _check_torch_zip(path)
            file.seek(0)
            yield file
        else:
            file.seek(0)
            yield _Counted(file.read(), path)


def afford_tensors(content: Any, where: Path) -> Any:
    """The content of a PyTorch file, whose tensors together fit the budget once they are written out.

    Raises:
        OverBudget: a small storage may pose as a huge tensor (stride 0).
        BadInput: a tensor without values.
    """
    waiting, seen, total = [content], set(), 0
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if value.is_meta or value.is_nested:
                raise BadInput(where, "holds a tensor without values of its own", _AGAIN)
            total += value.numel() * value.element_size()
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            waiting.extend(value)
    afford(where, total, "tensors")
    return content


def _check_torch_zip(path: Path) -> None:
    with contextlib.suppress(zipfile.BadZipFile), open_zip(path) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            todo = "Save its weights alone: torch.save(module.state_dict(), FILE)."
            raise BadInput(path, "holds a TorchScript program, which is not run", todo)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise BadInput(
                path,
                "is a compressed archive, which torch.save never writes",
                "Save it with torch.save.",
            )
        afford(path, sum(entry.file_size for entry in entries), "tensors")
        if any(e.filename.endswith(".pkl") and e.file_size > MOST_PICKLE_BYTES for e in entries):
            raise _bulky(path)
        if (bad := archive.testzip()) is not None:
            what = f"is damaged: the checksum of '{bad}' in it does not fit its bytes"
            todo = f"{_AGAIN} Or was it saved under set_crc32_options(False)? Save it without."
            raise BadInput(path, what, todo)


class _Counted(io.BytesIO):
    """The bytes of an old PyTorch file; each read may make an object, so that reads are counted."""

    def __init__(self, raw: bytes, path: Path) -> None:
        super().__init__(raw)
        self._left, self._path = MOST_READS, path

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise _bulky(self._path)
        return super().read(size)


def _bulky(path: Path) -> BadInput:
    return BadInput(
        path, "holds millions of pickled lists beside its tensors", "Save the tensors alone."
    )


# ---- safetensors -----------------------------------------------------------------------------------------------------


def check_safetensors(path: Path) -> None:
    """Before the safetensors library maps a file: a regular one, within the budget, with a header of sane size.

    Raises:
        BadInput: see :func:`open_file`.
    """
    with open_file(path) as file:
        length = int.from_bytes(start_of(file, path), "little")
    if MOST_HEADER_BYTES < length <= 100 * MB:  # beyond: the library says that it is damaged
        what = f"has a header of {length / MB:,.0f} MB, more than {MOST_HEADER_BYTES // MB} MB"
        raise BadInput(
            path, what, "Is it a ledger of millions of rows? Entries that are alike have a count."
        )


# ---- parquet ---------------------------------------------------------------------------------------------------------


class ParquetFile:
    """A parquet file: its columns' names, and their content within the budget.

    Raises:
        BadInput: see :func:`open_file`; or it is no parquet file.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        with open_file(path, whole=False):
            pass
        with _arrow(path):
            self._file = pq.ParquetFile(path)
            schema = self._file.schema_arrow
            self.names: list[str] = list(schema.names)
            self.metadata: Mapping[bytes, bytes] = schema.metadata or {}
            self.num_rows: int = self._file.metadata.num_rows

    def read(self, columns: Sequence[str]) -> Any:
        """These columns as one pyarrow table.

        Raises:
            BadInput: damaged, or more than the budget.
        """
        import pyarrow as pa

        for name in columns:
            if self.names.count(name) > 1:
                what = f"has {self.names.count(name)} columns called '{name}'"
                raise BadInput(self.path, what, "Rename all but the one that is meant.")
        with _arrow(self.path):
            afford(self.path, self.num_rows * 64, "rows")
            largest = self._afford_declared()
            # What is declared may be a lie, and one stored value may stand in every row.
            rows = max(1, min(4096, 16 * MB // max(largest, 1)))
            batches, total = [], 0
            for batch in self._file.iter_batches(batch_size=rows, columns=list(columns)):
                total += batch.nbytes
                afford(self.path, total, "decoded columns")
                batches.append(batch)
            return (
                pa.Table.from_batches(
                    batches,
                    schema=pa.schema(
                        [self._file.schema_arrow.field(name) for name in dict.fromkeys(columns)]
                    ),
                )
                if not batches
                else pa.Table.from_batches(batches)
            )

    def _afford_declared(self) -> int:
        """Bytes of the largest row group, by what the file says of itself: no value can be larger.

        Of the metadata of single columns nothing is asked: pyarrow ends the process where they are damaged.
        """
        metadata = self._file.metadata
        afford(self.path, metadata.num_row_groups * 4096, "row groups")
        sizes = [metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups)]
        afford(self.path, sum(max(0, size) for size in sizes), "columns")
        return max(sizes, default=0)


def read_parquet(files: Sequence[Path], columns: Sequence[str]) -> dict[str, Any]:
    """File -> some of its columns as a pyarrow table with the file's metadata, of files with the same columns.

    Raises:
        BadInput: damaged, of different columns, or together more than the budget.
    """
    tables: dict[str, Any] = {}
    total = 0
    for path in files:
        file = ParquetFile(path)
        table = file.read(columns).replace_schema_metadata(file.metadata)
        total += table.nbytes
        afford(path, total, "decoded columns")
        tables[str(path)] = table
        if not table.schema.equals(tables[str(files[0])].schema):
            what = f"has other columns, or of other types, than {files[0].name}"
            raise BadInput(path, what, f"All need: {', '.join(dict.fromkeys(columns))}.")
    return tables


def as_list(table: Any, column: str, where: object) -> list[Any]:
    """A column as Python objects, which are larger than what is stored.

    Raises:
        OverBudget: too large.
    """
    import pyarrow as pa

    held = table.column(column)
    objects = 64 * table.num_rows
    if (
        pa.types.is_list(held.type)
        or pa.types.is_large_list(held.type)
        or pa.types.is_fixed_size_list(held.type)
    ):
        objects += 8 * int(held.nbytes)
    afford(where, objects + int(held.nbytes), f"values in column '{column}'")
    with _arrow(where):
        return list(held.to_pylist())


def hub_names(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...] | None:
    """Names that the ``datasets`` library stores in the schema for a column of classes, if there."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    good = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return tuple(names) if good else None


@contextlib.contextmanager
def _arrow(where: object) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except BadInput:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise BadInput(
            where, "is not a readable parquet file", "Is it truncated? Download it again."
        ) from error


# ---- IDX (MNIST) -----------------------------------------------------------------------------------------------------


def read_idx(path: Path, *, axes: int) -> torch.Tensor:
    """The uint8 array of an IDX file.

    Args:
        axes: how many it must have: 3 for images, 1 for labels.

    Raises:
        BadInput: damaged, or not of that kind.

    Source: Y. LeCun's page on MNIST, "the IDX file format": two zeros, the type (8: unsigned bytes), the number of
    axes, their lengths as big-endian 32-bit numbers, the data.
    """
    raw = read_bytes(path)
    head = 4 + 4 * axes
    if raw[:4] != bytes((0, 0, 8, axes)) or len(raw) < head:
        raise BadInput(path, f"is no IDX file of unsigned bytes with {axes} axes", _AGAIN)
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, head, 4)]
    if len(raw) - head != math.prod(shape) or 0 in shape:
        sides = " x ".join(map(str, shape))
        raise BadInput(path, f"holds {len(raw) - head} bytes, not {sides}", _AGAIN)
    return torch.frombuffer(bytearray(raw[head:]), dtype=torch.uint8).view(shape)


# ---- pictures --------------------------------------------------------------------------------------------------------


def open_picture(
    source: Path | bytes, where: object, *, formats: Sequence[str] = PICTURE_FORMATS
) -> Image:
    """A decoded picture.

    Raises:
        BadInput: it cannot be read, or has more pixels than the budget allows (16 bytes each).
    """
    from PIL import Image

    raw = source if isinstance(source, bytes) else read_bytes(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(raw), formats=tuple(formats))
            afford(where, picture.size[0] * picture.size[1] * 16, "pixels")
            picture.load()
    except BadInput:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged or oversized files
        raise BadInput(
            where, "is not a picture that can be read", "Replace or remove it."
        ) from error
    return picture
