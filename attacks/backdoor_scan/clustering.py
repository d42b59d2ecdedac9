"""Activation Clustering: the features of a poisoned class fall into two groups, the smaller one poisoned.

Source: Chen et al., "Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering", 2018, arXiv
1811.03728. Ten principal components, as in SCLBD/BackdoorBench (defense/ac.py), instead of independent ones: these span
the same space but are scaled alike in it, so that distances and silhouettes are other ones.
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
_STARTS = 10


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
    """2-means of (n, D) features on their first ten principal components.

    Silhouettes: Rousseeuw, 1987, in [-1, 1].
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    u, s, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    if len(features) < 3 or float(s[0]) <= 1e-9:
        return Split(0.0, 0.5, torch.zeros(len(features), dtype=torch.bool))
    points = (u * s)[:, :COMPONENTS].cpu().numpy()
    found = KMeans(2, n_init=_STARTS, random_state=0).fit(points).labels_
    first = torch.from_numpy(found).bool()
    second = first if int(first.sum()) * 2 <= len(first) else ~first
    return Split(float(silhouette_score(points, found)), float(second.double().mean()), second)
