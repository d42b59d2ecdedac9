"""DC and DSA: gradient matching, without and with siamese augmentation; DCC: of all classes at once; LCMat: with its
spread."""

from dataclasses import replace

from ddaudit.distillation.curvature import CurvatureMatch
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass, Joint
from ddaudit.training import PROTOCOLS

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
        protocol=replace(PROTOCOLS["dc"], augment=""),
        small={
            "loop.iterations": 20,
            "loop.outer": 5,
            "loop.inner": 10,
            "networks.width": 32,
            "reader.per_class": 32,
        },
        deviations=(
            "on MNIST, evaluation is plain and of 300 epochs (source: crops, scales and rotations, 1000 epochs)",
        ),
    )
)

DSA = register(
    replace(
        DC,
        name="dsa",
        purpose="gradient matching, real and synthetic images augmented alike",
        synthesis=Pixels(init="real"),
        augment="data",
        protocol=PROTOCOLS["dc"],
        source="Zhao & Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021",
        deviations=(),
    )
)

DCC = register(
    replace(
        DC,
        name="dcc",
        purpose="gradient matching of one loss over all classes",
        source="Lee, Chun, Jung, Yun & Yoon, Dataset Condensation with Contrastive Signals, ICML 2022, "
        "arXiv 2202.02916",
        target=Joint(),
        synthesis=Pixels(init="real"),
        loop=replace(DC.loop, table="dcc", warmup_networks=250, warmup_rounds=10),
        small={**DC.small, "loop.warmup_networks": 5, "loop.warmup_rounds": 5},
        deviations=(
            *DC.deviations,
            "records weigh alike in the joint gradient (source: classes; the same where every class has 256 records)",
        ),
    )
)

LCMAT = register(
    replace(
        DC,
        name="lcmat",
        purpose="gradients matched with their spread, as a stand-in for curvature",
        status="reconstruction",
        source="Shin, Bae, Shin, Joo & Moon, Loss-Curvature Matching for Dataset Selection and Condensation, "
        "AISTATS 2023, arXiv 2303.04449",
        objective=CurvatureMatch(),
        synthesis=Pixels(init="real"),
        augment="data",
        protocol=PROTOCOLS["dc"],
        deviations=(
            "the authors published code for their selection, not for their condensation: its weight is ours",
            "the spread of gradients over classes (source: over records)",
            "on DSA's loops and values",
        ),
    )
)
