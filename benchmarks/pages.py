"""How results pages show numbers of runs."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ddaudit.files import write_bytes
from ddaudit.findings import Finding, Metric
from ddaudit.reports.compare import difference


def names(found: list[str]) -> str:
    return ", ".join(f"`{s}`" for s in found) or "none"


def cell(finding: Finding, name: str, *, plain: bool = False, **params: str) -> str:
    """A number with its interval; a dash where there is none."""
    try:
        return bracketed(finding.metric(name, **params), plain=plain)
    except KeyError:
        return "-"


def bracketed(m: Metric, *, plain: bool = False) -> str:
    """A number with its interval where it has one and is not asked for ``plain``; a dash where there is none."""
    if m.value is None:
        return "-"
    if plain or m.low is None or m.high is None:
        return f"{m.value:.3f}"
    return f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}]"


def floor(m: Metric) -> str:
    """A number's noise floor; a dash where there is none."""
    return "-" if m.floor is None else f"{m.floor:.3f}"


def title(titles: Mapping[str, str], method: str) -> str:
    """A method as rows name it."""
    return f"{titles[method]} (`{method}`)"


def absent(titles: Mapping[str, str], found: Container[str]) -> list[str]:
    """The lines of a page that name the methods that are not there yet."""
    missing = [title(titles, m) for m in titles if m not in found]
    return [f"Not run yet: {'; '.join(missing)}.", ""] if missing else []


def kept(metric: Metric) -> dict[str, object]:
    """What the .json beside a page holds of a number: value, interval, floor, the value of every distillation."""
    return metric.model_dump(include={"value", "low", "high", "floor", "draws", "per_seed"})


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def apart(one: Metric, other: Metric) -> str:
    """The first less the second with its interval, the two taken as independent; a dash where either is not known."""
    d = difference(one, other)
    if d is None or d.low is None or d.high is None:
        return "-"
    return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"


def share(hits: Tensor) -> float:
    """Of a table of hits and misses, how many are hits."""
    return float(hits.double().mean())


def span(values: list[float]) -> str:
    """Percent: the mean of seeds, with the lowest and the highest where there are several."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{100 * mean:.1f}"
    return f"{100 * mean:.1f} [{100 * min(values):.1f}, {100 * max(values):.1f}]"


class State:
    """Numbers by cell, kept after every cell; several processes may add to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[str, dict[str, Any]] = read_state(path)

    def add(self, key: str, numbers: Mapping[str, Any]) -> None:
        self.cells[key] = dict(numbers)
        keep(self.path, key, value=self.cells[key])


def read_state(path: Path) -> dict[str, Any]:
    """What a results file holds; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep(path: Path, *where: str, value: object) -> None:
    """Set one entry of a results file, by its keys from the outermost, and write it whole or not at all.

    The file is read anew: what another process has added in the meantime stays.
    """
    inner = known = read_state(path)
    for key in where[:-1]:
        inner = inner.setdefault(key, {})
    inner[where[-1]] = value
    write_state(path, known)


def write_state(path: Path, value: object) -> None:
    """A results file, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())
