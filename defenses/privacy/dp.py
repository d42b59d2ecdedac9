"""``+dp``, NDPDC and PSG: matching methods read through the private gate."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import DEFENSES, Defense, Recipe, register
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.recipes.dc import DC
from ddaudit.distillation.recipes.dm import DM
from ddaudit.distillation.selection import Selection
from ddaudit.distillation.targets import Joint
from ddaudit.errors import BadInput

NDPDC = "Zheng & Li, Differentially Private Dataset Condensation, NDSS workshop 2024"
PSG = "Chen, Kerkouche & Fritz, Private Set Generation with Discriminative Information, NeurIPS 2022, arXiv 2211.04446"


def dp(recipe: Recipe) -> Recipe:
    """Read through clipped noisy sums; start from noise; normalise by public constants.

    Embeddings are clipped at 1 and matched as sums with step 1 (NDPDC's values), gradients clipped at 0.1 (PSG's).

    Raises:
        BadInput: the method is private already, or releases real records and cannot be made private this way.
    """
    if recipe.reader is not None and recipe.reader.private:
        raise BadInput(
            f"{recipe.name}+dp",
            f"'{recipe.name}' is private already",
            f"Use {recipe.name} with --epsilon and --delta.",
        )
    if isinstance(recipe.loop, Selection) or recipe.target is None or recipe.synthesis is None:
        raise BadInput(
            f"{recipe.name}+dp",
            f"'{recipe.name}' releases real records, and noise on sums cannot hide them",
            "Use dm+dp, dc+dp, ndpdc or psg.",
        )
    if recipe.objective is None:
        raise BadInput(
            f"{recipe.name}+dp",
            "has gradients of a scale of its own, for which no clip is known",
            f"Use dp-{recipe.name} where it exists ('ddaudit list methods').",
        )
    embedding = isinstance(recipe.objective, MeanEmbedding)
    reader = (
        PoissonGaussian(clip=1.0, scale="sum")
        if embedding
        else PoissonGaussian(clip=0.1, scale="mean")
    )
    # Sums of clipped embeddings have another scale than means of raw ones; the cosine of gradients has none.
    loop = replace(recipe.loop, lr=1.0) if embedding else recipe.loop
    target = recipe.target.bounded()
    notes = recipe.deviations
    if not embedding and target != recipe.target:
        notes += (
            f"{type(target).__name__} stands for {type(recipe.target).__name__} under noise; "
            "the two have one optimum for squared distances only, not for this method's",
        )
    return replace(
        recipe,
        reader=reader,
        loop=loop,
        deviations=notes,
        target=target,
        synthesis=replace(recipe.synthesis, init="noise"),
        normalise="public",
        status="ours",
        source=f"{NDPDC}, applied to: {recipe.source}",
    )


DEFENSES.add(
    "dp",
    Defense(
        "dp",
        "clipped, noisy sums behind a privacy ledger; noise initialisation",
        NDPDC,
        dp,
        order=20,
    ),
)

register(
    replace(
        dp(DM),
        name="ndpdc",
        status="faithful",
        source=NDPDC,
        loop=replace(DM.loop, iterations=10_000, lr=1.0),
        small={"loop.iterations": 500, "networks.width": 32},
    )
)
register(
    replace(
        dp(DC),
        name="psg",
        status="faithful",
        source=PSG,
        target=Joint(),
        reader=PoissonGaussian(clip=0.1, batch=256, sampling="uniform", scale="mean"),
        loop=replace(DC.loop, iterations=1000, lr=0.1, repeats=10),
        small={
            "loop.iterations": 20,
            "loop.outer": 2,
            "loop.inner": 10,
            "loop.repeats": 10,
            "networks.width": 32,
        },
    )
)
