"""Imbalance of the records: in the loss of students that are to follow biased experts, and in teachers' labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.training import log_shares

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, K) and labels, (B,) classes or (B, K) distributions, to a mean over images."""
Agnostic = Literal["no", "weights", "logits"]


def biased_loss(form: Agnostic, log_share: Tensor) -> Loss:
    """The cross-entropy by which a student that sees balanced images becomes as biased as the records are.

    Args:
        form: "weights": the part of class k counts its share of the records; "logits": the log of the shares is taken
            off the logits before the softmax, so that the logits themselves have to lean towards frequent classes;
            "no": plain.
        log_share: (K,) log of the shares.

    Source: Zhao et al., "Distilling Long-tailed Datasets", CVPR 2025, arXiv 2408.14506, section 4.1 (logits), and
    the authors' code as it is configured (weights).
    """
    if form == "no":
        return F.cross_entropy

    def biased(logits: Tensor, labels: Tensor) -> Tensor:
        share = log_share.to(logits)
        if form == "logits":
            return F.cross_entropy(logits - share, labels)
        soft = labels if labels.ndim == 2 else F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return F.cross_entropy(logits, soft, share.exp())

    return biased


@dataclass(frozen=True)
class Adjustment:
    """Teachers' labels without the records' imbalance: tau times the log of the class shares is taken off the logits.

    Attributes:
        tau: the strength; None: that of 0, ``step``, ..., ``most`` for which teachers are equally sure of the images
            of every class: the mean probability of the images' own class has the smallest standard deviation over
            classes.
        step, most: of the search.

    Source: ADSA, "Rectifying Soft-Label Entangled Bias in Long-Tailed Dataset Distillation", NeurIPS 2025, arXiv
    2511.17914.
    """

    tau: float | None = None
    step: float = 0.05
    most: float = 3.0

    def __post_init__(self) -> None:
        if not (0 < self.step <= self.most):
            raise ValueError("labels.adjust.step must be positive and at most labels.adjust.most")

    def shift(self, logits: Tensor, labels: Tensor, records: Tensor) -> tuple[Tensor, str]:
        """(K,) what is taken off logits (M, K) of images of classes (M,), and a note of it; ``records`` are the
        records' classes (N,)."""
        prior = log_shares(records, logits.shape[1])
        shift = self.strength(logits, labels, prior) * prior
        before, after = ((z.argmax(1) == labels).float().mean() for z in (logits, logits - shift))
        found = float(shift.sum() / prior.sum())
        note = (
            f"labels adjusted for the records' imbalance by tau {found:.2f}; of the images teachers take "
            f"{100 * before:.0f} % for their class without, {100 * after:.0f} % with it"
        )
        return shift, note

    def strength(self, logits: Tensor, labels: Tensor, log_share: Tensor) -> float:
        """Tau for images whose teachers' logits are (M, K) and whose classes are (M,)."""
        if self.tau is not None:
            return self.tau
        grid = torch.arange(round(self.most / self.step) + 1, dtype=torch.float64) * self.step
        spread = [sureness(logits - tau * log_share, labels).std() for tau in grid.tolist()]
        return float(grid[torch.stack(spread).argmin()])


def sureness(logits: Tensor, labels: Tensor) -> Tensor:
    """(C,) mean probability of the own class, over the images of each class that has any.

    Args:
        logits: (M, K).
        labels: (M,) classes.
    """
    own = logits.double().softmax(1).gather(1, labels[:, None])[:, 0]
    return torch.stack([own[labels == c].mean() for c in labels.unique()])
