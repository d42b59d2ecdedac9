"""A set that holds test records is found out, and one that only looks like them is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.api import distill
from ddaudit.auditing import AUDITORS, Subject
from ddaudit.data import load_data
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
    known = replace(data, train=data.test)
    assert check_overlap(made, known, subject="x").passed


def test_what_methods_make_of_training_records_is_not_near_test_records() -> None:
    for method in ("random", "k-means", "dm"):
        made = distill(method, data="digits", ipc=10, device="cpu", quiet=True)
        assert check_overlap(made, load_data("digits"), subject=method).passed
