"""Unbinned scores of predicted probabilities, selective risk, and temperature scaling.

All take logits or probabilities in float64; per-image scores come as (N,) so that means and their
intervals are one step away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ALL_RIGHT = "every validation prediction is right, so that ever lower temperatures fit better"
NO_BETTER = "the true class gets no more than the average logit, so that ever higher temperatures fit better"
ALL_EQUAL = "all logits of an image are equal, so that every temperature fits alike"


def brier(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(N,) squared distance of the predicted distribution to the true class: 0 best, 2 worst.

    Source: Brier, Monthly Weather Review 78 (1950); the original multi-class sum, not halved.
    """
    p = probabilities.double()
    target = torch.nn.functional.one_hot(labels, p.shape[1])
    return ((p - target) ** 2).sum(1)


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) negative log-likelihood of the true class in nats; from logits, so never saturated."""
    z = logits.double()
    return torch.logsumexp(z, 1) - z.gather(1, labels[:, None])[:, 0]


def overconfidence(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(N,) confidence minus correctness; its mean is positive for an over-confident model."""
    confidence, top = probabilities.double().max(1)
    return confidence - (top == labels).double()


def ks_error(confidence: Tensor, correct: Tensor, weights: Tensor | None = None) -> Tensor:
    """Largest cumulative calibration error, needs no bins.

    Args:
        confidence, correct: (N,).
        weights: (B, N) bootstrap counts; each row gives one value.

    Returns:
        () or (B,) values in [0, 1]: ``max_t |sum over confidences <= t of (correct - confidence)| /
        N``.

    Source: Gupta et al., "Calibration of Neural Networks using Splines", ICLR 2021, section 2.
    """
    order = torch.argsort(confidence, stable=True)
    c = confidence[order].double()
    errors = correct[order].double() - c
    last = torch.ones(len(c), dtype=torch.bool)
    last[:-1] = c[1:] != c[:-1]  # the sum is only defined between different confidences
    w = torch.ones(1, len(c), dtype=torch.float64) if weights is None else weights[:, order]
    value = ((w * errors).cumsum(1)[:, last].abs() / w.sum(1, keepdim=True)).amax(1)
    return value[0] if weights is None else value


def aurc(confidence: Tensor, correct: Tensor, weights: Tensor | None = None) -> Tensor:
    """Area under the risk-coverage curve: mean error rate over "answer only the k most confident".

    Equal confidences share their errors evenly, so the order of the images does not matter.

    Args:
        confidence, correct: (N,).
        weights: (B, N) bootstrap counts; each row gives one value.

    Returns:
        () or (B,) values in [0, 1]; the error rate for a useless confidence, :func:`best_aurc` at
        best.

    Source: Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation", ICLR 2019, section
        2.
    """
    order = torch.argsort(confidence, descending=True, stable=True)
    c = confidence[order]
    wrong = 1 - correct[order].double()
    _, tie = torch.unique_consecutive(c, return_inverse=True)
    w = torch.ones(1, len(c), dtype=torch.float64) if weights is None else weights[:, order]
    ties = int(tie[-1]) + 1
    mass = torch.zeros(len(w), ties, dtype=torch.float64).index_add_(1, tie, w)
    errors = torch.zeros(len(w), ties, dtype=torch.float64).index_add_(1, tie, w * wrong)
    rate = (errors / mass.clamp(min=1e-300))[:, tie]
    seen = w.cumsum(1).clamp(min=1e-300)
    risk = (w * rate).cumsum(1) / seen
    value = (w * risk).sum(1) / w.sum(1)
    return value[0] if weights is None else value


def best_aurc(errors: Tensor, n: int) -> Tensor:
    """AURC of n images when every error is less confident than every hit.

    The exact finite sum of which ``r + (1 - r) ln(1 - r)``, r the error rate, is the limit.

    Args:
        errors: number of errors, whole numbers in [0, n], any shape.
    """
    harmonic = torch.zeros(n + 1, dtype=torch.float64)
    harmonic[1:] = (1 / torch.arange(1, n + 1, dtype=torch.float64)).cumsum(0)
    wrong = errors.round().long()
    hits = n - wrong
    # Answering k > hits images has risk (k - hits) / k.
    return (wrong - hits * (harmonic[n] - harmonic[hits])) / n


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Attributes:
        value: divide logits by this; above 1 means the model was over-confident. Where no finite one
            is best: the end that the likelihood tends to, 0 or infinity (1 where all are alike).
        lacking: why no finite temperature is best; "" where one is.
    """

    value: float
    lacking: str = ""

    @property
    def at_bound(self) -> bool:
        """True when no finite temperature is best."""
        return bool(self.lacking)


def fit_temperature(logits: Tensor, labels: Tensor) -> Temperature:
    """The temperature of least NLL on held-out data.

    NLL is convex in 1 / T and its slope is known at both ends: the mean logit less the true one at
    0, the largest logit less the true one at infinity. Between a negative and a positive end there is one root,
    which is bracketed in units of the logits' own spread (so that no range of temperatures is
    assumed) and found by bisection, without a learning rate or a start.

    Args:
        logits: (N, K) finite, on data that the network was not trained on.
        labels: (N,) int64.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    z = logits.double()
    z = z - z.amax(1, keepdim=True)  # changes no probability, and exp cannot overflow
    true = z.gather(1, labels[:, None])[:, 0]
    spread = -float(z.mean())
    if spread == 0:
        return Temperature(1.0, ALL_EQUAL)
    if not bool((true < 0).any()):
        return Temperature(0.0, ALL_RIGHT)
    if float((z.mean(1) - true).mean()) >= -1e-12 * spread:
        return Temperature(math.inf, NO_BETTER)

    def slope(inverse: float) -> float:
        return float(((torch.softmax(z * inverse, 1) * z).sum(1) - true).mean())

    low = high = 1 / spread
    while slope(low) >= 0:
        low /= 2
    while slope(high) < 0:
        high *= 2
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return Temperature(1 / math.sqrt(low * high))
