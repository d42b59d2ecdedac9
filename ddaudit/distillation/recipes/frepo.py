"""FRePo: kernel ridge regression on the features of a pool of networks that learn from the synthetic set."""

from ddaudit.distillation.kernels import NetworkFeatures
from ddaudit.distillation.kip import KernelInducing
from ddaudit.distillation.learned import LearnedLabels
from ddaudit.distillation.pool import Pool
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass

FREPO = register(
    Recipe(
        name="frepo",
        purpose="kernel regression on features of networks that learn the set",
        family="kernel",
        status="simplified",
        source="Zhou, Nezhadarya & Ba, Dataset Distillation using Neural Feature Regression, NeurIPS 2022, "
        "arXiv 2206.00719",
        target=ByClass(),
        synthesis=Pixels(init="real"),
        networks=Pool(loss="mse"),
        labels=LearnedLabels(),
        reader=Minibatch(per_class=102),
        loop=KernelInducing(steps=500_000, lr=3e-4, kernel=NetworkFeatures(), reg=1e-6),
        augment="",
        small={
            "loop.steps": 300,
            "loop.lr": 0.01,
            "networks.width": 32,
            "networks.size": 5,
            "networks.age": 50,
            "reader.per_class": 50,
        },
        deviations=(
            "Adam at a constant step (source: LAMB with cosine decay)",
            "squared error alone (source: plus a label-margin term)",
            "labels stay distributions, one-hot at the start (source: any numbers, scaled by 1 / sqrt(classes / 10))",
            "no flipped copies of the images",
            "the pool's first generation leaves at staggered ages (source: is trained to them beforehand)",
        ),
    )
)
