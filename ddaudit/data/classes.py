"""Class identity: one rule for what a label column or a folder name means, in data sets and in set files.

Equal names mean equal classes. Whole numbers are positions; names that are numbers sort by value, others as
text. A missing label (null, NaN, an empty text, -1) is never a class: it is refused with the count.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ddaudit.errors import BadInput

MISSING_TEXT = frozenset({"", "na", "n/a", "nan", "null", "?"})
"""Texts that stand for "not recorded", in lower case. "None" does as Python writes it; "none" is a category."""

MOST_CLASSES = 100_000


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names in the order of their classes: numbers by value, anything else as text."""
    distinct = sorted(set(map(spelled, names)))
    values = [number_of(name) for name in distinct]
    if any(value is None for value in values):
        return tuple(distinct)
    return tuple(name for _, name in sorted(zip(values, distinct, strict=True)))


def spelled(name: str) -> str:
    """The name with its accents in one way: file systems and archives write one name in two (NFC and NFD)."""
    return unicodedata.normalize("NFC", name)


def is_missing(value: Any) -> bool:
    """True for null, NaN and the texts that stand for "not recorded"."""
    if isinstance(value, float):
        return math.isnan(value)
    if not isinstance(value, str):
        return value is None
    text = value.strip()
    return text == "None" or text.lower() in MISSING_TEXT


def index_names(
    columns: Mapping[str, Sequence[Any]],
    *,
    kind: str,
    names: Sequence[str] | None = None,
    missing: bool = False,
    gaps: bool = True,
) -> tuple[tuple[str, ...] | None, dict[str, Tensor]]:
    """Number the values of a label or group column that may be spread over several files.

    Args:
        columns: what to call each part in messages (a file) -> its values: whole numbers (also stored as floats),
            texts, or booleans.
        kind: "label" or "group", for messages.
        names: the classes where the file declares them (a ClassLabel): numbers are positions in them, texts are
            looked up.
        missing: True gives missing values position -1 instead of refusing them.
        gaps: False refuses numbers that leave one out: a class without a record cannot be distilled.

    Returns:
        The names (None where the values are numbers and nothing names them) and int64 positions of each part.

    Raises:
        BadInput: missing or fractional values, numbers out of range, texts that ``names`` lacks, or a mixture.
    """
    for where, values in columns.items():
        _refuse_many(where, kind, values)
    kept = {where: [_whole(value) for value in values] for where, values in columns.items()}
    for where, values in kept.items():
        _refuse(where, kind, values, missing=missing)
    present = {value for values in kept.values() for value in values if value is not None}
    numbers = [value for value in present if type(value) is int]
    if numbers and len(numbers) < len(present):
        text = next(value for value in present if type(value) is not int)
        raise BadInput(
            next(iter(columns)), f"{kind} column mixes numbers and texts ({numbers[0]}, '{text}')"
        )
    if numbers:
        top = MOST_CLASSES if names is None else len(names)
        for where, values in kept.items():
            over = [value for value in values if type(value) is int and value >= top]
            if over:
                declared = "" if names is None else f": {top} names are declared"
                what = f"{kind} column holds {over[0]}, out of range{declared}"
                raise BadInput(where, what, "Numbers are positions from 0 on.")
        left_out = (
            [] if gaps or names is not None else sorted(set(range(max(numbers))) - set(numbers))
        )
        if left_out:
            there = ", ".join(str(n) for n in sorted(numbers)[:6])
            raise BadInput(
                next(iter(columns)),
                f"{kind}s are {there}{', ...' * (len(numbers) > 6)} and no record has {left_out[0]}",
                "Numbers are positions from 0 on without gaps; texts may be any names.",
            )
        # The positions are the numbers themselves.
        known: Mapping[Any, int] = {value: value for value in numbers}
        chosen = None if names is None else tuple(names)
    else:
        chosen = class_order(str(value) for value in present) if names is None else tuple(names)
        known = {spelled(name): position for position, name in enumerate(chosen)}
        for where, values in kept.items():
            strange = [v for v in values if v is not None and v not in known]
            if strange:
                what = f"{kind} column holds '{strange[0]}', which is none of its declared names"
                raise BadInput(where, what, f"Declared: {', '.join(chosen[:20])}.")
    indexed = {
        where: torch.tensor([-1 if v is None else known[v] for v in values], dtype=torch.int64)
        for where, values in kept.items()
    }
    return chosen, indexed


def match_names(own: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Where each of ``own`` stands in ``wanted``, by name; None where positions are all there is to go by.

    None means that no name fits elsewhere: the two lists are two spellings (``T-shirt`` and ``T-shirt/top``), and
    position decides if anything does. Which names fit says :func:`places`.

    Raises:
        ValueError: some names fit, but at other positions, and others fit nowhere: no reading is safe.
    """
    found = places(own, wanted)
    positions = [at for at in found if at is not None]
    if len(set(positions)) == len(own):
        return positions
    moved = [
        name for i, (name, at) in enumerate(zip(own, found, strict=True)) if at not in (None, i)
    ]
    if moved:
        strange = next((n for n, at in zip(own, found, strict=True) if at is None), own[0])
        raise ValueError(
            f"class '{moved[0]}' stands elsewhere in the data, and class '{strange}' is not there or twice"
        )
    return None


def places(own: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Where each of ``own`` stands in ``wanted``; None where it does not, or twice.

    A name fits as it is, else without case and punctuation (``ankle_boot`` is ``Ankle boot``). Numbers written in two
    ways (``7`` and ``0007``) are one name.
    """
    found: list[int | None] = [None] * len(own)
    for key in (_folded, canonical_name):  # the exact one last: it decides
        keys = [key(name) for name in wanted]
        count = Counter(keys)
        place = {name: position for position, name in enumerate(keys) if count[name] == 1}
        found = [place.get(key(name), at) for name, at in zip(own, found, strict=True)]
    return found


def _folded(name: str) -> str:
    """The name without case, punctuation and spaces, unless it is a number or nothing is left."""
    if number_of(name) is not None:
        return canonical_name(name)
    text = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in text if unicodedata.category(c)[0] in "LMN") or name


def canonical_name(name: str) -> str:
    """The name with a whole number in its shortest spelling (``0007`` is ``7``)."""
    return str(int(name)) if name.isascii() and name.isdecimal() else name


def number_of(name: str) -> float | None:
    """The value of a text that is a finite number; None for any other (``1_000`` is Python's, not a table's)."""
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in name else None


def _whole(value: Any) -> int | float | str | None:
    """A stored value as a whole number or text; None where it is missing; other numbers as they are."""
    if is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return spelled(str(value))
    return int(value) if float(value).is_integer() else value


def _refuse_many(where: str, kind: str, values: Sequence[Any]) -> None:
    """One line for several classes in one record."""
    several = [v for v in values if isinstance(v, list | tuple | dict | bytes)]
    if several:
        what = f"{len(several)} of {len(values)} {kind}s are of type {type(several[0]).__name__} ({several[0]!r:.40})"
        raise BadInput(where, what, f"A {kind} is a class: a whole number or a name.")


def _refuse(where: str, kind: str, values: Sequence[Any], *, missing: bool) -> None:
    """One line for values that are no class, with how many there are."""
    count = len(values)
    absent = sum(value is None for value in values)
    if absent and not missing:
        what = f"{absent} of {count} {kind}s are missing (null, NaN or empty)"
        raise BadInput(where, what, "Leave these rows out, or fill them in.")
    hidden = [v for v in values if isinstance(v, int | float) and v < 0]
    if hidden:
        what = f"{len(hidden)} of {count} {kind}s are negative ({hidden[0]:g})"
        todo = (
            "Numbers are positions from 0 on; -1 usually hides a test label: leave these rows out."
        )
        raise BadInput(where, what, todo)
    broken = [v for v in values if isinstance(v, float)]
    if broken:
        what = f"{len(broken)} of {count} {kind}s are not whole numbers ({broken[0]:g})"
        raise BadInput(where, what, f"A {kind} is a class: a whole number or a name.")
