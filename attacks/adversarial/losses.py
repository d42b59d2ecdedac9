"""What attacks maximise: functions of logits (N, K) and labels (N,), one value (N,) an image.

DLR needs the third logit (targeted: the fourth). Where a network has fewer, the plain margin stands in: it points the
same way, without DLR's freedom from the scale of the logits. :func:`loss_note` says so where that happens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

LossName = Literal["ce", "margin", "dlr"]

_TINY = 1e-12


def loss(name: LossName, logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) the loss of this name; larger is worse for the network. DLR falls back to the margin below 3 classes."""
    if name == "ce":
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    if name == "margin" or logits.shape[1] < 3:
        return margin(logits, labels)
    return dlr(logits, labels)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) best rival's logit minus the true one: positive where the network errs."""
    true = logits.gather(1, labels[:, None])
    # A mask, not a product with zeros: that reads a rival of 0 where all rivals are negative.
    rivals = logits.scatter(1, labels[:, None], -torch.inf)
    return rivals.amax(1) - true.squeeze(1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) difference of logits ratio; does not change when logits are scaled or shifted.

    Source: Croce and Hein, ICML 2020, equation 6.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """(N,) targeted DLR, which needs four classes; the margin to the target below that.

    Source: Croce and Hein, ICML 2020, equation 7.
    """
    gap = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
    if logits.shape[1] < 4:
        return gap.squeeze(1)
    top = logits.topk(4, dim=1).values
    return gap.squeeze(1) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def rivals(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """(N, min(count, K - 1)) the strongest wrong classes, strongest first."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


def loss_note(classes: int) -> str:
    """What a reader must know of the losses for this number of classes; empty where they are as published."""
    if classes >= 4:
        return ""
    kinds = "its targeted form" if classes == 3 else "either form"
    return f"With {classes} classes the DLR loss is undefined in {kinds}; the plain logit margin is used."
