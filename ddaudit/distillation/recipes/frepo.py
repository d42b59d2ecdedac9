"""FRePo: kernel ridge regression on the features of a pool of networks that learn from the synthetic set."""

from ddaudit.distillation.kernels import NetworkFeatures
from ddaudit.distillation.kip import KernelInducing
from ddaudit.distillation.learned import LearnedLabels
from ddaudit.distillation.mirrored import Mirrored
from ddaudit.distillation.pool import Pool
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.recipes.kip import OWN_STD
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass
from ddaudit.training import EvaluationProtocol

FREPO = register(
    Recipe(
        name="frepo",
        purpose="kernel regression on features of networks that learn the set",
        family="kernel",
        status="simplified",
        source="Zhou, Nezhadarya & Ba, Dataset Distillation using Neural Feature Regression, NeurIPS 2022, "
        "arXiv 2206.00719; values of the authors' code",
        target=ByClass(),
        synthesis=Mirrored(Pixels(init="real"), on="colour"),
        networks=Pool(loss="mse", augment="", batch=1000),
        labels=LearnedLabels(form="targets", margin=1.0),
        reader=Minibatch(per_class=102),
        loop=KernelInducing(
            steps=500_000, lr=3e-4, kernel=NetworkFeatures(), reg=1e-6, optimiser="lamb", decay=0.1
        ),
        augment="",
        published_ipc=1,
        protocol=EvaluationProtocol(
            name="frepo",
            epochs=10_000,
            epochs_plain=10_000,
            max_steps=1000,
            batch_size=500,
            optimiser="adamw",
            lr=3e-4,
            weight_decay=0.0,
            decay=1.0,
            loss="mse",
            deviations=(
                "1000 steps at one rate (source: so many for 10 images, 2000 for 100, 5000 for 500, rising for 500 "
                "and then falling on a cosine)",
                "networks normalise their maps (source: not in evaluation)",
                "squared distance to the distributions (source: to targets, less 1 / classes)",
                "the data set's own augmentation (source: colour, crop, rotation, shift, cutout)",
            ),
        ),
        small={
            "loop.steps": 300,
            "loop.lr": 0.01,
            "networks.width": 32,
            "networks.size": 5,
            "networks.age": 50,
            "reader.per_class": 50,
        },
        deviations=(
            "ConvNet of constant width with instance norm (source: 128, 256, 512 channels, batch norm)",
            "no ZCA whitening (source: of colour)",
            "class-balanced batches of 102 per class for batches of 1024, larger with more than 10 classes",
            OWN_STD,
            "released labels are the distributions nearest to the targets (source: the targets, any numbers)",
            "mirror images of colour at every size (source: not for CIFAR-100 and Tiny ImageNet above 1 per class)",
        ),
    )
)
