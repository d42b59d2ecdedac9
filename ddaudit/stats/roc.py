"""ROC curves of a score that separates members from non-members (or any positives from negatives).

Ties never help an attacker: a record counts as called "member" only when its score is strictly
above the threshold, and the area counts a tied pair as one half.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from ddaudit.errors import NotEnoughData
from ddaudit.stats.intervals import (
    Interval,
    Values,
    as_float,
    clopper_pearson,
    normal,
    quantiles,
)


@dataclass(frozen=True, eq=False)
class Roc:
    """Corners of a ROC curve, from (0, 0) to (1, 1), both rates non-decreasing.

    Attributes:
        fpr, tpr: (P,) float64 rates in [0, 1].
        thresholds: (P,) float64; point p is the rule ``score > thresholds[p]``.
    """

    fpr: Tensor
    tpr: Tensor
    thresholds: Tensor

    def thinned(self, points: int = 200, *, smallest: float = 1e-5) -> Roc:
        """At most ``points`` corners for a plot: half evenly spaced in log FPR, half in FPR.

        Kept corners lie on the curve; between them a step plot loses less than one plotted pixel.
        """
        if len(self.fpr) <= points:
            return self
        half = points // 2
        low = max(smallest, float(self.fpr[self.fpr > 0].min()))
        wanted = torch.cat(
            [
                torch.logspace(math.log10(low), 0, half, dtype=torch.float64),
                torch.linspace(0, 1, points - half - 2, dtype=torch.float64),
            ]
        )
        at = torch.searchsorted(self.fpr, wanted, right=True) - 1
        ends = torch.tensor([0, len(self.fpr) - 1])
        keep = torch.unique(torch.cat([ends, at.clamp(min=0)]))
        return Roc(self.fpr[keep], self.tpr[keep], self.thresholds[keep])


def roc_curve(scores: Values, members: Values) -> Roc:
    """All corners of the ROC curve.

    Args:
        scores: (N,) higher means "more likely a member".
        members: (N,) bool, ground truth.

    Raises:
        NotEnoughData: no members or no non-members.
        ValueError: a score is NaN.
    """
    s, m = _validated(scores, members)
    order = torch.argsort(s, descending=True, stable=True)
    s, m = s[order], m[order]
    last = torch.ones(len(s), dtype=torch.bool)
    last[:-1] = s[1:] != s[:-1]  # tied scores are one corner
    tp, fp = m.cumsum(0)[last], (~m).cumsum(0)[last]
    zero = torch.zeros(1, dtype=torch.float64)
    cuts = s[last]
    below = torch.cat([cuts[1:], torch.tensor([-math.inf], dtype=torch.float64)])
    return Roc(
        fpr=torch.cat([zero, fp.double() / fp[-1]]),
        tpr=torch.cat([zero, tp.double() / tp[-1]]),
        thresholds=torch.cat([cuts[:1], below]),
    )


def auc(
    scores: Values,
    members: Values,
    *,
    groups: Values | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Area under the ROC curve: the chance that a member scores above a non-member, ties one half.

    Args:
        scores: (N,) higher means "more likely a member".
        members: (N,) bool, ground truth.
        groups: (N,) int; entries with one group number are not independent (one record scored
            against several targets, or all records of one target). With it the interval is a
            bootstrap over groups; without it DeLong's, on the logit scale so that it stays inside
            [0, 1].

    Returns:
        The area in [0, 1]; ``n`` counts records, or groups when given.

    Raises:
        NotEnoughData: no members, no non-members, or fewer than 2 groups.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).
    """
    s, m = _validated(scores, members)
    positives, negatives = s[m], s[~m]
    above = _placements(positives, negatives)  # P(member > random non-member), per member
    value = float(above.mean())
    if groups is not None:
        return _cluster_bootstrap(
            value, _auc_statistic(s, m), groups, n_boot=n_boot, seed=seed, confidence=confidence
        )
    if value in (0.0, 1.0) or min(len(positives), len(negatives)) < 2:
        # DeLong's variance is 0 here; as many all-or-nothing trials as the smaller side has
        # records.
        trials = min(len(positives), len(negatives))
        exact = clopper_pearson(trials if value >= 0.5 else 0, trials, confidence)
        return Interval(value, min(exact.low, value), max(exact.high, value), len(s))
    below = 1 - _placements(negatives, positives)
    se = math.sqrt(float(above.var()) / len(positives) + float(below.var()) / len(negatives))
    centre = math.log(value / (1 - value))
    half = normal(confidence) * se / (value * (1 - value))
    return Interval(value, _sigmoid(centre - half), _sigmoid(centre + half), len(s))


def tpr_at_fpr(
    scores: Values,
    members: Values,
    fpr: float,
    *,
    groups: Values | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """True-positive rate of a membership score at a fixed false-positive rate.

    The threshold is the smallest score at which at most ``fpr`` of the non-members are strictly
    above it (the largest reachable FPR that does not exceed the target); ties at the threshold
    count as not above.

    Args:
        scores: (N,) higher means "more likely a member".
        members: (N,) bool, ground truth.
        fpr: target false-positive rate in (0, 1); needs at least 1 / fpr non-members.
        groups: (N,) int, see :func:`auc`; the threshold is then chosen again in every resample.

    Returns:
        The rate in [0, 1] (``n`` members) with a conservative 95 % interval for the rate at this
        false-positive rate of the *population* of non-members: order statistics of the non-members
        bound the threshold that has it, Clopper-Pearson the rate there, each with half of the
        error. 0 and 1 where the non-members are too few to bound it. With ``groups`` a bootstrap
        over groups (``n`` groups).

    Raises:
        NotEnoughData: fewer than 1 / fpr non-members, so the rate is not resolved.

    Source: Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, section
        III; order statistics: David and Nagaraja, Order Statistics, 2003, section 7.1.
    """
    at = tpr_at_threshold(scores, members, fpr, confidence=confidence)
    s, m = _validated(scores, members)
    if groups is not None:
        return _cluster_bootstrap(
            at.value, _tpr_statistic(s, m, fpr), groups,
            n_boot=n_boot, seed=seed, confidence=confidence,
        )  # fmt: skip
    positives, negatives = s[m], torch.sort(s[~m], descending=True).values
    tail = (1 - confidence) / 4  # of the threshold, and again of the rate, on either side
    n = len(negatives)
    j = torch.arange(1, n + 1, dtype=torch.float64)
    # The share of the population above the j-th largest of n is Beta(j, n - j + 1).
    below = torch.as_tensor(special.betainc(j, n - j + 1, fpr))
    strict, loose = (below >= 1 - tail).nonzero(), (below <= tail).nonzero()
    low, high = 0.0, 1.0
    if len(strict):
        hits = int((positives > negatives[strict[-1, 0]]).sum())
        low = clopper_pearson(hits, len(positives), 1 - 2 * tail).low
    if len(loose):
        hits = int((positives >= negatives[loose[0, 0]]).sum())
        high = clopper_pearson(hits, len(positives), 1 - 2 * tail).high
    return Interval(at.value, min(low, at.value), max(high, at.value), at.n)


def tpr_at_threshold(
    scores: Values, members: Values, fpr: float, *, confidence: float = 0.95
) -> Interval:
    """As :func:`tpr_at_fpr`, for the threshold as it was chosen: Clopper-Pearson over the members.

    It leaves out that the threshold is an estimate and covers far less than its confidence where
    that matters: for callers who add the threshold's part themselves.
    """
    if not 0 < fpr < 1:
        raise ValueError(f"fpr must lie in (0, 1), got {fpr}")
    s, m = _validated(scores, members)
    positives, negatives = s[m], s[~m]
    allowed = math.floor(fpr * len(negatives) + 1e-9)
    if allowed < 1:
        raise NotEnoughData(
            f"TPR at {fpr:g} FPR needs at least {math.ceil(1 / fpr - 1e-9)} non-members, "
            f"there are {len(negatives)}"
        )
    threshold = torch.sort(negatives, descending=True).values[min(allowed, len(negatives) - 1)]
    return clopper_pearson(int((positives > threshold).sum()), len(positives), confidence)


def null_tpr(fpr: float, negatives: int) -> float:
    """What :func:`tpr_at_fpr` reads on average for a score that knows nothing.

    The threshold is the (allowed + 1)-th largest of n non-members, with ``allowed = floor(fpr n)``;
    one more score of the same distribution lies above it with chance ``(allowed + 1) / (n + 1)``. With
    few non-members that is well above ``fpr``: 0.0198 instead of 0.01 with 100.

    Args:
        fpr: in (0, 1).
        negatives: n, at least 1.
    """
    return (math.floor(fpr * negatives + 1e-9) + 1) / (negatives + 1)


def _validated(scores: Values, members: Values) -> tuple[Tensor, Tensor]:
    s = as_float(scores)
    m = torch.as_tensor(members).detach().cpu().bool()
    if s.ndim != 1 or s.shape != m.shape:
        raise ValueError(
            f"scores {tuple(s.shape)} and members {tuple(m.shape)} must be one (N,) each"
        )
    if bool(torch.isnan(s).any()):
        raise ValueError(f"{int(torch.isnan(s).sum())} scores are NaN")
    if not bool(m.any()) or bool(m.all()):
        raise NotEnoughData(
            f"a ROC curve of {int(m.sum())} members and {int((~m).sum())} non-members"
        )
    return s, m


def _placements(of: Tensor, among: Tensor) -> Tensor:
    """(len(of),) share of ``among`` that lies below each value, ties one half."""
    ordered = torch.sort(among).values
    left = torch.searchsorted(ordered, of)
    right = torch.searchsorted(ordered, of, right=True)
    return (left + right).double() / (2 * len(among))


_Weighted = Callable[[Tensor], Tensor]
"""Maps record weights (B, N) to the statistic of each row (B,); NaN where one side is missing."""


def _auc_statistic(s: Tensor, m: Tensor) -> _Weighted:
    order = torch.argsort(s)
    _, tie = torch.unique_consecutive(s[order], return_inverse=True)
    member = m[order].double()

    def area(weights: Tensor) -> Tensor:
        w = weights[:, order]
        per_tie = torch.zeros(len(w), int(tie[-1]) + 1, dtype=w.dtype)
        zeros = per_tie.index_add(1, tie, w * (1 - member))
        ones = per_tie.index_add(1, tie, w * member)
        below = zeros.cumsum(1) - zeros / 2
        return (ones * below).sum(1) / (ones.sum(1) * zeros.sum(1))

    return area


def _tpr_statistic(s: Tensor, m: Tensor, fpr: float) -> _Weighted:
    order = torch.argsort(s, descending=True)
    ordered, member = s[order], m[order].double()
    _, tie = torch.unique_consecutive(ordered, return_inverse=True)

    def rate(weights: Tensor) -> Tensor:
        w = weights[:, order]
        per_tie = torch.zeros(len(w), int(tie[-1]) + 1, dtype=w.dtype)
        fp = per_tie.index_add(1, tie, w * (1 - member)).cumsum(1)
        tp = per_tie.index_add(1, tie, w * member).cumsum(1)
        inside = fp <= fpr * fp[:, -1:] + 1e-9
        return (tp * inside).amax(1) / tp[:, -1]

    return rate


def _cluster_bootstrap(
    value: float, statistic: _Weighted, groups: Values, *, n_boot: int, seed: int, confidence: float
) -> Interval:
    _, member_of = torch.unique(torch.as_tensor(groups).cpu(), return_inverse=True)
    count = int(member_of.max()) + 1
    if count < 2:
        raise NotEnoughData("a bootstrap over groups needs at least 2 of them")
    g = torch.Generator().manual_seed(seed)
    step = max(1, 4_000_000 // len(member_of))
    replicates = []
    for start in range(0, n_boot, step):
        index = torch.randint(count, (min(step, n_boot - start), count), generator=g)
        weights = torch.zeros(len(index), count, dtype=torch.float64)
        weights.scatter_add_(1, index, torch.ones(index.shape, dtype=torch.float64))
        replicates.append(statistic(weights[:, member_of]))
    r = torch.cat(replicates)
    r = r[torch.isfinite(r)]  # a resample without members or without non-members says nothing
    if len(r) < n_boot / 2:
        raise NotEnoughData(f"most resamples of {count} groups lack members or non-members")
    low, high = quantiles(r, confidence)
    return Interval(value, min(low, value), max(high, value), count)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
