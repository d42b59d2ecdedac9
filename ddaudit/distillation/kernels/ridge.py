"""Kernel ridge regression from a small support set: the solution, its losses, and how each record pulls on it.

The regulariser is relative, ``reg * tr(K_ss) / M``, so multiplying the kernel by a constant changes nothing.

Source: Nguyen, Chen & Lee, "Dataset Meta-Learning from Kernel Ridge-Regression" (KIP), ICLR 2021,
arXiv 2011.00050, section 2; loss scaling as in DP-KIP, TMLR 2024, arXiv 2301.13389.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def centred_targets(labels: Tensor, num_classes: int) -> Tensor:
    """(N, num_classes) regression targets: one-hot (or soft) labels minus 1 / num_classes.

    Args:
        labels: (N,) int64 hard or (..., N, num_classes) float soft labels.
        num_classes: how many classes there are.
    """
    soft = labels if labels.is_floating_point() else F.one_hot(labels, num_classes).float()
    return soft - 1 / num_classes


def solve(kernel_ss: Tensor, y: Tensor, reg: float) -> Tensor:
    """(..., M, c) coefficients A = (K_ss + reg tr(K_ss) / M I)^-1 y, in the precision of ``kernel_ss``.

    Args:
        kernel_ss: (..., M, M) symmetric kernel of the support set.
        y: (M, c) or (..., M, c) targets of the support set.
        reg: relative ridge, at least 0.
    """
    coefficients: Tensor = torch.linalg.solve(regularised(kernel_ss, reg), y.to(kernel_ss.dtype))
    return coefficients


def regularised(kernel_ss: Tensor, reg: float) -> Tensor:
    """(..., M, M) K_ss + reg tr(K_ss) / M I."""
    m = kernel_ss.shape[-1]
    scale = reg * kernel_ss.diagonal(dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(m, dtype=kernel_ss.dtype, device=kernel_ss.device)
    return kernel_ss + scale[..., None, None] * eye


def predict(kernel_ts: Tensor, coefficients: Tensor) -> Tensor:
    """(..., B, c) predictions k_i A from (..., B, M) kernels to the support set."""
    return kernel_ts @ coefficients


def record_losses(
    kernel_ts: Tensor, coefficients: Tensor, y: Tensor, log_scale: Tensor | None = None
) -> Tensor:
    """(..., B) losses of records with targets y (B, c): 0.5 mean_c (k_i A - y_i)^2.

    With ``log_scale`` (...), the Platt loss: cross-entropy of exp(log_scale) k_i A with the labels y + 1 / c.

    Source of the Platt loss: Loo et al. (RFAD), NeurIPS 2022, arXiv 2210.12067, section 3.2.
    """
    guess, y = predict(kernel_ts, coefficients), y.to(kernel_ts.dtype)
    if log_scale is None:
        return 0.5 * (guess - y).square().mean(-1)
    logits = guess * log_scale.exp()[..., None, None]
    return -((y + 1 / y.shape[-1]) * logits.log_softmax(-1)).sum(-1)


@dataclass(frozen=True, eq=False)
class Pull:
    """First derivatives of every record's loss in the kernel values.

    ``d l_i = sum_m a_im d k(x_i, s_m) - sum_mn a_im b_in d Kr_mn``, where Kr is the regularised kernel of the
    support set: a record acts on the support set through two vectors alone.

    Attributes:
        a, b: (B, M).
        reg: the relative ridge inside Kr.
    """

    a: Tensor
    b: Tensor
    reg: float

    def to(self, dtype: torch.dtype) -> Pull:
        """The same in precision ``dtype``."""
        return Pull(self.a.to(dtype), self.b.to(dtype), self.reg)


def record_pulls(
    kernel_ts: Tensor,
    kernel_ss: Tensor,
    y_support: Tensor,
    y: Tensor,
    *,
    reg: float,
    log_scale: Tensor | None = None,
) -> Pull:
    """How each record's loss depends on the kernel values, in closed form.

    Args:
        kernel_ts: (B, M) kernels between records and support.
        kernel_ss: (M, M) kernel of the support set.
        y_support: (M, c) targets of the support set.
        y: (B, c) targets of the records.
        reg: relative ridge.
        log_scale: of the Platt loss, a scalar; None: squared error.

    With r_i the derivative of a record's loss in its prediction k_i A, such as (k_i A - y_i) / c: a_i = A r_i and
    b_i = Kr^-1 k_i, by the derivative of an inverse.
    """
    system = regularised(kernel_ss, reg)
    c = y_support.shape[1]
    right = torch.cat([y_support.to(system.dtype), kernel_ts.mT], 1)
    solved = torch.linalg.solve(system, right)
    coefficients, b = solved[:, :c], solved[:, c:].mT
    guess, y = kernel_ts @ coefficients, y.to(system.dtype)
    if log_scale is None:
        residual = (guess - y) / c
    else:
        sharp = log_scale.exp()
        residual = sharp * ((sharp * guess).softmax(-1) - (y + 1 / c))
    return Pull(residual @ coefficients.mT, b, reg)
