"""CIFAR10-S: which images are grey, how grey is computed, and the doubled test set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from ddaudit.data import Dataset, ImageData, Request, load_data
from ddaudit.data.greyscale import both_versions, paired_versions, skew, to_grey


def _rgb(counts: list[int], *, seed: int = 0) -> ImageData:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    images = torch.randint(0, 256, (len(labels), 3, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageData(images=images, labels=labels, class_names=tuple("abcdefghij"[: len(counts)]))


def test_grey_is_pils_grey() -> None:
    images = _rgb([5000], seed=3).images
    strip = images.permute(0, 2, 3, 1).reshape(-1, 4, 3).numpy()
    expected = torch.from_numpy(np.array(Image.fromarray(strip).convert("L"))).reshape(-1, 4, 4)
    made = to_grey(images)
    assert all(torch.equal(made[:, channel], expected) for channel in range(3))


def test_low_classes_are_mostly_grey_and_high_ones_mostly_in_colour() -> None:
    data = _rgb([500] * 10)
    made = skew(data, bias=0.9)
    assert made.groups is not None
    cells = torch.bincount(made.labels * 2 + made.groups, minlength=20).reshape(10, 2).tolist()
    assert cells == [[450, 50]] * 5 + [[50, 450]] * 5
    # The first of a class, in record order, are the grey ones.
    for label in (0, 9):
        groups = made.groups[made.labels == label].tolist()
        assert groups == sorted(groups)
    colour = made.groups == 1
    assert torch.equal(made.images[colour], data.images[colour])
    assert torch.equal(made.images[~colour], to_grey(data.images[~colour]))


def test_the_test_set_holds_every_image_grey_then_in_colour() -> None:
    data = _rgb([3, 4])
    both = both_versions(data)
    assert both.groups is not None
    assert both.groups.tolist() == [0] * 7 + [1] * 7
    assert torch.equal(both.images[7:], data.images)
    assert torch.equal(both.labels[:7], data.labels)
    paired = paired_versions(data)
    assert paired.groups is not None
    assert paired.groups.tolist() == [0, 1] * 7
    assert torch.equal(paired.images[1::2], data.images)
    assert torch.equal(paired.images[::2], to_grey(data.images))


@pytest.mark.realdata
def test_cifar10_s_is_the_published_construction_on_the_jpeg_images(
    jpeg: Dataset, monkeypatch: pytest.MonkeyPatch, within: Callable[[int, int, float], bool]
) -> None:
    monkeypatch.setattr(Request, "base", lambda self, spec: jpeg)
    data = load_data("cifar10-s:base=cifar10-jpeg,validation=0")
    assert data.train.groups is not None
    cells = torch.bincount(data.train.labels * 2 + data.train.groups).reshape(10, 2).tolist()
    assert cells == [[4500, 500]] * 5 + [[500, 4500]] * 5
    # JPEG decoders may differ by a level, so the records are compared and not their pixels.
    assert tuple(_records(split) for split in (data.train, data.test)) == PUBLISHED_RECORDS
    assert data.mean == pytest.approx((0.48905, 0.48451, 0.46715), abs=1e-5)
    assert data.std == pytest.approx((0.24278, 0.24082, 0.25098), abs=1e-5)
    assert any("JPEG" in note for note in data.notes)
    split = load_data("cifar10-s:base=cifar10-jpeg")
    assert (len(split.train) + len(split.validation), len(split.test)) == (50_000, 20_000)
    assert within(len(split.validation), 50_000, 0.1)


def _records(data: ImageData) -> str:
    """Digest of the labels and groups, in order."""
    assert data.groups is not None
    stored = data.labels.numpy().tobytes() + data.groups.numpy().tobytes()
    return hashlib.sha256(stored).hexdigest()[:16]


# From the published class itself (FairDD, data_handler/cifar10.py, seed 0, ratio 0.9), run on the
# labels of the JPEG files.
PUBLISHED_RECORDS = ("1e4bf4b08caff1a5", "e18e76c218b886c9")
