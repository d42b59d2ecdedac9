"""From anybody's file to a set: pick the importer, tell it what is known, check the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from ddaudit import hub
from ddaudit.data import Dataset
from ddaudit.data.files import PICTURES
from ddaudit.errors import BadInput
from ddaudit.files import files_below, kind_of
from ddaudit.sets._types import DistilledSet
from ddaudit.sets.classes import match_classes
from ddaudit.sets.formats import FORMATS, Format, _names
from ddaudit.sets.formats._plain import from_arrays, pair_in
from ddaudit.sets.formats._safe import load_npz, load_torch, npz_names

COMMON_OPTIONS = {
    "num_classes": "number of classes, where neither the file nor --data tells",
    "mean": "normalisation mean per channel, comma-separated, if not that of --data",
    "std": "normalisation std per channel, comma-separated, if not that of --data",
}
"""Options that every format takes."""


def import_set(
    path: str | Path | tuple[Any, Any],
    *,
    format: str | None = None,
    data: Dataset | None = None,
    options: Mapping[str, str] | None = None,
) -> DistilledSet:
    """Read a distilled set in a community format.

    Args:
        path: the file or folder, or a place on the Hub; or the pair (images, labels), tensors or arrays in memory.
        format: a name in ``FORMATS``; found from the file when left out.
        data: the real data it was distilled from. Gives the normalisation constants, the number of
            classes and their order, and is what the result is checked against.
        options: ``--set name=value`` options: the format's own and ``COMMON_OPTIONS``.

    Returns:
        A valid set in pixel space; its card holds what the file says and, as notes, what was
        assumed.

    Raises:
        BadInput: unknown format or option, one that changes nothing in this file, unsafe or damaged file, or it does
            not fit ``data``.
    """
    options = _Asked(options or {})
    pair = path if isinstance(path, tuple) else None
    if hub.is_hub(path):
        path = hub.pull_all(path)
    path = Path("(images, labels)" if isinstance(path, tuple) else path)
    if pair is not None and len(pair) != 2:
        raise BadInput(path, f"a pair was expected, not {len(pair)} values")
    if pair is None and kind_of(path) is None:
        raise BadInput(path, "no such file or folder")
    importer = FORMATS.get("tensors") if pair else _importer(path, format)
    _check_options(importer, options)
    classes = _positive(options, "num_classes")
    mean, std = _numbers(options, "mean"), _numbers(options, "std")
    if data is not None:
        classes = data.num_classes if classes is None else classes
        mean, std = mean or data.mean, std or data.std
    read = importer.read if pair is None else partial(from_arrays, *pair)
    result = read(
        path,
        num_classes=classes,
        shape=data.shape if data is not None else None,
        mean=mean,
        std=std,
        options=options,
    )
    _check_used(result, options, path)
    result = _complete(result, importer, data, path)
    result.check(path)
    if data is not None:
        result.check_against(
            shape=data.shape,
            num_classes=data.num_classes,
            data=data.name,
            where=path,
            space=data.space,
        )
    return result


def detect(path: str | Path) -> str | None:
    """The name of the format that a file or folder is in; None when it looks like none of them.

    Goes by names and magic bytes; a PyTorch file with an unusual name is opened with the restricted
    loader. Runs nothing that is in the file.
    """
    path = Path(path)
    if kind_of(path) not in ("file", "folder"):
        return None
    for name, candidate in FORMATS.items():
        if candidate.sniff(path):
            return name
    if path.is_file() and path.suffix in (".pt", ".pth"):
        return _by_content(path)
    return None


def _importer(path: Path, name: str | None) -> Format:
    name = name if name is not None else detect(path)
    if name is None:
        raise unknown_format(path)
    return FORMATS.get(name)


def unknown_format(path: Path) -> BadInput:
    """What is wrong with a file or folder that looks like no set: what it holds, and what could be read instead.

    Raises:
        BadInput: a PyTorch file that holds more than data, or is none.
    """
    # A cycle otherwise: it reads files, whose errors lead here.
    from ddaudit.sets._probe import is_set_file
    from ddaudit.sets.files import load

    held = ""
    deep = files_below(path, *PICTURES, depth=3) if path.is_dir() else []
    if parts := sorted({f.parts[-3] for f in deep if f.parents[2] == path}):
        what = f"holds no CLASS/PICTURE, but folders of such folders ({', '.join(parts[:4])})"
        one = "train" if "train" in parts else parts[0]
        return BadInput(path, what, f"Import one of them: {path / one}.")
    if is_set_file(path):
        load(path)  # says what is wrong with one that is damaged
        return BadInput(path, "is a set file already: it needs no import", "Audit it as it is.")
    if path.is_file() and path.stat().st_size == 0:
        return BadInput(path, "is empty", "Make or download it again.")
    if path.suffix != path.suffix.lower() or path.suffix in (".pkl", ".bin", ".npy"):
        held = f" (formats are told by endings: .pt, .npz, .safetensors, not {path.suffix})"
    elif path.is_file() and path.suffix in (".pt", ".pth"):
        content = load_torch(path)
        entries = ", ".join(map(str, content)) if isinstance(content, Mapping) else ""
        held = f" (it holds a {type(content).__name__}{': ' if entries else ''}{entries[:100]})"
    elif path.suffix == ".npz":
        load_npz(path, ())  # says what is wrong with one that is damaged
        held = f" (it holds {', '.join(sorted(npz_names(path)))[:100] or 'no arrays'})"
    todo = (
        f"Save a dict or .npz of images and labels, or pass --format: {', '.join(FORMATS.names())}."
    )
    return BadInput(path, f"is in no format that is known{held}", todo)


def _check_options(importer: Format, options: Mapping[str, str]) -> None:
    known = {**importer.options, **COMMON_OPTIONS}
    for name in options:
        if name not in known:
            what = f"format '{importer.name}' has no such option"
            raise BadInput(f"--set {name}={options[name]}", what, f"Known: {', '.join(known)}.")


class _Asked(Mapping[str, str]):
    """Options that know which of them a reader has asked for."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = dict(options)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)


def _check_used(made: DistilledSet, options: _Asked, path: Path) -> None:
    """Refuse options that changed nothing: the file is not what the user takes it for."""
    unread = [name for name in options if name not in options.read]
    if unread:
        what = f"means nothing for {path}, which was read without it"
        raise BadInput(f"--set {unread[0]}={options[unread[0]]}", what, "Leave it out.")
    for name, constants in (("mean", made.card.mean), ("std", made.card.std)):
        if name in options and constants is None:
            what = f"was not used: the pixels of {path} were read as they are, not as normalised"
            todo = "Leave it out, or say --set range=normalised where the format has it."
            raise BadInput(f"--set {name}={options[name]}", what, todo)
    if "num_classes" in options and int(options["num_classes"]) != made.num_classes:
        what = f"but {path} has {made.num_classes} classes by itself"
        raise BadInput(f"--set num_classes={options['num_classes']}", what, "Leave it out.")


def _by_content(path: Path) -> str | None:
    try:
        content = load_torch(path)
    except BadInput:
        return None
    if isinstance(content, Mapping) and isinstance(content.get("data"), list | tuple):
        return "dc"
    if isinstance(content, Mapping) and isinstance(content.get("compressor"), Mapping):
        return "rtp"
    if isinstance(content, Mapping) and pair_in(content):
        return "tensors"
    if _is_images(content):
        return "mtt"
    pair = isinstance(content, list | tuple) and len(content) == 2
    return "idc" if pair and _is_images(content[0]) else None


def _is_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _complete(
    result: DistilledSet, importer: Format, data: Dataset | None, where: Path
) -> DistilledSet:
    """Add to the card what the import itself knows; put classes in the data set's order."""
    if data is not None:
        result = match_classes(result, data.train.class_names, where=where)
    card = result.card
    notes = [f"imported from format '{importer.name}' ({importer.source})", *card.notes]
    update: dict[str, Any] = {"versions": {**card.versions, **_own_version()}}
    if data is not None:
        if card.data is not None and not _names.same_data(card.data, data.name):
            notes.append(f"the file says it was distilled from {card.data}, not {data.name}")
        update["data"] = data.name
        if card.mean is None and len(data.mean) == result.shape[0]:
            update |= {"mean": list(data.mean), "std": list(data.std)}
        if result.num_classes == data.num_classes:
            update["class_names"] = list(data.train.class_names)
    card = card.model_copy(update={**update, "notes": notes})
    return replace(result, card=card)


def _numbers(options: Mapping[str, str], name: str) -> tuple[float, ...] | None:
    text = options.get(name)
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(abs(v) < float("inf") for v in values):
        raise BadInput(
            f"--set {name}={text}", "is not a list of numbers", "Example: 0.49,0.48,0.45"
        )
    if name == "std" and min(values) <= 0:
        raise BadInput(f"--set {name}={text}", "must be positive")
    return values


def _positive(options: Mapping[str, str], name: str) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) > 0):
        raise BadInput(f"--set {name}={text}", "is not a positive number")
    return int(text)


def _own_version() -> dict[str, str]:
    try:
        return {"ddaudit": version("ddaudit")}
    except PackageNotFoundError:
        return {}
