"""The coloured data sets by name: published constructions, clean variants, and any grey base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddaudit.data import ImageData, load_data
from ddaudit.data.coloured import PUBLISHED, colour_dataset
from ddaudit.errors import BadInput


def _sorted_rows(*splits: ImageData) -> list[bytes]:
    rows = []
    for split in splits:
        assert split.groups is not None
        for image, label, group in zip(split.images, split.labels, split.groups, strict=True):
            rows.append(image.numpy().tobytes() + bytes([int(label), int(group)]))
    return sorted(rows)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_train_and_validation_together_are_the_published_training_set(
    name: str, mnist_root: Path, within: Callable[[int, int, float], bool]
) -> None:
    whole = load_data(f"{name}:validation=0", root=mnist_root)
    split = load_data(name, root=mnist_root)
    assert (len(whole.train), len(whole.validation)) == (2000, 0)
    assert whole.validation.shape == whole.shape == (3, 32, 32)
    assert len(split.train) + len(split.validation) == 2000
    assert within(len(split.validation), 2000, 0.1)
    assert _sorted_rows(split.train, split.validation) == _sorted_rows(whole.train)
    assert torch.equal(split.test.images, whole.test.images), "the test set does not move"


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sets_have_the_published_bias_balance_and_constants(
    name: str, mnist_root: Path
) -> None:
    data = load_data(f"{name}:validation=0", root=mnist_root)
    assert data.train.groups is not None
    assert data.test.groups is not None
    train = torch.bincount(data.train.labels * 10 + data.train.groups, minlength=100).reshape(
        10, 10
    )
    assert train.diagonal().tolist() == [180] * 10
    test = torch.bincount(data.test.labels * 10 + data.test.groups, minlength=100)
    assert test.tolist() == [10] * 100
    assert data.mean == data.std == (0.5, 0.5, 0.5)
    paired = data.extra["test_paired"]
    assert len(paired) == 10_000
    assert paired.shape == (3, 32, 32)


def test_the_bias_option_reaches_the_published_construction(mnist_root: Path) -> None:
    data = load_data("c-mnist-fg:bias=0.5,validation=0", root=mnist_root)
    assert data.train.groups is not None
    assert int((data.train.groups == data.train.labels).sum()) == 1000


def test_corner_padding_shows_background_colour_on_bg_and_black_on_fg(mnist_root: Path) -> None:
    for name, lit in (("c-mnist-fg", False), ("c-mnist-bg", True), ("c-fmnist-bg", True)):
        data = load_data(name, root=mnist_root)
        corner = data.test.images[:, :, :4, :].flatten(1).any(1)
        assert bool(corner.all() if lit else not corner.any())


def test_deviations_and_defects_are_in_the_notes(mnist_root: Path) -> None:
    notes = {name: " ".join(load_data(name, root=mnist_root).notes) for name in PUBLISHED}
    assert all("top and left only" in text for text in notes.values())
    assert all("held out" in text for text in notes.values())
    assert "wraps modulo 256" in notes["c-fmnist-bg"]
    assert "not comparable" in notes["c-fmnist-bg-clean"]
    assert "binarised" in notes["c-mnist-fg"]
    assert "jitters colour" in notes["c-fmnist-fg"]
    assert "held out" not in " ".join(load_data("c-mnist-fg:validation=0", root=mnist_root).notes)


def test_the_augmentation_is_published_on_published_sets_and_clean_on_clean_ones(
    mnist_root: Path,
) -> None:
    published = "color_crop_cutout_flip_scale_rotate"
    assert load_data("c-fmnist-bg", root=mnist_root).augment == published
    assert load_data("c-fmnist-bg-clean", root=mnist_root).augment == "crop_cutout_scale_rotate"


def test_any_grey_base_can_be_coloured(
    mnist_root: Path, within: Callable[[int, int, float], bool]
) -> None:
    data = load_data("colored:base=mnist,style=bg,pad=4,bias=0.8", root=mnist_root)
    assert data.name == "colored:base=mnist,style=bg,bias=0.8,pad=4"
    assert data.shape == (3, 32, 32)
    assert data.augment == "crop_cutout_scale_rotate"
    assert data.train.groups is not None
    assert within(int((data.train.groups == data.train.labels).sum()), len(data.train), 0.8)
    assert load_data("colored").train.fingerprint == load_data("digits-colored").train.fingerprint


def test_a_base_that_cannot_be_coloured_is_refused() -> None:
    with pytest.raises(BadInput, match="3 channels"):
        load_data("colored:base=digits-colored")
    digits = load_data("digits")
    names = tuple(str(c) for c in range(11))
    train = replace(digits.train, class_names=names)
    with pytest.raises(BadInput, match="11 classes but there are 10 colours"):
        colour_dataset(replace(digits, train=train), style="fg", bias=0.9)


# Digests of the arrays that the published FairDD code itself makes from Fashion-MNIST (repository
# zqhang/FairDD, data_handler/FashionMNIST.py, seed 30, correlation 0.9 and 0.1), run beside ours.
PUBLISHED_DIGESTS = {
    "c-fmnist-fg": ("31c9307b7f2f75ec", "41e2b6702af0515e"),
    "c-fmnist-bg": ("d78f22d7d42d6ca5", "45a9feee844cfe00"),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", sorted(PUBLISHED_DIGESTS))
def test_coloured_fashion_mnist_is_the_published_one_bit_for_bit(
    name: str, data_root: Path, digest: Callable[[ImageData], str]
) -> None:
    data = load_data(f"{name}:validation=0", root=data_root)
    assert (digest(data.train), digest(data.test)) == PUBLISHED_DIGESTS[name]


@pytest.mark.realdata
def test_coloured_fashion_mnist_has_the_published_cells(
    data_root: Path, within: Callable[[int, int, float], bool]
) -> None:
    data = load_data("c-fmnist-fg", root=data_root)
    assert (len(data.train) + len(data.validation), len(data.test)) == (60_000, 10_000)
    assert within(len(data.validation), 60_000, 0.1)
    assert data.train.groups is not None
    assert data.validation.groups is not None
    assert data.test.groups is not None
    labels = torch.cat([data.train.labels, data.validation.labels])
    groups = torch.cat([data.train.groups, data.validation.groups])
    cells = torch.bincount(labels * 10 + groups, minlength=100).reshape(10, 10)
    for label, counts in enumerate(cells.tolist()):
        assert counts[label] == 5400
        assert sorted(counts) == [64, *[67] * 8, 5400]
    assert torch.bincount(data.test.labels * 10 + data.test.groups).tolist() == [100] * 100
