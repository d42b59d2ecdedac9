"""Held-out records are made to look like training, and only where they do not already."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.attacks._common.nonmembers import composition_differs, held_out, matching_sample
from ddaudit.auditing import PRESETS, Context
from ddaudit.data import Dataset, load_data
from ddaudit.models import Arch


def draw(n: int, weights: list[float], seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.tensor(weights), n, replacement=True, generator=g)


def test_equal_compositions_are_rarely_called_different() -> None:
    """400 pairs of samples at level 0.01: 4 expected, more than 12 happen once in 2000 tries."""
    weights = [0.3, 0.3, 0.2, 0.15, 0.04, 0.01]
    alarms = sum(
        composition_differs(draw(900, weights, 2 * s), draw(300, weights, 2 * s + 1), level=0.01)
        for s in range(400)
    )
    assert alarms <= 12


def test_a_balanced_test_split_of_biased_data_is_noticed() -> None:
    assert composition_differs(draw(1000, [0.9, 0.1], 0), draw(300, [0.5, 0.5], 1))


def test_matched_sample_has_the_training_frequencies() -> None:
    train, held = draw(5000, [0.7, 0.2, 0.1], 0), draw(3000, [1.0, 1.0, 1.0], 1)
    index = matching_sample(train, held, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(held[index]).double() / len(index)
    wanted = torch.bincount(train).double() / len(train)
    torch.testing.assert_close(share, wanted, atol=0.01, rtol=0)
    assert len(index) > 1300  # the scarcest cell, 1000 records for 70 %, allows about 1430
    assert len(torch.unique(index)) == len(index)


def test_cells_that_held_out_data_lack_are_skipped() -> None:
    train, held = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1] * 10)
    index = matching_sample(train, held, generator=torch.Generator().manual_seed(0))
    assert set(held[index].tolist()) == {0, 1}


@pytest.mark.parametrize("shifted", [False, True])
def test_held_out_records_of_a_data_set(tiny: Dataset, shifted: bool) -> None:
    data = tiny
    if shifted:
        keep = (tiny.train.groups == 0) | (torch.arange(len(tiny.train)) % 10 == 0)
        data = replace(tiny, train=tiny.train.subset(keep))
    ctx = Context(data=data, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"))
    held = held_out(ctx)
    assert held.matched is shifted
    assert held.available == 240
    assert bool(held.caveats()) is shifted
    if shifted:
        assert held.records.groups is not None
        assert data.train.groups is not None
        share = float((held.records.groups == 0).double().mean())
        assert share == pytest.approx(float((data.train.groups == 0).double().mean()), abs=0.05)
    else:
        assert len(held.records) == 240


def test_noisy_training_is_compared_with_validation_that_is_as_noisy() -> None:
    """A network would tell right labels of test from wrong ones of training."""
    data = load_data("noisy:rate=0.4")
    ctx = Context(data=data, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"))
    held = held_out(ctx)
    assert held.noisy
    assert held.records.fingerprint == data.validation.fingerprint
    assert any("validation records alone" in text for text in held.caveats())
    # What no label is asked of may be compared with both.
    assert len(held_out(ctx, labels=False).records) > len(held.records)
