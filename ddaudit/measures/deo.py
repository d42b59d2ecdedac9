"""Multi-class group fairness from cross-tabulated predictions.

Everything is computed from ``rates[..., a, y, k]``: the share of images of group a and class y that
were predicted as class k (NaN where the test set has no such image). Leading axes are networks or
resamples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddaudit.stats import Floor, max_min_gap
from ddaudit.stats.floors import GapFloor
from ddaudit.stats.intervals import stratified_replicates


def cell_counts(labels: Tensor, groups: Tensor, *, num_classes: int, num_groups: int) -> Tensor:
    """(G, K) int64 number of images of each group and class."""
    cell = groups * num_classes + labels
    return torch.bincount(cell, minlength=num_groups * num_classes).view(num_groups, num_classes)


def cross_tabulate(predictions: Tensor, labels: Tensor, groups: Tensor, counts: Tensor) -> Tensor:
    """(V, G, K, K) float64 rates.

    Args:
        predictions: (V, N) int64 predicted class of each network.
        labels, groups: (N,) int64.
        counts: (G, K) from :func:`cell_counts`.
    """
    g, k = counts.shape
    cell = (groups * k + labels) * k + predictions
    offsets = torch.arange(len(predictions))[:, None] * (g * k * k)
    total = torch.bincount((cell + offsets).flatten(), minlength=len(predictions) * g * k * k)
    return total.view(-1, g, k, k) / counts[:, :, None].double()


def true_positive_rates(rates: Tensor) -> Tensor:
    """(..., G, K) TPR of each group in each class."""
    return rates.diagonal(dim1=-2, dim2=-1)


def pooled_tpr(rates: Tensor, counts: Tensor) -> Tensor:
    """(..., K) TPR of each class over all groups; NaN for a class without images."""
    hits = true_positive_rates(rates).nan_to_num(nan=0.0) * counts
    return hits.sum(-2) / counts.sum(0)


def deo_m(rates: Tensor) -> Tensor:
    """(...) DEO_M: the largest, over classes, of the TPR gap between best and worst group.

    Computed per network; published tables average it over networks (averaging rates first gives
    less).

    Source: FairDD, NeurIPS 2025, arXiv 2411.19623, evaluation code.
    """
    gaps = max_min_gap(true_positive_rates(rates))
    return _largest(gaps)


def deo_a(rates: Tensor) -> Tensor:
    """(...) DEO_A: the mean over classes of the TPR gap. See :func:`deo_m`."""
    return torch.nanmean(max_min_gap(true_positive_rates(rates)), -1)


def worst_cell(rates: Tensor) -> Tensor:
    """(...) accuracy of the worst (group, class) cell."""
    tpr = true_positive_rates(rates)
    return torch.where(torch.isfinite(tpr), tpr, torch.inf).amin((-2, -1))


def worst_group(rates: Tensor, counts: Tensor) -> Tensor:
    """(...) accuracy of the group that is recognised worst, over all its images."""
    hits = true_positive_rates(rates).nan_to_num(nan=0.0) * counts
    accuracy = hits.sum(-1) / counts.sum(-1)
    return torch.where(torch.isfinite(accuracy), accuracy, torch.inf).amin(-1)


def demographic_parity(rates: Tensor, counts: Tensor) -> Tensor:
    """(...) largest, over classes k, of the gap between groups in how often k is predicted."""
    n = counts.double()
    predicted = (rates.nan_to_num(nan=0.0) * n[:, :, None]).sum(-2) / n.sum(1)[:, None]
    return _largest(max_min_gap(predicted))


def equalized_odds(rates: Tensor, counts: Tensor) -> Tensor:
    """(...) largest, over classes k taken one against the rest, of the TPR gap and the FPR gap."""
    n = counts.double()
    tpr = true_positive_rates(rates)
    hits = rates.nan_to_num(nan=0.0) * n[:, :, None]
    false = hits.sum(-2) - hits.diagonal(dim1=-2, dim2=-1)
    fpr = false / (n.sum(1, keepdim=True) - n)
    return torch.maximum(_largest(max_min_gap(tpr)), _largest(max_min_gap(fpr)))


def resampled_rates(
    predictions: Tensor,
    labels: Tensor,
    groups: Tensor,
    counts: Tensor,
    *,
    n_boot: int,
    generator: torch.Generator,
) -> Tensor:
    """(B, V, G, K, K) rates of bootstrap test sets: images resampled within (group, class) cells.

    The networks share the drawn images. Each cell also holds one pseudo-image that is answered as
    the class is on average over groups: cells are small, and one whose images are all right (or all
    wrong) would otherwise look certain. Arguments as :func:`cross_tabulate`.
    """
    (g, k), v = counts.shape, len(predictions)
    hot = torch.nn.functional.one_hot(predictions, k).transpose(0, 1).flatten(1)  # (N, V K)
    pseudo = _typical_answers(hot, labels, k).repeat(g, 1)
    drawn = stratified_replicates(hot, groups * k + labels, n_boot, generator, pseudo=pseudo)
    return drawn.view(n_boot, g, k, v, k).permute(0, 3, 1, 2, 4)


def resampled_paired_rates(
    predictions: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    n_boot: int,
    generator: torch.Generator,
) -> Tensor:
    """(B, V, G, K, K) rates of bootstrap test sets in which every image appears in every group.

    Images are resampled within classes, each with all its versions: they are one record, not G.
    Pseudo-images as in :func:`resampled_rates`, one per class, answered alike in every group.

    Args:
        predictions: (V, M, G) int64 predicted class of image m shown as group g.
        labels: (M,) int64.
    """
    v, _, g = predictions.shape
    k = num_classes
    hot = torch.nn.functional.one_hot(predictions, k).permute(1, 0, 2, 3)  # (M, V, G, K)
    typical = _typical_answers(hot.double().mean(2).flatten(1), labels, k)
    pseudo = typical.view(k, v, 1, k).expand(-1, -1, g, -1).flatten(1)
    drawn = stratified_replicates(hot.flatten(1), labels, n_boot, generator, pseudo=pseudo)
    return drawn.view(n_boot, k, v, g, k).permute(0, 2, 3, 1, 4)


def fair_rates(rates: Tensor, counts: Tensor, *, n_sim: int, generator: torch.Generator) -> Tensor:
    """(n_sim, G, K, K) rates of a fair twin: in each class, all groups share one distribution.

    That distribution is the network's own, pooled over groups; what gap the twin shows on cells of
    these sizes is chance.

    Args:
        rates: (G, K, K) of one network.
        counts: (G, K).
    """
    n = counts.double()
    pooled = (rates.nan_to_num(nan=0.0) * n[:, :, None]).sum(0) / n.sum(0)[:, None]  # (K, K)
    left = n.expand(n_sim, *n.shape).clone()
    rest = torch.ones(pooled.shape[0], dtype=torch.float64)
    out = torch.zeros(n_sim, *rates.shape, dtype=torch.float64)
    for k in range(pooled.shape[1]):  # a multinomial, one class at a time
        p = (pooled[:, k] / rest.clamp(min=1e-12)).nan_to_num(nan=0.0).clamp(0, 1)
        drawn = torch.binomial(left, p.expand_as(left).contiguous(), generator=generator)
        out[..., k] = drawn
        left, rest = left - drawn, rest - pooled[:, k]
    return out / n[:, :, None]


def paired_floor(
    correct: Tensor, labels: Tensor, *, n_sim: int, generator: torch.Generator
) -> GapFloor:
    """Floors of DEO_M and DEO_A on a paired test set: each image's versions are permuted.

    A fair network may still be unsure about an image and fail on some versions of it; it just must
    not matter which. So the floor keeps each image's number of hits and permutes which version got
    them.

    Args:
        correct: (M, G) bool, one network, image m shown as group g.
        labels: (M,) int64.
    """
    worst, total, classes = torch.zeros(n_sim), torch.zeros(n_sim), 0
    for label in torch.unique(labels).tolist():
        rows = correct[labels == label].float()
        unsure = rows[(rows.sum(1) > 0) & (rows.sum(1) < rows.shape[1])]  # the others cannot change
        sums = torch.zeros(n_sim, rows.shape[1])
        step = max(1, 4_000_000 // max(1, unsure.numel()))
        for start in range(0, n_sim, step):
            count = min(step, n_sim - start)
            order = torch.rand(count, *unsure.shape, generator=generator).argsort(-1)
            sums[start : start + count] = unsure.expand(count, -1, -1).gather(2, order).sum(1)
        gap = (sums.amax(1) - sums.amin(1)) / len(rows)
        worst, total, classes = torch.maximum(worst, gap), total + gap, classes + 1
    return GapFloor(Floor.of(worst), Floor.of(total / classes))


def _typical_answers(hot: Tensor, labels: Tensor, k: int) -> Tensor:
    """(K, V K) how the images of each class are predicted, with one more answer spread evenly."""
    total = torch.zeros(k, hot.shape[1], dtype=torch.float64).index_add_(0, labels, hot.double())
    return (total + 1 / k) / (torch.bincount(labels, minlength=k)[:, None] + 1)


def _largest(gaps: Tensor) -> Tensor:
    """Largest over the last axis without NaN; NaN where all are."""
    known = torch.isfinite(gaps)
    top = torch.where(known, gaps, -torch.inf).amax(-1)
    return torch.where(known.any(-1), top, torch.nan)
