"""Lessons for networks that learn of the records: what ``+fair``, ``+balanced`` and others make of a method's."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.distillation import Recipe
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.learners import Learning
from ddaudit.distillation.lessons import Even, Lesson
from ddaudit.distillation.selection import Selection
from ddaudit.distillation.trajectory import Trajectory
from ddaudit.errors import BadInput


def teachable(recipe: Recipe) -> Experts | ExpertPaths | Learning | None:
    """The recipe's networks, where they are trained on the records."""
    networks = recipe.networks
    return networks if isinstance(networks, (Experts, ExpertPaths, Learning)) else None


def taught(recipe: Recipe, lesson: Lesson, *, source: str, note: str) -> Recipe:
    """The recipe with a lesson for its networks, which learn of the records."""
    networks = teachable(recipe)
    assert networks is not None, "asked before"
    return replace(
        recipe,
        networks=replace(networks, lesson=lesson),
        status="ours",
        source=f"{source}, on: {recipe.source}",
        deviations=(*recipe.deviations, note),
    )


def untreated(recipe: Recipe, where: str, *, again: bool = True) -> None:
    """Refuse a second remedy for the imbalance that the recipe's networks, or its set, learn of.

    Args:
        again: whether what sees classes evenly already may be told to.

    Raises:
        BadInput: they have a lesson that takes it away, students are given the experts' own bias, or see ``again``.
    """
    lesson, loop = getattr(recipe.networks, "lesson", None), recipe.loop
    even = isinstance(lesson, Even)
    if isinstance(loop, Trajectory) and loop.agnostic != "no":
        what = "its students are trained with experts' bias, which takes the imbalance of classes away already"
    elif lesson is not None and not even:
        what = "its networks have a lesson that takes the imbalance of classes away already"
    elif not again and (even or (isinstance(loop, Selection) and loop.even)):
        what = "what sees every class equally often has nothing to adjust"
    else:
        return
    raise BadInput(where, f"two remedies for one imbalance: {what}", "Leave one of the two out.")


def teach_evenly(recipe: Recipe, where: str, *, by_group: bool, source: str) -> Recipe | None:
    """The recipe with an even lesson for its networks; None where it has targets, or no networks that learn.

    Raises:
        BadInput: see :func:`untreated`.
    """
    networks = teachable(recipe)
    if recipe.target is not None or networks is None:
        return None
    untreated(recipe, where)
    old = networks.lesson
    by_group = by_group or (isinstance(old, Even) and old.by_group)
    what = "(class, group)" if by_group else "class"
    note = (
        f"every {what} is seen equally often: by the teachers, in statistics and among crops' records "
        "(records of smaller ones repeat)"
    )
    return taught(recipe, Even(by_group), source=source, note=note)
