"""A log of private releases: what was ever made from private records, so that its cost can be added up.

Every private set that is written leaves a record in the folder ``releases`` beside it, also when the set itself is
later overwritten or lost: whoever has seen it has seen it. The log stays with the holder of the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ddaudit.errors import BadInput
from ddaudit.files import afford_json, files_below, kind_of, read_bytes, write_bytes
from ddaudit.sets._types import Card, PrivacyClaim

FOLDER = "releases"


class Release(BaseModel):
    """One private set that was made: its claim, and what it was called."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    made: str
    """When, ISO 8601."""
    name: str
    """File or cell that the set was written to."""
    method: str
    data: str | None
    ipc: int | None
    seed: int | None
    claim: PrivacyClaim

    @property
    def file(self) -> str:
        """Name of the record's own file: one for each set, so that nothing is ever overwritten."""
        content = self.model_dump_json(exclude={"made"}).encode()
        return f"{hashlib.sha256(content).hexdigest()[:24]}.json"


def release_of(card: Card, name: str) -> Release | None:
    """The log's record of a set with this card, or None where it claims no privacy."""
    if card.privacy is None:
        return None
    return Release(
        made=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        name=name,
        method=card.method,
        data=card.data,
        ipc=card.ipc,
        seed=card.seed,
        claim=card.privacy,
    )


def log_release(card: Card, file: Path) -> None:
    """Write the record of a set that was saved to ``file``, into the folder ``releases`` beside it.

    Raises:
        BadInput: the record cannot be written.
    """
    release = release_of(card, file.name)
    if release is None:
        return
    folder = file.parent / FOLDER
    write_bytes(folder / release.file, release.model_dump_json(indent=1).encode())


def read_releases(folder: Path) -> list[Release]:
    """Every record below ``folder``, in the order of making.

    Raises:
        BadInput: no such folder, or a record that cannot be read: a sum without it would be too small.
    """
    if kind_of(folder) != "folder":
        raise BadInput(folder, "is no folder", "Give the folder of a run, or of private set files.")
    return sorted(_records(folder), key=lambda r: (r.made, r.name))


def _records(folder: Path) -> Iterator[Release]:
    for file in files_below(folder, ".json", depth=20, hidden=True, search=True):
        if file.parent.name != FOLDER:
            continue
        try:
            raw = read_bytes(file)
            afford_json(raw, file)
            yield Release.model_validate_json(raw)
        except ValidationError:
            raise BadInput(
                file,
                "is not a readable record of a private release",
                "Restore it: what was released cannot be added up without it.",
            ) from None
