"""Lessons for networks that learn of the records: what ``+fair``, ``+balanced`` and others make of a method's."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.distillation import Recipe
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.learners import Learning
from ddaudit.distillation.lessons import Even, Lesson
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


def untreated(recipe: Recipe, where: str) -> None:
    """Refuse a second remedy for the imbalance that the recipe's networks learn of.

    Raises:
        BadInput: they have a lesson that takes it away, or students are given the experts' own bias.
    """
    lesson = getattr(recipe.networks, "lesson", None)
    agnostic = isinstance(recipe.loop, Trajectory) and recipe.loop.agnostic != "no"
    if agnostic or not (lesson is None or isinstance(lesson, Even)):
        what = (
            "students are trained with experts' bias, which"
            if agnostic
            else "networks have a lesson that"
        )
        raise BadInput(
            where,
            f"two remedies for one imbalance: its {what} takes the imbalance of classes away already",
            "Leave one of the two out.",
        )


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
