"""Telling set files from anything else, and set files as bytes, for stores that are not folders."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ddaudit.containers import MOST_HEADER_BYTES
from ddaudit.errors import BadInput
from ddaudit.files import kind_of, open_file, parse_json
from ddaudit.sets._types import DistilledSet
from ddaudit.sets.files import load, serialise


def is_set_file(path: str | Path) -> bool:
    """True when ``path`` is named like a safetensors file and is not plainly something else.

    A safetensors file without the tensors of a set (network weights, say) is not one; a damaged
    file counts as one, so that reading it says what is wrong with it.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or kind_of(path) != "file":
        return False
    with open_file(path, whole=False) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MOST_HEADER_BYTES:
            return True
        try:
            header = parse_json(file.read(size), path)
        except (BadInput, TypeError):
            return True
    if not isinstance(header, dict):
        return True
    names = set(header) - {"__metadata__"}
    return bool(names & {"images", "labels"}) or not any("." in name for name in names)


def to_bytes(value: DistilledSet) -> bytes:
    """The content of a set file; equal sets give equal bytes.

    Raises:
        BadInput: the set is invalid.
    """
    return serialise(value.check())


def from_bytes(content: bytes) -> DistilledSet:
    """A set from the content of a set file.

    Raises:
        BadInput: as :func:`ddaudit.sets.load`.
    """
    # The reader maps a file into memory, so bytes take the way through one.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.safetensors"
        path.write_bytes(content)
        return load(path)
