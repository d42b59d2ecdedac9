"""ROME: an information bottleneck on IDM, embeddings of attacked real records against those of the set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ddaudit.defenses.robustness.attacked import AttackedRecords
from ddaudit.distillation import register
from ddaudit.distillation.learners import Queue, RecordSGD
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.parts import PrivateDefaults
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipes.idm import IDM
from ddaudit.distillation.terms import CrossEntropy
from ddaudit.models import Network
from ddaudit.training import Ascent, Robust


@dataclass(frozen=True)
class Bottleneck(MeanEmbedding):
    """The square of half the L1 norm between mean embeddings, times ``weight``.

    Source: ROME, ICML 2025; zhouzhengqd/ROME at 2ceed90, Code/utils.py (total_variation_2).
    """

    weight: float = 0.2
    squared: ClassVar[bool] = False

    def private_defaults(self) -> PrivateDefaults | None:
        """Nothing is published."""
        return None

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R)."""
        return self.weight * (0.5 * (target - synthetic).abs().sum(-1)).square()


# The step of 2/225 is the authors'.
TARGETED = Ascent(epsilon=8 / 255, steps=10, size=2 / 225, towards=1)
WHOLE = (
    "records are attacked in pixels (source's code: in normalised values, clamped to [0, 1]: "
    "reader.attack.space=normalised, networks.training.robust.attack.space=normalised)"
)

ROME = register(
    replace(
        IDM,
        name="rome",
        purpose="mean embeddings of attacked records, on networks trained under attack",
        status="simplified",
        source="Zhou et al., ROME is Forged in Adversity: Robust Distilled Datasets via Information Bottleneck, "
        "ICML 2025; values of the authors' code for CIFAR-10 at 10 images per class",
        objective=Bottleneck(),
        networks=Queue(training=RecordSGD(batch=256, augment="", robust=Robust(attack=TARGETED))),
        reader=AttackedRecords(Minibatch(per_class=256), TARGETED),
        terms=(CrossEntropy(weight=0.8 * 0.5, per_class=True, by_accuracy=True),),
        small={
            **{k: v for k, v in IDM.small.items() if k != "reader.per_class"},
            # Half an L1 norm is longer than the L2 norm of IDM, and so is its square.
            "loop.lr": 4.0,
            "terms.0.weight": 0.004,
            "reader.reader.per_class": 32,
            "reader.attack.steps": 3,
            "reader.attack.size": 4 / 255,
            "networks.training.robust.attack.steps": 3,
            "networks.training.robust.attack.size": 4 / 255,
        },
        deviations=(*IDM.deviations, WHOLE),
    )
)
