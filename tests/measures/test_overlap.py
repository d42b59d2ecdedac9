"""A set that holds test records is found out, and one that only looks like them is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.api import distill
from ddaudit.auditing import AUDITORS, Subject
from ddaudit.data import ImageData, load_data
from ddaudit.measures.overlap import CHECK, check_overlap
from ddaudit.sets import Card, DistilledSet


def _set(images: torch.Tensor, labels: torch.Tensor, classes: int) -> DistilledSet:
    return DistilledSet(images, labels, classes, Card(method="mine"))


def test_test_records_are_counted(tiny) -> None:
    half = torch.cat([tiny.test.pixels(slice(0, 3)), tiny.train.pixels(slice(0, 3))])
    check = check_overlap(
        _set(half, torch.zeros(6, dtype=torch.int64), tiny.num_classes), tiny, subject="x"
    )
    assert not check.passed
    assert check.value == 0.5
    assert check.detail == "3 of 6 images are test records"
    # Rounded as an eight-bit file would round them.
    noisy = half + 0.4 / 255
    again = _set(noisy.clamp(0, 1), torch.zeros(6, dtype=torch.int64), tiny.num_classes)
    assert check_overlap(again, tiny, subject="x").value == 0.5


def test_training_records_twins_and_what_only_resembles_records_pass(tiny) -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    first = tiny.test.pixels(slice(0, 3))
    twins = torch.cat([tiny.test.images[:3], tiny.train.images[3:]])
    for images, data in (
        (tiny.train.pixels(slice(0, 3)), tiny),
        ((first + 24 / 255).clamp(0, 1), tiny),
        # The data hold some records twice, once on either side.
        (first, replace(tiny, train=replace(tiny.train, images=twins))),
    ):
        assert check_overlap(_set(images, labels, tiny.num_classes), data, subject="x").passed


def test_accuracy_on_records_that_the_set_holds_is_void(tiny, known) -> None:
    table = torch.eye(tiny.num_classes)
    ctx = known(tiny, [lambda x: table[tiny.test.labels[: len(x)]]])
    given = _set(tiny.test.pixels(slice(0, 4)), tiny.test.labels[:4], tiny.num_classes)
    subject = Subject(id="mine", kind="file", set=given)
    utility = AUDITORS.get("utility")
    finding = utility.described(utility.run(subject, ctx, utility.configure("quick"), 0))
    accuracy = next(m for m in finding.metrics if m.basis)
    assert finding.failing_checks(accuracy) == [CHECK]
    assert finding.warning == "4 of 4 images are test records: scores on them are void."


@pytest.mark.parametrize(("noise", "found"), [(0.002, True), (0.01, True), (0.1, False)])
def test_a_test_record_under_noise_that_nobody_sees_counts(noise: float, found: bool) -> None:
    data = load_data("digits")
    images = data.test.pixels(torch.arange(10))
    g = torch.Generator().manual_seed(0)
    copies = (images + noise * torch.randn(images.shape, generator=g)).clamp(0, 1)
    made = _set(copies, data.test.labels[:10], 10)
    check = check_overlap(made, data, subject="x")
    assert check.passed is not found
    assert check.value == (1.0 if found else 0.0)
    # The same records held by training: a set may be made of those.
    for known in (replace(data, train=data.test), replace(data, validation=data.test)):
        assert check_overlap(made, known, subject="x").passed


def test_what_methods_make_of_training_records_is_not_near_test_records() -> None:
    for method in ("random", "k-means", "dm"):
        made = distill(method, data="digits", ipc=10, device="cpu", quiet=True)
        assert check_overlap(made, load_data("digits"), subject=method).passed


def test_draws_of_a_law_whose_records_lie_close_together_pass() -> None:
    """One blob per image, of some place and size: three numbers say all, and neighbours are near everywhere."""
    g = torch.Generator().manual_seed(0)
    place = torch.linspace(0, 1, 24)

    def blobs(n: int) -> torch.Tensor:
        x, y, size = (
            torch.rand(n, 1, 1, generator=g) * a + b
            for a, b in ((0.6, 0.2), (0.6, 0.2), (0.2, 0.1))
        )
        far = (place[None, :, None] - x) ** 2 + (place[None, None] - y) ** 2
        return torch.exp(-far / (2 * size**2))[:, None]

    def split(n: int) -> ImageData:
        images = (blobs(n) * 255).round().to(torch.uint8)
        return ImageData(images, torch.arange(n) % 2, ("a", "b"))

    data = replace(load_data("digits"), train=split(3000), validation=split(10), test=split(600))
    for _ in range(3):
        made = _set(blobs(100), torch.arange(100) % 2, 2)
        assert check_overlap(made, data, subject="x").passed


def test_twins_pass_whatever_the_sizes_of_splits() -> None:
    """Distances of few rows are exact and of many rounded: a twin must not be nearer to test than to training."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (310, 3, 16, 16), generator=g, dtype=torch.uint8)

    def split(x: torch.Tensor) -> ImageData:
        return ImageData(x, torch.arange(len(x)) % 2, ("a", "b"))

    data = replace(
        load_data("digits"),
        train=split(images),
        validation=split(images[:2]),
        test=split(images[:20]),
    )
    made = _set(images[:10].float() / 255 + 1e-4, torch.arange(10) % 2, 2)
    assert check_overlap(made, data, subject="x").passed
