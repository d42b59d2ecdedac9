"""Nearest-copy attack: is a record nearer to the released set than to as many non-members?

It needs no training and finds copies. Distances are Euclidean between flattened rows, pixels or features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddaudit.attacks._common.features import neighbours


def calibrated_closeness(
    queries: Tensor,
    sets: list[Tensor],
    reference: Tensor,
    *,
    draws: int = 8,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """``log d(x, R) - log d(x, S)``: how much closer each released set is than as many non-members.

    Records in dense regions are near to everything; the reference takes that out. ``reference`` is
    subsampled to the size of the set several times, because a nearest distance shrinks with the number of
    candidates. Sets of one size share their subsamples.

    Args:
        queries: (N, ...) records under attack.
        sets: K released sets S, (M_k, ...) each.
        reference: (R, ...) non-members of the same distribution, disjoint from ``queries``.
        draws: subsamples to average over (one suffices when R <= M).
        generator: CPU generator of the subsamples.

    Returns:
        (K, N) float64 scores, and (K, N) float64 distances d(x, S).

    Source: Chen et al., "GAN-Leaks", CCS 2020, section 4.4 (calibration, as a difference of distances; a ratio here,
    which ranks near copies first); subsampling as in nearest-copy tests.
    """
    shared: dict[int, Tensor] = {}
    scores, distances = [], []
    for rows in sets:
        size = min(len(rows), len(reference))
        if size not in shared:
            shared[size] = _reference_log_distance(
                queries, reference, size=size, draws=draws, generator=generator
            )
        distance = neighbours(queries, rows).distance
        distances.append(distance)
        scores.append(shared[size] - _log(distance))
    return torch.stack(scores), torch.stack(distances)


def _reference_log_distance(
    queries: Tensor, reference: Tensor, *, size: int, draws: int, generator: torch.Generator
) -> Tensor:
    """Mean over subsamples of the log-distance to the nearest of ``size`` reference rows.

    Args:
        queries: (N, ...).
        reference: (R, ...).
        size: rows per subsample, at most R.
        draws: subsamples (one suffices at ``size`` = R).
        generator: CPU generator of the subsamples.

    Returns:
        (N,) float64. It depends on the released set only through ``size``: shadows can share it.
    """
    repeats = draws if size < len(reference) else 1
    total = torch.zeros(len(queries), dtype=torch.float64)
    for _ in range(repeats):
        pick = torch.randperm(len(reference), generator=generator)[:size]
        total += _log(neighbours(queries, reference[pick]).distance)
    return total / repeats


def _log(distance: Tensor) -> Tensor:
    return distance.clamp(min=1e-12).log()
