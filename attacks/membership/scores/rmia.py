"""Robust membership inference (RMIA): does the victim favour a record more than non-members?

Works with one to four references. All ratios are taken in log space; a probability is never clipped
to 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def online_reference(log_p: Tensor, members: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """``log p(x)``: mean of the in-average and the out-average of reference probabilities.

    Where references lie on one side only, the average of the other side is the known one moved by
    ``shift``. Non-members z are such records: no reference saw them. Records and non-members must go
    through this one function with one shift, else ``p(x)`` and ``p(z)`` are on different scales and
    non-members of the victim dominate the whole population (or none of it).

    Args:
        log_p: (R, N) log-probability of the true label under R references.
        members: (R, N) bool, True where the reference was trained with the record. (See
            ``lira.fit`` on why memberships must be independent of the victim's.)
        shift: from :func:`in_out_shift` of the records.

    Returns:
        (N,) float64.

    Source: Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML
    2024, section 3 (the mean over both sides); the shift is ours.
    """
    inside, n_in = _log_mean(log_p, members)
    outside, n_out = _log_mean(log_p, ~members)
    moved_in, moved_out = _moved(outside, shift), _moved(inside, -shift)
    inside = torch.where(n_in > 0, inside, moved_in)
    outside = torch.where(n_out > 0, outside, moved_out)
    return torch.logaddexp(inside, outside) - math.log(2.0)


def in_out_shift(log_p: Tensor, members: Tensor) -> Tensor:
    """By how much the log-odds of the true label rise when a reference has seen the record.

    The median over the records that some references saw and others did not; 0 without any.

    Args:
        log_p: (R, N); ``members`` (R, N) bool, as for :func:`online_reference`.

    Returns:
        () float64.
    """
    inside, n_in = _log_mean(log_p, members)
    outside, n_out = _log_mean(log_p, ~members)
    rise = (_log_odds(inside) - _log_odds(outside))[(n_in > 0) & (n_out > 0)]
    rise = rise[torch.isfinite(rise)]
    return rise.median() if len(rise) else torch.zeros((), dtype=torch.float64)


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
    """How many non-members z have ``[p(x|victim) / p(x)] / [p(z|victim) / p(z)] >= gamma``.

    The population makes scores of *different* victims comparable; within one victim the order is that
    of ``p(x|victim) / p(x)``. The published score is the share of dominated non-members, whose ties
    sit exactly where they hurt: a low false-positive rate is decided among the records that dominate
    all of the population. They are broken by the ratio itself, against the last non-member that the
    record dominates (the first one, where it dominates none).

    Args:
        log_p: (N,) log-probability of the true label under the victim.
        reference: (N,) ``log p(x)``.
        population_log_p: (Z,) the same for non-members: records that neither victim nor references
            saw.
        population_reference: (Z,) ``log p(z)``, of the same form as ``reference``.
        gamma: how much more the record must be favoured, at least 1 to be strict.

    Returns:
        (N,) float64 in [0, 1]: ``(dominated + f) / (Z + 1)`` with f in [0, 1) rising with the ratio.
        A probability of 0 under the victim is a ratio of 0, whatever the references say.

    Raises:
        ValueError: an empty population, or NaN.

    Source: Zarifzadeh et al., ICML 2024, equation 3.
    """
    ours = _log_ratio(log_p, reference)
    theirs = torch.sort(_log_ratio(population_log_p, population_reference)).values
    if len(theirs) == 0:
        raise ValueError("RMIA compares with a population of non-members, and there is none")
    if bool(torch.isnan(ours).any() or torch.isnan(theirs).any()):
        raise ValueError("probabilities of RMIA are NaN")
    theirs = theirs + math.log(gamma)
    dominated = torch.searchsorted(theirs, ours, right=True)
    beyond = ours - theirs[(dominated - 1).clamp(min=0)]
    part = torch.where(dominated > 0, beyond / (1 + beyond), 1 / (1 - beyond))
    return (dominated + part.nan_to_num(nan=0.0)) / (len(theirs) + 1)


def _log_ratio(log_p: Tensor, reference: Tensor) -> Tensor:
    """``log p(x|victim) - log p(x)``; minus infinity where the victim's probability is 0."""
    ours = log_p.double()
    return torch.where(ours == -torch.inf, ours, ours - reference.double())


def _log_odds(log_p: Tensor) -> Tensor:
    """``log p / (1 - p)``; a probability that rounds to 1 counts as 1 - 1e-16."""
    known = log_p.clamp(max=-1e-16)
    return known - torch.log(-torch.expm1(known))


def _moved(log_p: Tensor, shift: Tensor | float) -> Tensor:
    """Log-probabilities after their log-odds have risen by ``shift``."""
    return torch.nn.functional.logsigmoid(_log_odds(log_p) + shift)


def _offline(outside: Tensor, a: float) -> Tensor:
    half = torch.full_like(outside, (1.0 - a) / 2.0).log()
    return torch.logaddexp(outside + math.log((1.0 + a) / 2.0), half)


def _log_mean(log_p: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) log mean probability of the chosen references (-inf without any), and their number."""
    count = chosen.sum(0)
    total = log_p.double().masked_fill(~chosen, -torch.inf).logsumexp(0)
    return total - count.clamp(min=1).double().log(), count
