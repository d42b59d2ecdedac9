"""Private sets that no record tells of: whoever holds them holds what they cost, whether or not it was written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ddaudit.errors import BadInput
from ddaudit.files import files_below
from ddaudit.sets._probe import is_set_file
from ddaudit.sets.files import digest, load
from ddaudit.sets.releases import Release, release_of


def unrecorded(folder: Path, known: Sequence[Release]) -> tuple[list[Release], list[Path]]:
    """Sets below ``folder`` whose cards claim privacy and that no record tells of (copied, moved, downloaded), as
    records without a time; and the set files that cannot be read, of which nothing is known."""
    recorded = Counter(map(_said, known))
    found: dict[str, Release] = {}
    broken = []
    for file in files_below(folder, ".safetensors", depth=20, hidden=True, search=True):
        if not is_set_file(file):
            continue
        try:
            card = load(file).card
        except BadInput:
            broken.append(file)
            continue
        release = release_of(card, str(file.relative_to(folder)))
        if release is not None:
            found.setdefault(digest(file), release.model_copy(update={"made": "no record"}))
    lost = []
    for release in found.values():
        if recorded[_said(release)] > 0:
            recorded[_said(release)] -= 1
        else:
            lost.append(release)
    return lost, broken


def _said(release: Release) -> str:
    """What a card and a record both say, whatever the file is called now."""
    return release.model_dump_json(exclude={"made", "name"})
