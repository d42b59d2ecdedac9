"""Attention maps: where a network's blocks look, matched beside the mean embedding (DataDAM)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.parts import PrivateDefaults
from ddaudit.errors import Unsupported
from ddaudit.models import Network


@dataclass(frozen=True)
class AttentionMaps(MeanEmbedding):
    """The mean spatial attention of every block but the last, and the mean embedding, by squared distance.

    A block's attention at a place is the sum over channels of ``|activation| ** power``, taken after the activation
    and before pooling; each record's map is divided by its L2 norm. Every map and the embedding are measurements of
    one record, so that the sum of their squared distances is that of one long vector.

    Attributes:
        power: exponent of the activations.
        balance: weight of the embedding's squared distance beside the maps' (lambda).
        scale: of the whole distance; fits the step size.

    Source: Sajedi et al., "DataDAM: Efficient Dataset Distillation with Attention Matching", ICCV 2023, arXiv
    2310.00093, equations 1 to 4; scale as in the authors' code.
    """

    power: float = 4.0
    balance: float = 0.01
    scale: float = 100.0

    def __post_init__(self) -> None:
        if not (self.power > 0 and self.balance >= 0 and self.scale > 0):
            raise ValueError(
                "objective.power and objective.scale must be positive and objective.balance not negative"
            )

    def measure(self, net: Network, x: Tensor) -> Tensor:
        """(B, D) maps of all blocks but the last, one after the other, then the embedding, as weighted in the loss.

        Raises:
            Unsupported: a network whose blocks make no maps.
        """
        *maps, embedding = net.body.blocks(x)
        if any(m.ndim != 4 for m in maps):
            raise Unsupported(
                "AttentionMaps needs blocks that make maps; take ConvNet or ResNet18, and images"
            )
        seen = [attention(m, self.power) for m in maps[:-1]]
        return math.sqrt(self.scale) * torch.cat([*seen, math.sqrt(self.balance) * embedding], 1)

    def private_defaults(self) -> PrivateDefaults | None:
        """None: nobody has published a clip for maps beside embeddings."""
        return None


def attention(activations: Tensor, power: float) -> Tensor:
    """(B, H * W) spatial attention of (B, C, H, W) activations, each record's of L2 norm 1 (0 where all are 0).

    Source: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, section 3.1.
    """
    return F.normalize(activations.abs().pow(power).sum(1).flatten(1))
