"""Members and non-members of equal composition: what a class or a group alone tells must be nothing.

Networks and sets treat classes and groups differently. Where one side of a comparison holds more of
a class than the other, every attack "finds" that class and calls it membership.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.errors import NotEnoughData
from ddaudit.findings import Check
from ddaudit.stats import auc

TOLERANCE = 0.505
"""Largest AUC that classes and groups alone may reach; samples of equal composition read 0.5 exactly."""
_LARGEST_RATIO = 6
"""Members for each non-member, or the other way round: more of one side adds little."""


@dataclass(frozen=True, eq=False)
class Matched:
    """Positions of two samples that hold every cell in the same proportion.

    Attributes:
        inside, outside: (M,) and (N,) int64 positions, sorted.
        untested: share of the first side that lies in cells of which no pair could be drawn.
    """

    inside: Tensor
    outside: Tensor
    untested: float


def cells(first: ImageData, second: ImageData) -> tuple[Tensor, Tensor]:
    """(class, group) numbers of both; the class alone where one lacks groups."""
    if first.groups is None or second.groups is None or min(len(first), len(second)) == 0:
        return first.labels, second.labels
    width = int(max(first.groups.max(), second.groups.max())) + 1
    return first.labels * width + first.groups, second.labels * width + second.groups


def matched_samples(
    inside: Tensor,
    outside: Tensor,
    *,
    most_inside: int,
    most_outside: int,
    generator: torch.Generator,
) -> Matched:
    """Random samples of two sides with exactly the same composition.

    Both are made of units of ``a`` records of one side and ``b`` of the other, all of one cell. Units
    are drawn at random, so that cells keep their natural frequencies as far as both sides have them.
    The ratio a : b is the one at which an AUC has the least variance, ``1 / (1 / M + 1 / N)`` largest.

    Args:
        inside: (T,) int64 cell of each record of one side; ``outside`` (H,) int64 of the other.
        most_inside, most_outside: at most so many records of each.
        generator: of the draw.

    Raises:
        NotEnoughData: no cell is held by both sides.
    """
    count = 1 + max((int(part.max()) for part in (inside, outside) if len(part)), default=0)
    have, other = (torch.bincount(part, minlength=count) for part in (inside, outside))
    ratios = range(1, _LARGEST_RATIO + 1)
    best, a, b, units = 0.0, 1, 1, torch.zeros_like(have)
    for p in ratios:
        for q in ratios:
            if gcd(p, q) > 1:
                continue
            possible = torch.minimum(have // p, other // q)
            drawn = min(int(possible.sum()), most_inside // p, most_outside // q)
            if drawn * p * q / (p + q) > best:
                best, a, b, units = drawn * p * q / (p + q), p, q, possible
    if best == 0:
        raise NotEnoughData("no class (or class and group) is held by training and held-out data")
    of_unit = torch.repeat_interleave(torch.arange(count), units)
    order = torch.randperm(len(of_unit), generator=generator)
    drawn = min(len(order), most_inside // a, most_outside // b)
    wanted = torch.bincount(of_unit[order[:drawn]], minlength=count)
    return Matched(
        inside=_draw(inside, a * wanted, generator),
        outside=_draw(outside, b * wanted, generator),
        untested=float((units == 0)[inside].double().mean()),
    )


def cell_auc(records: ImageData, members: Tensor) -> float:
    """AUC of the best score that knows nothing but class and group, in [0.5, 1].

    Args:
        records: N records; ``members`` (N,) bool.
    """
    cell = cells(records, records)[0]
    count = int(cell.max()) + 1
    inside = torch.bincount(cell[members], minlength=count).double() / members.sum()
    outside = torch.bincount(cell[~members], minlength=count).double() / (~members).sum()
    return auc((inside / (inside + outside).clamp(min=1e-12))[cell], members).value


def composition_check(records: ImageData, members: Tensor, *, subject: str) -> Check:
    """Class and group alone must not tell members from non-members; else no reading means anything.

    Args:
        records: N records under attack; ``members`` (N,) bool.
        subject: id of the audited subject.
    """
    value = cell_auc(records, members)
    what = "class" if records.groups is None else "class and group"
    return Check(
        name=f"membership cannot be guessed from {what} alone",
        passed=value <= TOLERANCE,
        value=value,
        expected=f"AUC of the best such guess <= {TOLERANCE}",
        detail=f"{int(members.sum())} members and {int((~members).sum())} non-members",
        affects=["membership."],
        subject=subject,
    )


def _draw(cell: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """Sorted positions of ``wanted[c]`` random records of each cell c."""
    order = torch.randperm(len(cell), generator=generator)
    order = order[torch.argsort(cell[order], stable=True)]
    sizes = torch.bincount(cell, minlength=len(wanted))
    start = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    rank = torch.arange(len(order)) - start
    return torch.sort(order[rank < wanted[cell[order]]]).values
