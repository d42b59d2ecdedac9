"""Supervised contrast of synthetic images, alone and mixed with real ones (RDC)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.loops import Constants, Job
from ddaudit.distillation.parts import View
from ddaudit.errors import BadInput
from ddaudit.seeds import stable_seed


@dataclass(frozen=True)
class GoldenContrast:
    """Synthetic images of a class are near to each other in a network's embedding, and far from other classes', as they
    are and mixed with real records.

    The loss is SupCon(s, y) + share * SupCon(m, y) + (1 - share) * SupCon(m, y'), m = share * s + (1 - share) * r for
    random records r of classes y', embeddings at unit length.

    Attributes:
        weight: in the loss.
        temperature: of the softmax.
        share: of the synthetic image in a mixture.

    Source: RDC, ICCV 2025, and DISL-Lab/RDC-ICCV2025, commit 5bc01d2, IDM/IDM_cifar+RDC.py; Khosla et al., NeurIPS
    2020, arXiv 2004.11362, equation 2.
    """

    weight: float = 1.0
    temperature: float = 0.07
    share: float = 0.75
    records: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False)
    """Normalised images and labels of the run's records; filled by :meth:`read`."""

    def __post_init__(self) -> None:
        if not (self.weight > 0 and self.temperature > 0 and 0 < self.share < 1):
            raise ValueError(
                "GoldenContrast.weight and temperature must be positive, share strictly between 0 and 1"
            )

    def read(self, job: Job, constants: Constants) -> GoldenContrast:
        """This term with the records of the job's one run at hand."""
        train = job.train.subset(job.members[0])
        x = (train.pixels() - constants[0]) / constants[1]
        return replace(self, records=(x, train.labels))

    def loss(self, view: View) -> Tensor:
        """(1,).

        Raises:
            BadInput: there is no network, or no record was read.
        """
        if view.net is None or self.records is None or len(view.matched) != 1:
            raise BadInput("GoldenContrast", "needs a network, and the records of one run")
        x, y = view.matched[0], view.labels
        g = torch.Generator().manual_seed(stable_seed("golden", view.seed, view.step))
        pick = torch.randint(len(self.records[1]), (len(x),), generator=g)
        real, theirs = self.records[0][pick].to(x), self.records[1][pick].to(y.device)
        embed = view.net.body.features
        alone, mixed = embed(x), embed(self.share * x + (1 - self.share) * real)
        loss = supervised_contrast(alone, y, self.temperature)
        loss = loss + self.share * supervised_contrast(mixed, y, self.temperature)
        return (loss + (1 - self.share) * supervised_contrast(mixed, theirs, self.temperature))[
            None
        ]


def supervised_contrast(z: Tensor, y: Tensor, temperature: float = 0.07) -> Tensor:
    """Mean over points of minus the mean log-probability, among the others, of those of the same class; 0 for a point
    that is alone.

    Args:
        z: (N, D) features, taken at unit length.
        y: (N,) classes.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv 2004.11362, equation 2.
    """
    z = F.normalize(z, dim=1)
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(~others, -torch.inf)
    log_p = logits.log_softmax(1).masked_fill(~others, 0)
    same = (y[:, None] == y) & others
    return -((log_p * same).sum(1) / same.sum(1).clamp_min(1)).mean()
