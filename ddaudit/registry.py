"""Named things: methods, defenses, auditors, data sets and file formats register here.

Built-in entries are found in the catalogue and imported one by one, when they are asked for. Other packages add
theirs through an entry-point group; such a plugin is known by its name and as ``package/name``.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from ddaudit.catalogue import KINDS, Entry, Kind, Row, builtin, load_registry
from ddaudit.errors import BadInput, closest

T = TypeVar("T")

_LIVE: dict[str, Registry[Any]] = {}
# The package whose entry point is being imported: what it registers meanwhile is the package's.
_importing: list[str] = []


def rows(kind: str) -> list[Row]:
    """What ``ddaudit list`` shows of a kind ("method", "defense", "auditor", "dataset", "format"), by name.

    Plugins carry "plugin", their package; one that cannot be used carries "problem", the reason. Without plugins
    nothing is imported.
    """
    if kind not in _LIVE:
        known = builtin(KINDS[kind])
        if known is not None and not entry_points(group=KINDS[kind].group):
            return [entry.row for _, entry in sorted(known.items())]
    registry: Registry[Any] = load_registry(KINDS[kind])
    return registry.rows()


def check_name(kind: str, name: str) -> None:
    """Refuse a name that no built-in entry has, before anything is imported. Says nothing where plugins might know it.

    Raises:
        BadInput: as :meth:`Registry.get` would.
    """
    if kind in _LIVE or entry_points(group=KINDS[kind].group):
        return
    known = builtin(KINDS[kind])
    if known is not None and name not in known:
        raise _unknown(KINDS[kind], name, known)


def split_recipe(text: str) -> tuple[str, list[str]]:
    """``METHOD+DEFENSE+...`` taken apart: the method, and its defenses.

    Raises:
        BadInput: a part is empty.
    """
    base, *defenses = text.split("+")
    todo = (
        "A recipe is METHOD or METHOD+DEFENSE, such as dm or dm+fair: see 'ddaudit list methods'."
    )
    if not text.strip():
        raise BadInput(f"recipe '{text}'", "is no name", todo)
    if not base:
        raise BadInput(text, "names a defense without the method that it goes with", todo)
    if "" in defenses:
        raise BadInput(text, "names no defense after a '+'", todo)
    return base, defenses


def _unknown(kind: Kind, name: str, known: Iterable[str]) -> BadInput:
    other = {"method": "defense", "defense": "method"}.get(kind.name)
    if other and name in (builtin(KINDS[other]) or {}):
        what = f"is a {other}, and stands where a {kind.name} is expected"
        return BadInput(name, what, "A recipe is METHOD or METHOD+DEFENSE, such as dm or dm+fair.")
    if kind.name == "dataset" and os.path.exists(name):
        todo = f"Say what it holds: csv:path={name},target=COLUMN."
        if os.path.isdir(name):
            todo = f"Say what it holds: image-folder:path={name} or parquet:path={name}."
        return BadInput(name, "is a file or folder, and no data set is called so", todo)
    hint = f"{closest(name, known)} See 'ddaudit list {kind.listed}'."
    return BadInput(name or f"{kind.name} ''", f"unknown {kind.name}", hint.strip())


@dataclass(eq=False)
class _Plugin:
    """An entry point of another package, imported on demand."""

    point: EntryPoint
    package: str
    refused: str | None = None
    """Why its plain name is not its own."""
    thing: Any = None
    problem: str | None = None
    """Why it cannot be used."""
    loaded: bool = False

    @property
    def long_name(self) -> str:
        return f"{self.package}/{self.point.name}"


class Registry(Generic[T]):
    """A name -> thing map that imports an entry when it is asked for.

    Args:
        kind: a name in :data:`ddaudit.catalogue.KINDS`, or a kind of one's own.
        of: the type of the things, a plugin that is something else is refused; None: they are classes or functions.
        row: what ``ddaudit list`` shows of one.
    """

    def __init__(self, kind: str | Kind, *, of: type[Any] | None, row: Callable[[T], Row]) -> None:
        self._kind = KINDS[kind] if isinstance(kind, str) else kind
        self.kind = self._kind.name
        self._of, self._row = of, row
        self._entries: dict[str, T] = {}
        self._owners: dict[str, str] = {}
        self._home = str(sys._getframe(1).f_globals["__name__"])
        self._known: dict[str, Entry] | None = None
        self._looked = self._imported = False
        self._found: dict[str, _Plugin] | None = None
        self._from_plugins: dict[tuple[str, str], T] = {}
        if isinstance(kind, str):
            _LIVE[kind] = self

    # ---- registering -----------------------------------------------------------------------------

    def add(self, name: str, thing: T, *, owner: str | None = None) -> T:
        """Register ``thing`` under ``name``, for the module that calls or for ``owner``.

        A module may register its name again (a notebook cell that runs twice); nobody may take another's.

        Raises:
            BadInput: the name is taken.
        """
        if _importing:
            self._from_plugins[_importing[-1], name] = thing
            return thing
        owner = owner or self._caller()
        holder = self._owners.get(name)
        if holder is None and not self._is_builtin(owner):
            entry = (self._builtin() or {}).get(name)
            holder = entry.module if entry else None
        if holder not in (None, owner):
            raise BadInput(
                f"{self.kind} '{name}'", f"is registered by {holder} already", "Take another name."
            )
        self._entries[name], self._owners[name] = thing, owner
        return thing

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda thing: self.add(name, thing)

    # ---- looking up ------------------------------------------------------------------------------

    def get(self, name: str) -> T:
        """Look up ``name``, importing the module that registers it and no other.

        Raises:
            BadInput: unknown name (the line lists the closest known ones), or a plugin that cannot be used.
        """
        found = self._own(name)
        if found is not None:
            return found
        plugins = [p for p in self._plugins().values() if name in (p.long_name, p.point.name)]
        usable = [p for p in plugins if name == p.long_name or not p.refused]
        if usable:
            return self._load(usable[0])
        if plugins:
            raise BadInput(
                f"{self.kind} '{name}'",
                plugins[0].refused or "",
                f"Use {' or '.join(p.long_name for p in plugins)}.",
            )
        raise _unknown(self._kind, name, self._all_names())

    def names(self) -> list[str]:
        """All names that can be used, sorted; broken plugins are left out, see :meth:`problems`."""
        return sorted(
            {*self._own_names(), *(n for n, p in self._shown().items() if not self._problem(p))}
        )

    def items(self) -> Iterator[tuple[str, T]]:
        """(name, thing) pairs in name order."""
        return ((name, self.get(name)) for name in self.names())

    def __contains__(self, name: object) -> bool:
        try:
            self.get(str(name))
        except BadInput:
            return False
        return True

    def rows(self) -> list[Row]:
        """What ``ddaudit list`` shows, by name; see :func:`rows`."""
        self._own_names()  # imports everything where the catalogue does not fit
        shown = {n: self._row(t) for n, t in self._entries.items()}
        shown |= {n: e.row for n, e in (self._builtin() or {}).items() if n not in shown}
        for name, plugin in self._shown().items():
            problem = self._problem(plugin)
            row = {"description": f"cannot be used: {problem}", "problem": problem}
            if not problem:
                row = self._row(self._load(plugin))
                if plugin.refused:
                    row["problem"] = plugin.refused
                    row["description"] = f"{row['description']} [{plugin.refused}]"
            shown[name] = {**row, "name": name, "plugin": plugin.package}
        return [shown[name] for name in sorted(shown)]

    def problems(self) -> dict[str, str]:
        """Plugin -> why it cannot be used."""
        found = {p.long_name: self._problem(p) for p in self._plugins().values()}
        return {name: problem for name, problem in found.items() if problem}

    def import_builtin(self) -> dict[str, tuple[str, Row]]:
        """Import every built-in module; name -> (module, row) of what they registered."""
        for package in self._kind.packages:
            module = importlib.import_module(package)
            for info in pkgutil.walk_packages(module.__path__, prefix=f"{package}."):
                importlib.import_module(info.name)
        self._imported = True
        return {
            name: (owner, self._row(self._entries[name]))
            for name, owner in sorted(self._owners.items())
            if self._is_builtin(owner)
        }

    def owners(self) -> dict[str, str]:
        """Name -> module, of everything registered so far in this process that is not built in."""
        return {n: owner for n, owner in self._owners.items() if not self._is_builtin(owner)}

    # ---- built-in and in-process entries ---------------------------------------------------------

    def _builtin(self) -> dict[str, Entry] | None:
        """The catalogue's entries; after importing everything there is nothing left to know: {}."""
        if not self._looked:
            self._looked = True
            self._known = builtin(self._kind)
        if self._imported:
            return {}
        if self._known is None:
            return None
        return self._known

    def _own(self, name: str) -> T | None:
        if name in self._entries:
            return self._entries[name]
        known = self._builtin()
        if known is None:
            self.import_builtin()
        elif name in known:
            importlib.import_module(known[name].module)
            if name not in self._entries:  # the catalogue was wrong after all
                self.import_builtin()
        return self._entries.get(name)

    def _own_names(self) -> set[str]:
        known = self._builtin()
        if known is None:
            self.import_builtin()
        return {*self._entries, *(known or ())}

    def _all_names(self) -> list[str]:
        return sorted({*self._own_names(), *self._shown()})

    def _is_builtin(self, owner: str) -> bool:
        return any(owner == p or owner.startswith(f"{p}.") for p in self._kind.packages)

    def _caller(self) -> str:
        """The module that registers: the first outside this file and the registry's own."""
        frame = sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__name__") in (__name__, self._home):
            frame = frame.f_back
        return str(frame.f_globals.get("__name__"))

    # ---- plugins ---------------------------------------------------------------------------------

    def _plugins(self) -> dict[str, _Plugin]:
        """Every entry point of the group by its long name; nothing is imported."""
        if self._found is None:
            points = sorted(
                entry_points(group=self._kind.group),
                key=lambda p: (p.dist.name if p.dist else "", p.name),
            )
            self._found = {}
            for point in points:
                plugin = _Plugin(point, point.dist.name if point.dist else "unknown")
                self._found.setdefault(plugin.long_name, plugin)
            own = self._own_names() if self._found else set()
            for plugin in self._found.values():
                name = plugin.point.name
                others = [
                    p.package for p in self._found.values() if p.point.name == name and p != plugin
                ]
                if name in own:
                    plugin.refused = f"the name '{name}' is taken"
                elif others:
                    plugin.refused = f"the name '{name}' is claimed by {', '.join(sorted([plugin.package, *others]))}"
        return self._found

    def _shown(self) -> dict[str, _Plugin]:
        """Plugins by the shortest name that is theirs."""
        return {
            p.long_name if p.refused else p.point.name: p
            for p in self._plugins().values()
            if p.refused or p.point.name not in self._entries
        }

    def _problem(self, plugin: _Plugin) -> str | None:
        try:
            self._load(plugin)
        except BadInput:
            return plugin.problem
        return None

    def _load(self, plugin: _Plugin) -> T:
        """What a plugin's entry point names, or what its module registered under the name.

        Raises:
            BadInput: importing it fails, or it is something else.
        """
        if not plugin.loaded:
            plugin.loaded = True
            _importing.append(plugin.package)
            try:
                plugin.thing = self._thing(plugin, plugin.point.load())
            except (Exception, SystemExit) as error:  # somebody else's code: anything can happen
                text = " ".join(str(error).split())[:200]
                plugin.problem = f"{type(error).__name__}: {text}" if text else type(error).__name__
            finally:
                _importing.pop()
        if plugin.problem:
            raise BadInput(
                f"{self.kind} '{plugin.long_name}'",
                f"the plugin cannot be used ({plugin.problem})",
                f"Mend or remove the package {plugin.package}.",
            )
        return cast(T, plugin.thing)

    def _thing(self, plugin: _Plugin, loaded: Any) -> Any:
        registered = self._from_plugins.get((plugin.package, plugin.point.name))
        if registered is None and self._owners.get(plugin.point.name) == plugin.point.module:
            registered = self._entries[plugin.point.name]
        if registered is not None:
            return registered
        if self._of is None:
            if not callable(loaded):
                raise TypeError(f"{plugin.point.value} cannot be called")
            return loaded
        if isinstance(loaded, type) and issubclass(loaded, self._of):
            return loaded()
        if not isinstance(loaded, self._of):
            raise TypeError(f"{plugin.point.value} is no {self._of.__name__}")
        return loaded
