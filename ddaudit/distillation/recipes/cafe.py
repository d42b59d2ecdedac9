"""CAFE: the maps of every block aligned, classes told apart, on networks watched while they train on the set."""

from dataclasses import replace

from ddaudit.distillation.layers import LayerAlignment
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.schedules import Watch
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass
from ddaudit.training import PROTOCOLS

CAFE = register(
    Recipe(
        name="cafe",
        purpose="mean maps of every layer, with classes that stand apart",
        family="distribution",
        source="Wang et al., CAFE: Learning to Condense Dataset by Aligning Features, CVPR 2022, arXiv 2203.01531; "
        "values of the authors' code",
        objective=LayerAlignment(),
        target=ByClass(),
        synthesis=Pixels(init="noise"),
        networks=Fresh("ConvNet"),
        reader=Minibatch(per_class=256),
        loop=Matching(
            iterations=2000, lr=0.1, momentum=0.5, watch=Watch(), halve_at=(0.6, 0.8, 0.9)
        ),
        augment="",
        protocol=replace(PROTOCOLS["dc"], name="cafe", augment="", epochs_plain=600),
        small={
            # Too few steps to get rid of noise.
            "synthesis.init": "real",
            "loop.iterations": 10,
            "loop.watch.rounds": 15,
            "loop.watch.epochs": 15,
            "networks.width": 32,
            "reader.per_class": 32,
        },
        deviations=(
            "on MNIST, evaluation is plain and of 600 epochs (source: crops, scales and rotations, 1000 epochs)",
            "accuracy on the reader's own batches, 256 records per class (source: 128)",
            "at most 100 rounds per network and 100 epochs between two (source: no bound)",
            "an accuracy counts as it is (source's code: plus a tenth of the one before)",
        ),
    )
)
