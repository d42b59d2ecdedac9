"""The grammar of a data set's name: ``NAME`` or ``NAME:option=value,option=value``.

A value may stand in parentheses: a data set inside a data set, as in
``long-tail:base=(parquet:path=x,size=32)``, or a path with a comma in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ddaudit.errors import BadInput

Value: TypeAlias = str | int | float


@dataclass(frozen=True)
class Option:
    """One option of a data set. Its type is the type of its default.

    Attributes:
        name: as written in a spec.
        default: value without the option; "" on a required text.
        help: one clause for the command line and the docs.
        low, high: inclusive range of a number.
        choices: the accepted texts; empty means any text.
        required: the spec must give it.
    """

    name: str
    default: Value
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    required: bool = False

    @property
    def usage(self) -> str:
        """What the option accepts, in one clause: ``bias=0.9 (0 to 1)``."""
        if self.choices:
            return f"{self.name}={'|'.join(self.choices)}"
        if isinstance(self.default, str):
            return f"{self.name}=TEXT" if self.default == "" else f"{self.name}={self.default}"
        bounds = [f"at least {show(self.low)}"] if math.isfinite(self.low) else []
        if math.isfinite(self.high):
            bounds = [f"{show(self.low)} to {show(self.high)}"]
        return f"{self.name}={show(self.default)}" + "".join(f" ({b})" for b in bounds)

    def parse(self, text: str, where: object) -> Value:
        """The value written as ``text``.

        Raises:
            BadInput: not a number, out of range, or not one of the choices.
        """
        if isinstance(self.default, str):
            if self.choices and text not in self.choices:
                raise self._refuse(text, where, f"must be one of {', '.join(self.choices)}")
            if self.required and not text:
                raise self._refuse(text, where, "must not be empty")
            return text
        try:
            value: int | float = int(text) if isinstance(self.default, int) else float(text)
        except ValueError:  # also of a number of 5000 digits
            kind = "a whole number" if isinstance(self.default, int) else "a number"
            raise self._refuse(text, where, f"must be {kind}") from None
        # Not isfinite: it fails on whole numbers that no float can hold.
        if not -math.inf < value < math.inf or not self.low <= value <= self.high:
            raise self._refuse(text, where, "is out of range")
        return value

    def _refuse(self, text: str, where: object, why: str) -> BadInput:
        return BadInput(where, f"{self.name}={text} {why}", f"Accepted: {self.usage}.")


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split a spec into the data set's name and its options as written.

    Raises:
        BadInput: an option without "=", given twice, or parentheses that do not match.
    """
    name, colon, rest = spec.strip().partition(":")
    if not name:
        raise BadInput(
            spec or "''", "is not the name of a data set", "See 'ddaudit list datasets'."
        )
    options: dict[str, str] = {}
    if colon and not rest:
        raise BadInput(spec, "ends after ':'", "Write NAME or NAME:option=value,option=value.")
    for part in _split(rest, spec) if rest else ():
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key:
            todo = "Put a value that holds a comma in parentheses."
            raise BadInput(spec, f"'{part}' is not option=value", todo)
        if key in options:
            raise BadInput(spec, f"gives option '{key}' twice", "Keep one of them.")
        options[key] = value[1:-1] if value.startswith("(") and value.endswith(")") else value
    return name, options


def resolve_options(
    given: Mapping[str, str], accepted: Sequence[Option], *, name: str, where: object
) -> dict[str, Value]:
    """All options of a data set: parsed where given, defaults elsewhere.

    Raises:
        BadInput: an unknown option, a bad value, or a required option left out.
    """
    known = {option.name: option for option in accepted}
    usage = ", ".join(option.usage for option in accepted) or "no options"
    for key in given:
        if key not in known:
            raise BadInput(where, f"data set '{name}' has no option '{key}'", f"Accepted: {usage}.")
    for option in accepted:
        if option.required and option.name not in given:
            raise BadInput(where, f"data set '{name}' needs {option.usage}", f"Accepted: {usage}.")
    return {
        key: option.parse(given[key], where) if key in given else option.default
        for key, option in known.items()
    }


def canonical(name: str, values: Mapping[str, Value], accepted: Sequence[Option]) -> str:
    """The one spelling of a spec: options in declared order, defaults left out."""
    parts = [
        f"{option.name}={_guard(show(values[option.name]))}"
        for option in accepted
        if values[option.name] != option.default
    ]
    return f"{name}:{','.join(parts)}" if parts else name


def show(value: Value) -> str:
    """A value as written in a spec: 50.0 is 50, 0.95 is 0.95."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _guard(text: str) -> str:
    needs = any(mark in text for mark in ",()") or (":" in text and "=" in text)
    return f"({text})" if needs else text


def _split(text: str, spec: str) -> Iterator[str]:
    """Split at commas outside parentheses."""
    depth, start = 0, 0
    for position, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth < 0:
            break
        if char == "," and depth == 0:
            yield text[start:position]
            start = position + 1
    if depth != 0:
        raise BadInput(spec, "has parentheses that do not match", "Close every '(' with ')'.")
    yield text[start:]
