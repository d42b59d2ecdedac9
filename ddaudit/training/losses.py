"""What a training step minimises: the losses a protocol can name, and the targets they are taken to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.errors import BadInput
from ddaudit.training.protocols import EvaluationProtocol


def check_labels(labels: Tensor, protocol: EvaluationProtocol) -> None:
    """Refuse hard labels where the protocol's loss needs distributions.

    Raises:
        BadInput: the loss is "kl" or "soft-ce" and the labels are hard.
    """
    if labels.ndim == 1 and protocol.labels == "image" and protocol.loss in ("kl", "soft-ce"):
        what = f"loss '{protocol.loss}' needs soft labels, and the set's are hard"
        raise BadInput(f"protocol '{protocol.name}'", what)


def targets(labels: Tensor, protocol: EvaluationProtocol, num_classes: int) -> Tensor:
    """What the loss compares logits with.

    Args:
        labels: (N,) int64, or (N, K) distributions.

    Returns:
        (N,) int64 where hard labels stay hard, else (N, K) float32.
    """
    if protocol.loss == "hard-ce" and labels.ndim == 2:
        labels = labels.argmax(1)
    if labels.ndim == 1:
        if protocol.loss == "mse" or protocol.cutmix > 0 or protocol.mixup > 0:
            return F.one_hot(labels, num_classes).float()
        return labels
    if protocol.loss == "kl":
        return torch.softmax(labels.log() / protocol.temperature, dim=1)
    return labels


def log_shares(labels: Tensor, num_classes: int) -> Tensor:
    """(num_classes,) log of the share of every class; one that has less than a record counts as one record.

    Args:
        labels: (N,) int64, or (N, num_classes) distributions.
    """
    counts = (
        torch.bincount(labels, minlength=num_classes)
        if labels.ndim == 1
        else labels.double().sum(0)
    )
    held = counts.clamp_min(1).float()
    return (held / held.sum()).log()


def stored_targets(logits: Tensor, protocol: EvaluationProtocol) -> Tensor:
    """Like :func:`targets`, from a teacher's (N, K) logits."""
    logits = logits.float()
    if protocol.loss == "hard-ce":
        return logits.argmax(1)
    if protocol.loss == "mse":
        return logits
    return torch.softmax(logits / (protocol.temperature if protocol.loss == "kl" else 1.0), dim=1)


def loss(
    logits: Tensor,
    wanted: Tensor,
    protocol: EvaluationProtocol,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """The protocol's loss of (N, K) logits against targets, summed or averaged over images.

    "kl" is ``sum_k p_k (log p_k - log softmax(z / T)_k)``, without the factor T^2 (as FKD and RDED
    train). The sum of "mse" is over images of the mean over classes. ``weight`` (K,) multiplies what a cross-entropy
    has of each class, and the mean stays one over images.
    """
    if weight is not None:
        soft = wanted if wanted.ndim == 2 else F.one_hot(wanted, logits.shape[1]).to(logits.dtype)
        return F.cross_entropy(logits, soft, weight, reduction=reduction)
    if protocol.loss == "kl":
        soft = F.log_softmax(logits / protocol.temperature, dim=1)
        total = F.kl_div(soft, wanted, reduction="sum")
    elif protocol.loss == "mse":
        total = (logits - wanted).square().mean(1).sum()
    else:
        return F.cross_entropy(logits, wanted, reduction=reduction)
    return total / len(logits) if reduction == "mean" else total


def to_uniform(logits: Tensor) -> Tensor:
    """Mean cross-entropy of (N, K) logits to the uniform distribution: logsumexp(z) - mean(z).

    Source: Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR
    2019, section 4; as TrustDD (arXiv 2307.09165) trains on its outliers.
    """
    return (torch.logsumexp(logits, 1) - logits.mean(1)).mean()
