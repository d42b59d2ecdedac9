"""RFAD: kernel ridge regression on the features of many random networks, with a learned temperature."""

from ddaudit.distillation.kernels import NetworkFeatures
from ddaudit.distillation.kip import KernelInducing
from ddaudit.distillation.learned import LearnedLabels
from ddaudit.distillation.networks import Gaussian
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.recipes.kip import OWN_STD
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass

RFAD = register(
    Recipe(
        name="rfad",
        purpose="kernel regression on the features of many random networks",
        family="kernel",
        status="simplified",
        source="Loo, Hasani, Amini & Rus, Efficient Dataset Distillation using Random Feature Approximation, NeurIPS "
        "2022, arXiv 2210.12067; values of the authors' code",
        target=ByClass(),
        synthesis=Pixels(init="real"),
        networks=Gaussian("ConvNetW256NN"),
        labels=LearnedLabels(form="targets", scaled=False),
        reader=Minibatch(per_class=512),
        loop=KernelInducing(
            steps=10_000,
            lr=1e-3,
            kernel=NetworkFeatures(models=8, bias=0.01),
            reg=5e-3,
            optimiser="adabelief",
            loss="platt",
        ),
        augment="",
        small={
            "loop.steps": 100,
            "loop.lr": 0.03,
            "labels.lr": 0.003,
            "loop.kernel.models": 2,
            "networks.width": 64,
            "reader.per_class": 50,
        },
        deviations=(
            "no ZCA whitening (source: of colour), and no whitening matrix learned between images and networks",
            "10 000 steps, of which the last is released (source: until the loss of 16 networks on training records "
            "stands still for 1000, and the best)",
            "blocks of networks pad by 3 on 28 pixels, which leaves 4096 features (source: 1, and 2304)",
            "class-balanced batches of 512 per class for four batches of 1280, larger with more than 10 classes",
            OWN_STD,
            "released labels are the distributions nearest to the targets (source: the targets, any numbers)",
            "evaluation: the source trains networks on 2 to 16 times the targets, relative to their start, or "
            "regresses with the exact kernel",
        ),
    )
)
