"""Binned calibration errors against torchmetrics, closed forms and simulation."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from ddaudit.measures.ece import (
    BINNINGS,
    CLASSWISE,
    EQUAL_MASS,
    brier_parts,
    calibrated_floor,
    ece,
    error_table,
    largest_gaps,
    reliability,
    table_errors,
)


def _random(n: int, k: int = 10, *, seed: int = 0, scale: float = 2.0):
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, k, generator=g)).softmax(1).double(), torch.randint(
        k, (n,), generator=g
    )


def _calibrated(n: int, k: int = 10, *, seed: int = 0):
    p, _ = _random(n, k, seed=seed)
    g = torch.Generator().manual_seed(seed + 1)
    return p, torch.multinomial(p, 1, generator=g)[:, 0]


@pytest.mark.parametrize("bins", [10, 15, 30])
@pytest.mark.parametrize("scale", [0.3, 2.0, 6.0])
def test_equal_width_equals_torchmetrics(bins, scale) -> None:
    p, y = _random(3000, scale=scale)
    want = multiclass_calibration_error(p.float(), y, num_classes=10, n_bins=bins, norm="l1")
    assert ece(p, y, bins=bins) == pytest.approx(float(want), abs=1e-6)


def test_equal_mass_and_classwise_equal_their_definitions() -> None:
    p, y = _random(1000, 4)
    confidence, top = p.max(1)
    order = torch.argsort(confidence)
    gap = ((top == y).double() - confidence)[order]
    want = sum(abs(float(part.sum())) for part in torch.tensor_split(gap, 10)) / 1000
    assert ece(p, y, binning=EQUAL_MASS, bins=10) == pytest.approx(want)
    per_class = []
    for k in range(4):
        two = torch.stack([1 - p[:, k], p[:, k]], 1)
        total = 0.0
        for b in range(15):
            inside = (two[:, 1] > b / 15) & (two[:, 1] <= (b + 1) / 15)
            total += abs(float(((y == k).double() - two[:, 1])[inside].sum())) / 1000
        per_class.append(total)
    assert ece(p, y, binning=CLASSWISE) == pytest.approx(sum(per_class) / 4)


def test_a_constant_over_confident_predictor_has_its_known_error() -> None:
    # Confidence 0.95, right on 6 of 10: ECE 0.35 in any binning of the top label.
    p = torch.full((100, 2), 0.05)
    p[:, 0] = 0.95
    y = (torch.arange(100) % 10 >= 6).long()
    assert ece(p, y) == pytest.approx(0.35, abs=1e-7)
    assert ece(p, y, binning=EQUAL_MASS) == pytest.approx(0.35, abs=1e-7)


def test_saturated_confidences_and_image_order_do_not_matter() -> None:
    p = torch.zeros(200, 3)
    p[:, 0] = 1.0
    p[150:] = torch.tensor([0.6, 0.3, 0.1])
    y = torch.arange(200) % 2
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    for binning in BINNINGS:
        a = ece(p, y, binning=binning)
        assert a == pytest.approx(ece(p[order], y[order], binning=binning))
    assert ece(p, y) == pytest.approx((150 * 0.5 + 50 * 0.1) / 200, abs=1e-6)


@pytest.mark.parametrize("binning", BINNINGS)
def test_table_times_weights_is_the_error_of_the_resample(binning) -> None:
    p, y = _random(300, 5)
    g = torch.Generator().manual_seed(3)
    weights = torch.ones(300).double()
    weights[torch.randperm(300, generator=g)[:100]] = 2.0
    table = error_table(p, y, binning=binning)
    sums = weights @ table
    got = table_errors(sums, binning=binning, n=400, num_classes=5)
    index = torch.arange(300).repeat_interleave(weights.long())
    if binning != EQUAL_MASS:  # its edges stay those of the original sample
        assert float(got) == pytest.approx(ece(p[index], y[index], binning=binning))
    plain = table_errors(table.sum(0), binning=binning, n=300, num_classes=5)
    assert float(plain) == pytest.approx(ece(p, y, binning=binning))


@pytest.mark.parametrize("binning", BINNINGS)
def test_calibrated_labels_sit_at_the_floor_and_shuffled_ones_do_not(binning) -> None:
    # 40 calibrated samples; the floor's 95 % range misses more than 7 of 40 with probability 2e-3.
    inside = 0
    for seed in range(40):
        p, y = _calibrated(500, seed=seed)
        g = torch.Generator().manual_seed(seed)
        floor = calibrated_floor(p, binning=binning, n_sim=200, generator=g)
        inside += floor.low <= ece(p, y, binning=binning) <= floor.high
    assert inside >= 33
    p, y = _calibrated(500)
    floor = calibrated_floor(p, binning=binning, generator=torch.Generator().manual_seed(0))
    assert ece(p, y.roll(1), binning=binning) > floor.high


def test_floor_follows_the_folded_normal() -> None:
    # One bin, confidence 0.8: |mean error| of n Bernoulli(0.8) has mean sqrt(2 p (1 - p) / (pi n)).
    n = 2000
    p = torch.tensor([[0.8, 0.2]]).repeat(n, 1)
    floor = calibrated_floor(p, n_sim=4000, generator=torch.Generator().manual_seed(0))
    assert floor.mean == pytest.approx(math.sqrt(2 * 0.16 / (math.pi * n)), rel=0.04)


def test_floor_of_ten_thousand_images_is_about_one_percent() -> None:
    # methods/fairness_longtail_calibration.md, C "known biases": n = 10 000, 15 bins -> about 1 %,
    # n = 1000 -> 3 to 4 %.
    g = torch.Generator().manual_seed(0)
    large = calibrated_floor(_random(10_000, scale=1.5)[0], n_sim=100, generator=g)
    small = calibrated_floor(_random(1000, scale=1.5)[0], n_sim=100, generator=g)
    assert 0.008 < large.mean < 0.015
    assert 0.03 < small.mean < 0.045


def test_reliability_counts_every_image_once() -> None:
    p, y = _random(1000)
    got = reliability(p, y, bins=10)
    assert int(got.counts.sum()) == 1000
    full = got.counts > 0
    weight = got.counts[full].double() / 1000
    gap = (got.accuracy[full] - got.confidence[full]).abs()
    assert float((weight * gap).sum()) == pytest.approx(ece(p, y, bins=10))
    assert bool(torch.isnan(got.accuracy[~full]).all())
    centre = (torch.arange(10) + 0.5) / 10
    assert bool(((got.confidence - centre).abs()[full] <= 0.05 + 1e-9).all())


def test_unknown_binning_is_named() -> None:
    with pytest.raises(ValueError, match="equal-width, equal-mass, classwise"):
        ece(*_random(10), binning="width")


def _parts(confidence, correct, **options) -> dict[str, float]:
    once = torch.ones(1, len(confidence), dtype=torch.float64)
    return {k: float(v) for k, v in brier_parts(confidence, correct, once, **options).items()}


@pytest.mark.parametrize("bins", [5, 15])
def test_the_largest_bin_gap_equals_torchmetrics(bins) -> None:
    p, y = _random(3000)
    confidence, top = p.max(1)
    want = multiclass_calibration_error(p.float(), y, num_classes=10, n_bins=bins, norm="max")
    got = _parts(confidence, (top == y).double(), bins=bins)["mce"]
    assert got == pytest.approx(float(want), abs=1e-6)
    assert float(largest_gaps(confidence, (top == y)[None], bins=bins)) == pytest.approx(got)


def test_binned_errors_equal_netcals() -> None:
    """netcal 1.4.0, ECE(15), ACE(15) and MCE(15) of a fixed sequence."""
    i = torch.arange(1000).double()
    confidence = 0.5 + 0.5 * ((i * 0.6180339887) % 1.0)
    correct = ((i * 0.7548776662) % 1.0 < confidence - 0.15).long()
    p = torch.stack([confidence, 1 - confidence], 1)
    assert ece(p, 1 - correct) == pytest.approx(0.15098867782500913)
    # netcal's equal-mass bins split ties and remainders otherwise.
    assert ece(p, 1 - correct, binning=EQUAL_MASS) == pytest.approx(0.15052857833341093, abs=2e-3)
    assert _parts(confidence, correct)["mce"] == pytest.approx(0.1682702330695584)


def test_the_parts_of_the_brier_score_of_two_confidences_are_murphys() -> None:
    """0.9 (right on 6 of 8) and 0.6 (right on 1 of 2): every part by hand, and nothing within bins."""
    confidence = torch.tensor([0.9] * 8 + [0.6] * 2)
    correct = torch.tensor([1.0] * 6 + [0.0] * 2 + [1.0, 0.0])
    got = _parts(confidence, correct)
    assert got["reliability"] == pytest.approx(0.8 * 0.15**2 + 0.2 * 0.1**2, abs=1e-6)
    assert got["resolution"] == pytest.approx(0.8 * 0.05**2 + 0.2 * 0.2**2)
    assert got["uncertainty"] == pytest.approx(0.7 * 0.3)
    assert got["within"] == pytest.approx(0, abs=1e-9)
    assert got["mce"] == pytest.approx(0.15, abs=1e-6)


def test_the_parts_add_up_to_the_brier_score_of_the_top_label_for_any_weights() -> None:
    p, y = _random(500, 4)
    confidence, top = p.max(1)
    correct = (top == y).double()
    weights = torch.randint(0, 3, (2, 500), generator=torch.Generator().manual_seed(0)).double()
    got = brier_parts(confidence, correct, weights)
    total = got["reliability"] - got["resolution"] + got["uncertainty"] + got["within"]
    want = (weights @ (confidence - correct) ** 2) / weights.sum(1)
    assert total.tolist() == pytest.approx(want.tolist())
    assert float(got["within"].abs().max()) < 0.01
