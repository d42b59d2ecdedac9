"""RDED: crops of real images, chosen, tiled and labelled by a teacher."""

from ddaudit.distillation.crops import RealCrops
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.training import EvaluationProtocol

RDED = register(
    Recipe(
        name="rded",
        purpose="crops of real images that a teacher knows well, with its labels",
        family="decoupled",
        status="simplified",
        source="Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024, arXiv 2312.03526; "
        "numbers of the authors' code, 10 classes at IPC 10",
        loop=RealCrops(),
        protocol=EvaluationProtocol(
            name="rded",
            epochs=300,
            batch_size=50,
            lr=1e-3,
            weight_decay=0.01,
            augment="",
            optimiser="adamw",
            lr_schedule="cosine",
            loss="kl",
            temperature=20.0,
            labels="store",
            deviations=(
                "the cosine ends at 0 (theirs stops half way)",
                "weight decay on biases and norms too",
                "batches of 50 at every size (theirs: 10 at IPC 1, 100 at IPC 50)",
            ),
        ),
        small={
            "loop.teacher.width": 32,
            "loop.teacher.epochs": 20,
            "loop.candidates": 60,
            "loop.store_epochs": 60,
            "protocol.lr": 5e-3,
        },
        deviations=(
            "the teacher is trained here, on the records alone; theirs is downloaded",
            "views and the teacher's logits are drawn once and stored (16-bit); theirs are new for every network",
            "views are mirrored only where the data set's own augmentation mirrors (not digits)",
            "with factor 2, training does not shuffle the tiles of an image",
        ),
    )
)
