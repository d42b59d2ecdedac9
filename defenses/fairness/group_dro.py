"""Group DRO: of the (class, group) targets, the worst matched ones count."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.fairness.fairdd import ByGroup
from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.reductions import CVaR
from ddaudit.distillation.targets import ByClass, Reduced
from ddaudit.errors import BadInput

SOURCE = (
    "after group DRO (Sagawa et al., ICLR 2020, arXiv 1911.08731): distances of matching in place of training losses, "
    "and the conditional value at risk over (class, group) rows in place of weights learned online"
)


def group_dro(recipe: Recipe) -> Recipe:
    """One target per (class, group); at every step the worst half of them counts (``target.reduction.share``).

    Raises:
        BadInput: a method that compares no class targets.
    """
    if recipe.objective is None or not isinstance(recipe.target, (ByClass, ByGroup)):
        raise BadInput(
            f"{recipe.name}+group-dro",
            "'group-dro' weighs distances of class targets, and this method has none",
            "Use it on dm, dc or dsa.",
        )
    return replace(
        recipe,
        target=Reduced(ByGroup(), CVaR()),
        status="ours",
        source=f"{SOURCE}, on: {recipe.source}",
    )


# After fair, whose rows it takes over.
DEFENSES.add(
    "group-dro",
    Defense(
        "group-dro",
        "the worst matched (class, protected group) targets count",
        SOURCE,
        group_dro,
        order=12,
    ),
)
