"""Canaries are what they are called, and only coins decide which of them are in the pool."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ddaudit.attacks.privacy.canaries import concatenate, plant, toss
from ddaudit.data import Dataset
from ddaudit.errors import BadInput, NotEnoughData


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _keys(data) -> set[bytes]:  # type: ignore[no-untyped-def]
    return {image.numpy().tobytes() for image in data.images}


def test_mislabelled_canaries_are_real_records_with_a_wrong_label(tiny: Dataset) -> None:
    found = plant(tiny.train, count=60, kinds=("mislabelled",), generator=_generator())
    truth = {i.numpy().tobytes(): int(y) for i, y in zip(tiny.train.images, tiny.train.labels)}  # noqa: B905
    wrong = [truth[i.numpy().tobytes()] for i in found.records.images]
    assert all(int(y) != w for y, w in zip(found.records.labels, wrong, strict=True))
    assert set(found.records.labels.tolist()) == {0, 1, 2, 3}
    assert not _keys(found.records) & _keys(found.base)
    assert len(found.base) == 240 - 60
    assert found.records.groups is not None


def test_pool_is_the_base_and_the_included_canaries(tiny: Dataset) -> None:
    found = plant(tiny.train, count=40, kinds=("natural",), generator=_generator())
    inside = _keys(found.records.subset(found.included))
    outside = _keys(found.records.subset(~found.included))
    pool = _keys(found.pool)
    assert inside <= pool
    assert not outside & pool
    assert _keys(found.base) <= pool
    assert len(found.pool) == len(found.base) + int(found.included.sum())
    assert _keys(found.records) <= _keys(tiny.train)


def test_patterns_are_orthogonal_around_grey_and_take_no_record_away(tiny: Dataset) -> None:
    found = plant(tiny.train, count=60, kinds=("pattern",), generator=_generator())
    assert len(found.base) == len(tiny.train)
    x = found.records.images.double().flatten(1) - 127.5
    x = x / x.norm(dim=1, keepdim=True)
    gram = (x @ x.T).fill_diagonal_(0)
    assert float(gram.abs().max()) < 0.02  # rounding to 256 levels is all that is left


def test_kinds_share_the_number(tiny: Dataset) -> None:
    kinds = ("mislabelled", "pattern", "natural")
    found = plant(tiny.train, count=50, kinds=kinds, generator=_generator())
    assert len(found) == 50
    assert len(found.base) == 240 - 17 - 16  # patterns come on top


def test_coins_are_fair_and_follow_the_generator() -> None:
    coins = toss(40_000, _generator(1))
    assert abs(float(coins.float().mean()) - 0.5) < 4 * math.sqrt(0.25 / 40_000)
    assert torch.equal(coins, toss(40_000, _generator(1)))
    assert not torch.equal(coins, toss(40_000, _generator(2)))


def test_at_most_a_quarter_becomes_canaries(tiny: Dataset) -> None:
    assert len(plant(tiny.train, count=10_000, kinds=("natural",), generator=_generator())) == 60


def test_small_sets_and_too_many_patterns_are_refused(tiny: Dataset) -> None:
    with pytest.raises(NotEnoughData, match="cannot spare"):
        plant(
            tiny.train.subset(torch.arange(60)),
            count=16,
            kinds=("natural",),
            generator=_generator(),
        )
    many = concatenate([tiny.train] * 4)
    with pytest.raises(BadInput, match="do not fit in 3 x 8 x 8"):
        plant(many, count=200, kinds=("pattern",), generator=_generator())
    single = tiny.train.__class__(tiny.train.images, torch.zeros(240, dtype=torch.int64), ("a",))
    with pytest.raises(BadInput, match="single class"):
        plant(single, count=16, kinds=("mislabelled",), generator=_generator())


def test_patterns_are_of_the_kind_of_the_data(tiny: Dataset) -> None:
    floats = replace(tiny.train, images=tiny.train.pixels())
    found = plant(floats, count=20, kinds=("pattern", "natural"), generator=_generator())
    assert found.records.images.dtype == torch.float32
    assert float(found.records.images.max()) <= 1
    table = replace(floats, space="standard")
    with pytest.raises(BadInput, match="are pictures"):
        plant(table, count=20, kinds=("pattern",), generator=_generator())
