"""Layer-wise alignment: the maps of every block, and classes told apart by synthetic centres (CAFE)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.parts import PrivateDefaults
from ddaudit.models import Network

_NOBODY = -1.0
"""The label of what fills up a row that has fewer records than another."""


@dataclass(frozen=True)
class LayerAlignment:
    """Mean maps of every block and mean embeddings, squared distances; real embeddings told apart by class centres of
    the synthetic ones.

    The second is the cross-entropy of softmax(phi(t) . centre_c) over classes c against a record's own, summed over
    the records of the batch; centre_c is the mean embedding of class c's synthetic images.

    Attributes:
        shallow: weight of every map but the last.
        last: weight of the last map, before its pooling.
        embedding: weight of the embedding.
        discrimination: weight of the cross-entropy; 0 leaves it out.

    Source: Wang et al., "CAFE: Learning to Condense Dataset by Aligning Features", CVPR 2022, arXiv 2203.01531,
    sections 3.2 and 3.3, weights of the authors' code. It aligns the embedding twice, as the pooled last map and flat.
    Its cross-entropy of real images on the network has no gradient in synthetic ones and is left out.
    """

    shallow: float = 0.1
    last: float = 1.0
    embedding: float = 2.0
    discrimination: float = 0.01
    shareable: bool = False
    coupling = (
        "compares every real embedding with the synthetic centres, so that no sum of signals answers it "
        "(objective.discrimination=0 leaves that out)"
    )

    def __post_init__(self) -> None:
        if min(self.shallow, self.last, self.embedding, self.discrimination) < 0:
            raise ValueError(
                "objective.shallow, last, embedding and discrimination cannot be negative"
            )

    @property
    def squared(self) -> bool:
        """Without the cross-entropy."""
        return self.discrimination == 0

    def couples_records(self) -> bool:
        """With the cross-entropy: what is read is no sum."""
        return self.discrimination > 0

    def private_defaults(self) -> PrivateDefaults | None:
        """Nothing is published."""
        return None

    def signals(self, net: Network, x: Tensor, y: Tensor) -> Tensor:
        """(B, D) maps and embedding, flat, each times the root of its weight."""
        with torch.no_grad():
            return self._measure(net, x)[0]

    def real(self, net: Network, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, D) weighted means; with the cross-entropy (K, R, D + n (1 + d)): after them the label and the
        embedding (d) of each of a row's records, filled up to the longest row."""
        with torch.no_grad():
            flat, z = self._measure(net, x)
            means = rows @ flat
            if not self.discrimination:
                return means
            longest = int((rows > 0).sum(-1).max())
            told = torch.cat([y[:, None].to(z.dtype), z], 1)
            records = z.new_full((*rows.shape[:2], longest, told.shape[1]), 0.0)
            records[..., 0] = _NOBODY
            for k, run in enumerate(rows):
                for r, row in enumerate(run):
                    mine = told[row > 0]
                    records[k, r, : len(mine)] = mine
            return torch.cat([means, records.flatten(2)], -1)

    def synthetic(
        self, net: Network, x: Tensor, y: Tensor, rows: Tensor, clip: float | None
    ) -> Tensor:
        """(K, S, D) means of synthetic signals; with the cross-entropy (K, S, D + C d): after them the centres of all
        C classes. Synthetic signals are not clipped."""
        k, m = x.shape[:2]
        flat, z = self._measure(net, x.flatten(0, 1))
        means = rows @ flat.view(k, m, -1)
        if not self.discrimination:
            return means
        one_hot = F.one_hot(y, net.num_classes).T.to(z.dtype)
        centres = (one_hot / one_hot.sum(1, keepdim=True).clamp_min(1)) @ z.view(k, m, -1)
        told = centres.flatten(1)[:, None].expand(-1, means.shape[1], -1)
        return torch.cat([means, told], -1)

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) squared norms, plus the weighted sums of cross-entropies."""
        if not self.discrimination:
            return (target - synthetic).square().sum(-1)
        d = net.body.classifier.in_features
        size = synthetic.shape[-1] - net.num_classes * d
        apart = (target[..., :size] - synthetic[..., :size]).square().sum(-1)
        centres = synthetic[:, 0, size:].unflatten(-1, (net.num_classes, d))
        records = target[..., size:].unflatten(-1, (-1, 1 + d))
        logits = records[..., 1:] @ centres[:, None].mT
        labels = records[..., 0]
        entropies = F.cross_entropy(
            logits.flatten(0, -2), labels.clamp_min(0).long().flatten(), reduction="none"
        ).view_as(labels)
        total: Tensor = apart + self.discrimination * (entropies * (labels != _NOBODY)).sum(-1)
        return total

    def _measure(self, net: Network, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) weighted maps and embedding, flat, and (B, d) the embedding itself."""
        *maps, z = net.body.blocks(x)
        weights = [self.shallow] * (len(maps) - 1) + [self.last] * bool(maps) + [self.embedding]
        parts = [w**0.5 * part.flatten(1) for w, part in zip(weights, [*maps, z], strict=True)]
        return torch.cat(parts, 1), z
