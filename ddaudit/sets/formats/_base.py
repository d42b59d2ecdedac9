"""What an importer is, and the small pieces that all importers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.registry import Registry
from ddaudit.sets._types import Card, DistilledSet


class Reader(Protocol):
    """Reads one community format.

    Args:
        path: the file or folder, as the user gave it.
        num_classes: K where known (of the data set), else None: found in the file or refused.
        shape: (C, H, W) of the data set where known, for layouts that leave it open.
        mean, std: per channel, of pixels in [0, 1]: the constants that undo normalisation.
        options: the format's own ``--set name=value`` options.

    Returns:
        A set in pixel space whose card says only what the file says, and what was assumed.

    Raises:
        BadInput: not this format, unsafe, or something needed is not known.
    """

    def __call__(
        self,
        path: Path,
        *,
        num_classes: int | None,
        shape: tuple[int, int, int] | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        options: Mapping[str, str],
    ) -> DistilledSet: ...


@dataclass(frozen=True)
class Format:
    """One importable format.

    Attributes:
        name: what the user types after ``--format``.
        summary: one line for ``ddaudit list formats``.
        source: whose code writes it.
        read: the importer.
        sniff: True when a path looks like this format by name or magic bytes; opens no pickle.
        options: option name -> one line of help.
    """

    name: str
    summary: str
    source: str
    read: Reader
    sniff: Callable[[Path], bool]
    options: Mapping[str, str] = field(default_factory=dict)


FORMATS: Registry[Format] = Registry(
    "format",
    of=Format,
    row=lambda f: {"name": f.name, "description": f"{f.summary} ({f.source})"},
)


def assemble(
    path: Path, images: Tensor, labels: Tensor, *, num_classes: int | None, card: Card
) -> DistilledSet:
    """Build and check the set.

    Finds the number of classes where it is not known and, when balanced, the images per class.

    Raises:
        BadInput: the content is invalid.
    """
    labels = labels.detach().cpu()
    if labels.numel() == 0 or len(images) == 0:
        raise BadInput(path, "holds no images", "An empty set cannot be audited.")
    notes = list(card.notes)
    if num_classes is None and card.class_names is not None:
        num_classes = len(card.class_names)
    if num_classes is None:
        num_classes = int(labels.shape[1]) if labels.ndim == 2 else max(int(labels.max()) + 1, 1)
        if labels.ndim == 1:
            notes.append(f"the number of classes ({num_classes}) is the largest label plus one")
    ipc = balanced(labels, num_classes) if card.ipc is None else card.ipc
    card = card.model_copy(update={"ipc": ipc, "notes": notes})
    return DistilledSet(images, labels, num_classes, card).check(path)


def balanced(labels: Tensor, num_classes: int | None = None) -> int | None:
    """Images per class when all classes (that occur, or all ``num_classes``) have equally many."""
    hard = labels.argmax(1) if labels.ndim == 2 else labels
    # Not bincount: a damaged label of 10 ** 15 would ask for that much memory.
    seen, counts = torch.unique(hard, return_counts=True)  # type: ignore[no-untyped-call]
    if len(set(counts.tolist())) != 1 or num_classes not in (None, len(seen)):
        return None
    return int(counts[0])


def integer(options: Mapping[str, str], name: str, *, default: int) -> int:
    """An integer option.

    Raises:
        BadInput: not an integer.
    """
    text = options.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise BadInput(f"--set {name}={text}", "is not an integer") from None


def flag(options: Mapping[str, str], name: str) -> bool | None:
    """A yes/no option; None when it was not given.

    Raises:
        BadInput: neither yes nor no.
    """
    text = options.get(name)
    if text is None:
        return None
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise BadInput(f"--set {name}={text}", "is neither true nor false")
    return known[text.lower()]


def choice(options: Mapping[str, str], name: str, allowed: Sequence[str], *, default: str) -> str:
    """An option with few values.

    Raises:
        BadInput: not one of them.
    """
    text = options.get(name, default)
    if text not in allowed:
        raise BadInput(f"--set {name}={text}", f"is not one of {', '.join(allowed)}")
    return text
