"""KIP: kernel inducing points, with the tangent kernel of a wide network or with scattering features."""

from dataclasses import replace

from ddaudit.distillation.kernels import DenseNTK, Scattering
from ddaudit.distillation.kip import KernelInducing
from ddaudit.distillation.learned import LearnedLabels
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass

OWN_STD = "CIFAR-10 is standardised by the DC family's deviations, about 0.2 (source: those of its pixels, about 0.25)"

# Batches are class-balanced, so that the mean over classes is the mean over the batch, and +fair can split it.
KIP = register(
    Recipe(
        name="kip",
        purpose="kernel ridge regression on the set predicts the real records",
        family="kernel",
        source="Nguyen, Chen & Lee, Dataset Meta-Learning from Kernel Ridge-Regression, ICLR 2021, "
        "arXiv 2011.00050; values of the authors' notebook (fully connected, 1 hidden layer)",
        target=ByClass(),
        synthesis=Pixels(init="real"),
        reader=Minibatch(per_class=500),
        loop=KernelInducing(steps=1000, lr=0.04, kernel=DenseNTK(), reg=1e-6),
        augment="",
        small={"loop.steps": 300, "reader.per_class": 50},
        deviations=(
            "class-balanced batches of 500 per class for batches of 5000, larger with more than 10 classes",
            OWN_STD,
            "evaluation: the paper's numbers are kernel ridge regression with the same kernel "
            "(ddaudit.distillation.kernels.krr_accuracy); networks trained on these images score lower",
        ),
    )
)

KIP_LABELS = register(
    replace(
        KIP,
        name="kip-labels",
        purpose="as kip, labels learned as well",
        status="simplified",
        labels=LearnedLabels(),
        deviations=(
            *KIP.deviations,
            "labels stay distributions (source: any numbers), so that any network can be trained on them",
        ),
    )
)

KIP_SCATTERNET = register(
    replace(
        KIP,
        name="kip-scatternet",
        purpose="as kip, on scattering features",
        status="simplified",
        source="the non-private baseline of Vinaroz & Park, DP-KIP, TMLR 2024, arXiv 2301.13389",
        reader=Minibatch(per_class=200),
        loop=KernelInducing(steps=300, lr=0.1, kernel=Scattering(), reg=1e-3),
        small={"loop.steps": 100, "reader.per_class": 20},
        deviations=(
            *KIP.deviations[1:],
            "class-balanced batches of 200 per class for shuffled batches of 2000",
            "300 steps are the source's 10 epochs of 60 000 records",
        ),
    )
)
