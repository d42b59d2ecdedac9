"""The run store: one folder (local, or any fsspec URL), one file per finished piece of work, written atomically.

    run.json            the resolved configuration, data notes, subjects, what was planned: of the last audit
    configurations/     the same of every audit into this folder, one file each
    cells/KEY.json      a Finding: one (subject, auditor, seed), or an auditor's instrument checks
    sets/KEY.safetensors, victims/KEY.safetensors, shared/KEY.safetensors   shared work
    releases/           one record per private set that was made

KEY is a hash of everything the content depends on, so a second run finds finished work by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem

from ddaudit.audits.info import check_info
from ddaudit.data import Dataset
from ddaudit.distillation.store import pack, unpack
from ddaudit.errors import BadInput
from ddaudit.files import (
    OverBudget,
    afford,
    afford_json,
    kind_of,
    parse_json,
    read_bytes,
    write_bytes,
)
from ddaudit.findings import Finding
from ddaudit.models import Arch, Network, build
from ddaudit.sets import DistilledSet, from_bytes, to_bytes
from ddaudit.sets.releases import FOLDER, release_of

# Sets larger than this (the full training set) are cheaper to make again than to store.
LARGEST_SET_FLOATS = 16 * 2**20

CONFIGURATIONS = "configurations"
_HOW = {"out", "jobs", "device", "ray", "data_root", "download"}
"""What a configuration says of how and where it is computed, not of what."""


class RunStore:
    """Reads and writes the files of one run folder.

    Args:
        url: a local path or an fsspec URL ("s3://bucket/run", "memory://run").

    Raises:
        BadInput: the URL's protocol is not available, or the folder cannot be written.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:  # every file system has errors of its own
            raise BadInput(url, f"cannot be opened as a run folder ({error})") from None
        local = isinstance(self._fs, LocalFileSystem)
        self.folder = Path(self._root) if local else None
        """The folder, where it is on this machine."""

    def read(self, name: str, *, own: bool = False) -> bytes | None:
        """The content of a file, or None where it does not exist.

        Args:
            own: something that only the audit which made it reads again: it may be larger than the budget.

        Raises:
            BadInput: it cannot be read, is no regular file, or over the budget.
        """
        path = f"{self._root}/{name}"
        if self.folder is not None:
            return read_bytes(path, whole=not own) if kind_of(path) is not None else None
        try:
            if not own:
                afford(f"{self.url}/{name}", int(self._fs.size(path) or 0), "data")
            return bytes(self._fs.cat_file(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(self.url, f"cannot be read ({error.strerror or error})") from None

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that a reader sees all of it or none: to a temporary name first, then renamed."""
        path = f"{self._root}/{name}"
        if self.folder is not None:
            write_bytes(path, content)
            return
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._fs.pipe_file(temporary, content)
            self._fs.mv(temporary, path)
        except OSError as error:
            with contextlib.suppress(Exception):
                self._fs.rm_file(temporary)
            reason = error.strerror or error
            raise BadInput(
                self.url, f"cannot be written ({reason})", "Choose another --out."
            ) from None

    def names(self, folder: str) -> list[str]:
        """File names in a folder of the run, sorted; temporary files of a killed run are not listed."""
        try:
            found = self._fs.ls(f"{self._root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(
            n
            for n in (str(f).rsplit("/", 1)[-1] for f in found)
            if not n.endswith((".tmp", ".part"))
        )

    def exists(self, name: str) -> bool:
        """True when the file is there, whole."""
        return bool(self._fs.exists(f"{self._root}/{name}"))

    # ---- run.json and cells ----------------------------------------------------------------------

    def read_info(self) -> dict[str, Any] | None:
        """run.json, or None.

        Raises:
            BadInput: it is not valid JSON.
        """
        return self._json("run.json")

    def read_infos(self) -> list[dict[str, Any]]:
        """run.json of every configuration that was audited into this folder, the last one first.

        Raises:
            BadInput: one of them is damaged.
        """
        if kind_of(self.url) == "file":
            raise BadInput(
                self.url, "is a file, not a run folder", "Give the --out of 'ddaudit audit'."
            )
        last = self.read_info()
        last = None if last is None else check_info(last, f"{self.url}/run.json")
        found = []
        for name in (f"{CONFIGURATIONS}/{n}" for n in self.names(CONFIGURATIONS)):
            if (info := self._json(name)) is not None:
                found.append(check_info(info, f"{self.url}/{name}"))
        if last is not None:
            found = [i for i in found if _configuration(i) != _configuration(last)]
        found.sort(key=lambda i: str(i.get("started", "")), reverse=True)
        return found if last is None else [last, *found]

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace run.json, and keep it as that of its configuration.

        Each configuration has a file of its own, so audits of different ones that write at the same time lose nothing.
        """
        content = json.dumps(info, indent=1, sort_keys=True, default=str).encode()
        self.write(f"{CONFIGURATIONS}/{_configuration(info)}.json", content)
        self.write("run.json", content)

    def _json(self, name: str) -> dict[str, Any] | None:
        raw = self.read(name)
        if raw is None:
            return None
        value = parse_json(raw, f"{self.url}/{name}")
        if not isinstance(value, dict):
            raise BadInput(f"{self.url}/{name}", "is not a JSON object")
        return value

    def cell(self, key: str) -> Finding | None:
        """A finished cell, or None; an unreadable file counts as missing and is computed again."""
        raw = self.read(f"cells/{key}.json")
        if raw is None:
            return None
        try:
            afford_json(raw, f"{self.url}/cells/{key}.json")
            return Finding.model_validate_json(raw)
        except ValueError:
            return None

    def save_cell(self, key: str, finding: Finding) -> None:
        """Keep a cell."""
        self.write(f"cells/{key}.json", finding.model_dump_json(indent=1).encode())

    # ---- shared work (the Artifacts protocol) ----------------------------------------------------

    def load_set(self, key: str) -> DistilledSet | None:
        """A stored distilled set, or None; an unreadable file counts as missing and is made again."""
        raw = self.read(f"sets/{key}.safetensors")
        try:
            return None if raw is None else from_bytes(raw)
        except OverBudget:  # it may be sound, so it is not made again
            raise
        except BadInput:
            return None

    def first_set(self, keys: Iterable[str]) -> DistilledSet | None:
        """The first of a subject's sets that is there and can be read, or None."""
        return next((value for key in keys if (value := self.load_set(key)) is not None), None)

    def save_set(self, key: str, value: DistilledSet) -> None:
        """Keep a distilled set, unless it is so large that making it again is cheaper.

        A private set is always kept, and logged: made again it would be a second release, with noise of its own.
        """
        if value.card.privacy or value.images.numel() <= LARGEST_SET_FLOATS:
            self.write(f"sets/{key}.safetensors", to_bytes(value))
        release = release_of(value.card, key)
        if release is not None:
            self.write(f"{FOLDER}/{release.file}", release.model_dump_json(indent=1).encode())
            self.write(f"{FOLDER}/of-sets/{key}", release.file.encode())

    def refuse_second_release(self, key: str) -> None:
        """Before a private set is made under ``key``: it must not have been made already.

        Raises:
            BadInput: it was, and its file is damaged or gone; noise drawn again would be a second release.
        """
        name = f"sets/{key}.safetensors"
        made = self.exists(name) or self.exists(f"{FOLDER}/of-sets/{key}")
        if made and self.load_set(key) is None:
            raise BadInput(
                f"{self.url}/{name}",
                "is damaged or gone, and made again this private set would be a second release",
                "Restore the file, or audit into a new --out, which counts as a release more ('ddaudit ledger').",
            )

    def load_networks(self, key: str, arch: Arch, data: Dataset) -> list[Network] | None:
        """Stored victims, rebuilt, or None; an unreadable file counts as missing and they are trained again."""
        raw = self.read(f"victims/{key}.safetensors", own=True)
        tensors = (None if raw is None else unpack(raw)) or {}
        numbers = sorted({name.partition("/")[0] for name in tensors}, key=lambda n: (len(n), n))
        if not tensors or numbers != [str(i) for i in range(len(numbers))]:
            return None
        networks = []
        for i in range(len(numbers)):
            net = build(
                arch,
                shape=data.shape,
                num_classes=data.num_classes,
                seed=0,
                mean=data.mean,
                std=data.std,
            )
            state = {n.partition("/")[2]: t for n, t in tensors.items() if n.startswith(f"{i}/")}
            if not all(bool(torch.isfinite(t).all()) for t in state.values()):
                return None
            try:
                net.load_state_dict(state)
            except RuntimeError:  # other names or shapes
                return None
            networks.append(net.eval())
        return networks

    def save_networks(self, key: str, networks: Sequence[Network]) -> None:
        """Keep victims."""
        tensors: dict[str, torch.Tensor] = {}
        for i, net in enumerate(networks):
            tensors |= {
                f"{i}/{name}": value.detach().cpu().contiguous().clone()
                for name, value in net.state_dict().items()
            }
        self.write(f"victims/{key}.safetensors", safetensors.torch.save(tensors))

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """Tensors that distillations share (experts), or None; an unreadable file counts as missing."""
        raw = self.read(f"shared/{key}.safetensors", own=True)
        return None if raw is None else unpack(raw)

    def put(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep tensors that distillations share."""
        self.write(f"shared/{key}.safetensors", pack(tensors))


def _configuration(info: dict[str, Any]) -> str:
    """A name for what was asked: options, and what stood under the subjects' names."""
    asked = {k: v for k, v in (info.get("config") or {}).items() if k not in _HOW}
    subjects = [(s.get("id"), s.get("identity")) for s in info.get("subjects") or []]
    text = json.dumps([asked, subjects], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
