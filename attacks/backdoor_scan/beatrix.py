"""Beatrix: images whose feature correlations (Gram matrices) lie outside what trusted images of the class show.

Source: Ma et al., "The Beatrix Resurrections: Robust Backdoor Detection via Gram Matrices", NDSS 2023; the authors'
code wanlunsec/Beatrix (defenses/Beatrix/Beatrix.py): features to the power p before the product, the root p after it.
Read are the maps of the last block (the code: what its last stage is given), by true class of trusted images (the code:
by predicted).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddaudit.attacks.backdoor_scan.detector import (
    FEWEST_ROWS,
    DetectorReading,
    Exhibit,
    Flags,
    anomaly_index,
    needs_rows,
)
from ddaudit.models import Network
from ddaudit.training import require_finite

ORDERS = range(1, 9)
ANOMALOUS = math.exp(2)
BAND = 10.0
"""Deviations count outside the median +- this many median absolute deviations."""
REJECTED = 0.95
FOLDS = 5
MOST = 500
_BATCH = 512


@dataclass(frozen=True)
class Beatrix:
    """How far the rejected images of a class lie from the accepted ones."""

    name: ClassVar[str] = "beatrix"
    title: ClassVar[str] = "Beatrix"
    source: ClassVar[str] = "Ma et al., Beatrix, NDSS 2023"
    flags: ClassVar[Flags] = "sets"

    def missing(self, network: Network, seen: Exhibit) -> str:
        if network.arch.family == "own":
            return "an architecture of one's own does not say what its maps are"
        fewest = int(torch.bincount(seen.labels, minlength=seen.num_classes).min())
        if fewest < FEWEST_ROWS:
            return f"{fewest} trusted images of the smallest class, and {FEWEST_ROWS} are needed"
        return needs_rows(seen, FEWEST_ROWS)

    def read(self, network: Network, seen: Exhibit) -> DetectorReading:
        """Per class the kernel distance between accepted and rejected images."""
        assert seen.rows is not None
        clean, rows = last_maps(network, seen.clean), last_maps(network, seen.rows)
        gaps = torch.zeros(seen.num_classes, dtype=torch.float64)
        for k in range(seen.num_classes):
            trusted, own = clean[seen.labels == k], rows[seen.row_labels == k]
            limit = rejection_limit(trusted)
            rejected = Band.of(trusted).deviation(own) > limit
            a, b = (own[m].mean((2, 3))[:MOST] for m in (~rejected, rejected))
            gaps[k] = mean_discrepancy(a, b)
        flagged = (anomaly_index(gaps) > ANOMALOUS).any()
        return DetectorReading(gaps, float(flagged))


def last_maps(network: Network, images: Tensor) -> Tensor:
    """(N, C, H, W) float64 maps of the last block, before pooling; of dense layers H = W = 1.

    Raises:
        Unsupported: an architecture that does not say what its blocks are, or a value that is not finite.
    """
    parts = []
    with torch.inference_mode():
        for x in images.split(_BATCH):
            block = network.body.blocks(network.normalize(x.to(network.device)))[-2]
            parts.append(block.cpu().double())
    maps = require_finite(torch.cat(parts), "features of images")
    return maps if maps.ndim == 4 else maps[:, :, None, None]


def gram(maps: Tensor, order: int) -> Tensor:
    """(N, C (C + 1) / 2) upper triangles of the Gram matrices of (N, C, H, W) maps, of one order.

    ``G_p = (F^p F^pT)^(1/p)``, powers and root elementwise, F of shape (C, H W).
    """
    f = maps.flatten(2) ** order
    row, column = torch.triu_indices(f.shape[1], f.shape[1])
    products = (f @ f.transpose(1, 2))[:, row, column]
    root: Tensor = products.sign() * products.abs() ** (1 / order)
    return root


@dataclass(frozen=True, eq=False)
class Band:
    """What Gram features of trusted images look like, by order.

    Attributes:
        low, high: a tensor of (G,) for each order.
        size: published divisor of the deviation, C^2 / 2 times the orders.
    """

    low: tuple[Tensor, ...]
    high: tuple[Tensor, ...]
    size: float

    @classmethod
    def of(cls, maps: Tensor) -> Band:
        """The band of (N, C, H, W) trusted maps of one class."""
        low, high = [], []
        for order in ORDERS:
            g = gram(maps, order)
            middle = g.median(0).values
            spread = (g - middle).abs().median(0).values
            low.append(middle - BAND * spread)
            high.append(middle + BAND * spread)
        return cls(tuple(low), tuple(high), maps.shape[1] ** 2 / 2 * len(ORDERS))

    def deviation(self, maps: Tensor) -> Tensor:
        """(N,) relative overflow of (N, C, H, W) maps, averaged over Gram features and orders."""
        total = torch.zeros(len(maps), dtype=maps.dtype)
        for order, low, high in zip(ORDERS, self.low, self.high, strict=True):
            g = gram(maps, order)
            total += ((low - g).relu() / (low + 1e-6).abs()).sum(1)
            total += ((g - high).relu() / (high + 1e-6).abs()).sum(1)
        return total / self.size


def rejection_limit(maps: Tensor) -> float:
    """The deviation that 5 % of trusted images of a class exceed, by 5-fold cross-validation."""
    fold = len(maps) // FOLDS
    parts = []
    for i in range(FOLDS):
        out = torch.zeros(len(maps), dtype=torch.bool)
        out[i * fold : (i + 1) * fold] = True
        parts.append(Band.of(maps[~out]).deviation(maps[out]))
    ordered = torch.cat(parts).sort().values
    return float(ordered[int(len(ordered) * REJECTED)])


def mean_discrepancy(a: Tensor, b: Tensor) -> float:
    """``m n / (m + n)`` times the squared maximum mean discrepancy of (m, D) and (n, D) points; 0 if one is empty.

    Two Gaussian kernels ``exp(-d^2 / w)``, w half the median squared distance and the median itself.
    """
    m, n = len(a), len(b)
    if min(m, n) == 0:
        return 0.0
    both = torch.cat([a, b])
    squared = torch.cdist(both, both).square()
    middle = squared.flatten().median().clamp_min(1e-12)
    kernel = (-squared / (middle / 2)).exp() + (-squared / middle).exp()
    gap = kernel[:m, :m].mean() + kernel[m:, m:].mean() - 2 * kernel[:m, m:].mean()
    return float(gap) * m * n / (m + n)
