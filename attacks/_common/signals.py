"""What one trained classifier says about a record: loss, confidence, entropies, logit margin.

Everything is computed from logits in float64 and in log space, so that a victim that is certain to
twelve digits still ranks its records (probabilities rounded to 1 would tie, and ties sit exactly in
the low false-positive corner that matters).
"""

from __future__ import annotations

import torch
from torch import Tensor


def negative_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the cross-entropy of the true label, in nats.

    Args:
        logits: (N, K).
        labels: (N,) int64 true classes.

    Returns:
        (N,) float64, at most 0.

    Source: Yeom et al., "Privacy Risk in Machine Learning", CSF 2018, section III.
    """
    return _log_probabilities(logits).gather(1, labels[:, None])[:, 0]


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Probability of the true label, (N,) float64 in [0, 1]."""
    return negative_loss(logits, labels).exp()


def negative_entropy(logits: Tensor) -> Tensor:
    """Minus the entropy of the prediction, in nats: (N,) float64 in [-log K, 0]. Needs no label.

    Source: Shokri et al., "Membership Inference Attacks Against Machine Learning Models", S&P 2017.
    """
    log_p = _log_probabilities(logits)
    return (log_p.exp() * log_p).sum(1)


def negative_modified_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the modified entropy ``-(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i)``, in nats.

    Unlike the entropy it knows the label: a confidently wrong prediction scores low, not high.

    Args:
        logits: (N, K).
        labels: (N,) int64 true classes.

    Returns:
        (N,) float64, at most 0.

    Source: Song and Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models",
    USENIX Security 2021, equation 8.
    """
    log_p = _log_probabilities(logits)
    log_not = _log_complements(logits, log_p)
    at_label = labels[:, None]
    own = log_not.gather(1, at_label).exp() * log_p.gather(1, at_label)
    others = (log_p.exp() * log_not).scatter(1, at_label, 0.0).sum(1)
    return own[:, 0] + others


def logit_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """``phi = log p_y - log(1 - p_y)``, the statistic of LiRA: near Gaussian over retrainings.

    The true-label logit minus the log-sum-exp of the others: exact at any confidence, where the
    quotient of softmax outputs overflows.

    Args:
        logits: (N, K) with K of at least 2.
        labels: (N,) int64 true classes.

    Returns:
        (N,) float64, unbounded.

    Source: Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, section
    IV.
    """
    z = logits.double()
    others = z.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return z.gather(1, labels[:, None])[:, 0] - others


def _log_probabilities(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.double(), dim=1)


def _log_complements(logits: Tensor, log_p: Tensor) -> Tensor:
    """(N, K) log(1 - p_i); only the top class can be close to 1: there, the others are summed."""
    z = logits.double()
    top = z.argmax(1, keepdim=True)
    rest = z.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True) - z.logsumexp(1, keepdim=True)
    return torch.log1p(-log_p.exp().clamp(max=1 - 1e-16)).scatter(1, top, rest)
