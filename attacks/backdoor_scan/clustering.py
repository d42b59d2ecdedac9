"""Activation Clustering: the features of a poisoned class fall into two groups, the smaller one poisoned.

Source: Chen et al., "Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering", 2018, arXiv
1811.03728. Ten principal components instead of independent ones: the same plane, without an iteration of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddaudit.attacks.backdoor_scan.detector import (
    FEWEST_ROWS,
    DetectorReading,
    Exhibit,
    Flags,
    needs_rows,
)
from ddaudit.models import Network

COMPONENTS = 10
SMALLER = 0.35
"""Published: a class whose smaller cluster holds less than this share is poisoned."""
_ROUNDS = 50


@dataclass(frozen=True)
class ActivationClustering:
    """Two clusters in each class of the set."""

    name: ClassVar[str] = "activation_clustering"
    title: ClassVar[str] = "Activation Clustering"
    source: ClassVar[str] = "Chen et al., Activation Clustering, 2018, arXiv 1811.03728"
    flags: ClassVar[Flags] = "sets"

    def missing(self, network: Network, seen: Exhibit) -> str:
        return needs_rows(seen, FEWEST_ROWS)

    def read(self, network: Network, seen: Exhibit) -> DetectorReading:
        """Per class the silhouette of its two clusters."""
        features = seen.features(network, "rows")
        split = [two_clusters(features[seen.row_labels == k]) for k in range(seen.num_classes)]
        scores = torch.tensor([s.silhouette for s in split], dtype=torch.float64)
        return DetectorReading(scores, float(any(s.smaller < SMALLER for s in split)))


@dataclass(frozen=True, eq=False)
class Split:
    """Two clusters of one class.

    Attributes:
        silhouette: in [-1, 1]; 0 where the points do not differ.
        smaller: share of the smaller cluster, in (0, 0.5].
        second: (n,) bool, who is in the smaller cluster.
    """

    silhouette: float
    smaller: float
    second: Tensor


def two_clusters(features: Tensor) -> Split:
    """2-means of (n, D) features on their first ten principal components: the tightest of several starts."""
    centred = features - features.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    points = (u * s)[:, :COMPONENTS]
    if float(s[0]) <= 1e-9:
        return Split(0.0, 0.5, torch.zeros(len(features), dtype=torch.bool))
    far = torch.cdist(points, points)
    # Halves along each component, and everybody nearer to the point that is farthest out than to the middle.
    edge = far[int(points.norm(dim=1).argmax())] < points.norm(dim=1)
    first = min(
        (settled(points, start) for start in [*(points.T > 0), edge]),
        key=lambda m: spread(points, m),
    )
    second = first if int(first.sum()) * 2 <= len(first) else ~first
    return Split(silhouette(far, second), float(second.double().mean()), second)


def settled(points: Tensor, first: Tensor) -> Tensor:
    """(n,) bool: Lloyd's iterations of two means from a first split of (n, D) points."""
    for _ in range(_ROUNDS):
        if bool(first.all()) or not bool(first.any()):
            break
        means = torch.stack([points[~first].mean(0), points[first].mean(0)])
        moved = torch.cdist(points, means).argmin(1).bool()
        if bool((moved == first).all()):
            break
        first = moved
    return first


def spread(points: Tensor, first: Tensor) -> float:
    """Sum of squared distances of (n, D) points to the mean of their cluster."""
    parts = [points[m] for m in (first, ~first) if bool(m.any())]
    return float(sum((p - p.mean(0)).square().sum() for p in parts))


def silhouette(distance: Tensor, second: Tensor) -> float:
    """Mean silhouette of two clusters, in [-1, 1]; 0 where one is empty.

    Args:
        distance: (n, n) between the points; ``second`` (n,) bool, who is in the second cluster.

    Source: Rousseeuw, "Silhouettes", 1987; a point that is alone in its cluster counts 0.
    """
    if bool(second.all()) or not bool(second.any()):
        return 0.0
    member = torch.stack([~second, second], 1).to(distance.dtype)
    sizes, own = member.sum(0), second.long()[:, None]
    sums = distance @ member
    within = (sums / (sizes - 1).clamp_min(1)).gather(1, own)
    between = (sums / sizes).gather(1, 1 - own)
    values = (between - within) / torch.maximum(within, between).clamp_min(1e-12)
    return float(values.where(sizes[own] > 1, torch.zeros_like(values)).mean())
