"""Binned calibration errors, the reliability diagram, and the error of a perfectly calibrated twin.

"Confidence" is the largest predicted probability, "correct" whether that class was right. A bin's
error is ``|sum over its images of (correct - confidence)| / N``, so ECE is the sum over bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.stats import Floor

EQUAL_WIDTH, EQUAL_MASS, CLASSWISE = "equal-width", "equal-mass", "classwise"
BINNINGS = (EQUAL_WIDTH, EQUAL_MASS, CLASSWISE)


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: one entry per bin, empty bins included.

    Attributes:
        confidence: (bins,) mean confidence in the bin; NaN when empty.
        accuracy: (bins,) share correct; NaN when empty.
        counts: (bins,) int64 images.
    """

    confidence: Tensor
    accuracy: Tensor
    counts: Tensor


def ece(
    probabilities: Tensor, labels: Tensor, *, binning: str = EQUAL_WIDTH, bins: int = 15
) -> float:
    """Expected calibration error.

    Args:
        probabilities: (N, K) rows that sum to 1.
        labels: (N,) int64.
        binning: ``equal-width`` (the usual definition), ``equal-mass`` (bins hold equally many
            images; also called adaptive) or ``classwise`` (mean over classes of the one-vs-rest
            error of every probability; looks small because most probabilities are near 0).
        bins: number of bins.

    Returns:
        The error in [0, 1]; biased upwards, see :func:`calibrated_floor`.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2; Nixon et
        al., "Measuring Calibration in Deep Learning", CVPR 2019 workshops, section 4.
    """
    table = error_table(probabilities, labels, binning=binning, bins=bins)
    return float(table.sum(0).abs().sum() / len(labels) / _averaged(binning, probabilities))


def error_table(
    probabilities: Tensor, labels: Tensor, *, binning: str = EQUAL_WIDTH, bins: int = 15
) -> Tensor:
    """(N, cells) signed error of each image in its bin; a bin's error is the absolute column sum /
    N.

    Linear in the images, so weights @ table gives the bins of any bootstrap resample (bin edges
    stay those of the whole test set).
    """
    p, hits = _events(probabilities, labels, binning)
    index = _bin_index(p, binning, bins)
    classes = p.shape[1]
    table = torch.zeros(len(p), classes, bins, dtype=torch.float64)
    table.scatter_(2, index[:, :, None], (hits - p)[:, :, None])
    return table.flatten(1)


def table_errors(sums: Tensor, *, binning: str, n: int, num_classes: int) -> Tensor:
    """ECE from (..., cells) column sums of an :func:`error_table` over n images."""
    return sums.abs().sum(-1) / n / (num_classes if binning == CLASSWISE else 1)


def calibrated_floor(
    probabilities: Tensor,
    *,
    binning: str = EQUAL_WIDTH,
    bins: int = 15,
    n_sim: int = 200,
    generator: torch.Generator,
) -> Floor:
    """ECE that these predictions would show if they were perfectly calibrated.

    Labels are drawn from the predictions themselves, so whatever ECE is left is sampling noise and
    the
    upward bias of absolute values: about 0.01 for 10 000 images, 0.04 for 1000.

    Args:
        probabilities: (N, K).

    Source: Vaicenavicius et al., "Evaluating model calibration in classification", AISTATS 2019
        (consistency resampling).
    """
    p = probabilities.double()
    n, k = p.shape
    drawn = torch.multinomial(p.clamp(min=0), n_sim, replacement=True, generator=generator).T
    if binning == CLASSWISE:
        index = _bin_index(p, binning, bins)  # (N, K)
        cell = index + bins * torch.arange(k)
        expected = torch.zeros(k * bins, dtype=torch.float64)
        expected.scatter_add_(0, cell.flatten(), p.flatten())
        hit_cell = cell[torch.arange(n), drawn]  # (n_sim, N)
        counts = torch.zeros(n_sim, k * bins, dtype=torch.float64)
        counts.scatter_add_(1, hit_cell, torch.ones(hit_cell.shape, dtype=torch.float64))
        return Floor.of(table_errors(counts - expected, binning=binning, n=n, num_classes=k))
    confidence, top = p.max(1)
    index = _bin_index(confidence[:, None], binning, bins)[:, 0]
    errors = (drawn == top).double() - confidence
    sums = torch.zeros(n_sim, bins, dtype=torch.float64)
    sums.scatter_add_(1, index.expand(n_sim, n), errors)
    return Floor.of(table_errors(sums, binning=binning, n=n, num_classes=k))


def brier_parts(
    confidence: Tensor, correct: Tensor, weights: Tensor, *, bins: int = 15
) -> dict[str, Tensor]:
    """The largest bin's gap, and what the Brier score of the top label is made of, over equal-width bins.

    ``reliability - resolution + uncertainty + within`` is mean (confidence - correct)^2 exactly; ``within`` is what
    confidences that differ within a bin add.

    Args:
        confidence, correct: (N,).
        weights: (B, N) how often each record counts.

    Returns:
        (B,) each: ``mce``, ``reliability`` (0 is best), ``resolution`` (higher is better), ``uncertainty`` (of the
        accuracy alone), ``within``.

    Source: Murphy, J. Applied Meteorology 12 (1973); Stephenson et al., Weather and Forecasting 23 (2008), equation 14.
    """
    c, y = confidence.double(), correct.double()
    hot = torch.nn.functional.one_hot(
        _bin_index(c[:, None], EQUAL_WIDTH, bins)[:, 0], bins
    ).double()
    count, total = weights @ hot, weights.sum(1, keepdim=True)
    stated, right = ((weights @ (hot * v[:, None])) / count.clamp(min=1e-300) for v in (c, y))
    share, base = count / total, (weights @ y)[:, None] / total
    gap = torch.where(count > 0, (right - stated).abs(), 0.0)
    parts = {
        "mce": gap.amax(1),
        "reliability": (share * gap**2).sum(1),
        "resolution": (share * (right - base) ** 2).sum(1),
        "uncertainty": (base * (1 - base))[:, 0],
    }
    score = (weights @ (c - y) ** 2) / total[:, 0]
    known = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    return {**parts, "within": score - known}


def largest_gaps(confidence: Tensor, hits: Tensor, *, bins: int = 15) -> Tensor:
    """(S,) largest bin's gap of answers (S, N) that share their confidences (N,)."""
    c = confidence.double()
    index = _bin_index(c[:, None], EQUAL_WIDTH, bins)[:, 0]
    sums = torch.zeros(len(hits), bins, dtype=torch.float64)
    sums.index_add_(1, index, hits.double() - c)
    return (sums.abs() / torch.bincount(index, minlength=bins).clamp(min=1)).amax(1)


def reliability(probabilities: Tensor, labels: Tensor, *, bins: int = 15) -> Reliability:
    """Accuracy against confidence in equal-width bins of the top label."""
    confidence, top = probabilities.double().max(1)
    correct = (top == labels).double()
    index = _bin_index(confidence[:, None], EQUAL_WIDTH, bins)[:, 0]
    counts = torch.bincount(index, minlength=bins)

    def mean(values: Tensor) -> Tensor:
        return torch.bincount(index, weights=values, minlength=bins) / counts

    return Reliability(mean(confidence), mean(correct), counts)


def _events(probabilities: Tensor, labels: Tensor, binning: str) -> tuple[Tensor, Tensor]:
    """((N, C) probabilities, (N, C) events): C = 1 for the top label, K for all classes."""
    p = probabilities.double()
    if binning == CLASSWISE:
        return p, torch.nn.functional.one_hot(labels, p.shape[1]).double()
    confidence, top = p.max(1)
    return confidence[:, None], (top == labels).double()[:, None]


def _bin_index(p: Tensor, binning: str, bins: int) -> Tensor:
    """(N, C) bin of each probability, column by column."""
    if binning in (EQUAL_WIDTH, CLASSWISE):
        return ((p * bins).ceil().long() - 1).clamp(0, bins - 1)  # bins are (low, high]
    if binning != EQUAL_MASS:
        raise ValueError(f"unknown binning '{binning}'; known: {', '.join(BINNINGS)}")
    # Edges between ranks; equal probabilities share a bin, so the order of the images does not
    # matter.
    ordered = p.sort(0).values
    ranks = (torch.arange(1, bins) * len(p)) // bins
    edges = ordered[ranks.clamp(max=len(p) - 1)].T.contiguous()
    return torch.searchsorted(edges, p.T.contiguous(), right=True).T


def _averaged(binning: str, probabilities: Tensor) -> int:
    return probabilities.shape[1] if binning == CLASSWISE else 1
