"""RDED: crops of real images, chosen, tiled and labelled by a teacher: a recovery of no steps."""

from ddaudit.distillation.crops import RealCrops
from ddaudit.distillation.recipe import BEST_ON_TEST, Recipe, register
from ddaudit.distillation.recipes.sre2l import (
    DECAYED,
    FLOATS,
    SMALL_TEACHER,
    TEACHER_HERE,
    by_views,
    squeezed,
)
from ddaudit.distillation.recover import Recover
from ddaudit.distillation.relabel import ViewLabels

RDED = register(
    Recipe(
        name="rded",
        purpose="crops of real images that a teacher knows well, with its labels",
        family="decoupled",
        source="Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024, arXiv 2312.03526; "
        "numbers of the authors' code, 10 classes at IPC 10",
        synthesis=RealCrops(),
        networks=squeezed("ConvNetBN"),
        labels=ViewLabels(smallest=None),
        loop=Recover(iterations=0),
        protocol=by_views(
            "rded",
            epochs=300,
            batch_size=50,
            schedule="half-cosine",
            deviations=(
                DECAYED,
                "batches of 50 at IPC 50 (theirs: 100)",
            ),
        ),
        published_ipc=10,
        small={
            **SMALL_TEACHER,
            "synthesis.candidates": 60,
            "synthesis.smallest": 0.6,
            "protocol.lr": 5e-3,
        },
        deviations=(
            TEACHER_HERE,
            FLOATS,
            BEST_ON_TEST,
            "with factor 2, training does not shuffle the tiles of an image",
        ),
    )
)
