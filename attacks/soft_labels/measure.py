"""What a student knows of planted labels, and whether chance explains it.

A student that never met a canary still knows what the picture shows, so its first guess is the true class and
says nothing. Its second thought is what counts: among the wrong classes the planted one was drawn uniformly, so
whoever has no trace of it is right with probability 1 / (classes - 1), exactly, whatever the pictures are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy import stats as scipy_stats
from torch import Tensor

from ddaudit.attacks._common.signals import logit_margin
from ddaudit.attacks.soft_labels.canaries import Marked
from ddaudit.stats import Interval, wilson


def recalled(logits: Sequence[Tensor], marked: Marked) -> Tensor:
    """(m,) bool: the planted label is the students' favourite among the wrong classes.

    Args:
        logits: one (m, K) per student; their log-probabilities are averaged, so that every canary is guessed
            once and guesses are independent.
    """
    joint = torch.stack([torch.log_softmax(z.double(), dim=1) for z in logits]).mean(0)
    return _without_truth(joint, marked).argmax(1) == marked.records.labels


def planted_margin(logits: Sequence[Tensor], marked: Marked) -> Tensor:
    """(m,) float64 log-odds of the planted label against the other wrong classes, averaged over students."""
    margins = [
        logit_margin(_without_truth(z.double(), marked), marked.records.labels) for z in logits
    ]
    return torch.stack(margins).mean(0)


def chance(classes: int) -> float:
    """The share of planted labels that are recalled without any trace of them."""
    return 1 / (classes - 1)


def difference(a: Tensor, b: Tensor, confidence: float = 0.95) -> Interval:
    """Interval of the difference of two independent rates, ``mean(a) - mean(b)``.

    Args:
        a, b: (N,) and (M,) bool.

    Returns:
        The difference in [-1, 1]; ``n`` is the number of entries in ``a``.

    Source: Newcombe, Statistics in Medicine 17 (1998), method 10.
    """
    p, q = (wilson(int(x.sum()), len(x), confidence) for x in (a, b))
    value = p.value - q.value
    low = value - math.hypot(p.value - p.low, q.high - q.value)
    high = value + math.hypot(p.high - p.value, q.value - q.low)
    return Interval(value, low, high, p.n).clamp(-1.0, 1.0)


def binomial_p(hits: Tensor, rate: float) -> float:
    """Chance of at least that many hits at this rate: small where the rate cannot explain them."""
    test = scipy_stats.binomtest(int(hits.sum()), len(hits), rate, alternative="greater")
    return float(test.pvalue)


def fisher_p(a: Tensor, b: Tensor) -> float:
    """Fisher's exact test of equal rates against a higher one in ``a`` (both bool)."""
    table = [[int(x.sum()), int((~x).sum())] for x in (a, b)]
    return float(scipy_stats.fisher_exact(table, alternative="greater").pvalue)


def _without_truth(scores: Tensor, marked: Marked) -> Tensor:
    return scores.scatter(1, marked.truth[:, None], -torch.inf)
