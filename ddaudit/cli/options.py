"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ddaudit.errors import BadInput
from ddaudit.files import parse_yaml
from ddaudit.registry import check_name, split_recipe

LARGEST_SEED = 2**31 - 1

Profile = Literal["auto", "paper", "small"]

DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        help="Folder with real data (torchvision's layout). Default: the variable DDAUDIT_DATA.",
    ),
]
Download = Annotated[
    bool,
    typer.Option(
        "--download", help="Fetch missing data into the data root. Nothing is fetched without it."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print stable JSON.")]
Epsilon = Annotated[
    float | None,
    typer.Option(
        "--epsilon",
        help="Privacy target of private recipes. Default: the recipe's own, 10 for most; it is printed.",
    ),
]
Delta = Annotated[
    float | None,
    typer.Option(
        "--delta",
        help="Privacy target of private recipes, below 1 / number of records. "
        "Default: the recipe's own, 1e-5; it is printed.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace a file that may hold a private release. It stays a release: publishing both costs both.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PART.OPTION=VALUE", help="Change one number of a recipe; repeat for more."
    ),
]


def names(option: str, text: str | None) -> list[str] | None:
    """ "a,b" as names; None stays None.

    Args:
        option: as the user typed it, "--auditors".

    Raises:
        BadInput: no name in it.
    """
    if text is None:
        return None
    found = [n.strip() for n in text.split(",") if n.strip()]
    if not found:
        none = " 'none' stands for none of them." if option == "--baselines" else ""
        raise BadInput(
            f'{option} "{text}"', "names nothing", f"Leave the option out for all.{none}"
        )
    return found


def recipe_options(pairs: list[str] | None) -> dict[str, Any]:
    """``--set PART.OPTION=VALUE`` as a mapping.

    Raises:
        BadInput: not of that form.
    """
    return _assigned("--set", pairs, "PART.OPTION=VALUE", "--set loop.iterations=500")


def format_options(pairs: list[str] | None) -> dict[str, str]:
    """``--set OPTION=VALUE`` of a file's format as a mapping.

    Raises:
        BadInput: not of that form.
    """
    return _assigned("--set", pairs, "OPTION=VALUE", "--set range=0-255")


def attack_settings(pairs: list[str] | None) -> dict[str, str]:
    """``--setting KEY=VALUE`` of one attack as a mapping.

    Raises:
        BadInput: not of that form.
    """
    return _assigned("--setting", pairs, "KEY=VALUE", "ratio=0.1")


def _assigned(option: str, pairs: list[str] | None, form: str, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs or []:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise BadInput(f"{option} {pair}", f"is not {form}", f"For example {example}.")
        if found.get(key, value) != value:
            raise BadInput(
                f"{option} {key}", f"is given twice: {found[key]} and {value}", "Give it once."
            )
        found[key] = value
    return found


def auditor_settings(
    pairs: list[str] | None, *, archs: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    """``--setting AUDITOR.KEY=VALUE`` as auditor -> key -> value; the value is read as YAML, ``a,b`` as a list.

    Args:
        archs: of ``--archs``, which is short for ``--setting utility.cross_architectures=``.

    Raises:
        BadInput: not of that form, or both of these.
    """
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs or []:
        path, sign, text = pair.partition("=")
        auditor, dot, key = path.partition(".")
        if not (sign and auditor and dot and key):
            raise BadInput(
                f"--setting {pair}",
                "is not AUDITOR.KEY=VALUE",
                "For example --setting membership.shadows=16; see 'ddaudit list settings'.",
            )
        listed = "," in text and text[:1] not in "[{\"'"
        value = parse_yaml(f"[{text}]" if listed else text, f"--setting {pair}")
        if found.get(auditor, {}).get(key, value) != value:
            raise BadInput(f"--setting {path}", "is given twice, with two values", "Give it once.")
        found.setdefault(auditor, {})[key] = value
    if archs is not None:
        if "cross_architectures" in found.get("utility", {}):
            raise BadInput("--archs", "is given, and --setting utility.cross_architectures too")
        found.setdefault("utility", {})["cross_architectures"] = archs
    return found


def sizes(text: str) -> list[int]:
    """ "1,10,50" as numbers.

    Raises:
        BadInput: not positive whole numbers, or one of them twice.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--ipc {text}", "is not a whole number or a list like 1,10,50") from None
    if min(found) < 1 or len(set(found)) < len(found):
        raise BadInput(f"--ipc {text}", "images per class must be at least 1, each size once")
    return found


def shard(text: str | None) -> tuple[int, int]:
    """ "2/8" as (2, 8); None is all of it, (1, 1).

    Raises:
        BadInput: no part of a whole.
    """
    if text is None:
        return 1, 1
    part, _, whole = text.partition("/")
    if not (part.isdecimal() and whole.isdecimal() and 1 <= int(part) <= int(whole)):
        raise BadInput(
            f"--shard {text}", "is not K/N with K from 1 to N", "For example --shard 2/8."
        )
    return int(part), int(whole)


def check_recipe_name(text: str) -> None:
    """Raises BadInput where no method or defense is called so; imports nothing for it."""
    base, defenses = split_recipe(text)
    check_name("method", base)
    for name in defenses:
        check_name("defense", name)


def check_data_name(spec: str) -> None:
    """Raises BadInput where no data set is called so; imports nothing for it."""
    check_name("dataset", spec.partition(":")[0])
