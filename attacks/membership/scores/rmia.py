"""Robust membership inference (RMIA): does the victim favour a record more than non-members?

Works with one to four references. All ratios are taken in log space; a probability is never clipped
to 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def online_reference(log_p: Tensor, members: Tensor, *, a: float = 0.3) -> Tensor:
    """``log p(x)``: mean of the in-average and the out-average of reference probabilities.

    A record that no reference saw falls back on :func:`offline_reference`; one that all saw uses
    its in-average.

    Args:
        log_p: (R, N) log-probability of the true label under R references.
        members: (R, N) bool, True where the reference was trained with the record. (See
            ``lira.fit`` on why memberships must be independent of the victim's.)
        a: offline constant in [0, 1] for records without in-references.

    Returns:
        (N,) float64.

    Source: Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML
    2024, section 3.
    """
    inside, n_in = _log_mean(log_p, members)
    outside, n_out = _log_mean(log_p, ~members)
    both = torch.logaddexp(inside, outside) - math.log(2.0)
    reference = torch.where(n_in > 0, both, _offline(outside, a))
    return torch.where(n_out > 0, reference, inside)


def offline_reference(log_p: Tensor, *, a: float = 0.3) -> Tensor:
    """``log p(x)`` from out-references alone: ``p(x) = ((1 + a) mean_out(x) + (1 - a)) / 2``.

    Args:
        log_p: (R, N) log-probability of the true label under references that never saw the records.
        a: how far in- and out-probabilities are assumed to lie apart, in [0, 1]; 1 trusts the
            out-average, 0 shrinks it halfway to 1.

    Returns:
        (N,) float64.

    Source: Zarifzadeh et al., ICML 2024, appendix B.2.2; 0.3 is their default.
    """
    outside, _ = _log_mean(log_p, torch.ones_like(log_p, dtype=torch.bool))
    return _offline(outside, a)


def score(
    log_p: Tensor,
    reference: Tensor,
    population_log_p: Tensor,
    population_reference: Tensor,
    *,
    gamma: float = 1.0,
) -> Tensor:
    """Share of non-members z with ``[p(x|victim) / p(x)] / [p(z|victim) / p(z)] >= gamma``.

    For a single victim and any gamma the order of records is that of ``p(x|victim) / p(x)``,
    coarsened to the population's size; the population is what makes scores of *different* victims
    comparable.

    Args:
        log_p: (N,) log-probability of the true label under the victim.
        reference: (N,) ``log p(x)``.
        population_log_p: (Z,) the same for non-members: records that neither victim nor references
            saw.
        population_reference: (Z,) ``log p(z)``.
        gamma: how much more the record must be favoured, at least 1 to be strict.

    Returns:
        (N,) float64 in [0, 1], multiples of 1/Z: ties matter at low false-positive rates, break
        them at random.

    Source: Zarifzadeh et al., ICML 2024, equation 3.
    """
    ours = log_p.double() - reference.double()
    theirs = torch.sort(population_log_p.double() - population_reference.double()).values
    dominated = torch.searchsorted(theirs, ours - math.log(gamma), right=True)
    return dominated.double() / len(theirs)


def _offline(outside: Tensor, a: float) -> Tensor:
    half = torch.full_like(outside, (1.0 - a) / 2.0).log()
    return torch.logaddexp(outside + math.log((1.0 + a) / 2.0), half)


def _log_mean(log_p: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) log mean probability of the chosen references (-inf without any), and their number."""
    count = chosen.sum(0)
    total = log_p.double().masked_fill(~chosen, -torch.inf).logsumexp(0)
    return total - count.clamp(min=1).double().log(), count
