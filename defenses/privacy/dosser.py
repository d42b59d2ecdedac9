"""Dosser: ask few noisy questions, keep the answers, optimise long on them; noise in a small subspace."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.privacy.dp import LESS_NOISE, dp
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import register
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.recipes.dm import DM
from ddaudit.distillation.subspace import Subspace
from ddaudit.distillation.synthesis import Pixels

SOURCE = (
    "Improving Noise Efficiency in Privacy-preserving Dataset Distillation (Dosser), ICCV 2025, "
    "arXiv 2508.01749"
)

DOSSER = register(
    replace(
        dp(DM),
        name="dosser",
        purpose="noisy embeddings in a public subspace, asked once, matched often (private)",
        status="simplified",
        source=SOURCE,
        reader=PoissonGaussian(clip=1.0, batch=50, scale="sum"),
        networks=Subspace(dims=1000),
        loop=Matching(iterations=200_000, pool=10_000, lr=1.0, momentum=0.5, ema=0.99),
        deviations=(
            "noise is drawn once per question and stored; the released script draws it again at every "
            "optimisation step, which its accounting does not cover",
            "augmented at every size by the data set's own (source: not at 1 image per class; flips MNIST too)",
            LESS_NOISE,
            "one optimiser step for all classes together (source: one after the other)",
            "public material is a data set of your choice or a random projection (source: images from a "
            "diffusion model, sorted by class)",
        ),
        small={
            "loop.iterations": 1500,
            "loop.pool": 300,
            "networks.width": 32,
            "networks.dims": 128,
            "networks.images": 500,
        },
    )
)

register(
    replace(
        DOSSER,
        name="dosser-pea",
        purpose="as dosser, with four sub-images in every image (private)",
        synthesis=Pixels(init="noise", factor=2),
    )
)
