"""Scores of canaries from what is published: the set itself, and networks trained on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.attacks.membership.audit.evidence import LinearEvidence
from ddaudit.data import ImageData
from ddaudit.models import Network
from ddaudit.sets import DistilledSet


def score_final_set(
    released: DistilledSet,
    canaries: ImageData,
    known: ImageData,
    *,
    networks: Sequence[Network],
    ridge: float | None = None,
) -> Tensor:
    """The class-mean attack on a released set, over random networks that anybody can draw.

    For canary (x, y) it weighs ``sum_t <psi_t(x), mean psi_t(S_y) - mean psi_t(R_y)>``: the direction
    in which x moves the mean of class y. Canaries are estimated jointly (see :class:`LinearEvidence`).

    Args:
        released: the set under attack.
        canaries: m records.
        known: records that are in the pool for certain (R).
        networks: untrained networks, pixels -> embedding; best from the family the recipe uses.
        ridge: see :meth:`LinearEvidence.scores`.

    Returns:
        (m,) float32; higher means "more likely in the pool".

    Source: Zheng & Li, NDSS workshop 2024 (the noisy class sums attacked); score derived as the
        Neyman-Pearson direction for a noisy sum.
    """
    classes = released.num_classes
    soft = released.labels if released.soft else F.one_hot(released.labels, classes)
    share = _normalised(soft.float().T)
    known_share = _normalised(F.one_hot(known.labels, classes).float().T)
    weights = F.one_hot(canaries.labels, classes).float().T
    evidence = LinearEvidence(len(canaries), classes)
    for net in networks:
        values = share @ _embed(net, released.images)
        mean = known_share @ _embed(net, known.images)
        evidence.add(_embed(net, canaries.images), weights, values, mean * share.any(1)[:, None])
    return evidence.scores(ridge=ridge)


def score_nearest_copy(released: DistilledSet, canaries: ImageData, known: ImageData) -> Tensor:
    """How much nearer the released set comes to a canary than the known records do.

    Args:
        released: the set under attack.
        canaries: m records.
        known: records of the same distribution.

    Returns:
        (m,) float32 ``log d(x, known) - log d(x, S)``, pixel distances within the canary's class (within
        the whole set where the class is empty); large for verbatim copies.
    """
    x = canaries.pixels().flatten(1)
    here = _nearest(x, canaries.labels, released.images.flatten(1), released.hard_labels)
    there = _nearest(x, canaries.labels, known.pixels().flatten(1), known.labels)
    return (there + 1e-3).log() - (here + 1e-3).log()


def score_victims(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Mean logit margin of the canaries' labels over networks trained on the set.

    Args:
        logits: one (m, K) tensor per network, on the canaries' images.
        labels: (m,) the canaries' labels.

    Returns:
        (m,) float32; higher means "more likely in the pool".

    Source: Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, eq. 6.
    """
    return torch.stack([_margin(z, labels) for z in logits]).mean(0).float()


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """(m,) float64 log p_y - log(1 - p_y), without leaving logits."""
    z = logits.double()
    own = z.gather(1, labels[:, None]).squeeze(1)
    return own - z.scatter(1, labels[:, None], -torch.inf).logsumexp(1)


def _embed(net: Network, images: Tensor) -> Tensor:
    """(N, D) float32 CPU embeddings of uint8 or float pixels."""
    out = []
    with torch.inference_mode():
        for start in range(0, len(images), 512):
            x = images[start : start + 512].to(net.device)
            x = x.float().div_(255.0) if x.dtype == torch.uint8 else x
            out.append(net.embed(x).float().cpu())
    return torch.cat(out).clone()


def _nearest(x: Tensor, labels: Tensor, pool: Tensor, pool_labels: Tensor) -> Tensor:
    """(m,) distance from each x to the nearest of ``pool`` with its label."""
    distance = torch.cdist(x, pool)
    same = labels[:, None] == pool_labels[None]
    same |= ~same.any(1, keepdim=True)
    return distance.masked_fill(~same, torch.inf).amin(1)


def _normalised(rows: Tensor) -> Tensor:
    """Rows that sum to one, or stay zero."""
    return rows / rows.sum(1, keepdim=True).clamp_min(1e-12)
