"""Options that came after the first sets, cards and run folders: who does not use them loses nothing that is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_MARK = "later"


def later(default: Any) -> Any:
    """A dataclass field for such an option, with the value that leaves it off."""
    return dataclasses.field(default=default, metadata={_MARK: True})


def unused(part: Any) -> set[str]:
    """The names of such options that a dataclass does not use: what is left out of cards, identities and keys."""
    return {
        f.name
        for f in dataclasses.fields(part)
        if f.metadata.get(_MARK) and getattr(part, f.name) == f.default
    }


def switched_on(stated: Any) -> Any:
    """Of a mapping of options (a protocol's) those that are not off: one that a version did not have yet was off there.

    Anything else comes back as it is.
    """
    return {k: v for k, v in stated.items() if v} if isinstance(stated, Mapping) else stated
