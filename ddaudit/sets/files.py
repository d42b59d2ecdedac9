"""Set files: one safetensors file with the card in its header. Opening one never runs code.

Layout (``docs/formats.md``): tensors ``images`` and ``labels``; header metadata ``ddaudit.format``,
``ddaudit.card`` (JSON) and ``ddaudit.num_classes``. Format 2 adds ``outliers``, the label store
(``store.*``) and fields of the card; a set without any of them is written in format 1, so that older
versions can read it. Other tensors and metadata are left alone, so a later version can add some.
The header is written here rather than by the safetensors library, whose metadata order changes from
run to run: equal sets are equal files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ddaudit import hub
from ddaudit.containers import check_safetensors
from ddaudit.errors import BadInput
from ddaudit.files import OverBudget, kind_of, open_file, parse_json, write_bytes
from ddaudit.sets._store import LabelStore
from ddaudit.sets._types import Card, DistilledSet
from ddaudit.sets.releases import log_release

FORMAT_VERSION = 2
_CODES = {
    torch.int64: ("I64", "<i8"),
    torch.float32: ("F32", "<f4"),
    torch.int32: ("I32", "<i4"),
    torch.float16: ("F16", "<f2"),
    torch.int16: ("I16", "<i2"),
    torch.bool: ("BOOL", "|b1"),
}
# Fields of the card since format 2.
_LATER_FIELDS = (
    "names_sorted", "modality", "space", "contains_real_pixels", "learned_lr", "bytes", "poison",
)  # fmt: skip
_TRIGGER = "trigger."
"""How the tensors of a trigger are called in a file."""
_NOT_OURS = "'ddaudit import' makes a set file of other code's results; see docs/formats.md."


def save(distilled: DistilledSet, path: str | Path) -> Path:
    """Write a set file, whole or not at all.

    The bytes go to a temporary file beside ``path``, which replaces it in one step; a failure
    leaves what was there before. Equal sets give byte-identical files. A private set is a release: it
    is put on record in the folder ``releases`` beside it, see ``ddaudit.sets.releases``.

    Args:
        distilled: the set; checked first.
        path: where to; missing folders are made.

    Returns:
        The path written.

    Raises:
        BadInput: the set is invalid, or the path cannot be written.
    """
    if not isinstance(distilled, DistilledSet) or not isinstance(path, str | Path):
        what = f"got ({type(distilled).__name__}, {type(path).__name__}), not a set and where to write it"
        raise BadInput("save", what, "Write save(made, 'set.safetensors').")
    path = Path(path)
    distilled.check(path)
    if kind_of(path) == "folder":
        raise BadInput(path, "is a folder", "Give a file name, for example set.safetensors.")
    write_bytes(path, serialise(distilled))
    log_release(distilled.card, path)
    return path


def digest(path: str | Path) -> str:
    """16 hex digits of the SHA-256 of a file's bytes.

    Raises:
        BadInput: the file cannot be read.
    """
    sha = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(2**20):
            sha.update(chunk)
    return sha.hexdigest()[:16]


def load(path: str | Path) -> DistilledSet:
    """Read a set file, or the one at a place on the Hub.

    Only safetensors is parsed, so nothing in the file is ever executed.

    Raises:
        BadInput: not a set file, truncated, from a newer version, or its content is invalid.
    """
    return read_file(hub.local(path))[0]


def read_file(path: str | Path) -> tuple[DistilledSet, list[str]]:
    """Like :func:`load`; also names the tensors in the file that this version does not know."""
    path = Path(path)
    header, tensors, others = _open(path)
    card = _card(header, path)
    images, labels = tensors["images"], tensors["labels"]
    num_classes = _num_classes(header, labels, card, path)
    store = LabelStore.from_tensors(tensors, path)
    trigger = {n.removeprefix(_TRIGGER): t for n, t in tensors.items() if n.startswith(_TRIGGER)}
    made = DistilledSet(
        images, labels, num_classes, card, store, tensors.get("outliers"), trigger or None
    )
    return made.check(path), others


def serialise(distilled: DistilledSet) -> bytes:
    """The bytes of a set file; the set must be valid."""
    card, version = _versioned(distilled)
    metadata = {
        "ddaudit.card": card,
        "ddaudit.format": version,
        "ddaudit.num_classes": str(distilled.num_classes),
    }
    # Wider types first keeps every tensor aligned to its item size.
    parts = [("labels", distilled.labels), ("images", distilled.images)]
    parts += [(_TRIGGER + n, t) for n, t in sorted((distilled.trigger or {}).items())]
    parts += _further(distilled)
    header: dict[str, Any] = {"__metadata__": metadata}
    data, offset = [], 0
    for name, tensor in parts:
        code, layout = _CODES[tensor.dtype]
        raw = tensor.detach().cpu().contiguous().numpy().astype(np.dtype(layout)).tobytes()
        span = [offset, offset + len(raw)]
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": span}
        data.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(data)


def fingerprint(distilled: DistilledSet) -> str:
    """16 hex digits of a SHA-256 over all tensors of the set: equal content, equal fingerprint.

    The card does not count: two copies that differ in their notes train the same networks.
    """
    digest = hashlib.sha256()
    for name, part in (("", distilled.images), ("", distilled.labels), *_further(distilled)):
        digest.update(name.encode())
        digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
        digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _further(distilled: DistilledSet) -> list[tuple[str, Tensor]]:
    """The tensors of format 2 that the set has, wider types first."""
    outliers = [] if distilled.outliers is None else [("outliers", distilled.outliers)]
    return outliers + (list(distilled.store.tensors().items()) if distilled.store else [])


def _versioned(distilled: DistilledSet) -> tuple[str, str]:
    """(the card as JSON, the format it needs): 1 for sets that use nothing newer."""
    card = distilled.card
    plain = Card()
    new = [name for name in _LATER_FIELDS if getattr(card, name) != getattr(plain, name)]
    if not new and not _further(distilled):
        return card.model_dump_json(exclude=set(_LATER_FIELDS)), "1"
    return card.model_copy(update={"format_version": "2"}).model_dump_json(), "2"


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor], list[str]]:
    if kind_of(path) == "folder":
        raise BadInput(path, "is a folder, not a set file", import_hint(path))
    check_safetensors(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            header = dict(file.metadata() or {})
            names = list(file.keys())
            _check_header(header, names, path)
            known = ["images", "labels"]
            if int(header["ddaudit.format"]) >= 2:
                known += [n for n in names if n == "outliers" or n in LabelStore.names()]
                known += [n for n in names if n.startswith(_TRIGGER)]
            tensors = {name: file.get_tensor(name) for name in known}
    except SafetensorError as err:
        raise _unreadable(path, err) from err
    except OSError as err:
        raise BadInput(path, f"cannot be read ({err.strerror or err})") from err
    return header, tensors, sorted(set(names) - set(tensors))


def _check_header(header: dict[str, str], names: list[str], path: Path) -> None:
    if "ddaudit.format" not in header and "ddaudit.card" not in header:
        what = "is a safetensors file but not a ddaudit set (its header holds no 'ddaudit.card')"
        raise BadInput(path, what, import_hint(path))
    version = header.get("ddaudit.format", "missing")
    if not _is_number(version):
        raise BadInput(path, f"header says format '{version[:20]}', expected 1 or {FORMAT_VERSION}")
    if int(version) > FORMAT_VERSION:
        what = f"is in format {version}; this ddaudit reads up to {FORMAT_VERSION}"
        raise BadInput(path, what, "Upgrade ddaudit.")
    if "ddaudit.card" not in header:
        raise BadInput(path, "header holds no 'ddaudit.card'", _NOT_OURS)
    missing = [f"'{name}'" for name in ("images", "labels") if name not in names]
    if missing:
        found = ", ".join(names) or "none"
        what = f"holds no tensor {' and '.join(missing)} (tensors: {found})"
        raise BadInput(path, what, "A set file needs both; write it with ddaudit.sets.save.")


def _card(header: dict[str, str], path: Path) -> Card:
    try:
        raw = parse_json(header["ddaudit.card"], path)
    except OverBudget:
        raise
    except BadInput as err:
        what = f"card is not valid JSON ({err.what})"
        todo = "The file was damaged or written by hand; make it again."
        raise BadInput(path, what, todo) from None
    if not isinstance(raw, dict):
        raise BadInput(path, f"card is a JSON {type(raw).__name__}, expected an object")
    try:
        return Card.model_validate(raw)
    except ValidationError as err:
        problems = err.errors(include_url=False)
    unknown = [_where(p) for p in problems if p["type"] == "extra_forbidden"]
    if unknown:
        versions = raw.get("versions")
        writer = versions.get("ddaudit") if isinstance(versions, dict) else None
        by = f", written by ddaudit {writer}" if writer else ""
        what = f"card has fields this version does not know: {', '.join(unknown)}{by}"
        raise BadInput(path, what, "It was probably made by a newer ddaudit; upgrade ddaudit.")
    first = problems[0]
    what = f"card field '{_where(first)}' is invalid ({first['msg']})"
    raise BadInput(path, what, "The file was written by hand or is damaged; make it again.")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9


def _where(problem: Any) -> str:
    return ".".join(str(part) for part in problem["loc"])


def _num_classes(header: dict[str, str], labels: Tensor, card: Card, path: Path) -> int:
    stated = header.get("ddaudit.num_classes")
    if stated is not None and not _is_number(stated):
        raise BadInput(path, f"header says '{stated[:20]}' classes, expected a number")
    if stated is not None:
        return int(stated)
    if labels.ndim == 2:
        return int(labels.shape[1])
    if card.class_names is not None:
        return len(card.class_names)
    raise BadInput(
        path,
        "does not say how many classes it has",
        "Give the card class_names or the header 'ddaudit.num_classes'.",
    )


def _unreadable(path: Path, err: Exception) -> BadInput:
    """The one clear line for a file that safetensors refuses."""
    size = path.stat().st_size
    with open_file(path) as file:
        head = file.read(8)
        if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            what = "is a pickle, which can run code when opened; refused"
            return BadInput(path, what, import_hint(path))
        if head[:4] == b"PK\x03\x04":
            what = "is a zip archive (a PyTorch or NumPy file?), not a set file"
            return BadInput(path, what, import_hint(path))
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > size - 8:
            what = "is truncated or not a safetensors file"
            return BadInput(path, what, f"Make or download it again. {import_hint(path)}")
        needed = 8 + length + _data_bytes(file.read(length))
    if needed > size:
        what = f"is truncated: {size} of {needed} bytes are there"
        return BadInput(path, what, "Make or download it again.")
    return BadInput(path, f"is not a valid safetensors file ({err})", import_hint(path))


def _data_bytes(header: bytes) -> int:
    try:
        entries = json.loads(header)
        return max(int(v["data_offsets"][1]) for k, v in entries.items() if k != "__metadata__")
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        return 0


def import_hint(path: Path) -> str:
    """What to do with a file that is no set file: the import command where the layout is known."""
    from ddaudit.sets.imports import detect  # a cycle otherwise: imports build on this module

    name = detect(path)
    if name is None:
        return _NOT_OURS
    return f"Looks like format '{name}': run 'ddaudit import {path} --format {name} --out FILE'."
