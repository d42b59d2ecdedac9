"""``+soft``: the released images carry a teacher's soft labels instead of hard ones.

Not a defence of privacy, rather the opposite: it stands here because it composes with methods by name, so that
the auditor ``soft-labels`` can compare ``random`` with ``random+soft`` and ``dm`` with ``dm+soft``.
"""

from __future__ import annotations

from dataclasses import replace

from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.labels import TeacherLabels
from ddaudit.errors import BadInput

SOURCE = (
    "Yin, Xing & Shen, SRe2L, NeurIPS 2023, arXiv 2306.13092, section 3 (relabelling); "
    "Hinton, Vinyals & Dean, arXiv 1503.02531 (temperature)"
)


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
    return replace(
        recipe,
        labels=TeacherLabels(),
        status="ours",
        source=f"{SOURCE}, on: {recipe.source}",
        small={**recipe.small, "labels.width": 32},
        deviations=(
            *recipe.deviations,
            "one soft label per image by one teacher; SRe2L writes one per crop and training epoch",
        ),
    )


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
