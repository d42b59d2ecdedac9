"""Nearest neighbours in pixels or features: the attack that needs no training and finds copies.

Distances are Euclidean between flattened rows. Chunked, so that 60 000 x 500 images fit in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The two nearest rows of a bank.

    Attributes:
        distance: (N,) float64 to the nearest.
        index: (N,) int64 position of the nearest.
        second: (N,) float64 to the second nearest (infinite with a single candidate).
    """

    distance: Tensor
    index: Tensor
    second: Tensor


def neighbours(queries: Tensor, bank: Tensor, *, chunk: int = 512) -> Neighbours:
    """The two nearest rows of ``bank`` for each row of ``queries``.

    Args:
        queries: (N, ...) rows, flattened.
        bank: (M, ...) rows, flattened, M at least 1.
        chunk: queries per block.
    """
    b, q = bank.flatten(1), queries.flatten(1)
    centre = b.mean(0)  # the expanded square cancels badly far from the origin
    coarse = (b - centre).float()
    squares = (coarse * coarse).sum(1)
    best, index = [], []
    for start in range(0, len(q), chunk):
        x = q[start : start + chunk]
        # float32 finds the candidates; they are measured exactly, so that a copy has distance 0
        rough = squares - 2 * (x - centre).float() @ coarse.T
        where = rough.topk(min(4, len(b)), dim=1, largest=False).indices
        exact = torch.stack([_exact(x, b[column]) for column in where.unbind(1)], 1)
        exact, order = exact.sort(dim=1, stable=True)
        best.append(exact[:, :2])
        index.append(where.gather(1, order)[:, 0])
    d = torch.cat(best)
    second = d[:, 1] if d.shape[1] > 1 else torch.full_like(d[:, 0], torch.inf)
    return Neighbours(distance=d[:, 0], index=torch.cat(index), second=second)


def closeness(queries: Tensor, released: Tensor) -> Tensor:
    """Minus the distance to the nearest released row: (N,) float64. Also called DCR.

    Source: Chen et al., "GAN-Leaks", CCS 2020, section 4.2.
    """
    return -neighbours(queries, released).distance


def standout(queries: Tensor, released: Tensor) -> Tensor:
    """``log(second / first)`` distance: large where one released row fits better than any other.

    Returns:
        (N,) float64, at least 0.
    """
    found = neighbours(queries, released)
    return _log(found.second) - _log(found.distance)


def calibrated_closeness(
    queries: Tensor,
    released: Tensor,
    reference: Tensor,
    *,
    draws: int = 8,
    generator: torch.Generator,
) -> Tensor:
    """``log d(x, R) - log d(x, S)``: how much closer the released rows are than as many strangers.

    Records in dense regions are near to everything; the reference takes that out. ``reference`` is
    subsampled to the size of ``released`` several times, because a nearest distance shrinks with
    the number of candidates.

    Args:
        queries: (N, ...) records under attack.
        released: (M, ...) the set S.
        reference: (R, ...) non-members of the same distribution, disjoint from ``queries``.
        draws: subsamples to average over (one suffices when R <= M).
        generator: CPU generator of the subsamples.

    Returns:
        (N,) float64.

    Source: Chen et al., CCS 2020, section 4.4 (calibration); subsampling as in nearest-copy tests.
    """
    ours = _log(neighbours(queries, released).distance)
    size = min(len(released), len(reference))
    theirs = reference_log_distance(queries, reference, size=size, draws=draws, generator=generator)
    return theirs - ours


def reference_log_distance(
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


def _exact(a: Tensor, b: Tensor) -> Tensor:
    difference = a.double() - b.double()
    length: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return length


def _log(distance: Tensor) -> Tensor:
    return distance.clamp(min=1e-12).log()
