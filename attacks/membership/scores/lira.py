"""Likelihood-ratio attack (LiRA): compare a victim's logit margin with those of reference networks.

Two slips of the widely copied public code are not copied: its "fixed variance" is the standard
deviation of the whole (references x records) array, which mixes the spread between records into the
noise, and its out-spread is computed from the in-array. Here the pooled spread is ``sqrt(mean_j
var_j)`` of residuals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class InOut:
    """Gaussians of the logit margin with and without the record in training.

    Attributes:
        mean_in, mean_out: (N,) float64.
        std_in, std_out: (N,) float64, positive; constant over records when pooled.
    """

    mean_in: Tensor
    std_in: Tensor
    mean_out: Tensor
    std_out: Tensor


def fit(
    references: Tensor,
    members: Tensor,
    *,
    centre: Literal["mean", "median"] = "mean",
    pooled: bool = True,
) -> InOut:
    """Estimate the in and out Gaussians of every record from reference networks.

    A record that no reference saw gets ``mean_out`` plus the average in-out shift of the other
    records (and likewise the other way round), so that few references lose no record.

    The membership of reference r must not depend on that of the victim under attack. In particular
    "every record in exactly half of K runs" followed by leave-one-out breaks this: a member of the
    victim then has one in-reference fewer than a non-member, and an attack without any signal reads
    an AUC below 0.5.

    Args:
        references: (R, N) logit margins of N records under R reference networks.
        members: (R, N) bool, True where the reference was trained with the record.
        centre: "median" resists outlying references (the public code's choice), "mean" has less
            noise.
        pooled: one spread for all records (right below about 64 references), else one for each
            record, which falls back on the pooled one where fewer than two references exist.

    Returns:
        The four (N,) parameters.

    Raises:
        ValueError: no reference saw any record, or none missed any.

    Source: Carlini et al., S&P 2022, section V and Algorithm 1.
    """
    phi = references.double()
    mean_in, var_in, n_in = _moments(phi, members, centre)
    mean_out, var_out, n_out = _moments(phi, ~members, centre)
    if not (n_in > 0).any() or not (n_out > 0).any():
        raise ValueError("references must hold records both inside and outside of training sets")
    both = (n_in > 0) & (n_out > 0)
    shift = (mean_in - mean_out)[both].mean() if both.any() else torch.zeros((), dtype=phi.dtype)
    filled_in = torch.where(n_in > 0, mean_in, mean_out + shift)
    filled_out = torch.where(n_out > 0, mean_out, mean_in - shift)
    std_in = _spread(var_in, n_in, var_out, n_out, pooled)
    std_out = _spread(var_out, n_out, var_in, n_in, pooled)
    return InOut(mean_in=filled_in, std_in=std_in, mean_out=filled_out, std_out=std_out)


def online(phi: Tensor, gaussians: InOut) -> Tensor:
    """``log N(phi; in) - log N(phi; out)`` of the victim's margins, (N,) float64.

    Args:
        phi: (N,) logit margins under the victim.
        gaussians: from :func:`fit`.

    Source: Carlini et al., S&P 2022, Algorithm 1.
    """
    x = phi.double()
    return _log_normal(x, gaussians.mean_in, gaussians.std_in) - _log_normal(
        x, gaussians.mean_out, gaussians.std_out
    )


def offline(phi: Tensor, gaussians: InOut) -> Tensor:
    """One-sided score from references without the record: the standardised margin.

    The published score is its Gaussian CDF, ``P[Z <= (phi - mean_out) / std_out]``; the margin
    itself ranks records in the same order without ties at 1. (The public code scores by minus the
    out-log-density, which is two-sided: a record that fits *worse* than expected then counts as a
    member.)

    Returns:
        (N,) float64.

    Source: Carlini et al., S&P 2022, section V-B ("offline attack").
    """
    return (phi.double() - gaussians.mean_out) / gaussians.std_out


def gaussian_auc(distance: float) -> float:
    """AUC of the likelihood ratio, N(0, 1) against N(distance, 1): ``Phi(distance / sqrt 2)``."""
    return 0.5 * (1.0 + math.erf(distance / 2.0))


def _moments(
    phi: Tensor, chosen: Tensor, centre: Literal["mean", "median"]
) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) centre, unbiased variance around the mean, count of each record's chosen references."""
    weight = chosen.to(phi.dtype)
    count = weight.sum(0)
    mean = (phi * weight).sum(0) / count.clamp(min=1)
    variance = (((phi - mean) ** 2) * weight).sum(0) / (count - 1).clamp(min=1)
    if centre == "median":
        mean = torch.nanquantile(phi.masked_fill(~chosen, torch.nan), 0.5, dim=0).nan_to_num(0.0)
    return mean, variance, count


def _spread(
    var: Tensor, count: Tensor, other_var: Tensor, other_count: Tensor, pooled: bool
) -> Tensor:
    """(N,) spread: weighted by degrees of freedom; the other side helps if this one has none."""
    degrees, other = (count - 1).clamp(min=0), (other_count - 1).clamp(min=0)
    if degrees.sum() > 0:
        shared = (var * degrees).sum() / degrees.sum()
    elif other.sum() > 0:
        shared = (other_var * other).sum() / other.sum()
    else:
        shared = torch.ones(
            (), dtype=var.dtype
        )  # one reference a side: no spread to see, so no scale
    shared = shared.clamp(min=1e-12)
    full = shared.expand_as(var) if pooled else torch.where(count > 1, var.clamp(min=1e-12), shared)
    return full.sqrt()


def _log_normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -0.5 * ((x - mean) / std) ** 2 - std.log()
