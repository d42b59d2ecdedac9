"""Paired comparisons against scipy and coverage."""

from __future__ import annotations

import pytest
import torch
from scipy import stats as scipy_stats

from ddaudit.errors import NotEnoughData
from ddaudit.stats import clopper_pearson, paired_difference


def test_difference_of_shares_is_the_paired_t_interval() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, generator=g), torch.rand(50, generator=g)
    want = scipy_stats.ttest_rel(a.double(), b.double()).confidence_interval(0.95)
    got = paired_difference(a, b)
    assert (got.low, got.high) == pytest.approx((want.low, want.high))


def test_binary_difference_covers_and_beats_two_separate_intervals() -> None:
    # True difference 0.03. 500 trials at 95 %: below 0.92 has probability 2e-3.
    g = torch.Generator().manual_seed(1)
    hits, widths = 0, []
    for _ in range(500):
        u = torch.rand(400, generator=g)
        a, b = u < 0.80, (u < 0.75) | (u > 0.98)
        got = paired_difference(a, b)
        hits += 0.03 in got
        widths.append(got.half_width)
    assert hits / 500 >= 0.92
    assert sum(widths) / 500 < 0.7 * clopper_pearson(320, 400).half_width


def test_equal_subjects_have_a_small_but_real_width() -> None:
    x = torch.ones(200)
    got = paired_difference(x, x)
    assert got.value == 0
    assert 0 < got.half_width < 0.02


def test_victims_enter_the_interval() -> None:
    a = torch.tensor([[1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50])
    b = torch.tensor([[1.0] * 60 + [0.0] * 40, [1.0] * 60 + [0.0] * 40])
    got = paired_difference(a, b)
    assert got.value == pytest.approx(0.1)
    assert got.half_width > 0.3  # 0.9 and 0.5: two victims say little about a third


def test_unequal_images_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([1, 0, 1], [1, 0])
    with pytest.raises(NotEnoughData):
        paired_difference([1], [1])
