"""Which records experts see in which pass: from easy to hard, by the errors of networks that begin to learn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) difficulty of records: the norm of a network's error (probabilities minus one-hot label), averaged over
    networks; in [0, sqrt(2)].

    Args:
        logits: (K, N, num_classes) of K networks early in their training.
        labels: (N,) int64.

    Source: Paul, Ganguli & Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021, arXiv 2107.07075, definition 2.2.
    """
    error = logits.softmax(-1) - F.one_hot(labels, logits.shape[-1])
    scores: Tensor = error.norm(dim=-1).mean(0)
    return scores


@dataclass(frozen=True)
class Stage:
    """Passes that see the same part of every class.

    Attributes:
        passes: how many.
        low, high: the part, from the easiest (0) to the hardest (1) record.
    """

    passes: int
    low: float
    high: float


@dataclass(frozen=True)
class Curriculum:
    """At first the easiest records of every class, then evenly more until all are seen; at last the easiest are left
    out.

    Attributes:
        share: of a class that is seen in pass 0.
        all_at: the pass from which all records are seen.
        thin_after, thinner_after: the passes after which the easiest ``thin`` and ``thinner`` of a class are left out.
        thin, thinner: shares of a class.
        judges, judged_after: how many networks score the records, and after how many passes over them all.

    Source: Li et al., "Prioritize Alignment in Dataset Distillation" (PAD), arXiv 2408.03360, section 3.2; values and
    order of the authors' code (NUS-HPC-AI-Lab/PAD, commit 2a4bc91, README and buffer/buffer_CL.py), which reads scores
    from a file: how they are made is ours.
    """

    share: float = 0.75
    all_at: int = 20
    thin_after: int = 40
    thinner_after: int = 60
    thin: float = 0.1
    thinner: float = 0.2
    judges: int = 10
    judged_after: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 <= self.thin <= self.thinner < 1:
            raise ValueError("curriculum needs 0 < share <= 1 and 0 <= thin <= thinner < 1")
        if not 0 < self.all_at <= self.thin_after <= self.thinner_after:
            raise ValueError("curriculum needs 0 < all_at <= thin_after <= thinner_after")
        if self.judges < 1 or self.judged_after < 1:
            raise ValueError("curriculum.judges and curriculum.judged_after must be at least 1")

    def stages(self, epochs: int) -> list[Stage]:
        """The passes from 0 to ``epochs`` - 1, those that see the same records together."""
        parts = [self._part(e) for e in range(epochs)]
        return [Stage(len(list(same)), *part) for part, same in groupby(parts)]

    def _part(self, epoch: int) -> tuple[float, float]:
        if epoch <= self.all_at:
            return 0.0, self.share + (1 - self.share) * epoch / self.all_at
        if epoch <= self.thin_after:
            return 0.0, 1.0
        return (self.thin if epoch <= self.thinner_after else self.thinner), 1.0


def part_of_classes(scores: Tensor, labels: Tensor, low: float, high: float) -> Tensor:
    """Positions of the records from share ``low`` to share ``high`` of every class, by score; at least one a class.

    Args:
        scores, labels: (N,).
    """
    parts = []
    for c in labels.unique().tolist():
        mine = (labels == c).nonzero().squeeze(1)
        mine = mine[scores[mine].argsort(stable=True)]
        first = min(int(low * len(mine)), len(mine) - 1)
        parts.append(mine[first : max(int(high * len(mine)), first + 1)])
    return torch.cat(parts).sort().values
