"""HaBa: bases that hallucinators restyle."""

from dataclasses import replace

from ddaudit.distillation.factorised import Hallucinated
from ddaudit.distillation.recipe import register
from ddaudit.distillation.recipes.dm import DM

HABA = register(
    replace(
        DM,
        name="haba-dm",
        purpose="mean embeddings, images as bases restyled by small networks",
        status="simplified",
        source="Liu, Wang, Yang, Ye & Wang, Dataset Distillation via Factorization, NeurIPS 2022, arXiv 2210.16774; "
        "its factorisation on distribution matching",
        synthesis=Hallucinated(),
        small={**DM.small, "loop.iterations": 150, "synthesis.extractor": "ConvNetW32"},
        deviations=(
            "the objective of distribution matching (source: trajectories, and in a table this one)",
            "all styles of all bases at once, in training too (source: one random style for each batch)",
            "the extractor sees images without augmentation, and learns before instead of after a step",
        ),
    )
)
