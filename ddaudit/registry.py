"""Named things: methods, defenses, auditors, data sets and file formats register here.

A registry fills itself: built-in entries live one per file in the folders named at its creation (every
module there is imported on first use), other packages add theirs through an entry-point group.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from ddaudit.errors import BadInput

T = TypeVar("T")


class Registry(Generic[T]):
    """A name -> thing map that discovers its entries on first look-up.

    Args:
        kind: what is registered, as the user calls it ("method", "auditor").
        packages: packages whose modules register built-in entries when imported.
        group: entry-point group through which other packages add theirs.
        listed: what ``ddaudit list`` calls them; default: the plural of ``kind``.
    """

    def __init__(
        self,
        kind: str,
        *,
        packages: tuple[str, ...] = (),
        group: str | None = None,
        listed: str | None = None,
    ) -> None:
        self.kind = kind
        self._listed = listed or f"{kind}s"
        self._packages, self._group = packages, group
        self._entries: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, thing: T) -> T:
        """Register ``thing`` under ``name``; a name can be taken once (re-importing the same file is fine)."""
        old = self._entries.get(name)
        if old is not None and _origin(old) != _origin(thing):
            raise ValueError(f"{self.kind} '{name}' is registered twice: {old!r} and {thing!r}")
        self._entries[name] = thing
        return thing

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda thing: self.add(name, thing)

    def get(self, name: str) -> T:
        """Look up ``name``.

        Raises:
            BadInput: unknown name; the line lists the closest known names.
        """
        self._load()
        if name in self._entries:
            return self._entries[name]
        close = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.5)
        hint = (
            f"Did you mean {' or '.join(close)}?"
            if close
            else f"Known: {', '.join(sorted(self._entries))}."
        )
        raise BadInput(name, f"unknown {self.kind}", f"{hint} See 'ddaudit list {self._listed}'.")

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._entries)

    def items(self) -> Iterator[tuple[str, T]]:
        """(name, thing) pairs in name order."""
        return ((name, self._entries[name]) for name in self.names())

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for package in self._packages:
            module = importlib.import_module(package)
            for info in pkgutil.walk_packages(module.__path__, prefix=f"{package}."):
                importlib.import_module(info.name)
        if self._group:
            for point in entry_points(group=self._group):
                loaded = point.load()
                if point.name not in self._entries:
                    self._entries[point.name] = loaded


def _origin(thing: object) -> tuple[str, str]:
    kind = thing if isinstance(thing, type) else type(thing)
    return (getattr(thing, "__module__", ""), getattr(kind, "__qualname__", ""))
