"""IDM: sub-images, matched and classified by a queue of networks trained on real records."""

from ddaudit.distillation.learners import Queue
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import BEST_ON_TEST, Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass
from ddaudit.distillation.terms import CrossEntropy
from ddaudit.training import PROTOCOLS

IDM = register(
    Recipe(
        name="idm",
        purpose="mean embeddings of a queue of trained networks that classify the set",
        family="distribution",
        source="Zhao et al., Improved Distribution Matching for Dataset Condensation, CVPR 2023, arXiv 2307.09742; "
        "values of the authors' code for CIFAR-10 at 10 images per class",
        objective=MeanEmbedding(),
        target=ByClass(),
        synthesis=Pixels(init="real", factor=2),
        networks=Queue(),
        reader=Minibatch(per_class=256),
        terms=(CrossEntropy(weight=0.5, per_class=True, by_accuracy=True),),
        loop=Matching(iterations=20_000, lr=0.2, momentum=0.5),
        protocol=PROTOCOLS["dc"],
        published_ipc=10,
        small={
            # Sub-images of 8 x 8 pixels would be 4 x 4.
            "synthesis.factor": 1,
            "loop.iterations": 200,
            # Small networks have few features: distances of their means are small beside 50 cross-entropies.
            "loop.lr": 5.0,
            "terms.0.weight": 0.001,
            "networks.width": 32,
            "networks.records": 256,
            "reader.per_class": 64,
        },
        deviations=(
            "all classes move at once (source: one after the other, at the same step)",
            BEST_ON_TEST,
        ),
    )
)
