"""Group gaps against fairlearn, the published definition, the sheet's floors, planted bias."""

from __future__ import annotations

import pytest
import torch
from fairlearn.metrics import (
    MetricFrame,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import accuracy_score

from ddaudit.measures import deo
from ddaudit.stats import Floor, fair_gap_floor


def _coloured(per_cell: int = 100, k: int = 10, g: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(k).repeat_interleave(g * per_cell)
    groups = torch.arange(g).repeat_interleave(per_cell).repeat(k)
    return labels, groups


def _rates(predictions, labels, groups, k, g):
    counts = deo.cell_counts(labels, groups, num_classes=k, num_groups=g)
    return deo.cross_tabulate(torch.atleast_2d(predictions), labels, groups, counts), counts


def _noisy(labels, k: int, accuracy: float, seed: int) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    wrong = (labels + torch.randint(1, k, labels.shape, generator=gen)) % k
    return torch.where(torch.rand(labels.shape, generator=gen) < accuracy, labels, wrong)


def _uneven(seed: int, n: int = 600, k: int = 4, g: int = 3):
    gen = torch.Generator().manual_seed(seed)
    labels, groups = torch.randint(k, (n,), generator=gen), torch.randint(g, (n,), generator=gen)
    predictions = _noisy(labels, k, 0.7, seed + 1)
    return labels, groups, torch.where(groups == 0, labels.roll(1), predictions)


def test_perfect_predictor_has_no_gap_and_colour_reader_a_full_one() -> None:
    labels, groups = _coloured(4)
    perfect, counts = _rates(labels, labels, groups, 10, 10)
    reader, _ = _rates(groups, labels, groups, 10, 10)
    assert (float(deo.deo_m(perfect)), float(deo.deo_a(perfect))) == (0.0, 0.0)
    assert (float(deo.deo_m(reader)), float(deo.deo_a(reader))) == (1.0, 1.0)
    for measure in (deo.demographic_parity, deo.equalized_odds):
        assert float(measure(perfect, counts)) == 0.0
        assert float(measure(reader, counts)) == 1.0
    assert float(deo.worst_cell(reader)) == 0.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gaps_are_fairlearns_with_the_class_as_control_feature(seed) -> None:
    labels, groups, predictions = _uneven(seed)
    rates, _ = _rates(predictions, labels, groups, 4, 3)
    frame = MetricFrame(
        metrics=accuracy_score,
        y_true=labels.numpy(),
        y_pred=predictions.numpy(),
        sensitive_features=groups.numpy(),
        control_features=labels.numpy(),
    )
    gap = frame.difference("between_groups")
    assert float(deo.deo_m(rates)) == pytest.approx(float(gap.max()), abs=1e-12)
    assert float(deo.deo_a(rates)) == pytest.approx(float(gap.mean()), abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_against_rest_gaps_equal_fairlearn(seed) -> None:
    labels, groups, predictions = _uneven(seed)
    rates, counts = _rates(predictions, labels, groups, 4, 3)
    parity, odds = [], []
    for k in range(4):
        frame = MetricFrame(
            metrics={
                "selected": selection_rate,
                "tpr": true_positive_rate,
                "fpr": false_positive_rate,
            },
            y_true=(labels == k).long().numpy(),
            y_pred=(predictions == k).long().numpy(),
            sensitive_features=groups.numpy(),
        )
        gap = frame.difference("between_groups")
        parity.append(gap["selected"])
        odds += [gap["tpr"], gap["fpr"]]
    assert float(deo.demographic_parity(rates, counts)) == pytest.approx(max(parity), abs=1e-12)
    assert float(deo.equalized_odds(rates, counts)) == pytest.approx(max(odds), abs=1e-12)


def test_published_order_is_gap_per_network_then_mean() -> None:
    labels, groups = _coloured(1, k=1, g=2)
    # Network 0 fails on group 0, network 1 on group 1: each has gap 1, their mean rates gap 0.
    predictions = torch.tensor([[1, 0], [0, 1]])
    rates, _ = _rates(predictions, labels, groups, 2, 2)
    assert float(deo.deo_m(rates).mean()) == 1.0
    assert float(deo.deo_m(rates.nanmean(0))) == 0.0


def test_empty_cells_are_dropped_not_counted_as_zero() -> None:
    labels, groups = _coloured(5, k=2, g=3)
    keep = ~((labels == 0) & (groups == 2))
    labels, groups = labels[keep], groups[keep]
    rates, counts = _rates(labels, labels, groups, 2, 3)
    assert int(counts[2, 0]) == 0
    assert float(deo.deo_m(rates)) == 0.0  # the published code reads about 1 here
    assert float(deo.worst_cell(rates)) == 1.0


def test_a_class_in_one_group_only_has_no_gap() -> None:
    labels, groups = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 0])
    rates, _ = _rates(torch.tensor([0, 1, 0, 0]), labels, groups, 2, 2)
    assert float(deo.deo_a(rates)) == 1.0


@pytest.mark.parametrize(
    ("accuracy", "deo_m", "deo_a"), [(0.968, 0.077, 0.053), (0.946, 0.100, 0.069)]
)
def test_fair_simulator_reads_the_sheets_floor(accuracy, deo_m, deo_a) -> None:
    # methods/fairness_longtail_calibration.md, A.1 pitfall 2. Mean of 60 simulated fair networks:
    # standard error 0.0015 and 0.0006; tolerances 3 of them plus half a printed digit.
    labels, groups = _coloured(100)
    nets = torch.stack([_noisy(labels, 10, accuracy, seed) for seed in range(60)])
    rates, _ = _rates(nets, labels, groups, 10, 10)
    assert float(deo.deo_m(rates).mean()) == pytest.approx(deo_m, abs=0.005)
    assert float(deo.deo_a(rates).mean()) == pytest.approx(deo_a, abs=0.0025)


def test_fair_twin_keeps_the_pooled_rates_and_has_the_binomial_floor() -> None:
    labels, groups = _coloured(40, k=4, g=5)
    reader = torch.where(groups == 0, labels, _noisy(labels, 4, 0.8, 0))  # group 0 is favoured
    rates, counts = _rates(reader, labels, groups, 4, 5)
    twin = deo.fair_rates(rates[0], counts, n_sim=1500, generator=torch.Generator().manual_seed(0))
    pooled = rates[0].mean(0)
    assert torch.allclose(twin.sum(-1), torch.ones(1500, 5, 4).double())
    assert torch.allclose(twin.mean((0, 1)), pooled, atol=0.005)
    floor = fair_gap_floor(counts, deo.true_positive_rates(pooled))
    assert Floor.of(deo.deo_m(twin)).mean == pytest.approx(floor.worst.mean, rel=0.03)
    assert Floor.of(deo.deo_a(twin)).mean == pytest.approx(floor.average.mean, rel=0.03)


def test_resampling_keeps_cells_and_networks_together() -> None:
    labels, groups = _coloured(50, k=2, g=2)
    net = _noisy(labels, 2, 0.8, 0)
    rates, counts = _rates(torch.stack([net, net]), labels, groups, 2, 2)
    got = deo.resampled_rates(
        torch.stack([net, net]), labels, groups, counts,
        n_boot=2000, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert got.shape == (2000, 2, 2, 2, 2)
    assert torch.equal(got[:, 0], got[:, 1])
    assert torch.allclose(got.mean(0), rates, atol=0.006)
    p = rates[0, 0, 0, 0]
    assert float(got[:, 0, 0, 0, 0].std()) == pytest.approx(
        float((p * (1 - p) / 50) ** 0.5), rel=0.06
    )


def test_paired_resampling_keeps_versions_of_an_image_together() -> None:
    labels = torch.arange(2).repeat_interleave(50)
    one = _noisy(labels, 2, 0.7, 0)
    versions = one[None, :, None].expand(1, -1, 3)  # the group never matters
    got = deo.resampled_paired_rates(
        versions, labels, num_classes=2, n_boot=100, generator=torch.Generator().manual_seed(0)
    )
    assert got.shape == (100, 1, 3, 2, 2)
    assert float(deo.deo_m(got).max()) == 0.0
    assert float(got[:, 0, 0, 0, 0].std()) > 0.03


def test_paired_floor_removes_image_difficulty() -> None:
    labels = torch.arange(4).repeat_interleave(100)
    g = torch.Generator().manual_seed(0)
    sure = (torch.rand(400, 1, generator=g) < 0.8).expand(-1, 10)
    assert deo.paired_floor(sure, labels, n_sim=50, generator=g).worst.high == 0.0
    unsure = torch.rand(400, 10, generator=g) < 0.8
    # Independent versions: the floor of an unpaired test set with the same cells.
    paired = deo.paired_floor(unsure, labels, n_sim=400, generator=g)
    want = fair_gap_floor(torch.full((10, 4), 100), torch.full((4,), 0.8))
    assert paired.average.mean == pytest.approx(want.average.mean, rel=0.06)
    assert paired.worst.mean == pytest.approx(want.worst.mean, rel=0.06)


def test_paired_floor_is_exceeded_by_a_biased_network() -> None:
    labels = torch.arange(4).repeat_interleave(100)
    g = torch.Generator().manual_seed(0)
    hits = torch.rand(400, 10, generator=g) < 0.8
    hits[:, 0] = torch.rand(400, generator=g) < 0.5
    floor = deo.paired_floor(hits, labels, n_sim=200, generator=g)
    rates = torch.stack([hits[labels == y].double().mean(0) for y in range(4)], 1)
    assert float((rates.amax(0) - rates.amin(0)).mean()) > floor.average.high
