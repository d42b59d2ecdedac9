"""``+outliers``: TrustDD's second set, on any method that matches gradients or mean embeddings of single records."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.distillation import DEFENSES, Defense, Recipe, register
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.objectives import GradientMatch, MeanEmbedding
from ddaudit.distillation.outliers import OutlierMatch, WithOutliers
from ddaudit.distillation.recipe import BEST_ON_TEST
from ddaudit.distillation.recipes.dc import DSA
from ddaudit.distillation.recipes.kip import OWN_STD
from ddaudit.errors import BadInput
from ddaudit.training import PROTOCOLS

TRUSTDD = "Ma et al., Towards Trustworthy Dataset Distillation (TrustDD), Pattern Recognition 2024, arXiv 2307.09165"


def outliers(recipe: Recipe) -> Recipe:
    """Distil as many outliers beside the images, from spoilt records, and state training with both on the card.

    Raises:
        BadInput: a private method, or one that matches neither gradients nor mean embeddings.
    """
    objective = recipe.objective
    if recipe.reader is not None and recipe.reader.private:
        raise BadInput(
            f"{recipe.name}+outliers",
            "makes outliers of private records outside the ledger",
            "Leave 'outliers' or the privacy out.",
        )
    if (
        not isinstance(recipe.loop, Matching)
        or not isinstance(objective, (GradientMatch, MeanEmbedding))
        or recipe.synthesis is None
    ):
        raise BadInput(
            f"{recipe.name}+outliers",
            "'outliers' are matched as the images are, and this method matches neither gradients nor mean embeddings",
            "Use it on dm, dc, dsa or idc.",
        )
    protocol = recipe.protocol or PROTOCOLS["dc"]
    number = len(recipe.terms)
    return replace(
        recipe,
        synthesis=WithOutliers(recipe.synthesis),
        terms=(*recipe.terms, OutlierMatch(objective=objective, augment=recipe.augment)),
        protocol=replace(protocol, name=f"{protocol.name}-outliers", outlier_weight=0.5),
        status="ours",
        source=f"{TRUSTDD}, on: {recipe.source}",
        small={**recipe.small, f"terms.{number}.per_slot": 32},
    )


DEFENSES.add(
    "outliers",
    Defense(
        "outliers",
        "a second set, made of spoilt records, that networks learn to be unsure of",
        TRUSTDD,
        outliers,
        # Outside other syntheses, and before dp, which refuses it.
        order=18,
    ),
)

register(
    replace(
        outliers(DSA),
        name="trustdd",
        purpose="gradient matching of images and of outliers made of spoilt records",
        status="faithful",
        source=f"{TRUSTDD}; values of the authors' code",
        loop=replace(DSA.loop, table="trustdd"),
        deviations=(
            BEST_ON_TEST,
            OWN_STD,
            "the two sets move by one optimiser at one step (source: two, of the same values)",
            "outliers are drawn with replacement",
        ),
    )
)
