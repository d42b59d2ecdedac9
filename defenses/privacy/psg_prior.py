"""PSG with an image prior: the private gradients move the weights of a generator instead of pixels."""

from __future__ import annotations

from dataclasses import replace

from ddaudit.defenses.privacy.dp import LESS_NOISE, PLAIN_MNIST, PSG, PUBLIC_CONSTANTS, dp
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import register
from ddaudit.distillation.generator import Generated
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.recipes.dc import DC
from ddaudit.distillation.targets import Joint

register(
    replace(
        dp(DC),
        name="psg-prior",
        purpose="as psg, through a generator whose weights are trained (private)",
        status="faithful",
        source=f"{PSG} (variant with a DCGAN prior)",
        target=Joint(),
        synthesis=Generated(kind="dcgan", code=10, width=64, bounded=False),
        reader=PoissonGaussian(clip=0.1, batch=256, sampling="uniform", scale="mean"),
        loop=Matching(iterations=1000, optimiser="adam", lr=0.01, outer=2, inner=10, repeats=10),
        small={"loop.iterations": 20, "networks.width": 32, "synthesis.width": 16},
        deviations=(PUBLIC_CONSTANTS, PLAIN_MNIST, LESS_NOISE),
    )
)
