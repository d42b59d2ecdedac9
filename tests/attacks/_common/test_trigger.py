"""Trigger placement and poisoning, against the published numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddaudit.attacks._common.trigger import SquareTrigger, poison
from ddaudit.data import ImageData
from ddaudit.errors import BadInput


def images(n: int, size: int, channels: int = 3) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 200, (n, channels, size, size), generator=g, dtype=torch.uint8)


def data(n: int = 200, classes: int = 10) -> ImageData:
    return ImageData(
        images=images(n, 8), labels=torch.arange(n) % classes, class_names=tuple(map(str, range(classes))),
        groups=torch.arange(n) % 2, group_names=("a", "b"),
    )  # fmt: skip


def test_trigger_sits_one_pixel_from_the_bottom_right_corner():
    # NAIVEATTACK: side 2 at 32 x 32, rows and columns [W - 1 - s, W - 1), value 255.
    stamped = SquareTrigger.published((3, 32, 32)).stamp(
        torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    )
    expected = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    for r in (29, 30):
        for c in (29, 30):
            expected[:, :, r, c] = 255
    assert torch.equal(stamped, expected)


@pytest.mark.parametrize(("size", "side"), [(8, 1), (16, 1), (28, 2), (32, 2), (64, 4), (224, 14)])
def test_side_follows_the_resolution(size, side):
    trigger = SquareTrigger.published((3, size, size))
    assert trigger.side == side
    assert trigger.window(size, size)[0] == slice(size - 1 - side, size - 1)


@given(
    size=st.integers(3, 40),
    side=st.integers(1, 6),
    margin=st.integers(0, 4),
    channels=st.sampled_from([1, 3]),
)
def test_stamping_changes_the_window_and_nothing_else(size, side, margin, channels):
    trigger = SquareTrigger(side=side, margin=margin)
    x = images(2, size, channels)
    if side + margin > size:
        with pytest.raises(BadInput, match="does not fit"):
            trigger.stamp(x)
        return
    before, stamped = x.clone(), trigger.stamp(x)
    assert torch.equal(x, before)
    assert (
        int((stamped != x).sum()) == 2 * channels * side * side
    )  # every value there was below 200
    assert torch.equal(trigger.stamp(stamped), stamped)


def test_poison_stamps_and_relabels_exactly_the_drawn_records():
    clean = data()
    made = poison(
        clean,
        SquareTrigger(side=1),
        ratio=0.1,
        target=0,
        generator=torch.Generator().manual_seed(1),
    )
    hit = torch.zeros(200, dtype=torch.bool)
    hit[made.index] = True
    assert int(hit.sum()) == 20
    assert bool((made.train.labels[hit] == 0).all())
    assert bool((made.train.images[hit][:, :, 6, 6] == 255).all())
    assert torch.equal(made.train.labels[~hit], clean.labels[~hit])
    assert torch.equal(made.train.images[~hit], clean.images[~hit])
    assert torch.equal(made.train.groups, clean.groups)
    assert made.train.fingerprint != clean.fingerprint
    assert int((clean.images == 255).sum()) == 0


def test_poison_draws_over_all_classes_and_repeats_with_its_seed():
    clean = data(1000)
    draws = [
        poison(
            clean,
            SquareTrigger(side=1),
            ratio=0.2,
            target=0,
            generator=torch.Generator().manual_seed(s),
        ).index
        for s in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert set(clean.labels[draws[0]].tolist()) == set(range(10))  # the target class too


def test_poison_takes_at_least_one_record_and_refuses_nonsense():
    g = torch.Generator().manual_seed(0)
    assert (
        len(poison(data(), SquareTrigger(side=1), ratio=0.0001, target=0, generator=g).index) == 1
    )
    with pytest.raises(BadInput, match="ratio"):
        poison(data(), SquareTrigger(side=1), ratio=0.0, target=0, generator=g)
    with pytest.raises(BadInput, match="target class 10"):
        poison(data(), SquareTrigger(side=1), ratio=0.1, target=10, generator=g)
