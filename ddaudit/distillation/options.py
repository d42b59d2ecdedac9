"""Parts as plain data for a card, and their options by dotted name, as ``--set`` writes them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ddaudit.errors import BadInput
from ddaudit.later import unused


def describe(part: Any) -> Any:
    """A part as plain data for a card: dataclasses become {"part": class name, **fields}.

    An option that came later is left out where it is not used: recipes are known by what they say of themselves, and
    one that has not changed shall find what an earlier version made.
    """
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        skip = unused(part)
        fields = {
            f.name: describe(getattr(part, f.name))
            for f in dataclasses.fields(part)
            if f.repr and f.name not in skip
        }
        return {"part": type(part).__name__, **fields}
    if isinstance(part, dict):
        return {str(k): describe(v) for k, v in part.items()}
    if isinstance(part, (list, tuple)):
        return [describe(v) for v in part]
    return part if isinstance(part, (str, int, float, bool, type(None))) else str(part)


def replace_option(part: Any, path: str, value: Any, *, where: str) -> Any:
    """``part`` with the dotted option ``path`` set to ``value`` (a string is parsed to the option's type).

    Raises:
        BadInput: no such option, or a value of the wrong type.
    """
    if isinstance(part, tuple):
        return _replace_in(part, path, value, where)
    head, _, rest = path.partition(".")
    names = [f.name for f in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else []
    if head not in names:
        options = f"Options here: {', '.join(names)}." if names else "This part has no options."
        raise BadInput(where, f"no option '{head}' in {type(part).__name__}", options)
    old = getattr(part, head)
    if rest:
        new = replace_option(old, rest, value, where=where)
    else:
        if isinstance(old, tuple):
            raise BadInput(where, f"'{head}' are parts", f"Say which: {head}.0.OPTION=VALUE.")
        if dataclasses.is_dataclass(old):
            raise BadInput(
                where,
                f"'{head}' is a part, not a value",
                f"Set one of its options, such as {head}.{dataclasses.fields(old)[0].name}."
                if dataclasses.fields(old)
                else "",
            )
        new = _parse(value, old, where)
    try:
        return dataclasses.replace(part, **{head: new})
    except (TypeError, ValueError) as error:
        raise BadInput(where, str(error)) from None


def option(part: Any, path: str) -> Any:
    """The value of a dotted option; None where it does not exist."""
    for name in path.split("."):
        if isinstance(part, tuple):
            position = _position(part, name)
            part = None if position is None else part[position]
        else:
            part = getattr(part, name, None)
    return part


def _replace_in(parts: tuple[Any, ...], path: str, value: Any, where: str) -> tuple[Any, ...]:
    """Several parts with an option of one changed: it is named by position or by class ("crossentropy")."""
    head, _, rest = path.partition(".")
    position = _position(parts, head)
    if position is None or not rest:
        known = ", ".join(f"{i} ({type(p).__name__})" for i, p in enumerate(parts))
        raise BadInput(
            where,
            f"'{path}' is no option of one of several parts",
            f"Give one of {known} and its option." if parts else "There is none here.",
        )
    new = replace_option(parts[position], rest, value, where=where)
    return (*parts[:position], new, *parts[position + 1 :])


def _position(parts: tuple[Any, ...], name: str) -> int | None:
    names = [type(p).__name__.lower() for p in parts]
    if name.lower() in names:
        return names.index(name.lower())
    return int(name) if name.isdecimal() and int(name) < len(parts) else None


def _parse(value: Any, old: Any, where: str) -> Any:
    """The value as the type of the old one; a float of infinity or NaN passes every bound that a part checks."""
    parsed = _converted(value, old, where)
    if isinstance(parsed, float) and not math.isfinite(parsed):
        raise BadInput(where, f"'{value}' is not a finite number")
    return parsed


def _converted(value: Any, old: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "null"):
        return None
    if isinstance(old, bool):
        if value.lower() in ("true", "false", "1", "0", "yes", "no"):
            return value.lower() in ("true", "1", "yes")
        raise BadInput(where, f"'{value}' is not true or false")
    for kind in (int, float) if isinstance(old, (int, float, type(None))) else ():
        try:
            number = float(value) if isinstance(old, float) else kind(value.replace("_", ""))
        except (ValueError, OverflowError):
            continue
        if isinstance(old, int) and not float(number).is_integer():
            raise BadInput(where, f"'{value}' is not a whole number")
        return int(number) if isinstance(old, int) else number
    if isinstance(old, (int, float)):
        raise BadInput(where, f"'{value}' is not a number")
    return value
