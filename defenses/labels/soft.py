"""``+soft``: the released images carry a teacher's soft labels instead of hard ones.

Not a defence of privacy, rather the opposite: it stands here because it composes with methods by name, so that
the auditor ``soft-labels`` can compare ``random`` with ``random+soft`` and ``dm`` with ``dm+soft``.
"""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.fairness.fairdd import by_groups
from ddaudit.defenses.fairness.lessons import teachable
from ddaudit.defenses.robustness.attacked import AttackedRecords
from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.labels import TeacherLabels
from ddaudit.distillation.learners import Learning
from ddaudit.distillation.lessons import Even, Lesson
from ddaudit.distillation.selection import Selection
from ddaudit.distillation.targets import Reduced, Weighted
from ddaudit.errors import BadInput
from ddaudit.training import Robust

SOURCE = (
    "Yin, Xing & Shen, SRe2L, NeurIPS 2023, arXiv 2306.13092, section 3 (relabelling); "
    "Hinton, Vinyals & Dean, arXiv 1503.02531 (temperature)"
)

_SHORT = {"labels.robust.attack.steps": 3, "labels.robust.attack.size": 4 / 255}
"""Of a teacher that learns under attack, in the small profile: as of other networks there."""


def soft(recipe: Recipe) -> Recipe:
    """Let a teacher trained on the real records write the labels, after the images are made.

    Raises:
        BadInput: a private recipe (the teacher would read private records outside the ledger), or one that has a
            label model already.
    """
    if recipe.reader is not None and recipe.reader.private:
        raise BadInput(
            f"{recipe.name}+soft",
            "a teacher would read private records outside the ledger to write soft labels, and the privacy "
            "claim would be void",
            "Leave 'soft' or the privacy out.",
        )
    if recipe.labels is not None:
        raise BadInput(f"{recipe.name}+soft", "the method has a label model already")
    lesson, robust = _lesson(recipe), _robust(recipe)
    notes = [
        "one soft label per image by one teacher; SRe2L writes one per crop and training epoch"
    ]
    if lesson:
        notes.append("the teacher of the labels is taught as the method's networks or targets ask")
    if robust:
        notes.append("the teacher of the labels learns records as robustly as the method does")
    return replace(
        recipe,
        labels=TeacherLabels(lesson=lesson, robust=robust),
        status="ours",
        source=f"{SOURCE}, on: {recipe.source}",
        small={**recipe.small, "labels.width": 32, **(_SHORT if robust and robust.attack else {})},
        deviations=(*recipe.deviations, *notes),
    )


def _robust(recipe: Recipe) -> Robust | None:
    """How networks of the method learn, or its reader shows records, under attack; None: not at all."""
    networks = recipe.networks
    if isinstance(networks, Learning):
        return networks.training.robust
    if isinstance(networks, (Experts, ExpertPaths)) and networks.robust is not None:
        return networks.robust
    return Robust(recipe.reader.attack) if isinstance(recipe.reader, AttackedRecords) else None


def _lesson(recipe: Recipe) -> Lesson | None:
    """How a teacher has to be taught that what ``fair`` and ``balanced`` make even is not undone by its labels."""
    networks, loop, rule = teachable(recipe), recipe.loop, recipe.target
    if networks is not None and networks.lesson is not None:
        return networks.lesson
    by_group = by_groups(rule) or (isinstance(loop, Selection) and loop.by_group)
    even = isinstance(loop, Selection) and loop.even
    while isinstance(rule, (Weighted, Reduced)):
        even = even or (isinstance(rule, Weighted) and rule.weights.even)
        rule = rule.rule
    return Even(by_group) if even or by_group else None


DEFENSES.add(
    "soft",
    Defense(
        "soft",
        "soft labels by a teacher trained on the real records (may leak what it memorised)",
        SOURCE,
        soft,
        # After every transform that may bring in a private reader, so that it is refused here and at once.
        order=30,
    ),
)
