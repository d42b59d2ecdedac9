"""DM: distribution matching."""

from ddaudit.distillation.matching import Matching
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass

DM = register(
    Recipe(
        name="dm",
        family="distribution",
        source="Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023, arXiv 2110.04181",
        objective=MeanEmbedding(),
        target=ByClass(),
        synthesis=Pixels(init="real"),
        networks=Fresh("ConvNet"),
        reader=Minibatch(per_class=256),
        loop=Matching(iterations=20_000, lr=1.0, momentum=0.5),
        small={
            "loop.iterations": 300,
            "loop.lr": 5.0,
            "networks.width": 32,
            "reader.per_class": 64,
        },
    )
)
