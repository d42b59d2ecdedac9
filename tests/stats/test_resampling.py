"""Shared resamples: equal for everybody, and differences on them have the variance of paired differences."""

from __future__ import annotations

import math

import pytest
import torch

from ddaudit.stats import Resamples
from ddaudit.stats.resampling import pack, unpack
from ddaudit.stats.verdicts import (
    Reading,
    Records,
    Spread,
    half_widths,
    p_value,
    records_within,
)

N = 1000


def _answers(seed: int, p: float = 0.7) -> torch.Tensor:
    """(2, N) right or wrong: images of unlike difficulty, the same for every seed."""
    easy = torch.randn(N, generator=torch.Generator().manual_seed(7)) * 2
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, N, generator=g) < (easy + math.log(p / (1 - p))).sigmoid()


def test_replicates_of_a_difference_have_the_variance_of_paired_records() -> None:
    """Closed form: var(d) / N of per-image differences d, far below that of two independent rates."""
    shared = Resamples("abc", N, 2000)
    a, b = _answers(1), _answers(2, 0.6)
    gap = shared.means(a) - shared.means(b)
    d = a.double().mean(0) - b.double().mean(0)
    assert float(gap.mean()) == pytest.approx(float(d.mean()), abs=2e-3)
    # The standard error of a variance of 2000 replicates is 3 %: four of them.
    assert float(gap.var()) == pytest.approx(float(d.var()) / N, rel=0.13)
    alone = sum(float(x.double().mean(0).var()) for x in (a, b)) / N
    assert float(gap.var()) < 0.6 * alone


def test_resamples_depend_on_the_records_and_their_number_alone() -> None:
    table = _answers(3)
    same = Resamples("abc", N).means(table)
    assert torch.equal(same, Resamples("abc", N).means(table))
    assert not torch.equal(same, Resamples("abd", N).means(table))
    with pytest.raises(ValueError, match="3 replicates of 400"):
        Resamples("abc", N).kept(torch.ones(2), torch.ones(3))


def test_what_is_kept_can_be_read_again() -> None:
    kept = Resamples("abc", N).of_rate(_answers(3))
    assert kept.networks == pytest.approx(_answers(3).double().mean(1).tolist())
    assert torch.allclose(
        unpack(kept.replicates), Resamples("abc", N).means(_answers(3)), atol=1e-7
    )


@pytest.mark.parametrize(
    "text", ["", "AAAA", "!", "AACAfwAAgH8=", pack(torch.tensor([0.0, math.nan]))]
)
def test_damaged_replicates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"base64|finite|two float32"):
        unpack(text)


def test_with_draws_and_records_it_is_the_two_way_layout() -> None:
    """Rows are draws, columns records: var = (MS_draws + MS_records - MS_rest) / (S N), computed by hand."""
    g = torch.Generator().manual_seed(0)
    table = (
        torch.rand(4, N, generator=g, dtype=torch.float64) < 0.6
    )  # no draw effect: all of it is the rest
    draws = torch.stack([Resamples("x", N, 4000).means(row[None]) for row in table])
    rest = records_within(draws)
    by_hand = float((table.double() - table.double().mean(0)).var(1).sum()) / 3 / N
    assert rest == pytest.approx(
        by_hand, rel=0.06
    )  # 12 000 free replicates: four standard errors of 1.3 %
    values = table.double().mean(1).tolist()
    spread = Spread.of(values)
    assert spread is not None
    a = Reading(sum(values) / 4, 4, Spread(spread.variance, 3.0, rest), 0.0, 0.0)
    still = Reading(0.0, 1, Spread(0.0, 1.0), 0.0, 0.0)
    records = Records(float(draws.mean(0).var()))
    low, high = half_widths(a, still, records=records)
    assert low == high
    # Records and draws both hold the rest; it counts once, and either alone is the least.
    assert low >= 1.96 * math.sqrt(records.variance)
    assert low < math.hypot(half_widths(a, still)[0], 1.96 * math.sqrt(records.variance))


def test_subjects_that_agree_everywhere_may_still_differ_on_the_next_record() -> None:
    """Bonett and Price with no disagreement on 100: 1.96 sqrt(2 / 102) / sqrt(102)."""
    same = torch.full((1, 400), 0.9, dtype=torch.float64)
    a = Reading(0.9, 1, Spread(0.0, 1.0), 0.0, 0.0)
    records = Records.of(same, same, n=100)
    half = 1.959964 * math.sqrt(2 / 102) / math.sqrt(102)
    assert half_widths(a, a, records=records) == pytest.approx((half, half), rel=1e-6)
    assert p_value(a, a, records=records) == 1.0
