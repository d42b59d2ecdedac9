"""G-VBSM and EDC: several teachers take turns, and convolutions are matched beside batch normalisations; D3S: layer
distributions by their divergence."""

from dataclasses import replace

from ddaudit.distillation.crops import RealCrops
from ddaudit.distillation.densify import Densify
from ddaudit.distillation.jitter import Jitter
from ddaudit.distillation.layer_statistics import LayerStatistics
from ddaudit.distillation.recipe import register
from ddaudit.distillation.recipes.sre2l import (
    DECAYED,
    FLOATS,
    SMALL,
    SMALL_TEACHER,
    SRE2L,
    TEACHER_HERE,
    by_views,
    squeezed,
)
from ddaudit.distillation.recover import Recover
from ddaudit.distillation.relabel import ViewLabels
from ddaudit.distillation.terms import CrossEntropy

STAND_INS = "VGG11BN and AlexNetBN stand for MobileNetV2, ShuffleNetV2 and WRN-16-2, which are no architectures here"
AVERAGES = (
    "moving averages start from the first batch (the released code's test for it never holds: from 0)",
    "statistics of the records are exact and unaugmented (theirs: means over augmented batches of 64)",
)
SMALL_TEACHERS = {
    **SMALL_TEACHER,
    "networks.arch": "ConvNetW32BN,ConvNetD1W32BN,ConvNetW32",
    "protocol.epochs": 300,
    "protocol.lr": 5e-3,
}

GVBSM = register(
    replace(
        SRE2L,
        name="g-vbsm",
        purpose="SRe2L with several teachers, and statistics of convolutions",
        status="simplified",
        source="Shao et al., Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching, "
        "CVPR 2024, arXiv 2311.17950; numbers of the authors' code for CIFAR-10 at IPC 10",
        networks=squeezed("ResNet18BN,ConvNet,VGG11BN,AlexNetBN", epochs=5, lr=0.05, batch=64, decay=0.0),
        terms=(
            CrossEntropy(weight=1.0),
            LayerStatistics(weight=0.01, convolutions=True, momentum=0.8, drop=0.4),
            Densify(weight=1.0, tau=4.0),
        ),
        loop=Recover(iterations=4000, lr=0.05, whole=True, jitter=Jitter(smallest=1.0, pad=0.125, roll=1.0)),
        labels=ViewLabels(epochs=1000),
        protocol=by_views("g-vbsm", epochs=1000, batch_size=100, loss="mse", hard_weight=0.15, decay=0.0),
        published_ipc=10,
        small={
            **SMALL_TEACHERS,
            "loop.iterations": 400,
            "loop.jitter.roll": 0.125,
            "terms.2.weight": 0.01,
        },
        deviations=(
            TEACHER_HERE,
            FLOATS,
            STAND_INS,
            *AVERAGES,
            "teachers by a cosine (theirs: a constant step)",
            "teachers label mixed views (theirs: the views before they are mixed)",
        ),
    )
)  # fmt: skip

EDC = register(
    replace(
        GVBSM,
        name="edc",
        purpose="real crops, moved towards their class's layer statistics in several teachers",
        source="Shao et al., Elucidating the Design Space of Dataset Condensation, NeurIPS 2024, arXiv 2404.13733; "
        "numbers of the authors' script for CIFAR-10, at IPC 1",
        synthesis=RealCrops(),
        networks=squeezed(
            "ResNet18BN,ConvNet,VGG11BN,AlexNetBN,ConvNetD1,ConvNetD2,ConvNetW32",
            epochs=5, lr=0.05, batch=64, decay=0.0,
        ),
        terms=(
            CrossEntropy(weight=1.0),
            LayerStatistics(weight=0.01, classes="half", convolutions=True, momentum=0.8),
        ),
        loop=Recover(iterations=75, lr=0.05, whole=True),
        published_ipc=1,
        protocol=by_views(
            "edc", epochs=1000, batch_size=50, schedule="half-cosine", loss="mse", hard_weight=0.025, deviations=(
                DECAYED,
                "half a cosine (theirs: halved at epochs 800, 900 and 950), batches of 50 (theirs: 10)",
                "no moving average of the network is evaluated",
                "views are crops with CutMix; theirs pass through RandAugment first",
            ),
        ),
        small={
            **SMALL_TEACHERS,
            "synthesis.candidates": 60,
            "synthesis.smallest": 0.6,
            "loop.jitter.smallest": 1.0,
        },
        deviations=(
            TEACHER_HERE,
            FLOATS,
            STAND_INS,
            *AVERAGES,
            "starts from RDED's crops, as on ImageNet (their CIFAR script: whole records)",
            "class statistics of patches are what they say (the released code stores mean and variance swapped)",
            "no flatness term (the scripts leave it off)",
            "teachers by a cosine (theirs: a constant step)",
        ),
    )
)  # fmt: skip

D3S = register(
    replace(
        SRE2L,
        name="d3s",
        purpose="layer distributions of several teachers matched by their divergence",
        status="simplified",
        source="Loo et al., Large Scale Dataset Distillation with Domain Shift, ICML 2024; steps and rates of sre2l",
        networks=squeezed("ConvNetBN,ResNet18BN"),
        terms=(
            CrossEntropy(weight=1.0),
            LayerStatistics(weight=0.01, first=1.0, momentum=0.9, measure="kl"),
        ),
        protocol=by_views("d3s", epochs=400, batch_size=128),
        small={**SMALL, "networks.arch": "ConvNetW32BN,ConvNetD1W32BN", "terms.1.weight": 1.0},
        deviations=(
            TEACHER_HERE,
            FLOATS,
            "covariances are diagonal, of all values before batch normalisation (source: full, of spatial means after)",
            "the moving average of batches has weight 0.9, divergences 0.01: ours (the code could not be read here)",
        ),
    )
)
