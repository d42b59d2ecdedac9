"""Objectives that compare the records of a row themselves instead of their mean: kernels (M3D) and quantiles (LQM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ddaudit.distillation.parts import PrivateDefaults
from ddaudit.models import Network


@dataclass(frozen=True)
class Samples:
    """The aggregate of a row are the embeddings of its records with their weights; a subclass says how far two are.

    Aggregates are (K, R, n, 1 + D): each record's weight in its row, which add up to 1, and its embedding; rows of
    fewer than n records are filled up with weight 0. No sum of single records' signals replaces them, so that no
    noise hides a record in them and private readers refuse these objectives.
    """

    shareable: bool = True
    squared: ClassVar[bool] = False
    coupling: ClassVar[str] = (
        "compares sets of records with each other, which is no sum of what each record says alone: no noise is "
        "calibrated for it (ncfm+dp matches distributions by such sums)"
    )

    def couples_records(self) -> bool:
        """Always: see above."""
        return True

    def private_defaults(self) -> PrivateDefaults | None:
        """None: not to be read under noise."""
        return None

    def signals(self, net: Network, x: Tensor, y: Tensor) -> Tensor:
        """(B, D) embeddings."""
        with torch.no_grad():
            features: Tensor = net.body.features(x)
        return features

    def real(self, net: Network, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, n, 1 + D) weights and embeddings of each row's records."""
        return pack(self.signals(net, x, y).expand(len(rows), -1, -1), rows)

    def synthetic(
        self, net: Network, x: Tensor, y: Tensor, rows: Tensor, clip: float | None
    ) -> Tensor:
        """(K, S, m, 1 + D) weights and embeddings of each row's images. Never clipped: nothing private is read."""
        z: Tensor = net.body.features(x.flatten(0, 1))
        return pack(z.view(*x.shape[:2], -1), rows.expand(len(x), -1, -1))


@dataclass(frozen=True)
class KernelDiscrepancy(Samples):
    """The squared maximum mean discrepancy of two weighted sets: E k(s, s') + E k(t, t') - 2 E k(s, t).

    Attributes:
        kernel: "gaussian", the sum of ``kernels`` Gaussians ``exp(-d^2 / b)`` whose bandwidths b double from one to
            the next, the middle one at ``bandwidth``; "linear" (the squared distance of the means, as in DM) or
            "polynomial" ``(s . t + 1)^2``, which matches second moments as well.
        kernels: how many Gaussians.
        bandwidth: of the middle one; None: the mean squared distance between different elements of both sets
            together, a constant in the gradient.
        scale: of the discrepancy; fits the step size.

    With a fixed bandwidth the Gaussian one has a linear form: the mean of cosines and sines at random frequencies
    (Rahimi & Recht, NeurIPS 2007), which :class:`ddaudit.distillation.characteristic.CharacteristicFunction`
    compares, and which noise can hide a record in.

    Source: Zhang et al., "M3D: Dataset Condensation by Minimizing Maximum Mean Discrepancy", AAAI 2024, arXiv
    2312.15927, equation 6; Gretton et al., JMLR 2012, lemma 6. Five bandwidths around the mean distance as in public
    copies of the authors' loss.
    """

    kernel: Literal["gaussian", "linear", "polynomial"] = "gaussian"
    kernels: int = 5
    bandwidth: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kernel not in ("gaussian", "linear", "polynomial"):
            raise ValueError(
                f"objective.kernel is 'gaussian', 'linear' or 'polynomial', not '{self.kernel}'"
            )
        if self.kernels < 1 or not self.scale > 0:
            raise ValueError("objective.kernels must be at least 1 and objective.scale positive")
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise ValueError(f"objective.bandwidth must be positive, got {self.bandwidth:g}")

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) discrepancies; at least 0 but for rounding."""
        s, t = synthetic[..., 1:], target[..., 1:]
        p, q = synthetic[..., 0], target[..., 0]
        width = self.bandwidth or _mean_distance(
            torch.cat([s.detach(), t], -2), torch.cat([p, q], -1) != 0
        )
        with torch.no_grad():  # most of the pairs, and none of them moves an image
            within = _expected(self._values(t, t, width), q, q)
        total = _expected(self._values(s, s, width), p, p) + within
        return self.scale * (total - 2 * _expected(self._values(s, t, width), p, q))

    def _values(self, a: Tensor, b: Tensor, width: Tensor | float) -> Tensor:
        """(..., n, m) kernel values of elements (..., n, D) and (..., m, D); ``width`` is the middle bandwidth."""
        inner = a @ b.mT
        if self.kernel == "linear":
            return inner
        if self.kernel == "polynomial":
            return (inner + 1).square()
        norms = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
        widest = 2.0 ** (self.kernels - 1 - self.kernels // 2) * width
        # Half the bandwidth is the square of the value.
        value = torch.exp(-(norms - 2 * inner).clamp_min(0) / widest)
        total = value
        for _ in range(self.kernels - 1):
            value = value.square()
            total = total + value
        return total


@dataclass(frozen=True)
class Quantiles(Samples):
    """Quantiles of every coordinate of the embedding: the mean squared difference over levels, summed over coordinates.

    The levels are (i - 1/2) / k for i = 1 .. k. Where both sets have k equally weighted elements, the distance is
    the squared 2-Wasserstein distance of every coordinate's distributions, added up.

    Attributes:
        levels: k; None: as many as there are synthetic images in the row.

    Source: Wei, De Schepper & Mets, "Dataset Condensation with Latent Quantile Matching", CVPR 2024 workshops, arXiv
    2406.09860, section 3, which takes these levels from the Cramer-von Mises test; a mean over the levels stands for
    the sum, so that one step size fits any number of them.
    """

    levels: int | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 1:
            raise ValueError(f"objective.levels must be at least 1, got {self.levels}")

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) sums over coordinates of mean squared differences between quantiles."""
        k = self.levels or synthetic.shape[-2]
        levels = (torch.arange(k, device=target.device, dtype=target.dtype) + 0.5) / k
        gap = quantiles(synthetic, levels) - quantiles(target, levels)
        return gap.square().mean(-1).sum(-1)


def pack(z: Tensor, rows: Tensor) -> Tensor:
    """(K, R, n, 1 + D) weights and embeddings of each row's elements, n the most that a row has.

    Args:
        z: (K, B, D) embeddings.
        rows: (K, R, B) weights, 0 of elements that are not in the row.
    """
    used = rows != 0
    n = max(1, int(used.sum(-1).max()))
    order = used.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :n]
    run = torch.arange(len(z), device=z.device)[:, None, None]
    return torch.cat([rows.gather(-1, order)[..., None], z[run, order]], -1)


def _expected(values: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """(...) mean of values (..., n, m) under weights p (..., n) and q (..., m)."""
    mean: Tensor = (p[..., None, :] @ values @ q[..., None]).flatten(-3)
    return mean


def _mean_distance(z: Tensor, present: Tensor) -> Tensor:
    """(..., 1, 1) mean squared distance between different ones of the elements z (..., n, D) that are ``present``."""
    used = present[..., None].to(z)
    count = used.sum(-2)
    # Twice the sum of squares around the mean, which is told from the sum over pairs by a factor of n.
    around = (z - (z * used).sum(-2, keepdim=True) / count[..., None].clamp_min(1)).square() * used
    mean: Tensor = 2 * around.sum((-2, -1)) / (count[..., 0] - 1).clamp_min(1)
    return mean.clamp_min(1e-12)[..., None, None]


def quantiles(sample: Tensor, levels: Tensor) -> Tensor:
    """(..., D, k) quantiles of every coordinate of packed samples (..., n, 1 + D) at levels (k,).

    Elements in order stand at the middle of the weight that they cover; quantiles between two are interpolated, and
    beyond the first and the last they are these (Hazen's rule, for equal weights). Differentiable in the embeddings.
    """
    z = sample[..., 1:].mT
    weights = sample[..., None, :, 0].expand_as(z)
    order = z.detach().masked_fill(weights == 0, torch.inf).argsort(-1)
    z, weights = z.gather(-1, order), weights.gather(-1, order)
    place = (weights.cumsum(-1) - weights / 2).detach()
    last = ((weights > 0).sum(-1, keepdim=True) - 1).clamp_min(0)
    wanted = levels.expand(*z.shape[:-1], -1).contiguous()
    right = torch.searchsorted(place.contiguous(), wanted)
    left = torch.minimum((right - 1).clamp_min(0), last)
    right = torch.minimum(right, last)
    low, high = place.gather(-1, left), place.gather(-1, right)
    share = ((wanted - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    below: Tensor = z.gather(-1, left)
    return below + share * (z.gather(-1, right) - below)
