"""One verdict from many targets: AUC and low-FPR rates when every shadow was the target once.

The K x N scores of a leave-one-out evaluation are not K independent experiments. All targets are
attacked on the same N records, and (less obviously) target k attacked with reference j and target j
attacked with reference k are the same pair of runs: for an attack without signal the AUCs of two
targets correlate by 1 / (K - 1), and an interval over targets alone covers 83 % instead of 95 %. So
records are resampled jointly for all targets, and the spread between targets beyond that (some runs
leak more than others) is added, to areas and to rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from ddaudit.errors import NotEnoughData
from ddaudit.stats import Interval, Roc, clopper_pearson, roc_curve
from ddaudit.stats.roc import tpr_at_threshold


def mean_auc(
    scores: Tensor,
    members: Tensor,
    *,
    keep: Tensor | None = None,
    references: bool = True,
    n_boot: int = 300,
    seed: int = 0,
) -> Interval:
    """AUC of each target, averaged over targets.

    Args:
        scores: (K, N) score of record n against target k, higher means "more likely a member".
        members: (K, N) bool.
        keep: (K, N) bool, the pairs to use (a group of records); all without it.
        references: True when the other targets served as references of the attack: each run then
            enters the average twice, which doubles the standard error that runs contribute.
        n_boot: resamples of records.
        seed: of the resamples.

    Returns:
        The average in [0, 1] and a 95 % interval over records and targets; ``n`` counts records.
        Targets whose kept pairs lack a side are left out.

    Raises:
        NotEnoughData: no target has both members and non-members among its kept pairs.
    """
    used = torch.ones_like(members) if keep is None else keep
    rows = [
        k
        for k in range(len(scores))
        if (members[k] & used[k]).any() and (~members[k] & used[k]).any()
    ]
    if not rows:
        raise NotEnoughData("no target has both members and non-members in this group")
    records = scores.shape[1]
    weights = _resample_weights(records, n_boot, torch.Generator().manual_seed(seed))
    areas = torch.stack([_areas(scores[k], members[k], used[k], weights) for k in rows])
    per_target, replicates = areas[:, 0], areas[:, 1:]
    replicates = replicates[:, torch.isfinite(replicates).all(0)]
    if replicates.shape[1] < n_boot / 2:
        raise NotEnoughData("most resamples of this group lack members or non-members")
    value = float(per_target.mean())
    half = _half_width(per_target, replicates, references=references)
    if value in (0.0, 1.0):
        # No resample can differ: as many all-or-nothing trials as the smaller side has records.
        sides = [(side & used)[rows].any(0).sum() for side in (members, ~members)]
        trials = int(min(sides))
        return clopper_pearson(trials if value == 1.0 else 0, trials)
    return Interval(value, value - half, value + half, records).clamp()


def pooled_tpr(
    scores: Tensor,
    members: Tensor,
    fpr: float,
    *,
    keep: Tensor | None = None,
    references: bool = True,
    n_boot: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """True-positive rate at a fixed false-positive rate, one threshold for all (target, record)
    pairs.

    The variance is that of a bootstrap over records (which moves the threshold too) and the spread
    between targets, as in :func:`mean_auc`. It says how many independent pairs the rate is worth, at
    most as many as there are; the interval is Clopper-Pearson's of that many, with Student's
    quantiles for the few targets. So its tails are those of a beta distribution, and any confidence
    can be asked for, whatever ``n_boot``.

    Args:
        scores, members, keep, references: see :func:`mean_auc`.
        fpr: in (0, 1); needs at least 1 / fpr non-member pairs.
        n_boot, seed: of the bootstrap.
        confidence: of the interval.

    Returns:
        The rate in [0, 1]; ``n`` counts member pairs.

    Raises:
        NotEnoughData: too few non-member pairs, or no members.

    Source: Korn and Graubard, "Confidence intervals for proportions with small expected number of
        positive counts estimated from survey data", Survey Methodology 24 (1998).
    """
    flat_scores, flat_members, record, target = _flatten(scores, members, keep)
    exact = tpr_at_threshold(flat_scores, flat_members, fpr, confidence=confidence)
    if exact.value in (0.0, 1.0):
        # No resample can differ: as many all-or-nothing trials as there are distinct records.
        trials = len(torch.unique(record[flat_members]))
        ends = clopper_pearson(trials if exact.value == 1.0 else 0, trials, confidence)
        return Interval(exact.value, ends.low, ends.high, exact.n)
    rates, per_target = _resampled_rates(
        flat_scores, flat_members, record, target, fpr, shape=scores.shape, n_boot=n_boot, seed=seed
    )
    variance = _Variance.of(rates[1:], per_target[:, 0], per_target[:, 1:], references=references)
    low, high = _proportion(exact.value, exact.n, variance, confidence)
    return Interval(exact.value, min(exact.low, low), max(exact.high, high), exact.n)


def pooled_roc(scores: Tensor, members: Tensor, *, keep: Tensor | None = None) -> Roc:
    """The ROC curve over all (target, record) pairs.

    Raises:
        NotEnoughData: no members or no non-members.
    """
    flat_scores, flat_members, _, _ = _flatten(scores, members, keep)
    return roc_curve(flat_scores, flat_members)


def break_ties(scores: Tensor, *, generator: torch.Generator) -> Tensor:
    """Order tied scores at random, and change no other order.

    A score with few distinct values (a share of 400 non-members, a count of correct labels) otherwise
    has no threshold at low false-positive rates, and reads 0 there.

    Returns:
        Ranks in the shape of ``scores``, float64, all distinct.
    """
    flat = scores.flatten()
    shuffle = torch.randperm(len(flat), generator=generator)
    order = shuffle[torch.argsort(flat[shuffle], stable=True)]
    ranks = torch.empty(len(flat), dtype=torch.float64)
    ranks[order] = torch.arange(len(flat), dtype=torch.float64)
    return ranks.view_as(scores)


def _flatten(
    scores: Tensor, members: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, memberships, record and target of every pair that is used."""
    record = torch.arange(scores.shape[1]).expand_as(members)
    target = torch.arange(scores.shape[0])[:, None].expand_as(members)
    used = torch.ones_like(members) if keep is None else keep
    return scores[used], members[used], record[used], target[used]


def _resampled_rates(
    scores: Tensor,
    members: Tensor,
    record: Tensor,
    target: Tensor,
    fpr: float,
    *,
    shape: torch.Size,
    n_boot: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Rates at ``fpr``, observed and in bootstrap resamples of records, the threshold chosen anew.

    Only the head of the list can lie above a threshold: pairs beyond four times the rate (and 50
    more) are not looked at.

    Returns:
        (1 + B,) pooled rates, and (T, 1 + B) what each target contributes: its own rate at the common
        threshold, less what its own surplus of false alarms bought it (the slope of the pooled ROC
        times that surplus), because that surplus moved the threshold. Targets without members or
        without non-members are left out.
    """
    # within ties non-members come first, so that ties never help
    order = torch.argsort(members.long(), stable=True)
    order = order[torch.argsort(scores[order], descending=True, stable=True)]
    outside = (~members[order]).cumsum(0)
    allowed = fpr * int(outside[-1])
    head = order[outside <= 4 * allowed + 50]
    weights = _resample_weights(shape[1], n_boot, torch.Generator().manual_seed(seed))
    inside = members[head].to(weights.dtype)
    at, by = record[head], target[head]
    # members that are caught as false alarms go from half of the rate to twice the rate
    caught = inside.cumsum(0)
    ends = [
        float(caught[outside[: len(head)] <= share * allowed + 1e-9][-1:].sum())
        for share in (0.5, 2.0)
    ]
    slope = (ends[1] - ends[0]) / int(members.sum()) / (1.5 * fpr)
    # (2, T, N) non-member and member pairs of each target and record, then totals per resample
    pairs = torch.zeros(2, *shape, dtype=weights.dtype)
    pairs.index_put_((members.long(), target, record), torch.ones((), dtype=weights.dtype))
    negatives, positives = pairs @ weights.T  # each (T, 1 + B)
    rates, parts = [], []
    for b, row in enumerate(weights):
        w = row[at]
        alarms = w * (1 - inside)
        above = alarms.cumsum(0) <= fpr * negatives[:, b].sum() + 1e-9
        hits = torch.zeros(shape[0], dtype=w.dtype).index_add_(0, by, w * inside * above)
        false = torch.zeros(shape[0], dtype=w.dtype).index_add_(0, by, alarms * above)
        rates.append(hits.sum() / positives[:, b].sum().clamp(min=1))
        surplus = false / negatives[:, b].clamp(min=1) - fpr
        parts.append(hits / positives[:, b].clamp(min=1) - slope * surplus)
    both = (negatives > 0).all(1) & (positives > 0).all(1)
    return torch.stack(rates), torch.stack(parts, 1)[both]


@dataclass(frozen=True)
class _Variance:
    """Of an average over targets: what the choice of records adds, and what the choice of runs adds."""

    records: float
    runs: float
    count: int

    @classmethod
    def of(
        cls, pooled: Tensor, per_target: Tensor, replicates: Tensor, *, references: bool
    ) -> _Variance:
        """From (B,) resampled averages, (T,) observed targets and their (T, B) resamples.

        Resampling adds record noise a second time, so ``2 var(observed) - mean var(replicates)``
        estimates the variance between targets without record noise. In a statistic of pairs of
        runs, each run moves the average by twice what it moves its own target (Hoeffding
        projection): factor 4 on the variance.
        """
        count, runs = len(per_target), 0.0
        if count > 1:
            between = max(0.0, 2 * float(per_target.var()) - float(replicates.var(0).mean()))
            runs = (4.0 if references else 1.0) * between / count
        return cls(float(pooled.var()), runs, count)

    @property
    def total(self) -> float:
        return self.records + self.runs

    @property
    def freedom(self) -> float:
        """Satterthwaite's; the records' share counts as large-sample."""
        return (self.total / self.runs) ** 2 * (self.count - 1) if self.runs > 0 else math.inf


def _half_width(per_target: Tensor, replicates: Tensor, *, references: bool) -> float:
    """Half of a 95 % interval from (K,) areas and their (K, B) replicates over records."""
    variance = _Variance.of(replicates.mean(0), per_target, replicates, references=references)
    return _student(variance.freedom, 0.975) * math.sqrt(variance.total)


def _proportion(
    value: float, pairs: int, variance: _Variance, confidence: float
) -> tuple[float, float]:
    """Clopper-Pearson ends of a rate in (0, 1) that is worth fewer trials than it has pairs."""
    tail = (1 - confidence) / 2
    worth = float(pairs)
    if variance.total > 0:
        ratio = _student(pairs - 1, 1 - tail) / _student(variance.freedom, 1 - tail)
        worth = min(worth, value * (1 - value) / variance.total * ratio**2)
    hits = value * worth
    low = float(special.betaincinv(hits, worth - hits + 1, tail))
    return low, float(special.betaincinv(hits + 1, worth - hits, 1 - tail))


def _student(freedom: float, q: float) -> float:
    return float(special.stdtrit(freedom, q) if math.isfinite(freedom) else special.ndtri(q))


def _resample_weights(n: int, n_boot: int, generator: torch.Generator) -> Tensor:
    """(1 + n_boot, n) how often each record counts: once in row 0, then in bootstrap resamples."""
    index = torch.randint(n, (n_boot, n), generator=generator)
    counts = torch.zeros(n_boot, n, dtype=torch.float64)
    counts.scatter_add_(1, index, torch.ones(n_boot, n, dtype=torch.float64))
    return torch.cat([torch.ones(1, n, dtype=torch.float64), counts])


def _areas(scores: Tensor, members: Tensor, used: Tensor, weights: Tensor) -> Tensor:
    """(B,) AUC under each row of record weights (B, N); NaN where a side is empty."""
    kept = used.nonzero().squeeze(1)
    order = kept[torch.argsort(scores[kept])]
    _, tie = torch.unique_consecutive(scores[order], return_inverse=True)
    w, member = weights[:, order], members[order].to(weights.dtype)
    empty = torch.zeros(len(w), int(tie[-1]) + 1, dtype=w.dtype)
    outside = empty.index_add(1, tie, w * (1 - member))
    inside = empty.index_add(1, tie, w * member)
    below = outside.cumsum(1) - outside / 2
    return (inside * below).sum(1) / (inside.sum(1) * outside.sum(1))
