"""SRe2L and CDA: squeeze the records into a network, recover images from it, let it relabel them."""

from dataclasses import replace
from typing import Literal

from ddaudit.distillation.experts import Experts
from ddaudit.distillation.jitter import Jitter
from ddaudit.distillation.layer_statistics import LayerStatistics
from ddaudit.distillation.recipe import Recipe, register
from ddaudit.distillation.recover import Recover
from ddaudit.distillation.relabel import ViewLabels
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.terms import CrossEntropy
from ddaudit.training import EvaluationProtocol

TEACHER_HERE = (
    "the teacher is trained here, on the run's records, with the data set's own augmentation"
)
FLOATS = "images are kept as floats (theirs pass through 8-bit files)"
DECAYED = "weight decay on biases and norms too"
# Crops of 8 % show nothing of small images.
SMALL_TEACHER = {
    "labels.smallest": 1.0,
    "labels.epochs": 60,
    "networks.arch": "ConvNetW32BN",
    "networks.epochs": 30,
    "networks.batch_size": 64,
    "networks.lr": 0.05,
    # One for the whole family, so that methods share teachers.
    "networks.weight_decay": 5e-4,
}
SMALL = {
    **SMALL_TEACHER,
    "loop.iterations": 400,
    "labels.epochs": 60,
    "protocol.lr": 5e-3,
    "protocol.epochs": 300,
}
# The sum over two narrow layers is far below that over the twenty of the published teacher. Chosen on validation images
# of digits at 10 images per class; at one image per class the published weight is better (0.46 against 0.32).
FEW_LAYERS = {"terms.1.weight": 10.0}


def squeezed(
    arch: str, *, epochs: int = 200, lr: float = 0.1, batch: int = 128, decay: float = 5e-4
) -> Experts:
    """Teachers, one of each architecture, by the schedule of SRe2L on CIFAR-100 where nothing else is said."""
    return Experts(
        arch,
        count=1,
        epochs=epochs,
        lr=lr,
        batch_size=batch,
        weight_decay=decay,
        lr_schedule="cosine",
    )


HARD_HERE = (
    "the class beside the soft labels is the one that teachers give an image (theirs: its folder's)"
)


def by_views(
    name: str,
    *,
    epochs: int,
    batch_size: int,
    schedule: Literal["cosine", "half-cosine"] = "cosine",
    loss: Literal["kl", "mse"] = "kl",
    hard_weight: float = 0.0,
    decay: float = 0.01,
    deviations: tuple[str, ...] = (),
) -> EvaluationProtocol:
    """Training on a label store by AdamW, as the family evaluates; "kl" is at temperature 20."""
    return EvaluationProtocol(
        name=name,
        epochs=epochs,
        batch_size=batch_size,
        lr=1e-3,
        weight_decay=decay,
        augment="",
        optimiser="adamw",
        lr_schedule=schedule,
        loss=loss,
        temperature=20.0 if loss == "kl" else 1.0,
        labels="store",
        hard_weight=hard_weight,
        deviations=(*deviations, *([HARD_HERE] if hard_weight else [])),
    )


SRE2L = register(
    Recipe(
        name="sre2l",
        purpose="images with the layer statistics of a network trained on the records",
        family="decoupled",
        source="Yin, Xing & Shen, Squeeze, Recover and Relabel, NeurIPS 2023, arXiv 2306.13092; numbers of the "
        "authors' code for CIFAR-100",
        synthesis=Pixels(init="noise"),
        networks=squeezed("ResNet18BN"),
        terms=(CrossEntropy(weight=1.0), LayerStatistics(weight=0.01)),
        labels=ViewLabels(epochs=400),
        loop=Recover(iterations=1000, lr=0.25, jitter=Jitter(smallest=1.0, roll=0.125)),
        protocol=by_views("sre2l", epochs=400, batch_size=128),
        small={**SMALL, **FEW_LAYERS},
        deviations=(
            TEACHER_HERE,
            FLOATS,
            "labels as on ImageNet (crops with CutMix, temperature 20); their CIFAR code mixes up, at 30",
            "batches are mirrored while images are found, as on ImageNet, where the data's augmentation mirrors (their "
            "CIFAR code: not)",
        ),
    )
)

CDA = register(
    replace(
        SRE2L,
        name="cda",
        purpose="SRe2L with crops that go from the whole image to its parts",
        source="Yin & Shen, Dataset Distillation via Curriculum Data Synthesis, TMLR 2024, arXiv 2311.18838; numbers "
        "of the authors' code for Tiny-ImageNet",
        terms=(CrossEntropy(weight=1.0), LayerStatistics(weight=0.05)),
        loop=Recover(
            iterations=4000, lr=0.4, jitter=Jitter(smallest=0.08, curriculum="cosine", roll=1 / 16)
        ),
        labels=ViewLabels(epochs=300),
        protocol=by_views("cda", epochs=300, batch_size=128),
        small={**SMALL, **FEW_LAYERS, "loop.jitter.smallest": 0.8},
        deviations=(
            TEACHER_HERE,
            FLOATS,
            "teachers are SRe2L's for CIFAR-100 (source: its repository for Tiny-ImageNet, 50 epochs at 0.2)",
            "labels as on ImageNet (crops with CutMix, temperature 20), evaluation by them in 300 epochs (source: "
            "crops alone, by SGD at 0.2 in 100 epochs)",
        ),
    )
)
