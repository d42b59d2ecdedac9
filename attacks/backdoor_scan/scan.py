"""SCAn: is a class of the set one group of features or two, given how features vary within classes of trusted images?

A feature is modelled as class mean plus variation, means ~ N(0, S_mu), variation ~ N(0, S_eps) for all classes alike.
Both are estimated on trusted images; the statistic is a likelihood ratio of two groups against one.

Source: Tang et al., "Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination Detection",
USENIX Security 2021; the authors' code TDteach/Demon-in-the-Variant (msrc/local_model.m, global_model.m). Features are
reduced to at most 64 principal components of the trusted ones, and to a fifth of the number of trusted images. The mean
of one group is the expected one, n S_mu (n S_mu + S_eps)^-1 times the points' mean, as in global_model.m;
local_model.m, which the released detector runs, leaves S_mu out, and then finds nothing in a simulation with a tenth of
a class poisoned.
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
    above_median,
    anomaly_index,
    by_class,
    needs_rows,
)
from ddaudit.models import Network

ANOMALOUS = math.exp(2)
DIMENSIONS = 64
_ROUNDS = 100
_SETTLED = 1e-5
_RIDGE = 1e-6


@dataclass(frozen=True)
class Scan:
    """The likelihood ratio of two groups in each class."""

    name: ClassVar[str] = "scan"
    title: ClassVar[str] = "SCAn"
    source: ClassVar[str] = "Tang et al., Demon in the Variant (SCAn), USENIX Security 2021"
    flags: ClassVar[Flags] = "sets"

    def missing(self, network: Network, seen: Exhibit) -> str:
        return needs_rows(seen, FEWEST_ROWS)

    def read(self, network: Network, seen: Exhibit) -> DetectorReading:
        """Per class the logarithm of the likelihood ratio per image, less the median class's."""
        clean, rows = seen.features(network, "clean"), seen.features(network, "rows")
        dims = min(DIMENSIONS, clean.shape[1], max(2, len(clean) // 5))
        basis = torch.linalg.svd(clean - clean.mean(0), full_matrices=False).Vh[:dims].T
        between, within = variation(clean @ basis, seen.labels)
        reduced = rows @ basis
        reduced = reduced - reduced.mean(0)
        ratios = by_class(
            seen,
            lambda at: likelihood_ratio(reduced[at], between, within, generator=seen.generator()),
        )
        flagged = (anomaly_index(ratios) > ANOMALOUS).any()
        return DetectorReading(above_median(ratios.clamp_min(1e-6).log()), float(flagged))


def variation(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(D, D) covariances S_mu of class means and S_eps within classes, by expectation maximisation.

    Args:
        features: (N, D) float64; ``labels`` (N,) int64.
    """
    x = features - features.mean(0)
    classes, position, counts = labels.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(classes), x.shape[1], dtype=x.dtype).index_add_(0, position, x)
    means /= counts[:, None]
    mu = means
    between, within = mu[position].T.cov(), (x - mu[position]).T.cov()
    for _ in range(_ROUNDS):
        mu = torch.stack(
            [
                _shrunk(m, int(n), between, within)
                for m, n in zip(means, counts.tolist(), strict=True)
            ]
        )
        old = between, within
        between, within = mu[position].T.cov(), (x - mu[position]).T.cov()
        if float((between - old[0]).norm() + (within - old[1]).norm()) <= _SETTLED:
            break
    return between, within


def likelihood_ratio(
    x: Tensor, between: Tensor, within: Tensor, *, generator: torch.Generator
) -> float:
    """Twice the log-likelihood ratio of two groups against one, per point.

    Args:
        x: (n, D) features of one class, less the mean of all classes' features.
        between: (D, D) S_mu; ``within`` S_eps, see :func:`variation`.
        generator: of the first split.
    """
    if len(x) < 2:
        return 0.0
    precision = torch.linalg.inv(_regular(within))
    first = two_groups(x, precision, generator=generator)
    if bool(first.all()) or not bool(first.any()):
        return 0.0
    one = _shrunk(x.mean(0), len(x), between, within)
    two = torch.where(first[:, None], x[first].mean(0), x[~first].mean(0))
    return float(_distance(x - one, precision) - _distance(x - two, precision)) / len(x)


def two_groups(x: Tensor, precision: Tensor, *, generator: torch.Generator) -> Tensor:
    """(n,) bool: the split of (n, D) points by the discriminant between two means, iterated from a random split."""
    first = torch.rand(len(x), generator=generator) >= 0.5
    for _ in range(_ROUNDS):
        if bool(first.all()) or not bool(first.any()):
            break
        a, b = x[first].mean(0), x[~first].mean(0)
        moved = 2 * x @ precision @ (a - b) > a @ precision @ a - b @ precision @ b
        if bool((moved == first).all()) or bool((moved == ~first).all()):
            break
        first = moved
    return first


def _shrunk(mean: Tensor, count: int, between: Tensor, within: Tensor) -> Tensor:
    """The expected class mean, given the mean of ``count`` of its points: n S_mu (n S_mu + S_eps)^-1 mean."""
    scaled = count * between
    shrunk: Tensor = scaled @ torch.linalg.solve(_regular(scaled + within), mean)
    return shrunk


def _distance(x: Tensor, precision: Tensor) -> Tensor:
    return ((x @ precision) * x).sum()


def _regular(matrix: Tensor) -> Tensor:
    """With a ridge of a millionth of the mean variance, so that a dead feature does not make it singular."""
    scale = matrix.diagonal().mean().clamp_min(1e-12)
    return matrix + _RIDGE * scale * torch.eye(len(matrix), dtype=matrix.dtype)
