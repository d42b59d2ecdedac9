"""Where results go: whether they can be written there is found out before any work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ddaudit.errors import BadInput

LEAST_FREE = 2**20
"""Bytes. Less than this is a full disk: a report alone is larger."""


def check_file(path: Path, *, option: str = "--out") -> None:
    """Raises BadInput unless a file can be written at ``path``; missing folders will be made."""
    where = f"{option} {path}"
    if _is(path, "dir", where):
        raise BadInput(where, "is a folder", "Give a file name.")
    if path.exists() and not path.is_file():
        raise BadInput(where, "is no regular file")
    if path.exists() and not os.access(path, os.W_OK):
        raise BadInput(where, "may not be written", "Choose another place.")
    _check_parents(path.parent, where)


def check_folder(url: str | Path, *, option: str = "--out") -> None:
    """Raises BadInput unless files can be written below ``url``; a URL of another file system is not asked."""
    if "://" in str(url):
        return
    where = f"{option} {url}"
    path = Path(url)
    if not str(url) or (_exists(path, where) and not path.is_dir()):
        raise BadInput(where, "is not a folder", "Give a new or an existing folder.")
    _check_parents(path, where)


def check_set_file(path: Path, *, overwrite: bool, option: str = "--out") -> None:
    """Raises BadInput unless a set can be written at ``path`` without losing a release.

    A set without a privacy claim is replaced: it can be made again. What is released under a claim cannot, and what
    cannot be read may be such a set.
    """
    where = f"{option} {path}"
    check_file(path, option=option)
    if path.suffix != ".safetensors":
        todo = f"Take {path.stem}.safetensors."
        raise BadInput(where, "a set file is a .safetensors file", todo)
    there = path.resolve()  # of "new/../private.safetensors", although "new" is not there yet
    if overwrite or not there.exists():
        return
    from ddaudit.sets import load

    try:
        claim = load(there).card.privacy
    except BadInput:
        raise BadInput(
            where, "is there already and is no set file", "Choose another name, or --overwrite."
        ) from None
    if claim is not None:
        raise BadInput(
            where,
            f"holds a private release (epsilon {claim.epsilon:.4g}); making it again spends the budget again",
            "Choose another name, or --overwrite.",
        )


def _check_parents(folder: Path, where: str) -> None:
    """The nearest folder that exists must be one, be writable, and have room."""
    while not _exists(folder, where):
        folder = folder.parent
    if not folder.is_dir():
        raise BadInput(where, f"cannot be made: {folder} is a file", "Choose another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(
            where, f"cannot be written: no permission in {folder}", "Choose another place."
        )
    room = shutil.disk_usage(folder)
    if room.total and room.free < LEAST_FREE:  # /proc and the like have no size
        raise BadInput(
            where, "cannot be written: the disk is full", "Make room, or choose another place."
        )


def _exists(path: Path, where: str) -> bool:
    return _is(path, "there", where)


def _is(path: Path, what: str, where: str) -> bool:
    """Whether the path is there, or is a folder; a name that no file can have is the user's error."""
    try:
        path.lstat()
        return path.is_dir() if what == "dir" else True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise BadInput(
            where, "cannot be looked at: no permission", "Choose another place."
        ) from None
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise BadInput(ascii(where)[1:-1][:200], f"is no usable path ({reason})") from None
