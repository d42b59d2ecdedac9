"""Pooling over targets: values by hand, coverage by simulation, and what naive pooling gets wrong."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from scipy.stats import norm

from ddaudit.attacks.membership.scores import lira
from ddaudit.errors import NotEnoughData
from ddaudit.stats import auc, clopper_pearson, mean_t, pooled, tpr_at_fpr


def leave_one_out(
    seed: int, *, runs: int = 6, records: int = 300, shift: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """LiRA scores (K, N) of simulated shadow runs with independent memberships."""
    g = torch.Generator().manual_seed(seed)
    members = torch.rand(runs, records, generator=g) < 0.5
    phi = 3 * torch.randn(records, generator=g, dtype=torch.float64)
    phi = phi + torch.randn(runs, records, generator=g, dtype=torch.float64) + shift * members
    scores = []
    for k in range(runs):
        rest = [j for j in range(runs) if j != k]
        scores.append(lira.online(phi[k], lira.fit(phi[rest], members[rest])))
    return torch.stack(scores), members


def test_value_is_the_mean_of_the_targets_areas() -> None:
    scores, members = leave_one_out(0, shift=1.0)
    expected = sum(auc(s, m).value for s, m in zip(scores, members, strict=True)) / 6
    got = pooled.mean_auc(scores, members, n_boot=50)
    assert got.value == pytest.approx(expected, abs=1e-12)
    assert got.n == 300
    assert got.low < expected < got.high


def test_ties_count_one_half_in_the_mean_area() -> None:
    scores = torch.tensor([[1.0, 1.0, 2.0, 0.0]])
    members = torch.tensor([[True, False, True, False]])
    assert pooled.mean_auc(scores, members, n_boot=50).value == pytest.approx(3.5 / 4)


def test_null_interval_covers_one_half_and_the_interval_over_targets_alone_does_not() -> None:
    """150 simulated audits without signal. At 95 % coverage fewer than 136 hits happen once in 150
    seeds; at the naive interval's 83 % more than 136 happen once in 400."""
    joint = naive = 0
    for seed in range(150):
        scores, members = leave_one_out(seed)
        joint += 0.5 in pooled.mean_auc(scores, members, n_boot=100, seed=seed)
        per_target = [auc(s, m).value for s, m in zip(scores, members, strict=True)]
        naive += 0.5 in mean_t(per_target)
    assert joint >= 136
    assert naive < 136


def test_coverage_of_a_real_signal() -> None:
    truth = sum(
        pooled.mean_auc(*leave_one_out(5000 + i, shift=1.0), n_boot=2).value for i in range(150)
    ) / 150  # fmt: skip
    hits = sum(
        truth in pooled.mean_auc(*leave_one_out(i, shift=1.0), n_boot=100) for i in range(80)
    )
    assert hits >= 71  # 95 % of 80 is 76; fewer than 71 once in 60


def test_unequal_runs_widen_the_interval_and_references_double_it() -> None:
    g = torch.Generator().manual_seed(3)
    members = torch.rand(8, 2000, generator=g) < 0.5
    noise = torch.randn(8, 2000, generator=g, dtype=torch.float64)
    even = noise + 1.0 * members
    uneven = noise + torch.linspace(0, 2, 8, dtype=torch.float64)[:, None] * members
    narrow = pooled.mean_auc(even, members, references=False).half_width
    wide = pooled.mean_auc(uneven, members, references=False).half_width
    double = pooled.mean_auc(uneven, members, references=True).half_width
    assert wide > 5 * narrow
    assert double == pytest.approx(2 * wide, rel=0.05)


def test_perfect_separation_has_an_exact_interval() -> None:
    members = torch.arange(40).repeat(3, 1) < 20
    got = pooled.mean_auc(members.double(), members)
    exact = clopper_pearson(20, 20)
    assert (got.value, got.low, got.high) == (1.0, exact.low, 1.0)


def test_groups_are_scored_apart() -> None:
    scores, members = leave_one_out(1, records=2000)
    exposed = members & (torch.arange(2000) < 400)
    scores = scores + 10.0 * exposed
    found = pooled.mean_auc(scores, members, keep=exposed | ~members)
    rest = pooled.mean_auc(scores, members, keep=~exposed | ~members)
    assert found.value > 0.99
    assert 0.5 in rest
    with pytest.raises(NotEnoughData, match="no target"):
        pooled.mean_auc(scores, members, keep=members)


def test_pooled_rate_is_counted_at_one_threshold_for_all() -> None:
    g = torch.Generator().manual_seed(2)
    scores = torch.randn(4, 500, generator=g, dtype=torch.float64)
    members = torch.rand(4, 500, generator=g) < 0.5
    scores = scores + members
    outside = torch.sort(scores[~members], descending=True).values
    threshold = outside[int(0.01 * len(outside))]
    hits, total = int((scores[members] > threshold).sum()), int(members.sum())
    got = pooled.pooled_tpr(scores, members, 0.01)
    exact = clopper_pearson(hits, total)
    assert got.value == hits / total
    assert got.low <= exact.low
    assert got.high >= exact.high
    roc = pooled.pooled_roc(scores, members)
    assert float(roc.tpr[roc.fpr <= 0.01].max()) == pytest.approx(hits / total)


def test_resampled_rates_agree_with_the_whole_list_bootstrap() -> None:
    """Against stats.tpr_at_fpr with groups, which resamples the whole list: same spread."""
    scores, members = leave_one_out(4, records=1500, shift=1.0)
    got = pooled.pooled_tpr(scores, members, 0.01, references=False, n_boot=400)
    record = torch.arange(1500).expand(6, 1500).flatten()
    whole = tpr_at_fpr(scores.flatten(), members.flatten(), 0.01, groups=record, n_boot=400)
    exact = clopper_pearson(round(got.value * int(members.sum())), int(members.sum()))
    assert got.low == pytest.approx(min(whole.low, exact.low), abs=0.006)
    assert got.high == pytest.approx(max(whole.high, exact.high), abs=0.006)


@pytest.mark.parametrize(("runs", "mean", "spread"), [(8, 1.0, 0.5), (8, 1.0, 0.0), (8, 0.0, 0.0)])
def test_coverage_of_a_rate_when_runs_leak_differently(
    runs: int, mean: float, spread: float
) -> None:
    """Runs whose leak varies: the interval is for the expected rate, over runs and records.

    From records alone it covers 43 % at a spread of 0.5. Of 80 audits at 95 % fewer than 71 hit once in
    60 seeds; without a signal or a spread the interval has to be conservative.
    """
    leaks = mean + spread * torch.randn(
        100_000, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )
    truth = float(norm.sf(norm.isf(0.01) - leaks.numpy()).mean())
    g = torch.Generator().manual_seed(1)
    hits = low = 0
    for seed in range(80):
        leak = mean + spread * torch.randn(runs, 1, generator=g, dtype=torch.float64)
        members = torch.rand(runs, 800, generator=g) < 0.5
        scores = torch.randn(runs, 800, generator=g, dtype=torch.float64) + leak * members
        got = pooled.pooled_tpr(scores, members, 0.01, references=False, n_boot=100, seed=seed)
        hits += truth in got
        low += truth < got.low
    assert hits >= 71
    assert low <= 6  # 2 expected


def test_unequal_runs_widen_the_rate_and_shared_references_more() -> None:
    g = torch.Generator().manual_seed(3)
    members = torch.rand(8, 2000, generator=g) < 0.5
    noise = torch.randn(8, 2000, generator=g, dtype=torch.float64)
    uneven = noise + torch.linspace(0, 2, 8, dtype=torch.float64)[:, None] * members
    narrow = pooled.pooled_tpr(noise + members, members, 0.01, references=False).half_width
    wide = pooled.pooled_tpr(uneven, members, 0.01, references=False).half_width
    double = pooled.pooled_tpr(uneven, members, 0.01, references=True).half_width
    assert wide > 4 * narrow
    assert double > 1.5 * wide


def test_any_confidence_can_be_asked_for() -> None:
    """200 resamples hold no quantile of 1 - 0.05 / 48; the interval must go on widening all the same."""
    scores, members = leave_one_out(5, records=1500, shift=1.0)
    levels = (0.95, 0.99, 1 - 0.05 / 48, 1 - 1e-6)
    got = [pooled.pooled_tpr(scores, members, 0.01, confidence=c) for c in levels]
    for inner, outer in pairwise(got):
        assert outer.low < inner.low - 1e-3
        assert outer.high > inner.high + 1e-3
    assert got[-1].low > 0


def test_a_rate_of_one_counts_records_and_not_pairs() -> None:
    members = torch.rand(5, 400, generator=torch.Generator().manual_seed(0)) < 0.5
    got = pooled.pooled_tpr(members.double(), members, 0.01)
    exact = clopper_pearson(int(members.any(0).sum()), int(members.any(0).sum()))
    assert (got.value, got.low, got.high) == (1.0, exact.low, 1.0)


def test_unresolved_rates_are_refused() -> None:
    with pytest.raises(NotEnoughData, match="1000 non-members"):
        pooled.pooled_tpr(*leave_one_out(0, runs=3), 0.001)


def test_ties_are_broken_at_random_and_nothing_else_moves() -> None:
    scores = torch.tensor([[0.0, 1.0, 0.0, 2.0], [1.0, 0.0, 2.0, 0.0]])
    seen = set()
    for seed in range(20):
        ranks = pooled.break_ties(scores, generator=torch.Generator().manual_seed(seed))
        assert sorted(ranks.flatten().tolist()) == list(range(8))
        assert (ranks[scores == 0] < 4).all()
        assert (ranks[scores == 2] >= 6).all()
        seen.add(tuple(ranks.flatten().tolist()))
    assert len(seen) > 10


def test_coarse_scores_have_no_rate_before_ties_are_broken() -> None:
    """Half of all non-members tie with the members at the top: strictly above is nobody."""
    members = torch.arange(2000).repeat(1, 1) % 2 == 0
    scores = (torch.arange(2000)[None] % 4 < 3).double()
    coarse = pooled.pooled_tpr(scores, members, 0.1)
    ranked = pooled.break_ties(scores, generator=torch.Generator().manual_seed(0))
    assert coarse.value == 0.0
    assert pooled.pooled_tpr(ranked, members, 0.1).value == pytest.approx(0.2, abs=0.07)  # 3 sd
