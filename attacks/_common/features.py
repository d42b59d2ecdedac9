"""Records and released images as rows of numbers: embeddings, nearest neighbours, exact copies.

Distances are Euclidean between flattened rows. Chunked, so that 60 000 x 500 images fit in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_EXACT = 1.0 / 255.0
"""Root-mean-square pixel difference of an exact copy: one grey level."""
_BLOCK, _CANDIDATES = 2048, 4
"""Rows of a bank at a time; those that are measured exactly."""


def exact_copies(distance: Tensor, *, pixels: int) -> Tensor:
    """(M,) bool: what lies at these pixel distances differs by at most one grey level a pixel.

    Args:
        distance: (M,) distances in pixel space.
        pixels: values per image.
    """
    exact: Tensor = distance <= _EXACT * pixels**0.5
    return exact


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
    best, index = [], []
    for x in q.split(chunk):
        where = _candidates(x, b, centre)
        exact = torch.stack([_exact(x, b[column]) for column in where.unbind(1)], 1)
        exact, order = exact.sort(dim=1, stable=True)
        best.append(exact[:, :2])
        index.append(where.gather(1, order)[:, 0])
    d = torch.cat(best)
    second = d[:, 1] if d.shape[1] > 1 else torch.full_like(d[:, 0], torch.inf)
    return Neighbours(distance=d[:, 0], index=torch.cat(index), second=second)


def _candidates(x: Tensor, bank: Tensor, centre: Tensor) -> Tensor:
    """(N, 4 or M) int64 rows of the bank that are nearest in float32; they are measured exactly afterwards, so that a
    copy has distance 0."""
    centred = (x - centre).float()
    # Block by block: a centred copy of a large bank costs more than the products.
    values, indices = [], []
    for start in range(0, len(bank), _BLOCK):
        block = (bank[start : start + _BLOCK] - centre).float()
        rough = (block * block).sum(1) - 2 * centred @ block.T
        found = rough.topk(min(_CANDIDATES, len(block)), dim=1, largest=False)
        values.append(found.values)
        indices.append(found.indices + start)
    best = torch.cat(values, 1).topk(min(_CANDIDATES, len(bank)), dim=1, largest=False).indices
    return torch.cat(indices, 1).gather(1, best)


def _exact(a: Tensor, b: Tensor) -> Tensor:
    difference = a.double() - b.double()
    length: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return length
