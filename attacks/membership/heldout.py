"""Held-out records that look like the training data: the non-members of every comparison.

A test split often differs from training on purpose (biased colours in training, balanced ones in
test; a long tail against equal classes). Records of such a split differ from members in more than
membership, and any attack would "find" them. So where class and group composition differ, held-out
records are drawn to match it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ddaudit.attacks.membership.audit.canaries import concatenate
from ddaudit.auditing import Context
from ddaudit.data import ImageData


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Validation and test records, matched to training.

    Attributes:
        records: the held-out records.
        matched: True when the composition differed and records were left out to match it.
        available: how many there were before.
    """

    records: ImageData
    matched: bool
    available: int

    def caveats(self) -> list[str]:
        """What a report must say about them."""
        if not self.matched:
            return []
        return [
            "Validation and test differ from training in class or group composition; "
            f"{len(self.records)} of {self.available} held-out records were drawn to match it. "
            "Other differences would look like membership."
        ]


def held_out(ctx: Context) -> HeldOut:
    """Validation and test records with the class and group composition of the training data."""
    both = join(ctx.data.validation, ctx.data.test)
    train, held = _cells(ctx.data.train, both)
    if len(both) == 0 or not composition_differs(train, held):
        return HeldOut(both, matched=False, available=len(both))
    index = matching_sample(train, held, generator=ctx.generator("membership", "matched"))
    return HeldOut(both.subset(index), matched=True, available=len(both))


def composition_differs(train: Tensor, held: Tensor, *, level: float = 1e-3) -> bool:
    """Chi-square test of equal cell frequencies; cells with fewer than 5 expected records are
    merged.

    Args:
        train: (T,) int64 cell of each training record.
        held: (H,) int64 cell of each held-out record.
        level: chance of calling equal compositions different.
    """
    cells = int(max(train.max(), held.max())) + 1
    table = np.stack([torch.bincount(part, minlength=cells).numpy() for part in (train, held)])
    total = table.sum(0)
    small = total * min(len(train), len(held)) / (len(train) + len(held)) < 5
    merged = np.concatenate([table[:, ~small], table[:, small].sum(1, keepdims=True)], axis=1)
    merged = merged[:, merged.sum(0) > 0]
    if merged.shape[1] < 2:
        return False
    return bool(stats.chi2_contingency(merged).pvalue < level)


def matching_sample(train: Tensor, held: Tensor, *, generator: torch.Generator) -> Tensor:
    """Positions in ``held`` of a sample with the cell frequencies of ``train``.

    As large as the scarcest cell that holds at least half a percent of the training data allows;
    cells that the held-out records lack are skipped.

    Args:
        train: (T,) int64 cells; ``held`` (H,) int64 cells.
        generator: of the draw.

    Returns:
        (n,) int64 positions, sorted.
    """
    cells = int(max(train.max(), held.max())) + 1
    share = torch.bincount(train, minlength=cells).double() / len(train)
    available = torch.bincount(held, minlength=cells)
    binding = (share >= 0.005) & (available > 0)
    size = float((available[binding] / share[binding]).min()) if bool(binding.any()) else 0.0
    wanted = share * size
    # a fraction of a record is drawn: cells below one record keep their share on average
    extra = torch.rand(cells, generator=generator, dtype=torch.float64) < wanted.frac()
    count = torch.minimum(wanted.floor().long() + extra.long(), available)
    picks = []
    for cell in count.nonzero().squeeze(1).tolist():
        own = (held == cell).nonzero().squeeze(1)
        picks.append(own[torch.randperm(len(own), generator=generator)[: int(count[cell])]])
    return torch.sort(torch.cat(picks)).values if picks else torch.zeros(0, dtype=torch.int64)


def join(first: ImageData, second: ImageData) -> ImageData:
    """The records of both; groups only if both have them."""
    parts = (first, second)
    if any(part.groups is None for part in parts):
        parts = (replace(first, groups=None), replace(second, groups=None))
    return concatenate(parts)


def _cells(train: ImageData, held: ImageData) -> tuple[Tensor, Tensor]:
    """(class, group) numbers of both; the class alone where one lacks groups."""
    if train.groups is None or held.groups is None or len(held) == 0:
        return train.labels, held.labels
    width = int(max(train.groups.max(), held.groups.max())) + 1
    return train.labels * width + train.groups, held.labels * width + held.groups
