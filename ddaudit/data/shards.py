"""Parquet files that together are one column of classes: all of them, and one meaning for a number in all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ddaudit.containers import as_list, hub_names
from ddaudit.errors import BadInput
from ddaudit.files import afford

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
"""Of data and of distilled sets alike."""

_SHARD = re.compile(r"(.+)-([0-9]{1,9})-of-([0-9]{1,9})(?![0-9])")


def check_whole(files: Sequence[Path]) -> None:
    """Whether numbered shards (``train-00000-of-00003.parquet``) are as many as their names state.

    Raises:
        BadInput: one is missing, or there are more than that.
    """
    shards: dict[Path, list[tuple[int, str, str]]] = {}
    for file in files:
        if named := _SHARD.match(file.name):
            stem, number, total = named.groups()
            shards.setdefault(file.with_name(stem), []).append((int(total), number, total))
    for stem, parts in shards.items():
        total, digits, stated = max(parts)
        there = {int(number) for count, number, _ in parts if count == total}
        missing = next((number for number in range(total) if number not in there), None)
        if missing is not None:
            name = f"{stem.name}-{missing:0{len(digits)}d}-of-{stated}"
            what = f"holds {len(there)} of {total} shards; the first missing one is {name}"
            raise BadInput(stem.parent, what, "Download the missing ones, too.")
        if len(parts) != total:
            what = f"holds {len(parts)} shards '{stem.name}-...' but their names state {total}"
            raise BadInput(stem.parent, what, "Keep the shards of one download.")


def part_note(file: Path) -> str | None:
    """What to say of a shard that is read without the others; None for a file that is no such part."""
    named = _SHARD.match(file.name)
    if named is None or int(named[3]) < 2:
        return None
    return f"{file.name} is one of {int(named[3])} shards; the others are not read"


def column_among(
    names: Sequence[str], asked: str, usual: Sequence[str], option: str, where: str
) -> str:
    """The column that is asked for; else the one with a usual name.

    Args:
        option: how to ask for one, such as ``image=``.

    Raises:
        BadInput: it is not there, or several have usual names.
    """
    wanted = (asked,) if asked else usual
    found = [name for name in wanted if name in names]
    if len(found) == 1:
        return found[0]
    what = f"has columns {' and '.join(found)}" if found else f"has no column {' or '.join(wanted)}"
    raise BadInput(where, what, f"Columns: {', '.join(names)}. Name one with {option}COLUMN.")


def class_column(
    tables: Mapping[str, Any], column: str, *, kind: str
) -> tuple[list[Any], tuple[str, ...] | None]:
    """A label or group column of several files, one below the other, and the classes that they declare.

    Args:
        tables: file -> its rows, a pyarrow table.
        column: its name.
        kind: "label" or "group", for messages.

    Raises:
        BadInput: too large, or see :func:`one_order`.
    """
    afford(next(iter(tables)), 64 * sum(t.num_rows for t in tables.values()), f"{kind}s")
    parts = {
        where: (as_list(table, column, where), hub_names(table.schema.metadata, column))
        for where, table in tables.items()
    }
    values, names = one_order(parts, kind=kind)
    return list(chain.from_iterable(values.values())), names


def one_order(
    parts: Mapping[str, tuple[list[Any], tuple[str, ...] | None]],
    *,
    kind: str,
    names: tuple[str, ...] | None = None,
) -> tuple[dict[str, list[Any]], tuple[str, ...] | None]:
    """Values of parts (files, splits) that declare their classes (a ClassLabel), as positions in one order.

    Args:
        parts: what to call it -> its values and the names that it declares. A part that declares none has positions in
            the common order, or texts.
        kind: "label" or "group", for messages.
        names: the order; default: that of the first part which declares one.

    Returns:
        The values of each part, and the order.

    Raises:
        BadInput: a part declares one name twice, or other names.
    """
    for where, (_, own) in parts.items():
        if twice := [name for name, count in Counter(own or ()).items() if count > 1]:
            what = f"declares the {kind} name '{twice[0]}' twice"
            raise BadInput(where, what, "Give every one a name of its own.")
    names = names or next((own for _, own in parts.values() if own), None)
    made = {}
    for where, (values, own) in parts.items():
        if names is None or own is None or own == names:
            made[where] = values
            continue
        if len(own) != len(names) or sorted(set(own)) != sorted(names):
            odd = next(
                (name for name in (*own, *names) if (name in own) != (name in names)), own[0]
            )
            what = f"declares {len(own)} {kind} names, not the {len(names)} of the other files ('{odd}')"
            raise BadInput(where, what, "Write all files with one ClassLabel.")
        place = {name: position for position, name in enumerate(names)}
        made[where] = [_move(value, [place[name] for name in own]) for value in values]
    return made, names


def _move(value: Any, target: Sequence[int]) -> Any:
    """A class, or one number for each class, where class ``i`` becomes ``target[i]``; anything else as it is."""
    if isinstance(value, list) and len(value) == len(target):
        return [value[target.index(position)] for position in range(len(target))]
    if isinstance(value, int | float) and value in range(len(target)):
        return target[int(value)]
    return value
