"""Benchmarks in torchvision's layout: contents, splits, constants; nothing downloads unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ddaudit.data import load_data
from ddaudit.data.vision import BENCHMARKS
from ddaudit.errors import BadInput


def test_files_in_torchvisions_layout_are_read_unchanged(mnist_root: Path) -> None:
    from torchvision.datasets import FashionMNIST

    data = load_data("fashion-mnist:validation=0", root=mnist_root)
    for split, train in ((data.train, True), (data.test, False)):
        reference = FashionMNIST(root=str(mnist_root), train=train, download=False)
        assert torch.equal(split.images[:, 0], reference.data)
        assert torch.equal(split.labels, reference.targets)
        assert list(split.class_names) == reference.classes


def test_a_tenth_of_train_is_validation_and_test_is_left_alone(
    mnist_root: Path, within: Callable[[int, int, float], bool]
) -> None:
    data, whole = (load_data(s, root=mnist_root) for s in ("mnist", "mnist:validation=0"))
    assert (len(data.train) + len(data.validation), len(data.test)) == (2000, 1000)
    assert within(len(data.validation), 2000, 0.1)
    assert torch.equal(data.test.images, whole.test.images)
    rows = [
        image.numpy().tobytes() for split in (data.train, data.validation) for image in split.images
    ]
    assert sorted(rows) == sorted(image.numpy().tobytes() for image in whole.train.images)
    assert data.mean == (0.1307,)
    assert data.augment == "color_crop_cutout_scale_rotate"
    assert "validation=0.1" in data.notes[0]


def test_a_folder_of_its_own_below_the_root_is_found_too(mnist_root: Path, tmp_path: Path) -> None:
    (tmp_path / "mnist").symlink_to(mnist_root)
    assert len(load_data("mnist", root=tmp_path).test) == 1000


def test_a_broken_file_is_one_clear_line(mnist_root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (mnist_root / "MNIST" / "raw").iterdir():
        (raw / file.name).write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInput, match="MNIST cannot be read") as error:
        load_data("mnist", root=tmp_path)
    assert "\n" not in str(error.value)


class _Fake:
    """Stands in for a torchvision class: records its arguments, 30 images of 3 classes."""

    asked: list[dict[str, Any]]

    def __init__(self, *, channels_first: bool, fail: bool = False) -> None:
        self.asked, self.channels_first, self.fail = [], channels_first, fail

    def __call__(self, **arguments: Any) -> SimpleNamespace:
        self.asked.append(arguments)
        if self.fail:
            raise RuntimeError("Error downloading\nfile: no route")
        images = np.random.RandomState(0).randint(0, 256, (30, 32, 32, 3)).astype(np.uint8)
        labels = np.arange(30) % 3
        return SimpleNamespace(
            data=images.transpose(0, 3, 1, 2) if self.channels_first else images,
            targets=labels.tolist(),
            labels=labels,
            classes=["x", "y", "z"],
        )


@pytest.mark.parametrize(
    ("name", "loader", "first", "marker"),
    [
        ("cifar10", "CIFAR10", False, "cifar-10-batches-py"),
        ("cifar100", "CIFAR100", False, "cifar-100-python"),
        ("svhn", "SVHN", True, "train_32x32.mat"),
    ],
)
def test_colour_benchmarks_come_out_channels_first(
    name: str,
    loader: str,
    first: bool,
    marker: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = _Fake(channels_first=first)
    monkeypatch.setattr(f"torchvision.datasets.{loader}", fake)
    (tmp_path / marker).mkdir()
    data = load_data(f"{name}:validation=0.2", root=tmp_path)
    assert data.shape == (3, 32, 32)
    assert (len(data.train) + len(data.validation), len(data.test)) == (30, 30)
    assert 0 < len(data.validation) < 15
    expected = np.random.RandomState(0).randint(0, 256, (30, 32, 32, 3)).astype(np.uint8)
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), expected)
    assert all(asked["download"] is False for asked in fake.asked)
    assert data.mean == BENCHMARKS[name].mean
    if name == "cifar100":
        assert data.train.class_names == ("x", "y", "z")


def test_download_happens_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = _Fake(channels_first=False)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", fake)
    with pytest.raises(BadInput, match="--download"):
        load_data("cifar10", root=tmp_path)
    assert fake.asked == []
    load_data("cifar10", root=tmp_path, download=True)
    assert [asked["download"] for asked in fake.asked] == [True, True]
    assert {asked["root"] for asked in fake.asked} == {str(tmp_path)}


def test_a_failed_download_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10", _Fake(channels_first=False, fail=True))
    with pytest.raises(BadInput, match=r"no route.*Check the network") as error:
        load_data("cifar10", root=tmp_path, download=True)
    assert "\n" not in str(error.value)


def test_normalisation_constants_are_the_fields() -> None:
    """The table of the dataset-condensation code (method sheet, section 1.2)."""
    table = {
        "mnist": ((0.1307,), (0.3081,)),
        "fashion-mnist": ((0.2861,), (0.3530,)),
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    }
    assert {name: (b.mean, b.std) for name, b in BENCHMARKS.items()} == table


@pytest.mark.realdata
def test_fashion_mnist_has_its_published_statistics(
    data_root: Path, within: Callable[[int, int, float], bool]
) -> None:
    data = load_data("fashion-mnist:validation=0", root=data_root)
    assert data.train.class_counts().tolist() == [6000] * 10
    assert data.test.class_counts().tolist() == [1000] * 10
    pixels = data.train.pixels()
    assert pixels.mean().item() == pytest.approx(data.mean[0], abs=1e-3)
    assert pixels.std().item() == pytest.approx(data.std[0], abs=1e-3)
    split = load_data("fashion-mnist", root=data_root)
    assert (len(split.train) + len(split.validation), len(split.test)) == (60_000, 10_000)
    assert all(within(c, 6000, 0.1) for c in split.validation.class_counts().tolist())
