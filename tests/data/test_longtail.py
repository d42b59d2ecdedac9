"""Long tails: published class counts, the published subset, class orders, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddaudit.data import Dataset, ImageData, Request, load_data, longtail
from ddaudit.data.longtail import long_tail, long_tail_counts, thin_tail
from ddaudit.errors import BadInput


def test_cifar10_lt_and_fashion_mnist_lt_have_the_published_counts() -> None:
    assert long_tail_counts(5000, 10, imbalance=100) == [
        5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50,
    ]  # fmt: skip
    assert long_tail_counts(6000, 10, imbalance=100) == [
        6000, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60,
    ]  # fmt: skip


@given(largest=st.integers(1, 10_000), classes=st.integers(1, 200), imbalance=st.integers(1, 1000))
def test_counts_fall_from_the_head_to_the_exact_tail(
    largest: int, classes: int, imbalance: int
) -> None:
    counts = long_tail_counts(largest, classes, imbalance=imbalance)
    assert len(counts) == classes
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == largest
    assert classes == 1 or counts[-1] == largest // imbalance


def test_the_subset_is_the_one_that_the_published_code_draws(
    grey: Callable[..., ImageData],
) -> None:
    data = grey([200] * 10)
    made = long_tail(data, imbalance=20, order=range(10))
    for label, count in enumerate(made.class_counts().tolist()):
        of_class = data.images[data.labels == label]
        chosen = np.random.RandomState(42).choice(200, count, replace=False)
        assert torch.equal(made.images[made.labels == label], of_class[np.sort(chosen)])


def test_unequal_classes_are_cut_to_the_smallest_first(grey: Callable[..., ImageData]) -> None:
    made = long_tail(grey([50, 40, 60]), imbalance=4, order=[2, 0, 1])
    assert made.class_counts().tolist() == [20, 10, 40]


def test_every_class_keeps_a_record_and_no_data_stays_no_data(
    grey: Callable[..., ImageData],
) -> None:
    made = long_tail(grey([4, 4]), imbalance=100, order=[0, 1])
    assert made.class_counts().tolist() == [4, 1]
    empty = grey([2]).subset(torch.empty(0, dtype=torch.int64))
    assert long_tail(empty, imbalance=10, order=[0]) is empty


def test_groups_travel_with_their_records() -> None:
    data, base = (
        load_data("long-tail:base=digits-colored,imbalance=10"),
        load_data("digits-colored"),
    )
    assert data.train.groups is not None
    assert base.train.groups is not None
    known = {
        image.numpy().tobytes(): int(group)
        for image, group in zip(base.train.images, base.train.groups, strict=True)
    }
    for image, group in zip(data.train.images, data.train.groups, strict=True):
        assert known[image.numpy().tobytes()] == int(group)
    assert len(data.extra["test_paired"]) == 4000


def test_a_permuted_order_is_fixed() -> None:
    plain = load_data("digits-lt").train.class_counts().tolist()
    permuted = load_data("digits-lt:order=permuted").train.class_counts().tolist()
    assert permuted != plain
    assert permuted == load_data("digits-lt:order=permuted").train.class_counts().tolist()


def test_an_imbalance_without_a_tail_image_is_refused() -> None:
    with pytest.raises(BadInput, match="Take a smaller imbalance"):
        load_data("digits-lt:imbalance=10000")


def test_thinning_keeps_the_published_share_of_every_class(
    grey: Callable[..., ImageData], within: Callable[[int, int, float], bool]
) -> None:
    sizes = [3000] * 10
    made = thin_tail(grey(sizes, size=3), imbalance=20, order=list(range(10)))
    for label, count in enumerate(made.class_counts().tolist()):
        assert within(count, 3000, 20 ** (-label / 9))
    assert len(thin_tail(grey([7, 7]), imbalance=1, order=[0, 1])) == 14


def test_validation_is_a_part_of_the_published_long_tail(
    mnist_root: Path, within: Callable[[int, int, float], bool]
) -> None:
    whole = load_data("fmnist-lt:imbalance=10,validation=0", root=mnist_root)
    split = load_data("fmnist-lt:imbalance=10", root=mnist_root)
    assert whole.train.class_counts().tolist() == long_tail_counts(200, 10, imbalance=10)
    both = split.train.class_counts() + split.validation.class_counts()
    assert torch.equal(both, whole.train.class_counts())
    assert within(len(split.validation), len(whole.train), 0.1)
    assert any("imbalance factor 10" in note for note in split.notes)


def test_a_fake_cifar_gets_the_long_tail_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_data("digits")
    train = replace(digits.train, class_names=tuple("abcdefghij"))
    asked = []

    def base(self: Request, spec: str) -> Dataset:
        asked.append(spec)
        return replace(digits, train=train)

    monkeypatch.setattr(Request, "base", base)
    request = Request(
        name="cifar10-lt",
        options={"base": "cifar10-jpeg", "imbalance": 10.0, "order": "label", "validation": 0.0},
        root=None,
        download=False,
    )
    data = longtail.cifar10_lt(request)
    assert asked == ["cifar10-jpeg:validation=0"]
    assert data.train.class_counts().tolist() == long_tail_counts(114, 10, imbalance=10)


@pytest.mark.realdata
def test_the_real_long_tails_have_the_published_counts(
    data_root: Path, jpeg: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fashion = load_data("fmnist-lt:validation=0", root=data_root)
    assert fashion.train.class_counts().tolist() == [
        6000, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60,
    ]  # fmt: skip
    assert fashion.test.class_counts().tolist() == [1000] * 10
    monkeypatch.setattr(Request, "base", lambda self, spec: jpeg)
    cifar = load_data("cifar10-lt:base=cifar10-jpeg,validation=0")
    assert cifar.train.class_counts().tolist() == [
        5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50,
    ]  # fmt: skip
