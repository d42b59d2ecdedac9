"""A store of tensors by content key: work that several distillations share, kept so that it is done once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch
from torch import Tensor

from ddaudit.files import kind_of, read_bytes, write_bytes


class Store(Protocol):
    """Keeps named tensors under a key that names everything they depend on (the run store implements it)."""

    def get(self, key: str) -> dict[str, Tensor] | None:
        """What was put under this key; None where there is nothing, or nothing that can be read."""

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a key; a reader sees all of them or none."""


class FolderStore:
    """A :class:`Store` in a local folder, one safetensors file per key."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    def get(self, key: str) -> dict[str, Tensor] | None:
        """See :class:`Store`."""
        file = self._folder / f"{key}.safetensors"
        return unpack(read_bytes(file, whole=False)) if kind_of(file) is not None else None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """See :class:`Store`."""
        write_bytes(self._folder / f"{key}.safetensors", pack(tensors))


def content_key(*parts: object) -> str:
    """20 hex digits that name ``parts`` (of plain types, told apart by their ``repr``)."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    held = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return safetensors.torch.save(held)


def unpack(raw: bytes) -> dict[str, Tensor] | None:
    """The tensors of a safetensors file; None where it is damaged. Nothing in it is executed."""
    try:
        return dict(safetensors.torch.load(raw))
    except (
        safetensors.SafetensorError,
        ValueError,
        KeyError,
        RuntimeError,
    ):  # also types that torch does not have
        return None
