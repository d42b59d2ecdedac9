"""The scan's p-value: uniform where the suspect is clean, small where it is not, whatever the readings look like."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from ddaudit.attacks.backdoor_scan.calibration import calibrate, excesses, rank_p_value

CLASSES = 4


def heavy(g: torch.Generator) -> dict[str, torch.Tensor]:
    """One set's readings: two detectors that depend on each other, one with heavy tails, classes of different size."""
    shared = torch.randn(1, generator=g).double()
    a = torch.randn(CLASSES, generator=g).double() + shared + 10 * torch.arange(CLASSES)
    b = (0.5 * torch.randn(CLASSES, generator=g).double() + shared / 2).exp()
    return {"a": a, "b": b}


@pytest.mark.parametrize("n", [9, 19])
def test_p_value_of_clean_sets_is_uniform(n):
    """500 scans of clean sets: each of the n + 1 values equally often. False alarm of this test: 0.001."""
    g = torch.Generator().manual_seed(n)
    p = [calibrate(heavy(g), [heavy(g) for _ in range(n)]) for _ in range(500)]
    for values in ([c.p_value for c in p], [c.verdicts["b"].p_value for c in p]):
        counts = np.bincount(np.round(np.array(values) * (n + 1)).astype(int), minlength=n + 2)[1:]
        assert stats.chisquare(counts).pvalue > 0.001
    adjusted = [min(v.adjusted for v in c.verdicts.values()) for c in p]
    assert adjusted == [c.p_value for c in p]  # one false-alarm rate for the scan
    assert np.mean(np.array(adjusted) <= 0.1) == pytest.approx(0.1, abs=0.04)


def test_a_suspect_that_stands_out_gets_the_smallest_p_value_and_its_class_is_named():
    g = torch.Generator().manual_seed(0)
    suspect = heavy(g)
    suspect["a"][2] += 15
    result = calibrate(suspect, [heavy(g) for _ in range(19)])
    assert result.p_value == result.smallest == 0.05
    assert result.verdicts["a"].suspect == 2
    assert result.verdicts["a"].adjusted == 0.05
    assert result.verdicts["a"].excess[2] > 5 * result.verdicts["a"].usual
    assert result.verdicts["b"].p_value > 0.05


def test_excess_is_the_prediction_interval_t_statistic():
    """One class: (x - mean) / (s sqrt(1 + 1 / n)) of the n others."""
    values = torch.randn(8, 1, generator=torch.Generator().manual_seed(1)).double()
    got = excesses(values)[:, 0].numpy()
    for i in range(8):
        others = np.delete(values[:, 0].numpy(), i)
        expected = (values[i, 0] - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 7))
        assert got[i] == pytest.approx(float(expected))


def test_readings_far_from_zero_keep_their_digits():
    values = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)).double()
    assert torch.allclose(excesses(values + 1e6), excesses(values), atol=1e-5)


def test_readings_that_never_differ_accuse_nobody():
    same = {"a": torch.ones(CLASSES).double()}
    result = calibrate(same, [same] * 9)
    assert result.p_value == 1.0
    assert float(result.verdicts["a"].excess.abs().max()) == 0.0


def test_rank_p_value_counts_ties_against_the_suspicion():
    clean = torch.tensor([1.0, 2.0, 3.0])
    assert rank_p_value(torch.tensor(2.0), clean) == 3 / 4
    assert rank_p_value(torch.tensor(9.0), clean) == 1 / 4


def test_a_reading_that_is_no_number_accuses_nobody():
    assert rank_p_value(torch.tensor(float("nan")), torch.zeros(5)) == 1.0
    assert rank_p_value(torch.tensor(1.0), torch.tensor([0.0, float("nan")])) == 2 / 3
