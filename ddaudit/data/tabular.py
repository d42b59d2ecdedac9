"""Tables: a CSV file of the user's own.

A record is (1, 1, D): numbers standardised, categories one-hot (0 or 1). Which part of the data a record is in
(train, validation, test) depends on a hash of its own row alone, so that adding or removing a record moves no
other: a split by permutation would give away more than a private method accounts for.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.classes import index_names, is_missing, number_of
from ddaudit.data.coins import coins
from ddaudit.data.columns import (
    MOST_CATEGORIES,
    MOST_GROUPS,
    Column,
    Row,
    from_data,
    from_ranges,
    identifies,
)
from ddaudit.data.registry import Request, dataset
from ddaudit.data.spec import Option
from ddaudit.errors import BadInput
from ddaudit.files import afford, read_json, read_text

TEST, VALIDATION = 0.2, 0.1
"""Default shares of the records for test and validation."""

PRIVATE = (
    "means, spreads and categories of the columns come from the records (declare public ones: ranges=FILE, or "
    "constants=public where they are known to all)"
)

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}


@dataset(
    "csv",
    "a table of your own: a header line, a target column, numbers and categories",
    options=(
        Option("path", "", "the .csv file", required=True),
        Option("target", "", "column with the class", required=True),
        Option("group", "", "column of the protected attribute; it is not an input"),
        Option("drop", "", "columns to leave out, separated by +: identifiers, names"),
        Option("missing", "refuse", "cells without a value", choices=("refuse", "drop", "mean")),
        Option(
            "constants", "private", "are means, categories public?", choices=("private", "public")
        ),
        Option(
            "ranges", "", "JSON file of public ranges and categories, used instead of the data's"
        ),
        Option("separator", "comma", "between cells", choices=tuple(SEPARATORS)),
        Option("test", TEST, "share of the records for test", low=0.01, high=0.9),
        Option("validation", VALIDATION, "share of the records for validation", low=0.0, high=0.5),
    ),
)
def csv_table(request: Request) -> Dataset:
    """Read a CSV file; docs/data.md has the layout of the ranges file."""
    path = request.user_path(request.text("path"), get="Give the path of a .csv file.")
    header, rows = read_csv(path, SEPARATORS[request.text("separator")])
    target, group = request.text("target"), request.text("group")
    dropped = [name for name in request.text("drop").split("+") if name]
    for option, name in (("target", target), ("group", group), *(("drop", d) for d in dropped)):
        if name and name not in header:
            raise BadInput(
                path, f"has no column '{name}'", f"Columns: {', '.join(header)}. ({option}=)"
            )
    if target == group:
        what = "target and group are the same column, so every group would hold one class"
        raise BadInput(f"group={group}", what)
    for option, name in (("target", target), ("group", group)):
        if name and name in dropped:
            raise BadInput(f"drop={name}", f"is the column of {option}=, which is no input anyway")
    special = {target, group, *dropped}
    inputs = [name for name in header if name not in special]
    if not inputs:
        raise BadInput(path, "has no column left to learn from")
    rows, notes = _complete(rows, inputs, [target, *filter(None, [group])], request, path)
    notes += [
        f"Column '{name}' differs in every record: if it is an identifier, add drop={name}."
        for name in inputs
        if identifies([row[name] for row in rows])
    ]
    notes += [
        f"Column '{name}' tells apart {' and '.join(map(repr, alike))}: if they mean one thing, spell them alike."
        for name in (target, *filter(None, [group]), *inputs)
        if (alike := _spelt_alike({row[name] for row in rows}))
    ]
    declared = _declared(request, target, group)
    roles = split_roles(
        ["\x1f".join(row[name] for name in header) for row in rows],
        test=request.number("test"),
        validation=request.number("validation"),
    )
    train = [row for row, role in zip(rows, roles, strict=True) if role == "train"]
    if not train:
        raise BadInput(path, f"has only {len(rows)} records, none of them in train")
    columns = [
        from_ranges(name, declared[name], request.text("ranges"))
        if declared
        else from_data(name, train, rows, path)
        for name in inputs
        if not declared or name in declared
    ]
    if not columns:
        raise BadInput(request.text("ranges"), "declares none of the input columns")
    if declared:
        left_out = [name for name in inputs if name not in declared]
        if left_out:
            notes.append(f"Columns without declared ranges are left out: {', '.join(left_out)}.")
    # First: it names a text in a column of numbers, which the ranges below would only miss.
    encoded = [c.encode([row[c.name] for row in rows]) for c in columns]
    if declared:
        _refuse_misses(columns, rows, request.text("ranges"))
    values = torch.from_numpy(np.concatenate(encoded, axis=1))
    labels, class_names = _classes(rows, target, path, kind="label", given=declared.get(target))
    if len(class_names) < 2:
        raise BadInput(path, f"column '{target}' holds one class only")
    groups: Tensor | None = None
    group_names: tuple[str, ...] = ()
    if group:
        groups, group_names = _classes(rows, group, path, kind="group", given=declared.get(group))
        notes.append(f"The group column '{group}' is not among the inputs.")
    whole = ImageData(
        images=values[:, None, None, :].contiguous(),
        labels=labels,
        class_names=class_names,
        groups=groups,
        group_names=group_names,
        space="standard",
        modality="tabular",
    )
    public = bool(declared) or request.text("constants") == "public"
    return assemble(
        request,
        whole,
        roles,
        columns=tuple(name for column in columns for name in column.inputs),
        notes=(*_said(columns, declared, public), *notes),
        whole_set=() if public else (PRIVATE,),
        assumed=_assumed(declared, path=request.text("ranges"), public=public),
        where=path,
    )


def _spelt_alike(values: set[str]) -> list[str]:
    """Texts of a column that differ in capitals and blanks alone: the first such group, sorted; empty without one."""
    by_letters: dict[str, list[str]] = {}
    for value in sorted(v for v in values if number_of(v) is None):
        by_letters.setdefault("".join(value.casefold().split()), []).append(value)
    return next((texts for texts in by_letters.values() if len(texts) > 1), [])


def _refuse_misses(columns: Sequence[Column], rows: Sequence[Row], where: object) -> None:
    """Refuse a declaration that fits no record: its inputs would be constant, and nothing would say so.

    Raises:
        BadInput: categories that no record has, or a range that all records lie beyond.
    """
    for column in columns:
        present = [row[column.name] for row in rows if not is_missing(row[column.name])]
        if column.categories and present and not set(present) & set(column.categories):
            listed = ", ".join(column.categories[:3])
            what = f"declares categories of '{column.name}' ({listed}) that no record has"
            raise BadInput(where, what, "Spell them as the column does.")
        numbers = [] if column.categories else [number_of(value) or 0.0 for value in present]
        if numbers and (max(numbers) < column.low or min(numbers) > column.high):
            what = f"declares {column.low:g} to {column.high:g} for '{column.name}', and all records lie beyond"
            raise BadInput(where, what, "Give the range in the units of the column.")


def assemble(
    request: Request,
    whole: ImageData,
    roles: Sequence[str],
    *,
    columns: tuple[str, ...],
    notes: tuple[str, ...],
    whole_set: tuple[str, ...] = (),
    assumed: tuple[str, ...],
    where: object,
) -> Dataset:
    """A tabular data set from all its records and their roles.

    Raises:
        BadInput: no record in train or test.
    """
    parts = {}
    for role in ("train", "validation", "test"):
        index = torch.tensor([i for i, r in enumerate(roles) if r == role], dtype=torch.int64)
        if role != "validation" and not len(index):
            raise BadInput(
                where, f"has no record in {role}", "Give more records, or another test=."
            )
        parts[role] = whole.subset(index)
    note = (
        f"{len(parts['train'])} records train, {len(parts['validation'])} validate and {len(parts['test'])} test; "
        "a hash of its own row decides each record's part."
    )
    return Dataset(
        name=request.name,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        mean=(0.0,),
        std=(1.0,),
        augment="",
        notes=(*notes, note),
        columns=columns,
        whole_set=whole_set,
        assumed=assumed,
    )


def split_roles(rows: Sequence[str], *, test: float, validation: float) -> list[str]:
    """ "train", "validation" or "test" for each record, by a hash of its own content.

    Equal records have equal roles, and no record's role depends on another's.
    """
    raw = b"".join(hashlib.sha256(row.encode("utf-8", "surrogatepass")).digest() for row in rows)
    digests = torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).copy()).view(-1, 32)
    shares = coins(digests, "part of a table")
    return [
        "test" if s < test else "validation" if s < test + validation else "train" for s in shares
    ]


def read_csv(path: Path, separator: str) -> tuple[list[str], list[Row]]:
    """Header and rows of a CSV file, cells stripped.

    Raises:
        BadInput: not text, no header, names that repeat, or rows of another length.
    """
    text = read_text(path, encoding="utf-8-sig")
    afford(path, 32 * (text.count(separator) + text.count("\n")), "cells")
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = [line for line in table if line]
    except csv.Error as error:
        raise BadInput(path, f"is not a CSV file ({error})") from None
    if len(lines) < 2:
        raise BadInput(path, "holds no records", "The first line names the columns.")
    header = [name.strip() for name in lines[0]]
    twice = [name for i, name in enumerate(header) if name in header[:i] or not name]
    if twice:
        raise BadInput(
            path, f"names column '{twice[0]}' twice or not at all", "The first line names columns."
        )
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            todo = "Is it separated by something else? separator=semicolon or separator=tab."
            raise BadInput(
                path, f"record {number} has {len(line)} cells, the header {len(header)}", todo
            )
    return header, [dict(zip(header, (c.strip() for c in line), strict=True)) for line in lines[1:]]


def _complete(
    rows: list[Row], inputs: list[str], needed: list[str], request: Request, path: Path
) -> tuple[list[Row], list[str]]:
    """The rows to use, and what was done about missing cells; refuses them unless told otherwise."""
    how = request.text("missing")
    counts = {name: sum(is_missing(row[name]) for row in rows) for name in (*needed, *inputs)}
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        return rows, []
    listed = ", ".join(f"{count} in '{name}'" for name, count in counts.items())
    if how == "drop":
        kept = [row for row in rows if not any(is_missing(row[name]) for name in counts)]
        if not kept:
            raise BadInput(path, "has no record without a missing cell", "Take missing=mean.")
        return kept, [
            f"{len(rows) - len(kept)} of {len(rows)} records miss a value ({listed}) and are left out."
        ]
    unfilled = [name for name in needed if name in counts]
    if how == "refuse" or unfilled:
        name = unfilled[0] if unfilled else next(iter(counts))
        what = f"{counts[name]} of {len(rows)} records have no value in column '{name}'"
        todo = (
            "missing=drop leaves them out."
            if unfilled
            else "missing=drop leaves them out, missing=mean fills in the column's centre."
        )
        raise BadInput(path, what, f"Missing in all: {listed}. {todo}")
    return rows, [f"Missing values became the centre of their column, or no category ({listed})."]


def _declared(request: Request, target: str, group: str) -> dict[str, list[object]]:
    """The ranges file: column -> [low, high] or a list of categories; {} without one."""
    if not request.text("ranges"):
        return {}
    path = request.user_path(request.text("ranges"), get="Give the path of a JSON file.")
    content = read_json(path)
    todo = 'Wanted: {"age": [0, 120], "job": ["office", "other"], "TARGET": ["no", "yes"]}.'
    if not isinstance(content, dict) or not all(
        isinstance(v, list) and v for v in content.values()
    ):
        raise BadInput(
            path, "is not an object of column: [low, high] or column: [category, ...]", todo
        )
    for name in filter(None, (target, group)):
        if name not in content:
            raise BadInput(path, f"does not list the classes of column '{name}'", todo)
    return content


def _classes(
    rows: list[Row], name: str, path: Path, *, kind: str, given: list[object] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """(N,) int64 positions and names of the target or the group column; declared names fix the order."""
    declared = None if given is None else [str(value) for value in given]
    where = f"{path}: column '{name}'"
    names, indexed = index_names({where: [row[name] for row in rows]}, kind=kind, names=declared)
    assert names is not None  # cells are texts
    limit = MOST_GROUPS if kind == "group" else MOST_CATEGORIES
    if len(names) > limit:
        what = f"holds {len(names)} different {kind}s, more than {limit}"
        raise BadInput(where, what, "Group its values first; regression targets are not supported.")
    return indexed[where], names


def _said(columns: list[Column], declared: Mapping[str, object], public: bool) -> tuple[str, ...]:
    numbers = sum(not column.categories for column in columns)
    made = (
        "declared public ranges" if declared else "the training records" if numbers else "the file"
    )
    first = (
        f"{numbers} numbers are standardised by {made}, {len(columns) - numbers} category columns are one-hot; "
        "networks see no other preprocessing."
    )
    if declared:
        bound = "Numbers outside their declared range are set to its ends; categories not declared are no category."
        return (first, bound)
    if public:
        return (first, "Means, spreads and category lists are declared public (constants=public).")
    private = (
        "Means, spreads and category lists come from these records and are private: recipes with a privacy claim "
        "refuse this data (ranges=FILE or constants=public)."
    )
    return (first, private)


def _assumed(declared: Mapping[str, object], *, path: str, public: bool) -> tuple[str, ...]:
    """What a privacy claim takes as public, in words."""
    if declared:
        return (f"columns, ranges, categories and class names as in {Path(path).name}",)
    if public:
        return (
            "kinds, means and spreads of the columns, categories and class names (constants=public)",
        )
    return ()
