"""Intervals over victims x images, and merged seeds: scipy, closed forms, coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ddaudit.errors import NotEnoughData
from ddaudit.stats import (
    bootstrap,
    clopper_pearson,
    crossed,
    crossed_difference,
    crossed_mean,
    crossed_rate,
    crossing,
    wilson,
)


def _coverage(v: int, n: int, *, victim_sd: float, image_sd: float, noise_sd: float, trials: int):
    """Share of trials whose interval holds the true mean 0."""
    g = torch.Generator().manual_seed(v * 1000 + n)
    hits = 0
    for _ in range(trials):
        x = victim_sd * torch.randn(v, 1, generator=g) + image_sd * torch.randn(1, n, generator=g)
        x = x + noise_sd * torch.randn(v, n, generator=g)
        hits += 0.0 in crossed_mean(x)
    return hits / trials


@pytest.mark.parametrize("v", [2, 3, 5])
@pytest.mark.parametrize("victim_sd", [0.0, 0.05, 0.15, 1.0])
def test_crossed_intervals_cover_images_and_victims(v, victim_sd) -> None:
    # 400 trials; three binomial errors below the 0.943 that is promised. Resampling two victims
    # covers about 0.5 at victim_sd = 1 (below), so this can fail.
    share = _coverage(v, 100, victim_sd=victim_sd, image_sd=1.0, noise_sd=0.5, trials=400)
    assert share >= 0.943 - 3 * 0.0116


def _integrated(v: int, ratio: float) -> float:
    """Coverage of ``crossed`` where victims' standard error is ``ratio`` times that of the images, which is known."""
    images = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    levels = (np.arange(200) + 0.5) / 200
    covered = []
    for square in scipy_stats.chi2.ppf(levels, v - 1) / (v - 1):
        apart = ratio * np.sqrt(v * square)  # standard deviation of the victims
        victims = torch.linspace(-1.0, 1.0, v, dtype=torch.float64)
        half = crossed(victims * apart / victims.std(), images, n=1000).half_width
        covered.append(2 * scipy_stats.norm.cdf(half / np.hypot(1, ratio)) - 1)
    return float(np.mean(covered))


@pytest.mark.parametrize("v", [2, 3, 5])
@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0, 2.5, 6.0, 20.0])
def test_coverage_at_every_share_of_the_victims(v, ratio) -> None:
    assert 0.94 <= _integrated(v, ratio) <= 0.975


def test_degrees_of_freedom_of_the_estimate_itself_cover_too_little(monkeypatch) -> None:
    monkeypatch.setattr(crossing, "share_bound", lambda freedom: 1.0)
    assert _integrated(2, 4.0) < 0.88


def test_the_share_bound_is_the_upper_quartile_bound_of_a_variance() -> None:
    sample = np.random.default_rng(0).normal(size=(3, 20_000)).var(0, ddof=1)
    assert np.mean(crossing.share_bound(2) * sample >= 1) == pytest.approx(0.75, abs=0.01)  # 3 se


def test_victims_that_differ_on_one_image_are_a_share_of_it() -> None:
    got = crossed_rate([[1.0], [0.0], [0.0]])
    assert got.value == pytest.approx(1 / 3)
    assert 0 <= got.low < 1 / 3 < got.high <= 1


def test_records_alone_are_told_from_victims() -> None:
    x = (torch.rand(3, 400, generator=torch.Generator().manual_seed(0)) < 0.7).double()
    for got in (crossed_mean(x), crossed(x.mean(1), torch.randn(500), n=400)):
        assert got.within is not None
        assert got.within[0] <= got.value - got.low
        assert got.within[1] <= got.high - got.value
    assert crossed_mean(x[0]).within is None
    shared = crossed_mean(x[:1].expand(3, -1) + torch.tensor([[-0.1], [0.0], [0.1]])).within
    assert shared == pytest.approx((crossed_mean(x[0]).half_width,) * 2)


def test_resampling_two_victims_would_not_cover() -> None:
    g = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(200):
        x = torch.randn(2, 1, generator=g) + 0.01 * torch.randn(2, 50, generator=g)
        low, high = sorted(x.mean(1).tolist())  # the widest a bootstrap over these two can be
        hits += low <= 0 <= high
    assert hits / 200 < 0.65


def test_one_victim_leaves_the_image_interval() -> None:
    x = (torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.8).double()
    want = scipy_stats.ttest_1samp(x.numpy(), 0).confidence_interval(0.95)
    assert crossed_mean(x).low == pytest.approx(want.low)
    exact = clopper_pearson(int(x.sum()), 400)
    assert crossed_mean(x).half_width == pytest.approx(exact.half_width, rel=0.1)


def test_identical_victims_add_no_information_about_images() -> None:
    x = (torch.rand(1, 400, generator=torch.Generator().manual_seed(0)) < 0.8).double()
    assert crossed_mean(x.expand(5, -1)).half_width == pytest.approx(
        crossed_mean(x).half_width, rel=0.01
    )


def test_shift_keeps_the_value_inside_where_the_percentile_interval_excludes_it() -> None:
    g = torch.Generator().manual_seed(0)
    groups = (torch.rand(10, 100, generator=g) < 0.9).double()  # ten equally good groups

    def gap(rows: torch.Tensor) -> torch.Tensor:
        return rows.mean(-1).amax(-1) - rows.mean(-1).amin(-1)

    index = torch.randint(100, (1000, 10, 100), generator=g)
    replicates = gap(groups.expand(1000, -1, -1).gather(2, index))
    value = float(gap(groups))
    low = float(torch.quantile(replicates, 0.025))
    shifted = crossed([value], replicates, n=1000)
    assert float(replicates.mean()) > value + 0.02  # the doubled bias that shift removes
    assert shifted.low < value < shifted.high
    assert shifted.low < low


def test_rates_of_one_victim_are_exact_and_extremes_keep_a_width() -> None:
    one = torch.tensor([1.0] * 90 + [0.0] * 10)
    assert crossed_rate(one) == clopper_pearson(90, 100)
    perfect = crossed_rate(torch.ones(3, 100))
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(wilson(100, 100).low)
    many = (torch.rand(3, 400, generator=torch.Generator().manual_seed(0)) < 0.7).double()
    assert crossed_rate(many) == crossed_mean(many)


def test_nothing_to_merge_or_average_is_refused() -> None:
    with pytest.raises(NotEnoughData):
        crossed_mean(torch.ones(3, 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_the_value_is_always_inside(rows) -> None:
    x = torch.tensor(rows, dtype=torch.float64)
    for got in (crossed_mean(x), crossed_rate(x)):
        assert got.low <= got.value <= got.high
        assert got.value == pytest.approx(float(x.mean()))
    got = bootstrap(x[0], n_boot=50)
    assert got.low <= got.value <= got.high


def test_shares_near_an_end_are_as_wide_as_wilsons() -> None:
    """All shares 1: no spread to read, and 400 images still leave more than nothing open."""
    got = crossed_rate(torch.ones(3, 400) - 1e-9)
    assert got.low == pytest.approx(wilson(400, 400).low, abs=1e-6)
    one = crossed_rate(torch.full((1, 400), 0.999))
    assert one.low < 0.995 < 0.999 < one.high


def test_differences_without_spread_keep_bonett_and_prices_width() -> None:
    for value in (0.0, 1.0, -1.0):
        got = crossed_difference(torch.full((3, 400), value))
        assert got.value == value
        assert got.high - got.low > 0.004
        assert -1 <= got.low <= value <= got.high <= 1
    spread = torch.randint(-1, 2, (3, 400), generator=torch.Generator().manual_seed(0))
    assert crossed_difference(spread) == crossed_mean(spread).clamp(-1, 1), "enough events: as ever"


def test_resamples_without_a_value_are_left_out() -> None:
    drawn = torch.linspace(0.2, 0.6, 200).double()
    holes = torch.cat([drawn, torch.full((20,), torch.nan)])
    with_holes = crossed(torch.tensor([0.4, 0.4]), holes, n=50)
    assert with_holes == crossed(torch.tensor([0.4, 0.4]), drawn, n=50)
    nothing = crossed(torch.tensor([0.4]), torch.full((9,), torch.nan), n=50)
    assert (nothing.low, nothing.high) == (-np.inf, np.inf)
