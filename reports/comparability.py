"""What two reports must share before their numbers may stand beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddaudit.later import switched_on
from ddaudit.reports.schema import Report


def basics(report: Report) -> dict[str, object]:
    """What a number is measured with: nothing is compared across these."""
    run = report.run
    return {
        "data": run.data,
        "test records": run.data_facts.get("test_fingerprint"),
        "architecture": run.arch,
        "protocol": run.protocol,
    }


def experiment(report: Report) -> dict[str, object]:
    """:func:`basics`, and what sets are made from and trained by: a change across these is one of the experiment."""
    run = report.run
    return {
        **basics(report),
        "training records": run.data_facts.get("fingerprint"),
        "protocol's settings": switched_on(run.protocol_facts),
    }


def conditions(report: Report) -> dict[str, object]:
    """:func:`experiment`, and what rows of one table share besides."""
    run = report.run
    return {
        **experiment(report),
        "shape": run.data_facts.get("shape"),
        "preset": run.preset,
        "profile": run.profile,
        "number of test records": run.data_facts.get("test"),
        "number of networks": run.config.get("victims"),
    }


def making(report: Report, subject: str) -> dict[str, object]:
    """How a subject was made: two of one name that differ here are two sets, or two methods."""
    entry = report.subject(subject)
    facts: dict[str, object] = {"size (images per class)": entry.ipc} if entry.drawn else {}
    recipe = entry.card.get("recipe")
    if entry.kind == "recipe" and isinstance(recipe, dict):
        facts |= {f"{part} of {subject}": value for part, value in sorted(recipe.items())}
    return facts


def instruments(report: Report) -> dict[str, dict[str, object]]:
    """By auditor, what its numbers depend on: its version and its settings."""
    return {
        a.name: {"version": (a.model_extra or {}).get("version"), **a.settings}
        for a in report.auditors
    }


def apart(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, of: str = "") -> str:
    """The first thing that differs, in words (``another preset: full, not quick``); empty where nothing does.

    Args:
        of: an auditor, whose conditions these are.
    """
    for name in mine:
        if name in theirs and mine[name] != theirs[name]:
            what = f"another {name}{f' of {of}' if of else ''}"
            return f"{what}: {_brief(mine[name], theirs[name])}"
    return ""


def _brief(mine: Any, theirs: Any) -> str:
    """Both values; of two mappings what differs."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = [k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)]
        key = min(map(str, keys))
        return f"{key} {mine.get(key)}, not {theirs.get(key)}"
    told = ("unknown" if value in (None, "") else value for value in (mine, theirs))
    return ", not ".join(f"{value}"[:60] for value in told)
