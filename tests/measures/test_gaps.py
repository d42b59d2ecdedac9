"""Fairness metrics with intervals and floors: planted biases, coverage, paired test sets."""

from __future__ import annotations

import pytest
import torch

from ddaudit.data import ImageData
from ddaudit.errors import Unsupported
from ddaudit.measures import deo, gaps
from ddaudit.measures._fairlearn import class_gaps, one_vs_rest_gaps

from .groups import by_name, grid, grouped

SIZES = {"n_boot": 200, "n_sim": 500}


def _answers(data: ImageData, hit_rate: torch.Tensor, *, seed: int, nets: int = 1) -> gaps.Answers:
    """Networks that are right on group a, class y with probability hit_rate[a, y]."""
    gen = torch.Generator().manual_seed(seed)
    hits = torch.rand(nets, len(data), generator=gen) < hit_rate[data.groups, data.labels]
    wrong = (data.labels + 1) % data.num_classes
    return gaps.Answers.of(torch.where(hits, data.labels, wrong), data)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_fair_network_sits_at_its_floor_and_a_biased_one_above() -> None:
    data = grid(10, 10, 50)
    fair = torch.full((10, 10), 0.9)
    biased = fair.clone()
    biased[0] -= 0.4
    got = by_name(gaps.gap_metrics(_answers(data, fair, seed=0), **SIZES, generator=_generator()))
    bad = by_name(gaps.gap_metrics(_answers(data, biased, seed=0), **SIZES, generator=_generator()))
    for name in ("bias.deo_m", "bias.deo_a"):
        assert got[name].value < got[f"{name}_floor95"].value * 1.05
        assert got[name].floor < got[f"{name}_floor95"].value
        assert bad[name].low > bad[f"{name}_floor95"].value
    assert bad["bias.equalized_odds_difference"].low > bad["bias.equalized_odds_difference"].floor
    assert bad["bias.worst_cell_accuracy"].high < got["bias.worst_cell_accuracy"].low


@pytest.mark.parametrize("per_cell", [4, 100])
def test_intervals_cover_the_expected_reading(per_cell) -> None:
    # 100 trials of a 95 % interval: below 0.87 has probability 1e-3. The raw percentile bootstrap
    # covers DEO_A in 0.70 at 100 images per cell, as its replicates carry the bias twice.
    data = grid(5, 6, per_cell)
    rates = (0.85 + 0.05 * torch.randn(6, 5, generator=_generator(1))).clamp(0, 1)
    many = _answers(data, rates, seed=7, nets=400).rates
    truth = {
        "bias.deo_m": float(deo.deo_m(many).mean()),
        "bias.deo_a": float(deo.deo_a(many).mean()),
    }
    hits = dict.fromkeys(truth, 0)
    for seed in range(100):
        answers = _answers(data, rates, seed=1000 + seed)
        drawn = gaps._replicates(
            lambda n, a=answers, s=seed: deo.resampled_rates(
                a.predictions, a.labels, a.groups, a.counts, n_boot=n, generator=_generator(s)
            ),
            answers.counts, answers.rates, 100,
        )  # fmt: skip
        measured = gaps._measures(answers.rates, answers.counts)
        intervals = gaps._resampling(
            measured, drawn, answers.counts, n=len(data), resamples=None
        ).intervals
        for name, value in truth.items():
            hits[name] += value in intervals[name.removeprefix("bias.")]
    assert all(count >= 87 for count in hits.values()), hits


def test_every_interval_holds_its_value_inside_the_unit_range() -> None:
    for rate in (0.0, 0.5, 1.0):
        answers = _answers(grid(3, 4, 3), torch.full((4, 3), rate), seed=0, nets=2)
        for m in gaps.gap_metrics(answers, **SIZES, generator=_generator()):
            if m.low is not None:
                assert 0 <= m.low <= m.value <= m.high <= 1


def test_four_images_in_a_cell_are_never_certain() -> None:
    data = grid(4, 4, 4)
    reader = gaps.Answers.of(torch.where(data.groups == 0, data.labels, 0)[None], data)
    got = by_name(gaps.gap_metrics(reader, **SIZES, generator=_generator()))
    assert got["bias.deo_m"].value == 1.0
    assert got["bias.deo_m"].low < 0.95


def test_printed_one_vs_rest_gaps_are_fairlearns_and_ignore_empty_cells() -> None:
    data = grid(3, 3, 6)
    keep = ~((data.labels == 0) & (data.groups == 2))
    data = data.subset(keep)
    answers = _answers(data, torch.full((3, 3), 0.6), seed=1)
    theirs = one_vs_rest_gaps(data.labels, answers.predictions[0], data.groups, 3)
    ours = gaps._measures(answers.rates, answers.counts)
    assert theirs.demographic_parity == pytest.approx(float(ours[gaps.PARITY]), abs=1e-12)
    assert theirs.equalized_odds == pytest.approx(float(ours[gaps.ODDS]), abs=1e-12)
    perfect = one_vs_rest_gaps(data.labels, data.labels, data.groups, 3)
    assert perfect.equalized_odds == 0.0  # fairlearn's plain rate functions would read 1
    assert float(class_gaps(data.labels, data.labels, data.groups).max()) == 0.0


def _paired(k: int, per_class: int, g: int) -> ImageData:
    labels = torch.arange(k).repeat_interleave(per_class * g)
    return grouped(labels, torch.arange(g).repeat(k * per_class), k, g)


def test_paired_floor_is_far_below_the_unpaired_one() -> None:
    data = _paired(4, 40, 5)
    sure = torch.rand(160, 1, generator=_generator()) < 0.7
    flips = torch.rand(160, 5, generator=_generator(1)) < 0.03
    hits = (sure ^ flips).flatten()
    answers = gaps.Answers.of(torch.where(hits, data.labels, (data.labels + 1) % 4)[None], data)
    paired = by_name(gaps.paired_metrics(answers, **SIZES, generator=_generator()))
    standard = by_name(gaps.gap_metrics(answers, **SIZES, generator=_generator()))
    assert paired["bias.deo_m"].value == standard["bias.deo_m"].value
    assert paired["bias.deo_m"].n == 160
    assert paired["bias.deo_m"].params == {"test": "paired"}
    assert paired["bias.deo_m"].floor < 0.6 * standard["bias.deo_m"].floor
    assert paired["bias.deo_a"].value < paired["bias.deo_a_floor95"].value


def test_paired_set_in_another_order_is_refused() -> None:
    data = _paired(2, 5, 3)
    shuffled = data.subset(torch.randperm(30, generator=_generator()))
    answers = gaps.Answers.of(shuffled.labels[None], shuffled)
    with pytest.raises(Unsupported, match="in every group in turn"):
        gaps.paired_metrics(answers, **SIZES, generator=_generator())


def test_paired_sample_keeps_whole_images_and_all_classes() -> None:
    data = _paired(4, 10, 5)
    got = gaps.paired_sample(data, 12)
    assert len(got) == 60
    assert got.class_counts().tolist() == [15] * 4
    assert torch.equal(got.groups, torch.arange(5).repeat(12))
    assert gaps.paired_sample(data, None) is data
    assert gaps.paired_sample(data, 40) is data


def test_data_without_groups_or_with_one_are_refused() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    with pytest.raises(Unsupported, match="no protected attribute"):
        gaps.Answers.of(labels[None], grouped(labels, None, 2, 0))
    with pytest.raises(Unsupported, match="two groups"):
        gaps.Answers.of(labels[None], grouped(labels, torch.zeros(4, dtype=torch.int64), 2, 1))
