"""The validation split: fixed, disjoint, a record's role its own; statistics."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from ddaudit.data import ImageData
from ddaudit.data.splits import LazySplits, channel_statistics, hold_out


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
    data = _numbered(grey([500, 300, 200]))
    train, validation = hold_out(data, 0.1)
    kept, held = _numbers(train), _numbers(validation)
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert sorted(kept + held) == list(range(1000))


def test_every_class_and_group_gives_its_share_up_to_chance(
    grey: Callable[..., ImageData], within: Callable[[int, int, float], bool]
) -> None:
    sizes = [5400, *[67] * 8, 64]
    groups = torch.repeat_interleave(torch.arange(10), torch.tensor(sizes))
    data = replace(grey([6000], size=3), groups=groups, group_names=tuple("abcdefghij"))
    train, validation = hold_out(data, 0.1)
    assert validation.groups is not None
    counts = torch.bincount(validation.groups, minlength=10).tolist()
    for count, size in zip(counts, sizes, strict=True):
        assert within(count, size, 0.1)
    assert len(train) + len(validation) == 6000


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_one_record_less_changes_no_other_role(
    grey: Callable[..., ImageData], fraction: float
) -> None:
    data = _numbered(grey([40, 30]))
    held = set(_numbers(hold_out(data, fraction)[1]))
    for gone in range(len(data)):
        rest = data.subset(torch.arange(len(data)) != gone)
        assert set(_numbers(hold_out(rest, fraction)[1])) == held - {gone}


def test_copies_of_an_image_stay_together(grey: Callable[..., ImageData]) -> None:
    data = grey([100])
    twice = data.subset(torch.arange(100).repeat(2))
    train, validation = hold_out(twice, 0.3)
    images = [{i.numpy().tobytes() for i in part.images} for part in (train, validation)]
    assert not images[0] & images[1]


def test_every_call_gives_the_same_split(grey: Callable[..., ImageData]) -> None:
    data = grey([40, 40])
    assert hold_out(data, 0.25)[1].fingerprint == hold_out(data, 0.25)[1].fingerprint


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
