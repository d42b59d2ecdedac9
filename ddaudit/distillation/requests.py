"""From what a user asks for to a recipe that can run: names, options, a privacy target, checked against the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ddaudit.data import Dataset
from ddaudit.distillation.recipe import Recipe, resolve
from ddaudit.errors import BadInput

MOST_EPSILON = 1e6
"""Beyond it a claim promises nothing, and accountants search for the noise of none."""
_PROVENANCE = (
    "name", "family", "purpose", "source", "status", "deviations", "small", "published_ipc",
)  # fmt: skip


def make_recipe(
    name: str,
    *,
    profile: Literal["small", "paper"],
    options: Mapping[str, Any] | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    strict: bool = False,
) -> Recipe:
    """The recipe called ``name`` with --set options and the privacy target applied where it has such parts.

    Args:
        strict: raise when an option or the privacy target does not apply (``ddaudit distill``); an audit of many
            recipes applies each option to the recipes that have it.

    Raises:
        BadInput: unknown name; see ``strict``; bad values always.
    """
    if epsilon is not None and not 0 < epsilon <= MOST_EPSILON:
        todo = "Leave '+dp' out where no privacy is wanted." if epsilon > MOST_EPSILON else ""
        raise BadInput(
            f"--epsilon {epsilon:g}", f"must be positive and finite, {MOST_EPSILON:g} at most", todo
        )
    if delta is not None and not 0 < delta < 1:
        raise BadInput(f"--delta {delta:g}", "must lie strictly between 0 and 1")
    recipe = resolve(name, profile=profile)
    private = bool(recipe.reader and recipe.reader.private)
    if strict and not private and (epsilon is not None or delta is not None):
        raise BadInput(
            recipe.name,
            "has no privacy part, so --epsilon and --delta mean nothing",
            f"Use {recipe.name}+dp, ndpdc or psg.",
        )
    given = dict(options or {})
    if private and given.get("reader.sigma") not in (None, "none", "null") and epsilon is not None:
        raise BadInput(
            f"--epsilon {epsilon:g}",
            f"goes with a noise that is calibrated for it, and reader.sigma={given['reader.sigma']} sets the noise",
            "Give one of the two: the claim of a given noise is computed.",
        )
    if named := [k for k in given if k.partition(".")[0] in _PROVENANCE]:
        what = "says where a method comes from, and is no option of it"
        raise BadInput(
            f"--set {named[0]}", what, "Options are those of its parts: loop.iterations."
        )
    wanted = {k: v for k, v in given.items() if strict or has_option(recipe, k)}
    target = {"reader.epsilon": epsilon, "reader.delta": delta} if private else {}
    recipe = resolve(name, profile=profile, options=wanted)
    return recipe.options({k: v for k, v in target.items() if v is not None})


def check_recipe(recipe: Recipe, data: Dataset) -> None:
    """Find out before any work whether a recipe can run on these data.

    Raises:
        BadInput: it cannot.
    """
    if getattr(recipe.loop, "by_group", False) and data.train.groups is None:
        raise BadInput(
            f"{recipe.name} on '{data.name}'",
            "'fair' needs a protected attribute, and these data have none",
            "Try --data digits-colored.",
        )
    recipe.check_private()
    recipe.check_unit(data)
    private = recipe.reader is not None and recipe.reader.private
    if not private and not getattr(recipe.loop, "takes_all", False):  # private ones ask no counts
        counts = data.train.class_counts().tolist()
        for name, count in zip(data.train.class_names, counts, strict=True):
            if not count:
                raise BadInput(
                    f"{recipe.name} on '{data.name}'",
                    f"class '{name}' has no training record, so nothing can be distilled of it",
                    "Give it records, or leave its name out of the data's classes "
                    "(--baselines none audits a file without).",
                )
    if recipe.target is not None:
        recipe.target.layout(data.train)
    if recipe.reader is not None:
        recipe.reader.check(data.train)
    if recipe.networks is not None:
        recipe.networks.bind(recipe.shown(data))


def has_option(recipe: Recipe, path: str) -> bool:
    """True when a recipe has the dotted option."""
    part: Any = recipe
    for name in path.split("."):
        if not hasattr(part, name):
            return False
        part = getattr(part, name)
    return True
