"""Members and non-members are alike in class and group, on long-tail, biased and ordinary data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddaudit.attacks._common.nonmembers import (
    TOLERANCE,
    cell_auc,
    composition_check,
    held_out,
    made_of_ours,
    matched_samples,
    pool_caveats,
)
from ddaudit.attacks.membership import auditor as module
from ddaudit.attacks.membership.auditor import Membership
from ddaudit.attacks.membership.settings import MembershipSettings
from ddaudit.attacks.membership.shadows import Cohort, split
from ddaudit.auditing import PRESETS, Context, Subject, stratified
from ddaudit.data import Dataset, ImageData
from ddaudit.errors import NotEnoughData
from ddaudit.models import Arch, build
from ddaudit.sets import Card, DistilledSet
from ddaudit.stats import auc

ARCH = Arch.parse("ConvNetD2W8")
LONG_TAIL = [1000, 599, 359, 215, 129, 77, 46, 28, 17, 10]
"""Imbalance 100, as in the long-tailed CIFAR-10."""


def records(labels: Tensor, groups: Tensor | None = None) -> ImageData:
    names = tuple(map(str, range(10)))
    more: dict[str, Any] = {} if groups is None else {"groups": groups, "group_names": names}
    images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    return ImageData(images=images, labels=labels, class_names=names, **more)


def of_counts(counts: list[int]) -> Tensor:
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]


def aligned(labels: Tensor, share: float, seed: int) -> Tensor:
    """Group = class in ``share`` of the records, another group in the rest (as in colored MNIST)."""
    g = torch.Generator().manual_seed(seed)
    keep = torch.rand(len(labels), generator=g) < share
    return torch.where(
        keep, labels, (labels + torch.randint(1, 10, labels.shape, generator=g)) % 10
    )


def context(train: ImageData, held: ImageData) -> Context:
    data = Dataset(name="t", train=train, validation=held.subset(torch.arange(0)), test=held,
                   mean=(0.5,), std=(0.5,), augment="")  # fmt: skip
    return Context(data=data, preset=PRESETS["quick"], arch=ARCH)


def long_tail() -> Context:
    return context(records(of_counts(LONG_TAIL)), records(of_counts([300] * 10)))


def biased() -> Context:
    train, held = of_counts([600] * 10), of_counts([300] * 10)
    return context(records(train, aligned(train, 0.95, 0)), records(held, aligned(held, 0.1, 2)))


@pytest.mark.parametrize("pool", [300, 1200, 10_000])
def test_a_score_of_the_class_alone_reads_one_half_on_long_tail_data(pool: int) -> None:
    """With members spread evenly over classes it read 0.29 to 0.43: the rarer class is the likelier."""
    sides = split(long_tail(), members=pool, nonmembers=2000)
    frequency = torch.tensor(LONG_TAIL, dtype=torch.float64)[sides.records.labels]
    assert auc(frequency, sides.members[0]).value == pytest.approx(0.5, abs=1e-9)
    assert cell_auc(sides.records, sides.members[0]) == pytest.approx(0.5, abs=1e-9)
    assert int(sides.members[0].sum()) >= min(pool, 400)
    shares = torch.bincount(sides.records.labels[sides.members[0]], minlength=10).double()
    natural = torch.tensor(LONG_TAIL).double() / sum(LONG_TAIL)
    torch.testing.assert_close(shares / shares.sum(), natural, atol=0.06, rtol=0)


@pytest.mark.parametrize("pool", [300, 1200, 10_000])
def test_group_alignment_reads_one_half_on_biased_data(pool: int) -> None:
    sides = split(biased(), members=pool, nonmembers=2000)
    assert sides.records.groups is not None
    same = (sides.records.groups == sides.records.labels).double()
    assert auc(same, sides.members[0]).value == pytest.approx(0.5, abs=1e-9)
    assert float(same.mean()) > 0.9
    assert cell_auc(sides.records, sides.members[0]) == pytest.approx(0.5, abs=1e-9)
    assert any("were not tested" in c for c in sides.caveats)


def test_members_are_a_random_sample_and_not_the_first_ones() -> None:
    """Positions of the members, uniform on the training data: the mean is 0.5 +- 4 sd of 300."""
    train = replace(
        records(torch.zeros(3000, dtype=torch.int64)),
        images=torch.arange(3000).remainder(251).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4),
    )  # fmt: skip
    cell = train.labels
    drawn = matched_samples(
        cell, cell[:900], most_inside=300, most_outside=300,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert len(drawn.inside) == len(drawn.outside) == 300
    assert float(drawn.inside.double().mean()) / 3000 == pytest.approx(
        0.5, abs=4 * 0.2887 / 300**0.5
    )
    assert float(drawn.outside.double().mean()) / 900 == pytest.approx(
        0.5, abs=4 * 0.2887 / 300**0.5
    )


def test_the_ratio_with_the_least_variance_is_chosen() -> None:
    """1000 against 100 in one cell: 6 to 1 is the largest ratio, and both limits are kept."""
    one = torch.zeros(1000, dtype=torch.int64)
    g = torch.Generator().manual_seed(0)
    wide = matched_samples(one, one[:100], most_inside=10_000, most_outside=10_000, generator=g)
    assert (len(wide.inside), len(wide.outside), wide.untested) == (600, 100, 0.0)
    limited = matched_samples(one, one, most_inside=500, most_outside=50, generator=g)
    assert (len(limited.inside), len(limited.outside)) == (300, 50)
    with pytest.raises(NotEnoughData, match="held by training and held-out"):
        matched_samples(one, one + 1, most_inside=9, most_outside=9, generator=g)


def test_sets_of_others_may_hold_validation_records() -> None:
    """They are made from all that is published; those that say to be from these records are not."""
    every = records(of_counts([100] * 10))
    ctx = context(every.subset(torch.arange(600)), every.subset(torch.arange(800, 1000)))
    ctx = replace(ctx, data=replace(ctx.data, validation=every.subset(torch.arange(600, 800))))
    sets = [
        DistilledSet(torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64), 10, card)
        for card in (Card(source_fingerprint=ctx.data.train.fingerprint), Card())
    ]
    assert [made_of_ours(made, ctx) for made in (*sets, None)] == [True, False, False]
    own, others = held_out(ctx), held_out(ctx, ours=False)
    assert (len(own.records), len(others.records)) == (400, 200)
    assert (len(own.caveats()), len(others.caveats())) == (0, 1)
    assert "test records alone" in others.caveats()[0]


def test_a_pool_composed_otherwise_than_training_is_said() -> None:
    train = records(of_counts(LONG_TAIL))
    assert "as even as they come" in pool_caveats(train, stratified(train, 300, even=True))[0]
    assert pool_caveats(train, stratified(train, 300)) == []


@pytest.mark.parametrize("make", [long_tail, biased])
def test_the_check_notices_sides_of_different_composition(
    make: Any, flattened: Callable[..., Cohort]
) -> None:
    for drawn, sound in ((split, True), (flattened, False)):
        sides = drawn(make(), members=300, nonmembers=2000)
        check = composition_check(sides.records, sides.members[0], subject="ckpt")
        assert check.passed is sound, check
        assert (check.subject, check.affects) == ("ckpt", ["membership."])


def test_every_reading_of_a_checkpoint_carries_the_check(
    monkeypatch: pytest.MonkeyPatch, flattened: Callable[..., Cohort]
) -> None:
    """A network that saw no record at all: sound sides pass, flattened ones grey its readings."""
    ctx = long_tail()
    net = build(ARCH, shape=(1, 4, 4), num_classes=10, seed=0, mean=(0.5,), std=(0.5,)).eval()
    subject = Subject(id="ckpt", kind="checkpoint", network=net)
    settings = MembershipSettings(pool=300, population=400, noise_draws=0, file_attacks=("loss",))
    check, direction = Membership().run(subject, ctx, settings, 0).checks
    assert check.passed
    assert check.value is not None
    assert check.value <= TOLERANCE
    assert direction.passed
    monkeypatch.setattr(module, "split", flattened)
    assert not Membership().run(subject, ctx, settings, 0).checks[0].passed
