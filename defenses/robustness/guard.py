"""``+guard``, also ``+curvature``: what real records say is taken where the loss is flat around them."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.robustness.taught import teach_robustly
from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.recipe import Status
from ddaudit.distillation.recover import Recover
from ddaudit.errors import BadInput
from ddaudit.training import Curvature

SOURCE = (
    "GUARD, AAAI 2025, arXiv 2403.10045; h and lambda of the authors' CIFAR script (their ImageNet script's scalar: "
    "form=loss)"
)
HOST = "the authors' code has no gradient matching: the curvature is added to the real records' loss, as the paper says"

LENGTH = "h is 3 at 32 x 32 x 3 numbers, as published, and in proportion to an image's length at other sizes"


def guard(recipe: Recipe) -> Recipe:
    """Add GUARD's curvature: to the real records' loss where gradients are matched, else to what networks learn of
    the records (the teachers of decoupled methods, experts).

    Raises:
        BadInput: neither is there, or the recipe has it already.
    """
    where = f"{recipe.name}+guard"
    curvature = Curvature()
    status: Status = "ours"
    if isinstance(recipe.objective, GradientMatch):
        if recipe.objective.curvature is not None:
            raise BadInput(where, "has the curvature already ('guard' and 'curvature' are one)")
        made = replace(recipe, objective=replace(recipe.objective, curvature=curvature))
        note, status = HOST, "reconstruction"
    else:
        taught = teach_robustly(recipe, curvature=curvature)
        if taught is None:
            raise BadInput(
                where,
                "adds to what is learned of real records by gradients, and nothing is here",
                "Use it on sre2l, dc, dm or mtt.",
            )
        made, note = taught.recipe, taught.note
        if taught.recipe == recipe:
            raise BadInput(where, "has the curvature already ('guard' and 'curvature' are one)")
        if isinstance(recipe.loop, Recover):
            status = "simplified"
    return replace(
        made,
        status=status,
        source=f"{SOURCE}, on: {recipe.source}",
        deviations=(*made.deviations, *([note] if note else []), LENGTH),
    )


for _name in ("guard", "curvature"):
    DEFENSES.add(
        _name,
        Defense(
            _name,
            "curvature of the loss around real records, matched (dc: a reconstruction) or in what networks learn",
            SOURCE,
            guard,
            # Before lessons, which are for the networks that it may bring in.
            order=12,
        ),
    )
