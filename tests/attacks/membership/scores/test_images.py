"""Scores that look at the released images alone: nearest copies, density ratio, class means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde, norm
from sklearn.neighbors import NearestNeighbors

from ddaudit.attacks._common.features import neighbours
from ddaudit.attacks.membership.scores import class_mean, domias, nearest
from ddaudit.stats import auc


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- nearest ------------------------------------------------------------


def test_neighbours_agree_with_scikit_learn() -> None:
    q, bank = normal(60, 3, 4, 4, seed=0) + 100, normal(90, 3, 4, 4, seed=1) + 100
    found = neighbours(q, bank, chunk=7)
    d, i = NearestNeighbors(n_neighbors=2).fit(bank.flatten(1)).kneighbors(q.flatten(1))
    np.testing.assert_allclose(found.distance, d[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found.second, d[:, 1], rtol=1e-9)
    np.testing.assert_array_equal(found.index, i[:, 0])


def test_a_copy_has_distance_zero_exactly() -> None:
    bank = normal(50, 20, seed=2) * 1e-3 + 1e3
    found = neighbours(bank[:5], bank)
    assert found.distance.tolist() == [0.0] * 5
    assert found.index.tolist() == list(range(5))
    assert neighbours(bank[:2], bank[:1]).second.tolist() == [float("inf")] * 2


def test_copies_stand_out_and_non_members_do_not() -> None:
    records = normal(4050, 8, seed=3)
    released = records[:50] + 0.01 * normal(50, 8, seed=4)
    copied, half = torch.arange(4050) < 50, torch.arange(4050) % 2 == 0
    g = torch.Generator().manual_seed(0)
    reference = normal(300, 8, seed=5)
    scores, distances = nearest.calibrated_closeness(records, [released], reference, generator=g)
    for score in (scores[0], -distances[0]):
        assert auc(score, copied).value > 0.99
        assert auc(score[50:], half[50:]).value == pytest.approx(0.5, abs=0.036)  # 4 sd


def test_calibration_takes_out_dense_regions() -> None:
    """Half of the records live in a dense clump; closeness alone calls the clump 'members'."""
    records = normal(2000, 5, seed=6)
    dense = torch.arange(2000) % 2 == 0
    records[dense] *= 0.2
    released, reference = normal(200, 5, seed=7), normal(400, 5, seed=8)
    released[::2] *= 0.2
    reference[::2] *= 0.2
    g = torch.Generator().manual_seed(0)
    scores, distances = nearest.calibrated_closeness(records, [released], reference, generator=g)
    assert auc(-distances[0], dense).value > 0.95
    assert auc(scores[0], dense).value == pytest.approx(0.5, abs=0.06)


# ---- density ratio ------------------------------------------------------------


def test_log_density_agrees_with_scipy() -> None:
    sample, q = normal(300, 4, seed=9), normal(40, 4, seed=10)
    coordinates = domias.whiten(sample, dims=4)
    white = coordinates(sample)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(4, dtype=torch.float64))
    reference = gaussian_kde(white.T.numpy())  # its covariance factor is then the identity
    np.testing.assert_allclose(
        domias.log_density(coordinates(q), white, chunk=9),
        reference.logpdf(coordinates(q).T),
        rtol=1e-6,
    )


def test_density_ratio_of_two_gaussians_follows_the_closed_form() -> None:
    """log N(x; 1, 1) / N(x; 0, 1) = x - 1/2, up to kernel smoothing and sampling."""
    q = torch.linspace(-1.5, 2.5, 41, dtype=torch.float64)[:, None]
    released, reference = normal(4000, 1, seed=11) + 1, normal(4000, 1, seed=12)
    estimate = domias.domias(q, released, reference, dims=1)
    assert float((estimate - (q[:, 0] - 0.5)).abs().max()) < 0.3
    slope = np.polyfit(q[:, 0].numpy(), estimate.numpy(), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.12)


def test_domias_finds_overfitted_records_and_nothing_in_fresh_ones() -> None:
    records, reference = normal(600, 12, seed=13), normal(500, 12, seed=14)
    truth = torch.arange(600) < 300
    leaking = records[:100].repeat(3, 1) + 0.1 * normal(300, 12, seed=15)
    fresh = normal(300, 12, seed=16)
    leak = auc(domias.domias(records, leaking, reference, dims=6), torch.arange(600) < 100)
    null = auc(domias.domias(records, fresh, reference, dims=6), truth)
    assert leak.low > 0.7
    assert null.low < 0.5 < null.high


def test_whitening_drops_constant_directions() -> None:
    rows = torch.cat([normal(50, 3, seed=17), torch.ones(50, 5, dtype=torch.float64)], 1)
    assert domias.whiten(rows, dims=10).axes.shape == (8, 3)
    with pytest.raises(ValueError, match="at least 3"):
        domias.whiten(rows[:2])


# ---- class means ------------------------------------------------------------


def test_inner_product_with_a_sum_of_gaussians_reaches_the_tracing_auc() -> None:
    """For the mean of n records in d isotropic dimensions the score is N(0, d/n) for non-members;
    members lie d/n higher with the same spread (first order): AUC Phi(sqrt(d / n) / sqrt 2)."""
    n, d = 400, 400
    records, reference = normal(2 * n, d, seed=18), normal(20_000, d, seed=19)
    labels = torch.zeros(2 * n, dtype=torch.int64)
    released = records[:n].mean(0, keepdim=True)
    strangers = torch.zeros(20_000, dtype=torch.int64)
    score = class_mean.inner_product(
        records, labels, released, labels[:1], reference, strangers, num_classes=1
    )
    expected = norm.cdf(np.sqrt(d / n) / np.sqrt(2))
    assert auc(score, torch.arange(2 * n) < n).value == pytest.approx(expected, abs=0.04)


def test_a_noised_sum_leaks_less() -> None:
    n, d = 200, 200
    records, reference = normal(2 * n, d, seed=20), normal(4000, d, seed=21)
    labels, truth = torch.zeros(2 * n, dtype=torch.int64), torch.arange(2 * n) < n
    readings = []
    for sigma in (0.0, 3.0, 30.0):
        released = records[:n].mean(0, keepdim=True) + sigma / n**0.5 * normal(1, d, seed=22)
        score = class_mean.inner_product(
            records, labels, released, labels[:1], reference, labels.new_zeros(4000), num_classes=1
        )
        readings.append(auc(score, truth).value)
    assert readings[0] > readings[1] > readings[2]
    assert readings[2] == pytest.approx(0.5, abs=0.07)


def test_classes_are_scored_apart_and_absent_ones_say_nothing() -> None:
    x = normal(6, 3, seed=23)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    score = class_mean.inner_product(x, labels, x[:2], labels[:2], x, labels, num_classes=3)
    assert score[2:].tolist() == [0.0] * 4
    soft = torch.nn.functional.one_hot(labels[:2], 3).float()
    torch.testing.assert_close(
        score, class_mean.inner_product(x, labels, x[:2], soft, x, labels, num_classes=3)
    )


def test_long_rows_are_clipped_and_short_ones_are_left_alone() -> None:
    x = normal(8, 4, seed=24)
    clipped = class_mean.clip_rows(5 * x, 1.0)
    assert float(clipped.norm(dim=1).max()) <= 1 + 1e-12
    assert class_mean.clip_rows(x * 1e-6, 1.0).equal(x * 1e-6)
    assert class_mean.clip_rows(x, None) is x
