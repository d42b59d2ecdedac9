"""The validation split: fixed, disjoint, stratified over classes and groups; statistics."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddaudit.data import ImageData
from ddaudit.data.splits import LazySplits, _share, channel_statistics, hold_out


def _numbered(data: ImageData) -> ImageData:
    """Write each record's position into its first three pixels."""
    images = data.images.clone()
    number = torch.arange(len(data))
    for place in range(3):
        images[:, 0, 0, place] = ((number >> (8 * place)) & 255).to(torch.uint8)
    return replace(data, images=images)


def _numbers(data: ImageData) -> list[int]:
    first = data.images[:, 0, 0, :3].long()
    return (first[:, 0] + 256 * first[:, 1] + 65536 * first[:, 2]).tolist()


def test_parts_are_disjoint_ordered_and_complete(grey: Callable[..., ImageData]) -> None:
    data = _numbered(grey([50, 30, 20]))
    train, validation = hold_out(data, 0.1)
    assert validation.class_counts().tolist() == [5, 3, 2]
    kept, held = _numbers(train), _numbers(validation)
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert sorted(kept + held) == list(range(100))


def test_held_out_records_are_no_contiguous_slice(grey: Callable[..., ImageData]) -> None:
    held = _numbers(hold_out(_numbered(grey([500])), 0.1)[1])
    # 50 of 500 at random: all in the last half has probability 2^-50.
    assert min(held) < 250 < max(held)


def test_every_call_gives_the_same_split(grey: Callable[..., ImageData]) -> None:
    data = grey([40, 40])
    assert hold_out(data, 0.25)[1].fingerprint == hold_out(data, 0.25)[1].fingerprint


def test_groups_keep_their_share_and_class_totals_are_exact(
    grey: Callable[..., ImageData],
) -> None:
    # FairDD's cells of a class of 6000: one tenth of each is no whole number for the small ones.
    sizes = [5400, *[67] * 8, 64]
    groups = torch.repeat_interleave(torch.arange(10), torch.tensor(sizes))
    data = replace(grey([6000], size=1), groups=groups, group_names=tuple("abcdefghij"))
    train, validation = hold_out(data, 0.1)
    assert validation.groups is not None
    counts = torch.bincount(validation.groups, minlength=10).tolist()
    assert counts[0] == 540
    assert set(counts[1:]) <= {6, 7}
    assert len(validation) == 600
    assert len(train) == 5400


def test_no_cell_loses_its_last_training_record(grey: Callable[..., ImageData]) -> None:
    train, validation = hold_out(grey([1, 2, 3]), 0.5)
    assert train.class_counts().tolist() == [1, 1, 1]
    assert validation.class_counts().tolist() == [0, 1, 2]


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=12), fraction=st.floats(0.0, 0.5))
def test_shares_are_near_the_fraction_in_every_cell(sizes: list[int], fraction: float) -> None:
    counts = _share(sizes, fraction)
    for count, size in zip(counts, sizes, strict=True):
        assert 0 <= count <= size - 1
        assert abs(count - fraction * size) <= 1 + 1e-9 or count == size - 1
    if min(sizes) > 2:
        assert abs(sum(counts) - fraction * sum(sizes)) <= 0.5 + 1e-6 or any(
            count == size - 1 for count, size in zip(counts, sizes, strict=True)
        )


def test_statistics_agree_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 5, 5), generator=generator, dtype=torch.uint8)
    images[:, 2] = 51
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    expected = pixels.std((0, 2, 3), correction=0).tolist()
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=5e-5)
    assert std[:2] == pytest.approx(expected[:2], abs=5e-5)
    assert std[2] == 1.0, "a constant channel must not divide by zero"


def test_lazy_splits_are_made_once_when_asked_for_and_pickle(
    grey: Callable[..., ImageData],
) -> None:
    made = []

    def make() -> ImageData:
        made.append(1)
        return grey([3])

    splits = LazySplits({"a": make})
    assert list(splits) == ["a"]
    assert len(splits) == 1
    assert not made
    assert splits["a"] is splits["a"]
    assert made == [1]
    data = grey([2])
    lazy = LazySplits({"b": partial(data.subset, torch.tensor([1]))})
    assert len(pickle.loads(pickle.dumps(lazy))["b"]) == 1
