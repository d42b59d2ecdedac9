"""Networks that learn the records in a robust way: the part of a recipe that several defenses change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ddaudit.distillation import Recipe
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.learners import Learning
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.parts import NetworkSource
from ddaudit.training import Robust


@dataclass(frozen=True)
class Taught:
    """A recipe whose networks learn the records in another way.

    Attributes:
        recipe: the recipe.
        path: where its options of robust training are.
        note: what had to be changed for it; "" where networks learned the records anyway.
    """

    recipe: Recipe
    path: str
    note: str = ""


def teach_robustly(recipe: Recipe, **how: Any) -> Taught | None:
    """Set parts of :class:`~ddaudit.training.Robust` for the networks that learn the records.

    Random networks that are matched once each give way to experts; None where networks learn the synthetic set, or
    there are none.
    """
    networks = recipe.networks
    if isinstance(networks, Learning):
        training = replace(networks.training, robust=_with(networks.training.robust, how))
        return _taught(recipe, replace(networks, training=training), "networks.training.robust")
    if isinstance(networks, Experts | ExpertPaths):
        changed = replace(networks, robust=_with(networks.robust, how))
        return _taught(recipe, changed, "networks.robust")
    loop = recipe.loop
    once = isinstance(loop, Matching) and loop.outer == 1 and loop.watch is None
    if type(networks) is not Fresh or isinstance(recipe.objective, GradientMatch) or not once:
        return None
    experts = Experts(networks.arch, networks.width, robust=_with(None, how))
    recipe = replace(recipe, small={**recipe.small, "networks.count": 3, "networks.epochs": 10})
    note = (
        "random networks give way to networks trained on the records, which can be taught something"
    )
    return _taught(recipe, experts, "networks.robust", note)


def _with(old: Robust | None, how: dict[str, Any]) -> Robust:
    return replace(old or Robust(), **how)


def _taught(recipe: Recipe, networks: NetworkSource, path: str, note: str = "") -> Taught:
    return Taught(replace(recipe, networks=networks), path, note)
