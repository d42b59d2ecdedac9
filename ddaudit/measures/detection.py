"""How well a score tells records of the data from outliers: scores of a network's answers, AUROC, FPR95, AUPR."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ACCEPTED = 0.95
"""Share of the records of the data that FPR95's threshold accepts."""


def msp(logits: Tensor) -> Tensor:
    """(N,) the largest probability, as the log of its odds: of the same order, and never saturated at 1.

    Source: Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136.
    """
    z = logits.double()
    top, at = z.max(1)
    rest = z.scatter(1, at[:, None], -torch.inf)
    return top - rest.logsumexp(1)


def max_logit(logits: Tensor) -> Tensor:
    """(N,) the largest logit. Source: Hendrycks et al., ICML 2022, arXiv 1911.11132."""
    return logits.double().amax(1)


def energy(logits: Tensor) -> Tensor:
    """(N,) log of the sum of exponentials, temperature 1. Source: Liu et al., NeurIPS 2020, arXiv 2010.03759."""
    return logits.double().logsumexp(1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "msp": msp,
    "max-logit": max_logit,
    "energy": energy,
}
"""Scores of logits (N, K); higher means "one of ours"."""

KNN = "knn"
"""The score that reads embeddings: :func:`nearness`."""


def nearness(features: Tensor, bank: Tensor, *, neighbours: int) -> Tensor:
    """(N,) minus the distance to the k-th nearest row of a bank, both scaled to length 1.

    Args:
        features: (N, D).
        bank: (M, D) of the images that the network was trained on.
        neighbours: k, at most M.

    Source: Sun et al., ICML 2022, arXiv 2204.06507.
    """
    x, b = (torch.nn.functional.normalize(f.float(), dim=1) for f in (features, bank))
    k = min(neighbours, len(b))
    parts = [-torch.cdist(p, b).kthvalue(k, dim=1).values for p in x.split(512)]
    return torch.cat(parts).double()


def detection(scores: Tensor, inside: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """AUROC, FPR95 and both AUPR of a score, for each row of record weights.

    Args:
        scores: (N,) higher means inside.
        inside: (N,) bool, true for records of the data.
        weights: (B, N) how often each record counts.

    Returns:
        ``auroc``: chance that a record of the data scores above an outlier, ties one half; ``fpr95``: share of outliers
        accepted at the highest threshold that accepts 95 % of the data's records; ``aupr_in``, ``aupr_out``: average
        precision with the data's records, or the outliers, as positives. (B,) each.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    _, tie = torch.unique_consecutive(scores[order], return_inverse=True)
    w, ours = weights[:, order], inside[order].double()
    per_tie = torch.zeros(len(w), int(tie[-1]) + 1, dtype=torch.float64)
    hit, false = per_tie.index_add(1, tie, w * ours), per_tie.index_add(1, tie, w * (1 - ours))
    above, outside = hit.cumsum(1), false.cumsum(1)
    hits, falses = above[:, -1:], outside[:, -1:]
    accepted = above >= ACCEPTED * hits - 1e-9
    below, rest = hits - above + hit, falses - outside + false
    return {
        "auroc": (false * (above - hit / 2)).sum(1) / (hits * falses)[:, 0],
        "fpr95": torch.where(accepted, outside, torch.inf).amin(1) / falses[:, 0],
        "aupr_in": (hit / hits * above / (above + outside).clamp(min=1e-300)).sum(1),
        "aupr_out": (false / falses * rest / (rest + below).clamp(min=1e-300)).sum(1),
    }
