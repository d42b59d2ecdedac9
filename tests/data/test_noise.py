"""Label noise: rates within binomial bounds, the right wrong labels, clean tests, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from ddaudit.data import load_data
from ddaudit.data.names import CIFAR10_CLASSES, FASHION_CLASSES
from ddaudit.data.noise import KINDS, LOOKALIKES, corrupt_labels, noisy_dataset
from ddaudit.errors import BadInput

FALSE_ALARM = 1e-6
"""Chance that a correct implementation fails one of the statistical checks below."""


def _within(count: int, n: int, p: float) -> bool:
    low, high = binom.interval(1 - FALSE_ALARM, n, p)
    return bool(low <= count <= high)


def _uniform(n: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).random_sample((2, n))


def test_symmetric_noise_has_its_nominal_rate_and_is_uniform_over_the_other_classes() -> None:
    clean = torch.arange(20_000) % 10
    noisy = corrupt_labels(
        clean, num_classes=10, rate=0.4, kind="symmetric", uniform=_uniform(len(clean))
    )
    wrong = noisy != clean
    assert _within(int(wrong.sum()), len(clean), 0.4)
    # Drawing from all ten classes would give 0.36: this test tells them apart.
    assert not _within(int(wrong.sum()), len(clean), 0.36)
    shift = torch.bincount((noisy - clean)[wrong] % 10, minlength=10).tolist()
    assert shift[0] == 0
    assert chisquare(shift[1:]).pvalue > FALSE_ALARM


def test_asymmetric_noise_moves_source_classes_to_their_lookalikes_only() -> None:
    table = LOOKALIKES[CIFAR10_CLASSES]
    clean = torch.arange(20_000) % 10
    noisy = corrupt_labels(
        clean,
        num_classes=10,
        rate=0.3,
        kind="asymmetric",
        uniform=_uniform(len(clean), 1),
        lookalikes=table,
    )
    for label in range(10):
        values = noisy[clean == label]
        if label in table:
            assert set(values.tolist()) == {label, table[label]}
            assert _within(int((values != label).sum()), len(values), 0.3)
        else:
            assert bool((values == label).all())
    # Half of the ten classes are sources, so the actual rate is half of the nominal one.
    assert _within(int((noisy != clean).sum()), len(clean), 0.15)


def test_the_tables_are_the_published_ones() -> None:
    names = {CIFAR10_CLASSES[a]: CIFAR10_CLASSES[b] for a, b in LOOKALIKES[CIFAR10_CLASSES].items()}
    assert names == {
        "truck": "automobile", "bird": "airplane", "cat": "dog", "dog": "cat", "deer": "horse",
    }  # fmt: skip
    fashion = {
        FASHION_CLASSES[a]: FASHION_CLASSES[b] for a, b in LOOKALIKES[FASHION_CLASSES].items()
    }
    assert fashion == {
        "Shirt": "T-shirt/top", "Coat": "Pullover", "Ankle boot": "Sneaker", "Sandal": "Sneaker",
        "Dress": "T-shirt/top",
    }  # fmt: skip


@given(
    rate=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1000),
    classes=st.integers(2, 12),
)
def test_labels_stay_in_range_and_the_clean_ones_are_untouched(
    rate: float, kind: str, seed: int, classes: int
) -> None:
    clean = torch.arange(60) % classes
    before = clean.clone()
    noisy = corrupt_labels(
        clean,
        num_classes=classes,
        rate=rate,
        kind=kind,
        uniform=_uniform(len(clean), seed),
        lookalikes={0: 1},
    )
    assert torch.equal(clean, before)
    assert noisy.dtype == torch.int64
    assert 0 <= int(noisy.min()) <= int(noisy.max()) < classes


@pytest.mark.parametrize("kind", KINDS)
def test_rate_zero_changes_nothing_and_rate_one_changes_every_source(kind: str) -> None:
    clean = torch.arange(100) % 10
    for rate, expected in ((0.0, 0), (1.0, 50 if kind == "asymmetric" else 100)):
        noisy = corrupt_labels(
            clean, num_classes=10, rate=rate, kind=kind, uniform=_uniform(len(clean)),
            lookalikes=LOOKALIKES[CIFAR10_CLASSES],
        )  # fmt: skip
        assert int((noisy != clean).sum()) == expected


def test_pair_noise_is_the_next_class() -> None:
    clean = torch.tensor([0, 1, 2])
    noisy = corrupt_labels(
        clean, num_classes=3, rate=1.0, kind="pair", uniform=_uniform(len(clean))
    )
    assert noisy.tolist() == [1, 2, 0]


def test_the_seed_changes_the_noise_and_only_the_seed() -> None:
    one, same, other = (
        load_data(spec).train.labels
        for spec in ("digits-noisy", "noisy:base=digits,seed=0", "digits-noisy:seed=1")
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_base_without_lookalikes_refuses_asymmetric_noise() -> None:
    base = load_data("digits")
    unknown = replace(base, train=replace(base.train, class_names=tuple("abcdefghij")))
    with pytest.raises(BadInput, match="look-alike"):
        noisy_dataset(unknown, rate=0.1, kind="asymmetric", seed=0, where="x")
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="not one of"):
        corrupt_labels(labels, num_classes=2, rate=1, kind="odd", uniform=_uniform(2))


def test_noise_on_a_base_from_files_keeps_its_test_clean(mnist_root: Path) -> None:
    data = load_data("noisy:base=fashion-mnist,rate=0.5,kind=asymmetric", root=mnist_root)
    clean = load_data("fashion-mnist", root=mnist_root)
    assert torch.equal(data.test.labels, clean.test.labels)
    assert not torch.equal(data.validation.labels, clean.validation.labels)
    wrong = int((data.train.labels != clean.train.labels).sum())
    assert any(f"{wrong} of {len(data.train)} training labels" in note for note in data.notes)
