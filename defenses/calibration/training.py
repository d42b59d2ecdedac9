"""``+masked``, ``+label-smoothing``, ``+mixup``: against the over-confidence of networks trained on distilled data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation import DEFENSES, Defense, Recipe
from ddaudit.distillation.masked import Masked
from ddaudit.distillation.recover import Recover
from ddaudit.distillation.synthesis import Records
from ddaudit.errors import BadInput
from ddaudit.training import PROTOCOLS

MDT = "Zhu et al., Rethinking Data Distillation: Do Not Overlook Calibration, ICCV 2023, arXiv 2307.12463"
SMOOTHING = "Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7"
MIXUP = "Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv 1710.09412"


@dataclass(frozen=True)
class SmoothLabels:
    """Hard labels mixed with the uniform distribution; no record is read.

    Attributes:
        share: of the uniform distribution.
    """

    reads_records: ClassVar[bool] = False
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"labels.share must lie in [0, 1), got {self.share:g}")

    def relabel(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        train: ImageData,
        data: Dataset,
        seed: int,
        device: torch.device,
    ) -> tuple[Tensor, tuple[str, ...]]:
        """(M, num_classes) distributions, and no note; see :class:`~ddaudit.distillation.parts.LabelModel`."""
        given = labels if labels.ndim == 2 else F.one_hot(labels, data.num_classes).float()
        return (1 - self.share) * given + self.share / data.num_classes, ()


def masked(recipe: Recipe) -> Recipe:
    """Leave random pixels of the synthetic images out of every match.

    Raises:
        BadInput: a method that optimises no images, or none that it decodes.
    """
    if (
        recipe.synthesis is None
        or isinstance(recipe.synthesis, Records)
        or isinstance(recipe.loop, Recover)
    ):
        raise BadInput(
            f"{recipe.name}+masked",
            "'masked' hides pixels of images from what they are matched by, and this method matches none",
            "Use it on dm, dc, dsa, mtt, datm or kip.",
        )
    return replace(
        recipe,
        synthesis=Masked(recipe.synthesis),
        status="reconstruction",
        source=f"{MDT}, on: {recipe.source}",
        deviations=(
            *recipe.deviations,
            "masked: reconstruction, without public code; one mask an iteration, of 10 % of the pixels",
        ),
    )


def label_smoothing(recipe: Recipe) -> Recipe:
    """Release hard labels mixed with the uniform distribution.

    Raises:
        BadInput: a method with labels of its own.
    """
    if recipe.labels is not None:
        raise BadInput(
            f"{recipe.name}+label-smoothing",
            "'label-smoothing' smooths hard labels, and this method has others",
            "Use it on methods with hard labels, such as dm, mtt or random.",
        )
    return replace(
        recipe, labels=SmoothLabels(), status="ours", source=f"{SMOOTHING}, on: {recipe.source}"
    )


def mixup(recipe: Recipe) -> Recipe:
    """State on the card that networks are trained on the set with mixup (alpha 0.2).

    Raises:
        BadInput: a method whose views and labels are stored, or whose protocol mixes images already.
    """
    protocol = recipe.protocol or PROTOCOLS["dc"]
    if protocol.labels == "store" or protocol.cutmix:
        raise BadInput(
            f"{recipe.name}+mixup",
            "'mixup' mixes images while networks are trained, and this method's card fixes other mixtures",
            "Use it on dm, dc, mtt or random, and audit with --protocol card.",
        )
    name = f"{protocol.name}-mixup"
    return replace(
        recipe,
        protocol=replace(protocol, name=name, mixup=0.2),
        status="ours",
        source=f"{MIXUP}, on: {recipe.source}",
    )


DEFENSES.add(
    "masked",
    Defense(
        "masked",
        "random pixels are left out of every match (calibration)",
        MDT,
        masked,
        order=17,
    ),
)
DEFENSES.add(
    "label-smoothing",
    Defense(
        "label-smoothing",
        "hard labels mixed with the uniform distribution (calibration)",
        SMOOTHING,
        label_smoothing,
        # After dp, under which no teacher may label: this one asks none.
        order=32,
    ),
)
DEFENSES.add(
    "mixup",
    Defense(
        "mixup",
        "networks are trained on mixed images, as the card says (calibration)",
        MIXUP,
        mixup,
        order=33,
    ),
)
