"""Density-ratio attack (DOMIAS): where are released images denser than the population?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Whitener:
    """Principal axes of a reference sample, scaled to unit variance.

    Attributes:
        mean: (D,) float64.
        axes: (D, d) float64; ``(x - mean) @ axes`` has identity covariance on the reference.
    """

    mean: Tensor
    axes: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """(N, ...) -> (N, d) float64."""
        return (rows.flatten(1).double() - self.mean) @ self.axes


def whiten(reference: Tensor, *, dims: int = 10) -> Whitener:
    """Fit a whitener with at most ``dims`` axes on non-members; axes without variance are left out.

    Raises:
        ValueError: fewer than 3 reference rows.
    """
    rows = reference.flatten(1).double()
    if len(rows) < 3:
        raise ValueError(f"needs at least 3 reference rows, got {len(rows)}")
    mean = rows.mean(0)
    _, scale, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    std = scale / math.sqrt(len(rows) - 1)
    keep = int((std[:dims] > 1e-9 * std[0].clamp(min=1e-300)).sum())
    return Whitener(mean=mean, axes=(axes[:keep] / std[:keep, None]).T.contiguous())


def log_density(queries: Tensor, sample: Tensor, *, chunk: int = 4096) -> Tensor:
    """Gaussian kernel density estimate, isotropic, Scott's bandwidth ``n^(-1 / (d + 4))``.

    In whitened coordinates this is the usual estimate with the reference's covariance.

    Args:
        queries: (N, d).
        sample: (n, d) the points that carry a kernel.
        chunk: queries per block.

    Returns:
        (N,) float64 log-density, in nats.

    Source: Scott, "Multivariate Density Estimation", 1992; scipy.stats.gaussian_kde with unit
    covariance.
    """
    x, points = queries.double(), sample.double()
    n, d = points.shape
    width = n ** (-1.0 / (d + 4))
    constant = math.log(n) + d * math.log(width) + 0.5 * d * math.log(2 * math.pi)
    blocks = [
        (-0.5 * torch.cdist(x[start : start + chunk], points).pow(2) / width**2).logsumexp(1)
        for start in range(0, len(x), chunk)
    ]
    return torch.cat(blocks) - constant


def domias(queries: Tensor, released: Tensor, reference: Tensor, *, dims: int = 10) -> Tensor:
    """``log p_S(x) - log p_R(x)``, densities on principal components fitted on non-members.

    Args:
        queries: (N, ...) records under attack (pixels or embeddings).
        released: (M, ...) the set S, in the same space.
        reference: (R, ...) non-members of the same distribution, disjoint from ``queries``.
        dims: principal components; density estimates need few.

    Returns:
        (N,) float64.

    Source: van Breugel et al., "Membership Inference Attacks against Synthetic Data through
    Overfitting Detection", AISTATS 2023, equation 2.
    """
    coordinates = whiten(reference, dims=dims)
    x = coordinates(queries)
    return log_density(x, coordinates(released)) - log_density(x, coordinates(reference))
