"""Spectral Signatures: poisoned images of a class lie apart from the others along its first singular vector.

Source: Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018. Features are centred before they
are projected (SCLBD/BackdoorBench projects uncentred ones). A class of few images has fewer points than dimensions, so
that there all classes, each centred on its own mean, share one singular vector.
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
    above_median,
    by_class,
    needs_rows,
)
from ddaudit.models import Network

REMOVED = 0.15
"""SCLBD/BackdoorBench removes this share of every class, whatever it sees; the paper 1.5 times the share of poisoned
records that it is told."""


@dataclass(frozen=True)
class SpectralSignatures:
    """Variance along the first singular vector of the features."""

    name: ClassVar[str] = "spectral"
    title: ClassVar[str] = "Spectral Signatures"
    source: ClassVar[str] = "Tran, Li and Madry, Spectral Signatures, NeurIPS 2018"
    flags: ClassVar[Flags] = "images"

    def missing(self, network: Network, seen: Exhibit) -> str:
        return needs_rows(seen, 2)

    def read(self, network: Network, seen: Exhibit) -> DetectorReading:
        """Per class the logarithm of its variance along the first direction, less the median class's."""
        features = seen.features(network, "rows")
        centred = torch.zeros_like(features)
        for k in range(seen.num_classes):
            at = seen.row_labels == k
            centred[at] = features[at] - features[at].mean(0)
        own = seen.least() >= FEWEST_ROWS
        shared = first_direction(centred)

        def variance(at: Tensor) -> float:
            direction = first_direction(centred[at]) if own else shared
            return float((centred[at] @ direction).square().mean())

        return DetectorReading(
            above_median(by_class(seen, variance).clamp_min(1e-12).log()), REMOVED
        )


def first_direction(centred: Tensor) -> Tensor:
    """(D,) the first right singular vector of (n, D) centred rows; its sign is arbitrary."""
    direction: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return direction


def outlier_scores(features: Tensor) -> Tensor:
    """(n,) squared projections of one class's features, less their mean, on the first singular vector."""
    centred = features - features.mean(0)
    return (centred @ first_direction(centred)).square()
