"""The tangent kernel and the Gaussian process kernel of infinitely wide fully connected ReLU networks, in closed form.

Source: Jacot, Gabriel & Hongler, "Neural Tangent Kernel", NeurIPS 2018; arc-cosine kernels: Cho & Saul, NeurIPS
2009; the network Flatten, Dense, ReLU, Dense with W_std = sqrt(2), b_std = 0.1 is that of KIP and DP-KIP.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dense_ntk(
    inner: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    depth: int = 1,
    w_std: float = 2**0.5,
    b_std: float = 0.1,
) -> Tensor:
    """NTK of a network of ``depth`` hidden ReLU layers, in NTK parameterisation, elementwise.

    Args:
        inner: (...) inner products x . x' / d of flattened inputs of size d.
        left: (...) squared norms x . x / d, of the same shape (or broadcastable).
        right: (...) squared norms x' . x' / d.
        depth: hidden layers, at least 1.
        w_std, b_std: standard deviations of weights and biases, positive.

    Returns:
        The kernel. Differentiable everywhere, also for identical inputs: there the angle between the inputs has
        a kink whose two sides cancel on the diagonal, and the derivative is taken as 0.
    """
    return _kernels(inner, left, right, depth=depth, w=w_std**2, b=b_std**2)[1]


def dense_nngp(
    inner: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    depth: int = 1,
    w_std: float = 2**0.5,
    b_std: float = 0.1,
) -> Tensor:
    """Covariance of the outputs of such networks at random weights (NNGP); arguments as for :func:`dense_ntk`."""
    return _kernels(inner, left, right, depth=depth, w=w_std**2, b=b_std**2)[0]


def _kernels(
    inner: Tensor, left: Tensor, right: Tensor, *, depth: int, w: float, b: float
) -> tuple[Tensor, Tensor]:
    """Covariances of the last pre-activations, and their tangent kernel."""
    # Covariances of the pre-activations of the first layer, which are also its tangent kernel.
    cov, var, var_ = (w * v + b for v in (inner, left, right))
    tangent = cov
    for _ in range(depth):
        scale = (var * var_).sqrt()
        kappa0, kappa1 = _arc_cosine(cov / scale)
        cov = w / 2 * scale * kappa1 + b
        tangent = cov + w / 2 * kappa0 * tangent
        var, var_ = w / 2 * var + b, w / 2 * var_ + b
    return cov, tangent


def _arc_cosine(u: Tensor) -> tuple[Tensor, Tensor]:
    """Arc-cosine kernels of degree 0 and 1, each 1 at u = 1 and 0 at u = -1, of cosines u.

    Within rounding of u = 1 the angle is taken as zero: it is the square root of what rounding leaves of 1 - u,
    so that an error of 1e-7 would become one of 1e-4, and its derivative would be infinite. At u = -1 likewise.
    """
    tol = 8 * torch.finfo(u.dtype).eps
    same, opposite = u > 1 - tol, u < tol - 1
    inside = torch.where(same | opposite, 0.0, u)
    angle = math.pi - torch.arccos(inside)
    kappa0 = angle / math.pi
    kappa1 = (inside * angle + (1 - inside.square()).sqrt()) / math.pi
    # To first order around u = 1: kappa1 = u, kappa0 = 1.
    kappa0 = torch.where(same, 1.0, torch.where(opposite, 0.0, kappa0))
    kappa1 = torch.where(same, u, torch.where(opposite, 0.0, kappa1))
    return kappa0, kappa1
