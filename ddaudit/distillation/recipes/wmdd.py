"""WMDD: images whose features are a Wasserstein barycentre, with the layer statistics of their class."""

from dataclasses import replace

from ddaudit.distillation.barycentre import BarycentreFeatures
from ddaudit.distillation.jitter import Jitter
from ddaudit.distillation.layer_statistics import LayerStatistics
from ddaudit.distillation.recipe import register
from ddaudit.distillation.recipes.sre2l import (
    DECAYED,
    FLOATS,
    SMALL,
    SRE2L,
    TEACHER_HERE,
    by_views,
    squeezed,
)
from ddaudit.distillation.recover import Recover
from ddaudit.distillation.relabel import ViewLabels
from ddaudit.distillation.terms import CrossEntropy

WMDD = register(
    replace(
        SRE2L,
        name="wmdd",
        purpose="images with barycentre features and the layer statistics of their class",
        source="Liu et al., Dataset Distillation via the Wasserstein Metric, ICCV 2025, arXiv 2311.18531; numbers of "
        "the authors' code for ImageNette",
        networks=squeezed("ResNet18BN", epochs=50, lr=0.025, batch=32, decay=1e-4),
        terms=(
            CrossEntropy(weight=1.0),
            BarycentreFeatures(),
            LayerStatistics(weight=10.0, first=1.0, classes="each"),
        ),
        loop=Recover(iterations=2000, lr=0.25, whole=True, jitter=Jitter(roll=1 / 7)),
        labels=ViewLabels(epochs=300),
        protocol=by_views("wmdd", epochs=300, batch_size=100, deviations=(DECAYED,)),
        small={**SMALL, "loop.jitter.smallest": 1.0},
        deviations=(
            TEACHER_HERE,
            FLOATS,
            "class statistics over all records of a class (theirs: averages over batches of 100)",
            "barycentres of at most 2000 records of a class",
        ),
    )
)
