"""C2R, reconstructed: the hardest attacked records first, and classes that stand apart under attack."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.defenses.robustness.attacked import AttackedRecords, HardestFirst
from ddaudit.defenses.robustness.rome import ROME
from ddaudit.distillation import register
from ddaudit.distillation.learners import Queue, RecordSGD
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.parts import View
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.recipes.idm import IDM
from ddaudit.distillation.terms import perturbed
from ddaudit.errors import BadInput
from ddaudit.training import Ascent, Robust


@dataclass(frozen=True)
class AttackedContrast:
    """Images and their attacked versions are drawn to those of their class, away from the most similar others.

    With unit embeddings z of the 2 M of a run: the mean over pairs (i, p) of one class of
    -log(exp(z_i z_p / T) / (exp(z_i z_p / T) + sum over the ``hardest`` n of other classes of exp(z_i z_n / T))).

    Attributes:
        weight: in the loss.
        temperature: T.
        hardest: how many images of other classes count for each.
        epsilon, steps: of the attack, see :func:`~ddaudit.distillation.terms.perturbed`.

    Source: after Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, as C2R (ICML 2026, arXiv 2605.20606)
    uses it on clean and adversarial pairs.
    """

    weight: float = 1.0
    temperature: float = 0.1
    hardest: int = 32
    epsilon: float = 2 / 255
    steps: int = 3

    def __post_init__(self) -> None:
        if not (self.weight > 0 and self.temperature > 0 and self.epsilon > 0):
            raise ValueError("AttackedContrast: weight, temperature and epsilon must be positive")
        if self.hardest < 1 or self.steps < 1:
            raise ValueError("AttackedContrast: hardest and steps must be at least 1")

    def loss(self, view: View) -> Tensor:
        """(K,) means over pairs.

        Raises:
            BadInput: there is no network.
        """
        if view.net is None:
            raise BadInput("AttackedContrast", "needs a network, and this method has none")
        worst = perturbed(view.net, view, epsilon=self.epsilon, steps=self.steps)
        both = torch.cat([view.images, worst], 1)
        z = F.normalize(view.net.body.features(both.flatten(0, 1)), dim=1)
        alike = z.view(len(both), both.shape[1], -1)
        return contrast(
            alike @ alike.mT / self.temperature, view.labels.repeat(2), hardest=self.hardest
        )


def contrast(similar: Tensor, labels: Tensor, *, hardest: int) -> Tensor:
    """(K,) from similarities (K, N, N) over the temperature, and classes (N,); see :class:`AttackedContrast`."""
    same = labels[:, None] == labels
    others = similar.masked_fill(same, -torch.inf)
    others = others.topk(min(hardest, len(labels)), dim=-1).values.logsumexp(-1, keepdim=True)
    pairs = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # -log(e^s / (e^s + e^o)) = softplus(o - s)
    return F.softplus(others - similar)[:, pairs].mean(1)


SEARCHED = Ascent(epsilon=2 / 255, steps=10, size=1 / 255, sizes=3)
ETA = 0.4

C2R = register(
    replace(
        IDM,
        name="c2r",
        purpose="the hardest attacked records first, with classes apart under attack",
        status="reconstruction",
        source="Li et al., Mind Your Margin and Boundary: Are Your Distilled Datasets Truly Robust? ICML 2026, "
        "arXiv 2605.20606; eta at 10 images per class (0.6 at 50)",
        objective=MeanEmbedding(),
        networks=Queue(training=RecordSGD(batch=256, augment="", robust=Robust(attack=SEARCHED))),
        reader=AttackedRecords(Minibatch(per_class=256), SEARCHED, HardestFirst()),
        # The loss is (1 - eta) times the match and eta times the contrast, here divided by 1 - eta.
        terms=(*IDM.terms, AttackedContrast(weight=ETA / (1 - ETA))),
        small={
            **{k: v for k, v in ROME.small.items() if k not in ("loop.lr", "terms.0.weight")},
            "loop.lr": IDM.small["loop.lr"],
            "terms.0.weight": IDM.small["terms.0.weight"],
            "reader.attack.size": SEARCHED.size,
            "networks.training.robust.attack.size": SEARCHED.size,
            "terms.1.weight": 0.05,
            "loop.iterations": 100,
        },
        deviations=(
            *IDM.deviations,
            "no code is public: host (IDM on adversarially trained networks), radius, steps, temperature, number of "
            "negatives and pace of the curriculum are ours",
            "negatives are the set's own images (source: a class-balanced queue of earlier embeddings)",
            "perturbations start at random (source: from those that are kept of the step before)",
        ),
    )
)
