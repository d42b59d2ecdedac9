"""The catalogue: what the built-in registries hold, known without importing them (and torch with them).

    python -m ddaudit.catalogue            write catalogue.json anew ('make catalogue')
    python -m ddaudit.catalogue --check    exit 1 where it does not say what the code says

``catalogue.json`` names, for every module that registers something, what it registers and a digest of the
statements that do (its *outline*). Readers compare outlines first: where a module is new, gone or changed, they
import everything instead, which is slower and always right.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("catalogue.json")

Row = dict[str, Any]
"""What ``ddaudit list`` shows of one entry; has "name" and "description"."""


@dataclass(frozen=True)
class Kind:
    """One kind of registered things.

    Attributes:
        name: what the user calls one of them ("method").
        home: "module:NAME" of the registry.
        packages: where built-in entries live; a module there registers its own when it is imported.
        group: entry-point group through which other packages add theirs.
        listed: what ``ddaudit list`` calls them.
    """

    name: str
    home: str
    packages: tuple[str, ...]
    group: str
    listed: str


@dataclass(frozen=True)
class Entry:
    """A built-in thing that nobody has imported yet."""

    module: str
    row: Row


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "method",
            "ddaudit.distillation.recipe:METHODS",
            ("ddaudit.distillation.recipes", "ddaudit.defenses"),
            "ddaudit.methods",
            "methods",
        ),
        Kind(
            "defense",
            "ddaudit.distillation.recipe:DEFENSES",
            ("ddaudit.defenses",),
            "ddaudit.defenses",
            "methods",
        ),
        Kind(
            "auditor",
            "ddaudit.auditing:AUDITORS",
            ("ddaudit.measures", "ddaudit.attacks"),
            "ddaudit.auditors",
            "auditors",
        ),
        Kind(
            "dataset",
            "ddaudit.data.registry:DATASETS",
            ("ddaudit.data",),
            "ddaudit.datasets",
            "datasets",
        ),
        Kind(
            "format",
            "ddaudit.sets.formats:FORMATS",
            ("ddaudit.sets.formats",),
            "ddaudit.formats",
            "formats",
        ),
        Kind(
            "injection",
            "ddaudit.attacks.backdoor.injection:INJECTIONS",
            ("ddaudit.attacks.backdoor",),
            "ddaudit.injections",
            "injections",
        ),
        Kind("arch", "ddaudit.models.own:ARCHS", (), "ddaudit.archs", "archs"),
    )
}

# How a statement that registers something is written.
_MARK = re.compile(r"\bregister\(|@auditor\b|\bdataset\(|\b[A-Z]+\.(?:add|register)\(")


def builtin(kind: Kind) -> dict[str, Entry] | None:
    """Name -> entry of a kind's built-in things; None where the catalogue does not fit the source files."""
    try:
        stored = json.loads(FILE.read_text(encoding="utf-8"))
        mine = {
            name: module
            for name, module in stored.items()
            if any(name == p or name.startswith(f"{p}.") for p in kind.packages)
        }
        current = {name: module["outline"] for name, module in mine.items()}
        entries = {
            name: Entry(module, row)
            for module, facts in mine.items()
            for name, row in facts["registers"].get(kind.name, {}).items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # missing or damaged
    return entries if current == outlines(kind.packages) else None


def outlines(packages: tuple[str, ...]) -> dict[str, str]:
    """Module -> digest of its outline, for every module whose outline registers something. Imports none of them."""
    found = {}
    for package in packages:
        for name, file in _modules(package):
            source = file.read_text(encoding="utf-8")
            if _MARK.search(source):
                text = outline(source)
                if _MARK.search(text):
                    found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def outline(source: str) -> str:
    """The statements of a module and of its classes: its text without functions, imports, comments, blank lines.

    What a module registers, and what is shown of it, is said there.
    """
    kept: list[str] = []
    skipping: int | None = None  # the indentation of the function or import that is being left out
    for line in source.splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        indent = len(line) - len(line.lstrip())
        if skipping is not None:
            if indent > skipping or (indent == skipping and text[0] in ")]}"):
                continue
            skipping = None
        if text.startswith(("def ", "async def ", "from ", "import ")):
            skipping = indent
            continue
        kept.append(line.rstrip())
    return "\n".join(kept)


def load_registry(kind: Kind) -> Any:
    """The registry object of a kind."""
    module, name = kind.home.split(":")
    return getattr(importlib.import_module(module), name)


def generate() -> str:
    """The catalogue's text, from importing everything: sorted, one module a line, so that merges are easy.

    Raises:
        RuntimeError: a module registers something where its outline does not show it.
    """
    modules: dict[str, dict[str, Any]] = {
        name: {"outline": digest, "registers": {}}
        for kind in KINDS.values()
        for name, digest in outlines(kind.packages).items()
    }
    for kind in KINDS.values():
        for name, (owner, row) in load_registry(kind).import_builtin().items():
            if owner not in modules:
                raise RuntimeError(
                    f"{owner} registers the {kind.name} '{name}' out of sight: write register(...), @auditor, "
                    "dataset(...) or REGISTRY.add(...) outside of functions"
                )
            modules[owner]["registers"].setdefault(kind.name, {})[name] = row
    lines = (f"{json.dumps(m)}: {json.dumps(modules[m], sort_keys=True)}" for m in sorted(modules))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    """(module, file) of everything below a package. Finding a package imports no more than the two names in front."""
    head, rest = package.split(".")[:2], package.split(".")[2:]
    spec = find_spec(".".join(head))
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place, *rest)
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts))), file


def main(arguments: list[str]) -> int:
    """Write or check the catalogue; returns the exit code."""
    text = generate()
    held = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    if arguments == ["--check"]:
        print("the catalogue is current" if text == held else "out of date: run 'make catalogue'")
        return int(text != held)
    FILE.write_text(text, encoding="utf-8")
    print(f"{FILE}: {'unchanged' if text == held else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
