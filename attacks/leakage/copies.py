"""Nearest-copy test: is a released image closer to a training record than non-members ever are?

For each released image s: distance to the nearest training record, divided by the distance to the
nearest held-out record. Held-out records never influenced the set, so they show how close a
training record comes by chance; a copy has ratio 0, an image made from many records a ratio near 1.
Three spaces see different
disguises: raw pixels, contrast-normalised pixels (an image that was only brightened), and features
of a random network (small shifts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import stats as scipy_stats
from torch import Tensor

from ddaudit.attacks._common.features import neighbours
from ddaudit.errors import NotEnoughData

FEWEST = 20
"""Held-out records that the test needs."""
FALSE_ALARM = 0.01
"""Share of non-members that the near-copy rule flags."""


@dataclass(frozen=True, eq=False)
class CopyTest:
    """What the nearest-copy test found in one space.

    Attributes:
        to_train, to_holdout: (M,) float64 distance to the nearest record of each kind.
        train_index: (M,) int64 position of the nearest training record.
        ratio: (M,) float64 ``to_train / to_holdout``; infinite for a copy of a held-out record.
        near: (M,) bool near-copies: ratio below ``threshold``.
        threshold: the ratio that ``FALSE_ALARM`` of held-out images stay below.
        chance_ratio: (H,) float64 the same ratio for held-out images, each against the others.
        p_value: sign test, see :func:`sign_test`.
    """

    to_train: Tensor
    to_holdout: Tensor
    train_index: Tensor
    ratio: Tensor
    near: Tensor
    threshold: float
    chance_ratio: Tensor
    p_value: float


def copy_test(released: Tensor, train: Tensor, holdout: Tensor, by_chance: Tensor) -> CopyTest:
    """Run the test in the space that the rows are given in.

    Args:
        released: (M, ...) released images or their embeddings.
        train: (T, ...) training records.
        holdout: (H, ...) records of the same distribution that the set was not made from.
        by_chance: (H,) float64 from :func:`chance_ratios` on the same train and holdout.

    Raises:
        NotEnoughData: fewer than :data:`FEWEST` held-out records.
    """
    if len(holdout) < FEWEST:
        what = f"the nearest-copy test needs {FEWEST} held-out records, got {len(holdout)}"
        raise NotEnoughData(what)
    to_train, to_holdout = neighbours(released, train), neighbours(released, holdout)
    ratio = _ratio(to_train.distance, to_holdout.distance)
    threshold = float(torch.quantile(by_chance, FALSE_ALARM))
    return CopyTest(
        to_train=to_train.distance,
        to_holdout=to_holdout.distance,
        train_index=to_train.index,
        ratio=ratio,
        # an exact copy counts even where duplicates between the splits make the threshold 0
        near=(ratio < threshold) | (ratio == 0),
        threshold=threshold,
        chance_ratio=by_chance,
        p_value=sign_test(to_train.distance, to_train.index, to_holdout.distance, to_holdout.index,
                          train=len(train), holdout=len(holdout)),
    )  # fmt: skip


def chance_ratios(
    train: Tensor, holdout: Tensor, *, generator: torch.Generator, limit: int = 2000
) -> Tensor:
    """The ratio of non-members: each held-out record against train and the other held-out
    records.

    Larger training sets come closer to anything; these ratios contain that, so the rule needs no
    equal counts.

    Args:
        train: (T, ...); ``holdout`` (H, ...).
        generator: draws the non-members where there are more than ``limit``. The first ones would be
            no sample: image folders are read class by class.
        limit: held-out records to use.

    Returns:
        (min(H, limit),) float64.
    """
    queries = holdout
    if len(holdout) > limit:
        order = torch.randperm(len(holdout), generator=generator)[:limit]
        queries = holdout[torch.sort(order).values]
    itself = neighbours(
        queries, holdout
    )  # the nearest is the record itself, the second another one
    return _ratio(neighbours(queries, train).distance, itself.second)


def luck(hits: int, count: int, *, strangers: int) -> float:
    """Chance that the near-copy rule flags so many of ``count`` non-members whose like has set its threshold.

    The threshold lies at or below the (j + 1)-th smallest of the strangers' ratios; the share of others below that one
    has a Beta(j + 1, strangers - j) distribution, and their number a beta-binomial one.
    """
    j = math.floor(FALSE_ALARM * (strangers - 1)) + 1
    return float(scipy_stats.betabinom.sf(hits - 1, count, j + 1, strangers - j))


def sign_test(
    to_train: Tensor,
    train_index: Tensor,
    to_holdout: Tensor,
    holdout_index: Tensor,
    *,
    train: int,
    holdout: int,
) -> float:
    """Chance that so many nearest records are training records if the set had nothing to do with
    either side.

    If the set is independent of which of the T + H pooled records are training records, the
    distinct records that are nearest to some released image are a sample without replacement, and
    the number of training records among them is hypergeometric. Counting distinct records matters:
    released images share neighbours, and a binomial over images would call that evidence. Ties
    between the sides count against a finding.

    Args:
        to_train, to_holdout: (M,) nearest distances, with the positions they are at.
        train, holdout: T and H.

    Returns:
        One-sided p-value in [0, 1].
    """
    hit = to_train < to_holdout
    from_train = len(torch.unique(train_index[hit]))
    from_holdout = len(torch.unique(holdout_index[~hit]))
    drawn = from_train + from_holdout
    return float(scipy_stats.hypergeom.sf(from_train - 1, train + holdout, train, drawn))


def contrast_normalised(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, D): each channel centred, each image scaled to length 1.

    A distance d between two of these is ``sqrt(2 - 2 r)`` with r their correlation. An image
    optimised from a real one keeps its structure long after brightness and contrast have moved.
    """
    # Part by part: what lies between costs less than the memory for it would.
    return torch.cat([_unit(part.float()) for part in images.split(1024)])


def _unit(images: Tensor) -> Tensor:
    flat = (images - images.mean((2, 3), keepdim=True)).flatten(1)
    unit: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Zero over zero is infinite: a record in both splits says nothing about copying."""
    return torch.where(denominator > 0, numerator / denominator, torch.inf)
