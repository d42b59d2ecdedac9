"""One verdict from many targets: AUC and low-FPR rates when every shadow was the target once.

The K x N scores of a leave-one-out evaluation are not K independent experiments. All targets are
attacked on the same N records, and (less obviously) target k attacked with reference j and target j
attacked with reference k are the same pair of runs: for an attack without signal the AUCs of two
targets correlate by 1 / (K - 1), and an interval over targets alone covers 83 % instead of 95 %. So
records are resampled jointly for all targets, and the spread between targets beyond that (some runs
leak more than others) is added.
"""

from __future__ import annotations

import math

import torch
from scipy import special
from torch import Tensor

from ddaudit.errors import NotEnoughData
from ddaudit.stats import Interval, Roc, clopper_pearson, roc_curve, tpr_at_fpr


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
    n_boot: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """True-positive rate at a fixed false-positive rate, one threshold for all (target, record)
    pairs.

    The interval is the wider, on either side, of Clopper-Pearson's at the chosen threshold (pairs
    as if independent) and of a bootstrap over records (which moves the threshold too).

    Args:
        scores, members, keep: see :func:`mean_auc`.
        fpr: in (0, 1); needs at least 1 / fpr non-member pairs.
        n_boot, seed: of the bootstrap.
        confidence: of both intervals.

    Returns:
        The rate in [0, 1]; ``n`` counts member pairs.

    Raises:
        NotEnoughData: too few non-member pairs, or no members.
    """
    flat_scores, flat_members, record = _flatten(scores, members, keep)
    exact = tpr_at_fpr(flat_scores, flat_members, fpr, confidence=confidence)
    rates = _resampled_rates(
        flat_scores, flat_members, record, fpr, records=scores.shape[1], n_boot=n_boot, seed=seed
    )
    tail = (1 - confidence) / 2
    low, high = (float(rates.quantile(q)) for q in (tail, 1 - tail))
    return Interval(exact.value, min(exact.low, low), max(exact.high, high), exact.n)


def pooled_roc(scores: Tensor, members: Tensor, *, keep: Tensor | None = None) -> Roc:
    """The ROC curve over all (target, record) pairs.

    Raises:
        NotEnoughData: no members or no non-members.
    """
    flat_scores, flat_members, _ = _flatten(scores, members, keep)
    return roc_curve(flat_scores, flat_members)


def break_ties(scores: Tensor, *, generator: torch.Generator) -> Tensor:
    """Order tied scores at random, and change no other order.

    A score with few distinct values (a share of 400 strangers, a count of correct labels) otherwise
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


def _flatten(scores: Tensor, members: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    record = torch.arange(scores.shape[1]).expand_as(members)
    used = torch.ones_like(members) if keep is None else keep
    return scores[used], members[used], record[used]


def _resampled_rates(
    scores: Tensor,
    members: Tensor,
    record: Tensor,
    fpr: float,
    *,
    records: int,
    n_boot: int,
    seed: int,
) -> Tensor:
    """(B,) rates at ``fpr`` in bootstrap resamples of records, the threshold chosen anew in each.

    Only the head of the list can lie above a threshold: pairs beyond four times the rate (and 50
    more) are not looked at.
    """
    # within ties non-members come first, so that ties never help
    order = torch.argsort(members.long(), stable=True)
    order = order[torch.argsort(scores[order], descending=True, stable=True)]
    outside = (~members[order]).cumsum(0)
    head = order[outside <= 4 * fpr * int(outside[-1]) + 50]
    weights = _resample_weights(records, n_boot, torch.Generator().manual_seed(seed))[1:]
    ones = torch.ones(len(record), dtype=weights.dtype)
    per_record = torch.zeros(2, records, dtype=weights.dtype)
    per_record[0].index_add_(0, record[~members], ones[~members])
    per_record[1].index_add_(0, record[members], ones[members])
    total = per_record @ weights.T  # (2, B) non-members and members in each resample
    inside = members[head].to(weights.dtype)
    rates = []
    for w, negatives, positives in zip(weights, *total, strict=True):
        w = w[record[head]]
        allowed = (w * (1 - inside)).cumsum(0) <= fpr * negatives + 1e-9
        rates.append((w * inside * allowed).sum() / positives.clamp(min=1))
    return torch.stack(rates)


def _half_width(per_target: Tensor, replicates: Tensor, *, references: bool) -> float:
    """Half of a 95 % interval from (K,) areas and their (K, B) replicates over records.

    Resampling adds record noise a second time, so ``2 var(observed) - mean var(replicates)``
    estimates the variance between targets without record noise. In a statistic of pairs of runs,
    each run moves the average by twice what it moves its own target (Hoeffding projection): factor
    4 on the variance.
    """
    count = len(per_target)
    records = float(replicates.mean(0).var())
    runs = 0.0
    if count > 1:
        between = max(0.0, 2 * float(per_target.var()) - float(replicates.var(0).mean()))
        runs = (4.0 if references else 1.0) * between / count
    total = records + runs
    if runs == 0.0:
        return 1.96 * math.sqrt(total)
    # Satterthwaite; the records' share counts as large-sample
    freedom = (total / runs) ** 2 * (count - 1)
    return float(special.stdtrit(freedom, 0.975)) * math.sqrt(total)


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
