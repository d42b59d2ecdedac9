"""What a summary says about luck: floors of rates with few non-members, and signals turned around."""

from __future__ import annotations

import pytest
import torch

from ddaudit.attacks.membership.evidence import Evidence, Summary, direction_check, summarise


def summary(*evidence: Evidence) -> Summary:
    return summarise(evidence, headlines=(), generator=torch.Generator().manual_seed(0))


def one_run(
    attack: str, *, shift: float, seed: int, members: int = 400, others: int = 400
) -> Evidence:
    g = torch.Generator().manual_seed(seed)
    inside = torch.arange(members + others)[None] < members
    scores = torch.randn(1, members + others, generator=g, dtype=torch.float64)
    return Evidence(attack, scores + shift * inside, inside)


def test_the_floor_is_what_luck_reads_with_these_non_members() -> None:
    """Over 150 blind scores on 150 non-members the mean is the floor, not the rate: 2 / 151."""
    read = []
    for seed in range(150):
        rate = next(
            m for m in summary(one_run("loss", shift=0.0, seed=seed, others=150)).metrics
            if m.params.get("fpr") == 0.01
        )  # fmt: skip
        assert rate.floor == pytest.approx(2 / 151)
        assert rate.value is not None
        read.append(rate.value)
    # a single reading varies by 0.0105, so that the mean has a standard error of 0.0009
    assert sum(read) / len(read) == pytest.approx(2 / 151, abs=0.0036)
    assert sum(read) / len(read) > 0.0105


def test_few_non_members_are_pointed_out() -> None:
    few = summary(one_run("loss", shift=0.0, seed=0, others=150)).caveats
    many = summary(one_run("loss", shift=0.0, seed=0, others=5000)).caveats
    assert any("rests on few of 150 non-members" in c and "300 are wanted" in c for c in few)
    assert not any("rests on few" in c for c in many)


def test_a_signal_the_wrong_way_round_fails_and_greys_where_it_is_the_verdict() -> None:
    metrics = summary(
        one_run("loss", shift=-0.5, seed=0), one_run("quantile", shift=0.5, seed=1)
    ).metrics
    verdict = direction_check(metrics, headline="loss", subject="file")
    assert not verdict.passed
    assert verdict.value is not None
    assert verdict.value < 0.45
    assert verdict.affects == ["membership.auc", "membership.tpr_at_fpr"]
    assert "loss" in verdict.detail
    assert "quantile" not in verdict.detail
    beside = direction_check(metrics, headline="quantile", subject="file")
    assert (beside.passed, beside.affects, beside.subject) == (False, [], "file")


def test_blind_scores_seldom_fail_and_groups_are_not_looked_at() -> None:
    """Five blind attacks, 5 % for all of them: of 30 audits, more than 6 fail once in 600 tries."""
    failed = 0
    for seed in range(30):
        found = summary(*[one_run(str(i), shift=0.0, seed=10 * seed + i) for i in range(5)])
        failed += not direction_check(found.metrics, headline="0", subject="x").passed
    assert failed <= 6
    odd = one_run("lira", shift=0.3, seed=3)
    low = odd.members & (odd.scores < 0)
    grouped = summarise([odd], headlines=(), released=odd.members & ~low,
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    rest = next(m for m in grouped.metrics if m.params.get("group") == "other")
    assert rest.high is not None
    assert rest.high < 0.5
    assert direction_check(grouped.metrics, headline="lira", subject="x").passed


def test_nothing_to_look_at_passes() -> None:
    assert direction_check([], headline="lira", subject="x").passed
