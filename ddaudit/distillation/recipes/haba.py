"""HaBa: bases that hallucinators restyle, on trajectories and on mean embeddings."""

from dataclasses import replace

from ddaudit.distillation.factorised import Hallucinated
from ddaudit.distillation.learned import LearnedRate
from ddaudit.distillation.recipe import register
from ddaudit.distillation.recipes.dm import DM
from ddaudit.distillation.recipes.trajectory import MTT

SOURCE = "Liu, Wang, Yang, Ye & Wang, Dataset Distillation via Factorization, NeurIPS 2022, arXiv 2210.16774"
DEVIATIONS = (
    "batches hold bases in any style, and an epoch of training is all styles of all bases (source: a batch of one "
    "random style, and an epoch of the bases, each in a random style)",
    "the extractor sees images without augmentation, and learns before instead of after a step",
)

HABA = register(
    replace(
        MTT,
        name="haba",
        purpose="trajectory matching, images as bases restyled by small networks",
        status="simplified",
        source=f"{SOURCE}; values of the authors' code, CIFAR-10 with 10 bases per class",
        synthesis=Hallucinated(),
        loop=replace(
            MTT.loop,
            iterations=15_000,
            momentum=0.95,
            batch=100,
            rate=LearnedRate(0.001, 1e-5, "plain", least=0.001),
        ),
        small={
            **MTT.small,
            "loop.iterations": 100,
            "loop.lr": 5.0,
            "loop.rate.lr": 1e-4,
            "loop.momentum": 0.5,
            "synthesis.extractor": "ConvNetW32",
        },
        deviations=(
            *MTT.deviations,
            *DEVIATIONS,
            "the learning rate has the images' momentum of 0.95 (source: 0.9)",
        ),
    )
)

HABA_DM = register(
    replace(
        DM,
        name="haba-dm",
        purpose="mean embeddings, images as bases restyled by small networks",
        status="simplified",
        source=f"{SOURCE}; its factorisation on distribution matching",
        synthesis=Hallucinated(),
        small={
            **DM.small,
            "loop.iterations": 400,
            "loop.lr": 10.0,
            "synthesis.extractor": "ConvNetW32",
        },
        deviations=("the objective of distribution matching (source: trajectories)", *DEVIATIONS),
    )
)
