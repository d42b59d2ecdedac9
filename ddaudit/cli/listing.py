"""The command ``list``: what is registered, what is measured, what can be set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from ddaudit.cli.options import Json
from ddaudit.errors import BadInput, closest

Row = dict[str, Any]
KINDS = (
    "methods", "auditors", "datasets", "formats", "injections", "archs", "metrics", "settings",
)  # fmt: skip


def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help=f"One of {', '.join(KINDS)}.", autocompletion=lambda: [*KINDS]
        ),
    ],
    json_: Json = False,
) -> None:
    """List methods, auditors, datasets, formats, injections, architectures, metrics of auditors, or their settings."""
    if what not in KINDS:
        raise BadInput(what, "cannot be listed", closest(what, KINDS))
    made = {"metrics": _metrics, "settings": _settings, "archs": _archs}
    rows = made.get(what, lambda: _registered(what))()
    if json_:
        typer.echo(json.dumps(rows, indent=1))
        return
    heads = {"metrics": ("unit", "range", "direction"), "settings": ("type", *_PRESETS)}.get(
        what, ()
    )
    lines = [[str(r["name"]), *(_short(r[h]) for h in heads), r["description"]] for r in rows]
    if heads:  # several columns need names
        lines.insert(0, ["name", *heads, "meaning"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for *cells, last in lines:
        left = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False))
        typer.echo(f"{left}  {last}".rstrip())


def _registered(what: str) -> list[Row]:
    from ddaudit.registry import rows

    if what == "methods":
        defenses = [{**row, "name": f"+{row['name']}"} for row in rows("defense")]
        return rows("method") + defenses
    return rows(what.removesuffix("s"))


def _archs() -> list[Row]:
    from ddaudit.models import ABOUT, FAMILIES
    from ddaudit.registry import rows

    described = [{"name": name, "description": ABOUT[key]} for key, name in FAMILIES.items()]
    return described + rows("arch")


def _metrics() -> list[Row]:
    from ddaudit.auditing import AUDITORS

    return [
        {
            "name": m.name,
            "auditor": name,
            "unit": m.unit,
            "range": m.range,
            "direction": m.direction,
            "description": m.meaning,
        }
        for name, auditor in AUDITORS.items()
        for m in auditor.metrics
    ]


def _settings() -> list[Row]:
    from ddaudit.auditing import AUDITORS

    rows = []
    for name, auditor in AUDITORS.items():
        at = {p: auditor.configure(p).model_dump(mode="json") for p in _PRESETS}
        for key, field in auditor.settings.model_fields.items():
            rows.append(
                {
                    "name": f"{name}.{key}",
                    "auditor": name,
                    "type": _type_name(field.annotation),
                    **{preset: values[key] for preset, values in at.items()},
                    "description": " ".join((field.description or "").split())
                    + _large(auditor.on_large, key),
                }
            )
    return rows


def _large(on_large: Mapping[str, Any], key: str) -> str:
    """What the quick preset takes on large images, where that is something else."""
    return f" On large images quick takes {_short(on_large[key])}." if key in on_large else ""


def _type_name(annotation: Any) -> str:
    """A type as a user reads it: "int", "list of float", "'Linf' or 'L2'"."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(_type_name, parts))
    if origin is Annotated:
        return _type_name(parts[0])
    if origin is tuple and parts[-1] is Ellipsis:
        return f"list of {_type_name(parts[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type_name, parts))}]"
    if origin is not None and parts:
        return f"{getattr(origin, '__name__', origin)} of {', '.join(map(_type_name, parts))}"
    return getattr(annotation, "__name__", str(annotation))


def _short(value: Any) -> str:
    """A cell of the table; what is longer stands in full under --json."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else f"{text[:21]}..."


_PRESETS = ("quick", "standard", "full")
