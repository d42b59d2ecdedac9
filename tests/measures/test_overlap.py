"""A set that holds test records is found out, and one that only looks like them is not."""

from __future__ import annotations

from dataclasses import replace

import torch

from ddaudit.auditing import AUDITORS, Subject
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


def test_training_records_twins_and_near_copies_pass(tiny) -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    first = tiny.test.pixels(slice(0, 3))
    twins = torch.cat([tiny.test.images[:3], tiny.train.images[3:]])
    for images, data in (
        (tiny.train.pixels(slice(0, 3)), tiny),
        ((first + 3 / 255).clamp(0, 1), tiny),
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
