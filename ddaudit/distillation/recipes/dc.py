"""DC and DSA: gradient matching, without and with differentiable siamese augmentation."""

from dataclasses import replace

from ddaudit.distillation.matching import Matching
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass

DC = register(
    Recipe(
        name="dc",
        purpose="match parameter gradients while the network trains on the synthetic set",
        family="gradient",
        source="Zhao, Mopuri & Bilen, Dataset Condensation with Gradient Matching, ICLR 2021, arXiv 2006.05929",
        objective=GradientMatch(),
        target=ByClass(),
        synthesis=Pixels(init="noise"),
        networks=Fresh("ConvNet"),
        reader=Minibatch(per_class=256),
        loop=Matching(iterations=1000, lr=0.1, momentum=0.5, outer=None, inner=None),
        augment="",
        small={
            "loop.iterations": 20,
            "loop.outer": 5,
            "loop.inner": 10,
            "networks.width": 32,
            "reader.per_class": 32,
        },
    )
)

DSA = register(
    replace(
        DC,
        name="dsa",
        purpose="gradient matching, real and synthetic images augmented alike",
        synthesis=Pixels(init="real"),
        augment="data",
        source="Zhao & Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021",
    )
)
