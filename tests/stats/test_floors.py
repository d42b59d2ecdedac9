"""Noise floors against the method sheet's simulated values and an order-statistics closed form."""

from __future__ import annotations

import math

import pytest
import torch

from ddaudit.stats import fair_gap_floor, max_min_gap

CELLS = torch.full((10, 10), 100)


@pytest.mark.parametrize(
    ("accuracy", "deo_m", "deo_a"), [(0.968, 0.077, 0.053), (0.946, 0.100, 0.069)]
)
def test_floor_of_the_coloured_test_set_is_the_sheet_value(accuracy, deo_m, deo_a) -> None:
    # methods/fairness_longtail_calibration.md, A.1 pitfall 2: 10 groups x 100 images per cell.
    floor = fair_gap_floor(CELLS, torch.full((10,), accuracy))
    assert floor.worst.mean == pytest.approx(deo_m, abs=0.003)
    assert floor.average.mean == pytest.approx(deo_a, abs=0.003)
    assert floor.worst.low < floor.worst.mean < floor.worst.q95 <= floor.worst.high


def test_floor_of_two_large_groups_is_the_sheet_value() -> None:
    # CIFAR10-S: 2 groups x 1000 images per class, floor 4.0 / 1.9 at about 61 % (FairDD, IPC 100).
    floor = fair_gap_floor(torch.full((2, 10), 1000), torch.full((10,), 0.61))
    assert floor.worst.mean == pytest.approx(0.040, abs=0.004)
    assert floor.average.mean == pytest.approx(0.018, abs=0.002)


def test_two_groups_follow_the_folded_normal() -> None:
    # E|X - Y| of two N(p, p(1-p)/n) is 2 sd / sqrt(pi).
    n, p = 2000, 0.7
    floor = fair_gap_floor(torch.full((2, 1), n), torch.tensor([p]), n_sim=20_000)
    want = 2 * math.sqrt(p * (1 - p) / n) / math.sqrt(math.pi)
    assert floor.worst.mean == pytest.approx(want, rel=0.02)
    assert floor.average == floor.worst  # one class: largest and mean gap are one


def test_perfect_and_hopeless_models_have_no_floor() -> None:
    for rate in (0.0, 1.0):
        assert fair_gap_floor(CELLS, torch.full((10,), rate)).worst.high == 0


def test_empty_cells_are_left_out() -> None:
    counts = CELLS.clone()
    counts[3:, 0] = 0
    full = fair_gap_floor(CELLS, torch.full((10,), 0.9))
    holes = fair_gap_floor(counts, torch.full((10,), 0.9))
    assert 0 < holes.average.mean < full.average.mean
    counts[1:, 0] = 0
    assert math.isfinite(fair_gap_floor(counts, torch.full((10,), 0.9)).average.mean)


def test_several_networks_average_their_floors() -> None:
    rates = torch.stack([torch.full((10,), 0.968), torch.full((10,), 0.946)])
    assert fair_gap_floor(CELLS, rates).worst.mean == pytest.approx(0.0885, abs=0.003)


def test_gap_is_largest_minus_smallest_without_nan() -> None:
    rates = torch.tensor(
        [[0.9, 0.5, float("nan")], [0.7, float("nan"), float("nan")], [0.8, 0.1, 1]]
    )
    gap = max_min_gap(rates)
    assert gap[0] == pytest.approx(0.2)
    assert gap[1] == pytest.approx(0.4)
    assert torch.isnan(gap[2])
