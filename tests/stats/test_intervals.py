"""Intervals against scipy, published values, closed forms and coverage simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from ddaudit.errors import NotEnoughData
from ddaudit.stats import (
    bootstrap,
    clopper_pearson,
    mean_t,
    wilson,
)
from ddaudit.stats.intervals import quantiles, stratified_replicates, weight_chunks

RATES = [(0, 10), (1, 10), (5, 10), (10, 10), (10, 1000), (437, 500)]


def test_clopper_pearson_of_10_hits_in_1000_is_the_published_range() -> None:
    got = clopper_pearson(10, 1000)  # methods/attacks.md: [.48, 1.83] %
    assert (round(100 * got.low, 2), round(100 * got.high, 2)) == (0.48, 1.83)
    assert (got.value, got.n) == (0.01, 1000)


@pytest.mark.parametrize(("k", "n"), RATES)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("ours", "method"), [(clopper_pearson, "exact"), (wilson, "wilson")])
def test_rate_intervals_equal_scipy(ours, method, k, n, confidence) -> None:
    want = scipy_stats.binomtest(k, n).proportion_ci(confidence, method=method)
    got = ours(k, n, confidence)
    assert got.low == pytest.approx(want.low, abs=1e-9)
    assert got.high == pytest.approx(want.high, abs=1e-9)


@pytest.mark.parametrize("function", [clopper_pearson, wilson])
def test_rates_of_nothing_and_impossible_counts_are_refused(function) -> None:
    with pytest.raises(NotEnoughData):
        function(0, 0)
    with pytest.raises(ValueError, match="11 hits of 10"):
        function(11, 10)


def test_mean_t_equals_scipy_and_one_value_has_no_width() -> None:
    x = [0.71, 0.74, 0.69, 0.75, 0.70]
    want = scipy_stats.ttest_1samp(x, 0).confidence_interval(0.95)
    got = mean_t(x)
    assert (got.low, got.high) == pytest.approx((want.low, want.high))
    assert math.isinf(mean_t([0.3]).high)
    with pytest.raises(NotEnoughData):
        mean_t([])


def test_bootstrap_of_a_mean_agrees_with_scipy() -> None:
    x = np.random.default_rng(0).exponential(size=300)
    want = scipy_stats.bootstrap(
        (x,), np.mean, n_resamples=4000, method="percentile", random_state=np.random.default_rng(1)
    ).confidence_interval
    got = bootstrap(torch.tensor(x), n_boot=4000, seed=3)
    width = want.high - want.low
    assert got.value == pytest.approx(x.mean())
    assert got.low == pytest.approx(want.low, abs=0.04 * width)
    assert got.high == pytest.approx(want.high, abs=0.04 * width)


def test_bootstrap_takes_any_statistic_and_is_reproducible() -> None:
    x = torch.arange(101.0)
    a = bootstrap(x, lambda r: r.median(1).values, seed=1)
    assert a == bootstrap(x, lambda r: r.median(1).values, seed=1)
    assert a != bootstrap(x, lambda r: r.median(1).values, seed=2)
    assert a.value == 50
    assert 30 < a.low < 50 < a.high < 70


def test_weights_are_resamples() -> None:
    g = torch.Generator().manual_seed(0)
    weights = torch.cat(list(weight_chunks(40, 3000, g)))
    assert weights.shape == (3000, 40)
    assert bool((weights.sum(1) == 40).all())
    # Each weight is Binomial(40, 1 / 40): mean 1, variance 0.975.
    assert float(weights.var()) == pytest.approx(0.975, abs=0.02)


def test_chunks_cover_every_resample(monkeypatch) -> None:
    monkeypatch.setattr("ddaudit.stats.intervals._CHUNK", 1000)
    got = list(weight_chunks(200, 25, torch.Generator().manual_seed(0)))
    assert [len(w) for w in got] == [5] * 5


def test_strata_are_resampled_within_and_keep_their_spread() -> None:
    g = torch.Generator().manual_seed(0)
    hits = torch.tensor([[1.0], [0.0]] * 50 + [[1.0]] * 20)
    strata = torch.tensor([0] * 100 + [2] * 20)
    got = stratified_replicates(hits, strata, 2000, g)
    assert got.shape == (2000, 3, 1)
    assert float(got[:, 0].std()) == pytest.approx(0.05, rel=0.05)  # sqrt(p (1 - p) / n)
    assert bool((got[:, 2] == 1).all())
    assert bool(torch.isnan(got[:, 1]).all())


def test_a_pseudo_record_gives_agreeing_records_a_width() -> None:
    hits, strata = torch.ones(40, 1), torch.arange(40) // 20
    plain = stratified_replicates(hits, strata, 500, torch.Generator().manual_seed(0))
    smooth = stratified_replicates(
        hits, strata, 5000, torch.Generator().manual_seed(0), pseudo=torch.tensor([[0.0], [1.0]])
    )
    assert float(plain.std()) == 0
    # 20 draws of 21 records, one of them a miss: Binomial(20, 1 / 21) misses.
    assert float(1 - smooth[:, 0].mean()) == pytest.approx(1 / 21, rel=0.05)
    assert float(smooth[:, 0].std()) == pytest.approx((20 / 21 / 21 / 20) ** 0.5, rel=0.05)
    assert float(smooth[:, 1].std()) == 0


def test_quantiles_leave_the_promised_tail_beyond_them() -> None:
    """Of 99 replicates each gap holds 1 %: 2.5 % lie beyond the middle of the third gap, and of 39 beyond the first."""
    assert quantiles(torch.arange(1.0, 100.0), 0.95) == pytest.approx((2.5, 97.5))
    assert quantiles(torch.arange(1.0, 40.0), 0.95) == pytest.approx((1.0, 39.0))
    assert quantiles(torch.arange(1.0, 4.0), 0.95) == (1.0, 3.0)
