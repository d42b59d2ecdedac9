"""The embedded digits: scikit-learn's images, a split that never changes, and three variants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binom

from ddaudit.data import ImageData, load_data
from ddaudit.data.colour import COLOURS


def _rows(data: ImageData) -> list[bytes]:
    return [
        image.numpy().tobytes() + bytes([int(label)])
        for image, label in zip(data.images, data.labels, strict=True)
    ]


def test_the_three_splits_are_scikit_learns_digits_each_once() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scaled = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    expected = sorted(
        image.tobytes() + bytes([label]) for image, label in zip(scaled, bunch.target, strict=True)
    )
    data = load_data("digits")
    found = sorted(_rows(data.train) + _rows(data.validation) + _rows(data.test))
    assert found == expected


def test_the_split_is_stratified_with_the_documented_sizes() -> None:
    data = load_data("digits")
    assert (len(data.train), len(data.validation), len(data.test)) == (1197, 200, 400)
    assert data.validation.class_counts().tolist() == [20] * 10
    assert data.test.class_counts().tolist() == [40] * 10
    assert data.shape == (1, 8, 8)
    assert data.augment == "crop_scale_rotate"


def test_the_split_never_changes(digest: Callable[[ImageData], str]) -> None:
    data = load_data("digits")
    assert [digest(split) for split in (data.train, data.validation, data.test)] == DIGITS


def test_the_normalisation_constants_are_those_of_the_training_pixels() -> None:
    data = load_data("digits")
    pixels = data.train.pixels().double()
    assert data.mean == pytest.approx([pixels.mean().item()], abs=5e-5)
    assert data.std == pytest.approx([pixels.std(correction=0).item()], abs=5e-5)


def test_coloured_digits_are_biased_in_train_and_validation_and_balanced_in_test(
    within: Callable[[int, int, float], bool],
) -> None:
    data = load_data("digits-colored")
    plain = load_data("digits")
    assert data.shape == (3, 8, 8)
    assert data.train.group_names == tuple(COLOURS)
    for split in (data.train, data.validation):
        assert split.groups is not None
        for label in range(10):
            groups = split.groups[split.labels == label]
            assert within(int((groups == label).sum()), len(groups), 0.9)
    assert data.test.groups is not None
    cells = torch.bincount(data.test.labels * 10 + data.test.groups, minlength=100)
    assert cells.tolist() == [4] * 100
    assert data.train.class_counts().tolist() == plain.train.class_counts().tolist()
    assert (data.mean, data.std) == ((0.5,) * 3, (0.5,) * 3)
    assert "color" not in data.augment
    assert "flip" not in data.augment


def test_bias_one_leaves_one_colour_per_class() -> None:
    train = load_data("digits-colored:bias=1").train
    assert train.groups is not None
    assert torch.equal(train.groups, train.labels)


def test_the_paired_test_set_is_every_test_digit_in_every_colour() -> None:
    data, plain = load_data("digits-colored"), load_data("digits")
    paired = data.extra["test_paired"]
    assert len(paired) == 4000
    assert paired.groups is not None
    assert paired.groups.tolist() == list(range(10)) * 400
    assert torch.equal(paired.labels, plain.test.labels.repeat_interleave(10))
    # White shows the grey image itself, up to the truncation of the published formula.
    white = paired.images[9::10].int()
    grey = plain.test.images.int().expand(-1, 3, -1, -1)
    assert int((grey - white).min()) >= 0
    assert int((grey - white).max()) <= 1


def test_long_tailed_digits_have_the_head_first_and_the_full_test_set(
    within: Callable[[int, int, float], bool],
) -> None:
    data = load_data("digits-lt:imbalance=50")
    counts, plain = data.train.class_counts(), load_data("digits").train.class_counts()
    for label in range(10):
        assert within(int(counts[label]), int(plain[label]), 50 ** (-label / 9))
    assert data.test.class_counts().tolist() == [40] * 10
    reversed_ = load_data("digits-lt:order=reversed,imbalance=50").train.class_counts()
    assert reversed_[9] == plain[9]
    assert within(int(reversed_[0]), int(plain[0]), 1 / 50)


def test_noisy_digits_have_wrong_labels_in_train_and_validation_only() -> None:
    data, plain = load_data("digits-noisy:rate=0.4"), load_data("digits")
    assert torch.equal(data.train.images, plain.train.images)
    for noisy, clean in ((data.train, plain.train), (data.validation, plain.validation)):
        wrong = int((noisy.labels != clean.labels).sum())
        low, high = binom.interval(1 - 1e-6, len(clean), 0.4)
        assert low <= wrong <= high
    assert torch.equal(data.test.labels, plain.test.labels)


@pytest.mark.parametrize("spec", ["digits-colored", "digits-lt", "digits-noisy"])
def test_variants_never_change(spec: str, digest: Callable[[ImageData], str]) -> None:
    data = load_data(spec)
    assert [digest(split) for split in (data.train, data.validation, data.test)] == VARIANTS[spec]


def test_the_shortcut_reads_what_scikit_learn_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    import ddaudit.data.digits as module

    direct = module._read_table()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert np.array_equal(direct, module._read_table())


# Recorded once; a change means that published numbers on digits no longer compare.
DIGITS = ["327070e20e665834", "603453d03c0941d6", "b7a1f3bc499960c5"]
VARIANTS = {
    "digits-colored": ["6a3d944697358d4c", "c8fbd49804304226", "7a697d68890d9374"],
    "digits-lt": ["1547f7dae08efffd", "a5b6a085f4a4b922", "b7a1f3bc499960c5"],
    "digits-noisy": ["978c4566eab1d2fc", "f8c3fcb348cf5079", "b7a1f3bc499960c5"],
}
