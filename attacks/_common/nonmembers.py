"""Non-members that are like the members: held-out records of the training data's composition, and equal samples.

A test split often differs from training on purpose (biased colours in training, balanced ones in
test; a long tail against equal classes). Networks and sets treat classes and groups differently. Where
one side of a comparison holds more of a class than the other, every attack "finds" that class and calls it
membership. So held-out records are drawn to match where compositions differ (:func:`held_out`), and an
attack on a file compares samples of exactly equal composition (:func:`matched_samples`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
import torch
from scipy import stats as scipy_stats
from torch import Tensor

from ddaudit.attacks._common.records import join
from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.data.noise import TRUE_TRAIN
from ddaudit.errors import NotEnoughData
from ddaudit.findings import Caveat, Check
from ddaudit.sets import DistilledSet
from ddaudit.stats import auc

TOLERANCE = 0.505
"""Largest AUC that classes and groups alone may reach; samples of equal composition read 0.5 exactly."""
_LARGEST_RATIO = 6
"""Members for each non-member, or the other way round: more of one side adds little."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Validation and test records, matched to training.

    Attributes:
        records: the held-out records.
        matched: True when the composition differed and records were left out to match it.
        available: how many there were before.
        noisy: True where labels of training are wrong as those of validation are: test records, whose labels are
            right, are left out.
        foreign: True where validation records may be members, and are left out.
    """

    records: ImageData
    matched: bool
    available: int
    noisy: bool = False
    foreign: bool = False

    def caveats(self) -> list[str]:
        """What a report must say about them."""
        said: list[str] = []
        if self.noisy:
            said.append(
                "Labels of training and validation are wrong by the same rule, those of test are right: non-members "
                "are validation records alone."
            )
        if self.foreign:
            said.append(
                "Nothing says that the set was made from exactly these training records. Sets of others are made from "
                "all that is published, of which our validation records are a part: non-members are test records alone."
            )
        if not self.matched:
            return said
        return [
            *said,
            Caveat(
                "Validation and test differ from training in class or group composition; "
                f"{len(self.records)} of {self.available} held-out records were drawn to match it. "
                "Other differences would look like membership.",
                "sample",
                4,
            ),
        ]


def made_of_ours(made: DistilledSet | None, ctx: Context) -> bool:
    """Whether a set's card says that it was made from exactly these training records, so that no validation record is
    among its members; None is a checkpoint without its set."""
    return made is not None and made.card.source_fingerprint == ctx.data.train.fingerprint


def pool_caveats(train: ImageData, pool: ImageData) -> list[str]:
    """What to say of a recipe that is attacked on records which are composed otherwise than training is."""
    what = "classes" if pool.groups is None else "classes and groups"
    if not composition_differs(*cells(train, pool)):
        return []
    return [
        f"The recipe runs on {len(pool)} of {len(train)} training records with {what} as even as they come, not as "
        "uneven as in training: what unevenness does to the privacy of rare records is not measured."
    ]


def held_out(ctx: Context, *, labels: bool = True, ours: bool = True) -> HeldOut:
    """Validation and test records with the class and group composition of the training data.

    Args:
        labels: whether labels of records are asked for. Where training's are known to be noisy, only validation's are
            as noisy, and a network would know training from test by them.
        ours: whether what is attacked was made from our training records; else validation records may be among its
            members, and test records are all there is.
    """
    validation = ctx.data.validation
    noisy = labels and TRUE_TRAIN in ctx.data.extra and len(validation) > 0
    foreign = not ours and not noisy and len(validation) > 0
    both = validation if noisy else ctx.data.test if foreign else join(validation, ctx.data.test)
    train, held = cells(ctx.data.train, both)
    if len(both) == 0 or not composition_differs(train, held):
        return HeldOut(both, False, len(both), noisy=noisy, foreign=foreign)
    index = matching_sample(train, held, generator=ctx.generator("membership", "matched"))
    return HeldOut(both.subset(index), True, len(both), noisy=noisy, foreign=foreign)


def composition_differs(train: Tensor, held: Tensor, *, level: float = 1e-3) -> bool:
    """Chi-square test of equal cell frequencies; cells with fewer than 5 expected records are
    merged.

    Args:
        train: (T,) int64 cell of each training record.
        held: (H,) int64 cell of each held-out record.
        level: chance of calling equal compositions different.
    """
    count = int(max(train.max(), held.max())) + 1
    table = np.stack([torch.bincount(part, minlength=count).numpy() for part in (train, held)])
    total = table.sum(0)
    small = total * min(len(train), len(held)) / (len(train) + len(held)) < 5
    merged = np.concatenate([table[:, ~small], table[:, small].sum(1, keepdims=True)], axis=1)
    merged = merged[:, merged.sum(0) > 0]
    if merged.shape[1] < 2:
        return False
    return bool(scipy_stats.chi2_contingency(merged).pvalue < level)


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
    kinds = int(max(train.max(), held.max())) + 1
    share = torch.bincount(train, minlength=kinds).double() / len(train)
    available = torch.bincount(held, minlength=kinds)
    binding = (share >= 0.005) & (available > 0)
    size = float((available[binding] / share[binding]).min()) if bool(binding.any()) else 0.0
    wanted = share * size
    # a fraction of a record is drawn: cells below one record keep their share on average
    extra = torch.rand(kinds, generator=generator, dtype=torch.float64) < wanted.frac()
    count = torch.minimum(wanted.floor().long() + extra.long(), available)
    picks = []
    for cell in count.nonzero().squeeze(1).tolist():
        own = (held == cell).nonzero().squeeze(1)
        picks.append(own[torch.randperm(len(own), generator=generator)[: int(count[cell])]])
    return torch.sort(torch.cat(picks)).values if picks else torch.zeros(0, dtype=torch.int64)


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
