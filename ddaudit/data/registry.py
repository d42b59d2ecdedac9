"""The data sets by name, and ``load_data``, which turns a spec into one.

A data set registers with the ``dataset`` decorator on a function ``Request -> Dataset``; every
module of this package is searched. Other packages add theirs through the entry-point group
``ddaudit.datasets``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ddaudit.data._types import Dataset
from ddaudit.data.spec import Option, Value, canonical, parse_spec, resolve_options
from ddaudit.errors import BadInput
from ddaudit.files import kind_of
from ddaudit.registry import Registry

ROOT_VARIABLE = "DDAUDIT_DATA"


@dataclass(frozen=True)
class DataSource:
    """A registered data set.

    Attributes:
        name: as written in a spec.
        description: one line for ``ddaudit list datasets``.
        load: makes the data set.
        options: what the spec may set, with defaults.
        embedded: needs neither a data root nor a download.
    """

    name: str
    description: str
    load: Callable[[Request], Dataset]
    options: tuple[Option, ...] = ()
    embedded: bool = False


@dataclass(frozen=True)
class Request:
    """What a data set's function is asked for: resolved options, and where files may come from."""

    name: str
    """Canonical spec; becomes ``Dataset.name``."""
    options: Mapping[str, Value]
    root: Path | None
    download: bool

    def text(self, option: str) -> str:
        """The value of a text option."""
        return str(self.options[option])

    def number(self, option: str) -> float:
        """The value of a number option."""
        return float(self.options[option])

    def whole(self, option: str) -> int:
        """The value of a whole-number option."""
        return int(self.options[option])

    def base(self, spec: str) -> Dataset:
        """Another data set, from the same root: the one that a construction starts from."""
        return load_data(spec, root=self.root, download=self.download)

    def find(self, candidates: Iterable[str], *, get: str, marker: str = "") -> Path:
        """The first existing folder or file among paths relative to the data root.

        Args:
            candidates: paths below the root, "." for the root itself.
            get: one sentence: how the user gets this data set.
            marker: a candidate counts only when this path exists below it.

        Raises:
            BadInput: none exists; the line says where it looked and what to do.
        """
        if self.root is None:
            todo = f"Pass --data-root DIR or set {ROOT_VARIABLE}; {get}"
            raise BadInput(self.name, "needs a data root and none is set", todo)
        places = list(dict.fromkeys((self.root / c) / marker for c in candidates))
        for candidate in candidates:
            if kind_of(self.root / candidate / marker) is not None:
                return self.root / candidate
        looked = ", ".join(str(place) for place in places)
        raise BadInput(self.name, f"not found; looked for {looked}", get[:1].upper() + get[1:])

    def user_path(self, written: str, *, get: str, below: tuple[str, ...] = (".",)) -> Path:
        """A path that the user wrote: as it stands, else below these folders of the data root.

        Raises:
            BadInput: it exists in neither place.
        """
        path = _expanded(written)
        places = [path]
        if self.root is not None and not path.is_absolute():
            places += [self.root / folder / path for folder in below]
        for place in places:
            if kind_of(place) is not None:
                return place
        looked = ", ".join(str(place) for place in places)
        raise BadInput(self.name, f"not found; looked for {looked}", get)


DATASETS: Registry[DataSource] = Registry(
    "dataset",
    of=DataSource,
    row=lambda d: {
        "name": d.name,
        "description": d.description,
        "embedded": d.embedded,
        "options": [o.usage for o in d.options],
    },
)


def load_data(spec: str, *, root: Path | str | None = None, download: bool = False) -> Dataset:
    """Load a data set by its spec, for example ``digits-colored:bias=0.95``.

    Args:
        spec: ``NAME`` or ``NAME:option=value,option=value``; see ``ddaudit.data.spec``.
        root: folder with real data in torchvision's layout; default: the variable DDAUDIT_DATA.
        download: let torchvision fetch what is missing into ``root``; nothing is fetched without.

    Returns:
        The data set; its name is the spec in its one canonical spelling.

    Raises:
        BadInput: unknown name, unknown option, bad value, or files that are missing or broken.
    """
    source, values = _resolve(spec)
    folder = root if root is not None else os.environ.get(ROOT_VARIABLE) or None
    request = Request(
        name=canonical(source.name, values, source.options),
        options=values,
        root=None if folder is None else _expanded(folder),
        download=download,
    )
    made = source.load(request)
    seen, asked = (split.class_counts() > 0 for split in (made.train, made.test))
    if int(seen.sum()) < 2:
        raise BadInput(request.name, "has training records of one class only")
    untaught = [made.train.class_names[c] for c in (asked & ~seen).nonzero().flatten().tolist()]
    if untaught and int((asked & seen).sum()) == 0:
        what = "has test records of other classes than training records"
        raise BadInput(request.name, what, "Are labels of both splits counted alike?")
    if untaught:
        listed = ", ".join(untaught[:5]) + (", .." if len(untaught) > 5 else "")
        note = f"Classes with test records and no training record: {listed}."
        made = replace(made, notes=(*made.notes, note))
    origin = made.origin or _origin(source.name, values)
    return replace(made, name=request.name, root=request.root, origin=origin)


def canonical_spec(spec: str) -> str:
    """The one spelling of a spec, without loading: defaults left out, options in declared order.

    Raises:
        BadInput: as :func:`load_data` for names, options and values.
    """
    source, values = _resolve(spec)
    return canonical(source.name, values, source.options)


def dataset(
    name: str, description: str, *, options: Sequence[Option] = (), embedded: bool = False
) -> Callable[[Callable[[Request], Dataset]], Callable[[Request], Dataset]]:
    """Decorator: register a function ``Request -> Dataset`` under ``name``."""

    def register(load: Callable[[Request], Dataset]) -> Callable[[Request], Dataset]:
        DATASETS.add(name, DataSource(name, description, load, tuple(options), embedded))
        return load

    return register


def _expanded(written: str | Path) -> Path:
    """``~`` and ``~name`` as folders.

    Raises:
        BadInput: nobody is called so.
    """
    try:
        return Path(written).expanduser()
    except RuntimeError as error:
        raise BadInput(written, f"is no usable path ({error})".rstrip(".")) from None


def _resolve(spec: str) -> tuple[DataSource, dict[str, Value]]:
    name, given = parse_spec(spec)
    source = DATASETS.get(name)
    values = resolve_options(given, source.options, name=name, where=spec)
    if "base" in values:
        values["base"] = canonical_spec(str(values["base"]))
    return source, values


def _origin(name: str, values: Mapping[str, Value]) -> str:
    """Where a data set that is made from no other comes from: its name, and its folder or file where it has one.

    Paths are resolved, so that one folder under two names is one origin; by whatever reader it was read.
    """
    paths = [
        str(Path(str(values[k])).expanduser().resolve()) for k in ("path", "file") if k in values
    ]
    return ":".join(paths or [name])
