"""The one door for files that a user names: regular files only, every failure one line, one budget for all.

The budget bounds what a file may unpack to in memory, and is asked before anything is allocated: a file of a few
kilobytes can hold billions of zeros, and a device never ends. It is 256 MB unless the variable ``DDAUDIT_BUDGET``
says another number of MB.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ddaudit.errors import BadInput

VARIABLE = "DDAUDIT_BUDGET"
DEFAULT_MB = 256
MB = 2**20

MOST_YAML_BYTES = 256 * 1024
"""PyYAML reads about 50 kB a second."""
MOST_YAML_DEPTH = 50

Kind = Literal["file", "folder", "other"]


class OverBudget(BadInput):
    """A file that may be sound, but unpacks to more than the budget allows."""


def budget() -> int:
    """Bytes that one file may unpack to.

    Raises:
        BadInput: the variable is no positive number.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return DEFAULT_MB * MB
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise BadInput(
            f"{VARIABLE}={text[:40]}", "is not a number of MB", f"Example: {VARIABLE}=1024."
        )
    return int(text) * MB


def afford(where: object, need: int, what: str) -> None:
    """Ask for memory before it is taken.

    Args:
        where: the file.
        need: bytes.
        what: what needs them: "pixels", "rows".

    Raises:
        OverBudget: the budget is smaller.
    """
    allowed = budget()
    if need > allowed:
        raise OverBudget(
            where,
            f"holds {need / MB:,.0f} MB of {what}, more than the {allowed // MB} MB that a file may unpack to",
            f"Where you trust it: {VARIABLE}={-(-need // MB)} (in MB).",
        )


def kind_of(path: str | Path) -> Kind | None:
    """What lies at a path (links are followed); None where nothing does.

    Raises:
        BadInput: a path that cannot be looked at, or that no file can have.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


@contextlib.contextmanager
def open_file(path: str | Path, *, whole: bool = True) -> Iterator[BinaryIO]:
    """Open a regular file for reading; an error of the system while it is read is one line, too.

    Args:
        whole: its size counts against the budget, because all of it will be read.

    Raises:
        BadInput: not there, not a regular file, not readable, or over the budget.
    """
    try:
        # Without waiting: a pipe that nobody writes to would otherwise hold us for ever.
        handle = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except FileNotFoundError:
        raise BadInput(path, "no such file") from None
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        folder = stat.S_ISDIR(found.st_mode)
        what = (
            "is a folder, expected a file"
            if folder
            else "is no regular file (a pipe or a device, say)"
        )
        raise BadInput(path, what)
    with os.fdopen(handle, "rb") as file:
        if whole:
            afford(path, found.st_size, "data")
        try:
            yield file
        except OSError as error:
            raise _unusable(path, error) from None


def read_bytes(path: str | Path, *, whole: bool = True) -> bytes:
    """The content of a regular file.

    Args:
        whole: False: its size is not asked of the budget (work of our own, such as stored networks).

    Raises:
        BadInput: see :func:`open_file`.
    """
    with open_file(path, whole=whole) as file:
        return file.read()


def read_text(path: str | Path, *, encoding: str = "utf-8") -> str:
    """The text of a regular file.

    Raises:
        BadInput: see :func:`open_file`; or it is not UTF-8.
    """
    try:
        return read_bytes(path).decode(encoding)
    except UnicodeDecodeError:
        raise BadInput(path, "is not UTF-8 text") from None


def parse_json(raw: str | bytes, where: object) -> Any:
    """The value of a JSON text.

    Raises:
        BadInput: not JSON, nested too deeply, half characters in its texts, or it unpacks to more than the budget.
    """
    afford_json(raw, where)
    try:
        value = json.loads(raw)
        if re.search(rb"\\u[dD][89a-fA-F]", raw if isinstance(raw, bytes) else raw.encode()):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadInput(where, "holds half a character (a lone surrogate)") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(where, f"is not valid JSON ({_short(error)})") from None
    return value


def afford_json(raw: str | bytes, where: object) -> None:
    """Ask for what a JSON text unpacks to: an object takes about 1 kB, any other value 64 bytes.

    Raises:
        OverBudget: too much.
    """
    objects, values = (
        (raw.count(b"{"), raw.count(b",") + raw.count(b"["))
        if isinstance(raw, bytes)
        else (raw.count("{"), raw.count(",") + raw.count("["))
    )
    afford(where, len(raw) + 1024 * objects + 64 * values, "JSON values")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file.

    Raises:
        BadInput: see :func:`open_file` and :func:`parse_json`.
    """
    return parse_json(read_bytes(path), path)


def parse_yaml(text: str, where: object) -> Any:
    """The value of a YAML text of plain types.

    Aliases (``*name``) are refused: a few lines of them can stand for billions of values.

    Raises:
        BadInput: not YAML, a value that YAML cannot read, an alias, or nested too deeply.
    """
    if len(text) > MOST_YAML_BYTES:
        raise BadInput(where, f"is {len(text):,} characters of YAML, more than {MOST_YAML_BYTES:,}")
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise BadInput(where, "uses a YAML alias (*name)", "Write the value out.")
            self.depth += 1
            if self.depth > MOST_YAML_DEPTH:
                raise BadInput(where, f"is nested more than {MOST_YAML_DEPTH} levels deep")
            made = super().compose_node(parent, index)
            self.depth -= 1
            return made

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            # Merged mappings ('<<') may be overridden; what stands here itself may not.
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((k for k in keys if keys.count(k) > 1 and k != "<<"), None)
            if twice is not None:
                line = node.start_mark.line + 1
                what = f"names '{twice}' twice in the mapping that begins at line {line}"
                raise BadInput(where, what, "Of two values only one can be meant.")
            return super().construct_mapping(node, deep)

    try:
        value = yaml.load(text, Loader)
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except BadInput:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = getattr(error, "problem", None) or _short(error)
        raise BadInput(where, f"is not YAML ({why}{at})") from None
    except UnicodeEncodeError:
        raise BadInput(where, "holds half a character (a lone surrogate)") from None
    except (
        Exception
    ) as error:  # a date of month 13, a number of 5000 digits, a key that is a list: all kinds
        raise BadInput(where, f"holds a value that cannot be read ({_short(error)})") from None
    return value


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file.

    Raises:
        BadInput: see :func:`open_file` and :func:`parse_yaml`.
    """
    return parse_yaml(read_text(path), path)


def files_below(
    folder: Path, *suffixes: str, depth: int, hidden: bool = False, search: bool = False
) -> list[Path]:
    """Regular files in a folder, at most ``depth`` folders down (1: in it), sorted. Links are followed, also two to one
    folder, unless they lead back to where they stand; one that leads nowhere is refused.

    Args:
        suffixes: lower-case endings to keep (".png"); none: all.
        hidden: also what :func:`is_hidden` by its name or its folder's.
        search: every folder once, by whichever of its names, and links that lead nowhere are passed over.

    Raises:
        BadInput: not readable, a link that leads nowhere, or so many that their names alone are over the budget (1 kB
            each).
    """
    found: list[Path] = []
    seen = 0
    visited: set[tuple[int, int]] = set()
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(os.fspath(folder), ())]
    while waiting:
        place, above = waiting.pop()
        try:
            here = os.stat(place)
            path = (*above, (here.st_dev, here.st_ino))
            if path[-1] in (visited if search else above):  # a link may lead back
                continue
            visited.add(path[-1])
            with os.scandir(place) as entries:
                for entry in entries:
                    seen += 1
                    if seen % 1024 == 0:
                        afford(folder, seen * 1024, "file names")
                    if is_hidden(entry.name) and not hidden:
                        continue
                    wanted, deeper = entry.name.lower().endswith(suffixes or ""), len(path) < depth
                    if wanted and _leads(entry.is_file):
                        found.append(Path(entry.path))
                    elif deeper and _leads(entry.is_dir):
                        waiting.append((entry.path, path))
                    elif (wanted or deeper) and not (search or _leads(entry.stat)):
                        todo = "Mend it or take it away: what it stands for would be missing."
                        raise BadInput(entry.path, "is a link that leads nowhere", todo)
        except (OSError, ValueError) as error:
            raise _unusable(place, error) from None
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: a dot begins its name, or a system left it beside pictures."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN")


def _leads(question: Callable[[], object]) -> bool:
    """Whether an entry is a file, or a folder, or anything; a link that leads nowhere or in a circle is none."""
    try:
        return bool(question())
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOENT):
            return False
        raise


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file whole or not at all: to a temporary name beside it, which then replaces it. Folders are made.

    Raises:
        BadInput: it cannot be written (a full or read-only disk, no permission); nothing is left then.
    """
    path = Path(path)
    # Opened with the default mode: the user's umask, not mkstemp's 0600, decides who may read it.
    temporary = path.with_name(f"{_mine()}{secrets.token_hex(6)}{_PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        raise _unusable(path, error, "written") from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
    return path


def sweep(folder: Path) -> None:
    """Remove temporary files that killed processes of this machine have left in a folder and those in it."""
    host = _host()
    with contextlib.suppress(OSError):
        for place in (folder, *(p for p in folder.iterdir() if p.is_dir())):
            for file in place.glob(f".ddaudit-{host}-*{_PART}"):
                owner = file.name.removeprefix(f".ddaudit-{host}-").split("-")[0]
                if owner.isdecimal() and not _alive(int(owner)):
                    file.unlink(missing_ok=True)


_PART = ".part"


def _mine() -> str:
    return f".ddaudit-{_host()}-{os.getpid()}-"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _unusable(path: object, error: OSError | ValueError, verb: str = "read") -> BadInput:
    if isinstance(error, ValueError):
        return BadInput(str(path)[:200], f"is no usable path ({error})")
    if error.errno == errno.ENAMETOOLONG:
        return BadInput(f"{str(path)[:60]}...", "is no usable path (file name too long)")
    return BadInput(path, f"cannot be {verb} ({error.strerror or error})")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
