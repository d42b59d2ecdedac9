"""The fixed sample that heavy auditors look at."""

from __future__ import annotations

import pytest
import torch

from ddaudit.auditing import stratified
from ddaudit.data import ImageData


def _data(classes: int, each: int) -> ImageData:
    labels = torch.arange(classes).repeat_interleave(each)
    images = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    return ImageData(images=images, labels=labels, class_names=tuple(map(str, range(classes))))


def test_every_class_is_seen_alike_where_there_are_enough_records() -> None:
    assert stratified(_data(10, 7), 40).class_counts().tolist() == [4] * 10


def _uneven(*counts: int) -> ImageData:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    names = tuple(map(str, range(len(counts))))
    images = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    return ImageData(images=images, labels=labels, class_names=names)


def test_a_sample_is_composed_as_the_data_are() -> None:
    """An accuracy on it would else be of other data: a class of 90 % was half of a sample of 2000."""
    data = _uneven(9000, 990, 10)
    for limit in (100, 2000, 5000):
        share = stratified(data, limit).class_counts() / limit
        assert torch.allclose(share, torch.tensor([0.9, 0.099, 0.001]), atol=1.01 / limit)
        assert share.min() > 0, "every class is seen"
    assert stratified(data, 30, even=True).class_counts().tolist() == [10, 10, 10]
    groups = torch.arange(10_000) % 10 == 0  # one in ten of every class is of the second group
    mixed = ImageData(
        images=data.images, labels=data.labels, class_names=data.class_names, groups=groups.long(),
        group_names=("a", "b"),
    )  # fmt: skip
    assert float(stratified(mixed, 1000).groups.double().mean()) == pytest.approx(0.1, abs=0.003)


def test_a_sample_of_few_records_a_cell_is_composed_as_the_data_are() -> None:
    """One record of each of 91 rare cells first was a third of 300: their share is a tenth."""
    data = _uneven(*[9000] * 9, *[100] * 91)
    rare = [float((stratified(data, n).labels >= 9).double().mean()) for n in (150, 300, 1000)]
    assert rare == pytest.approx([0.101] * 3, abs=0.025)
    assert stratified(data, 1000).class_counts().min() == 1


def test_fewer_records_than_classes_are_of_classes_drawn_not_of_the_first() -> None:
    """Files sorted by class gave the first 48 classes, and a number that spoke of all."""
    data = _data(100, 3)
    seen = stratified(data, 48).labels
    assert len(torch.unique(seen)) == 48
    assert int((seen >= 50).sum()) > 10
    assert torch.equal(seen, stratified(data, 48).labels), "the same for every subject"
