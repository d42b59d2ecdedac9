"""The fixed sample that heavy auditors look at."""

from __future__ import annotations

import torch

from ddaudit.auditing import stratified
from ddaudit.data import ImageData


def _data(classes: int, each: int) -> ImageData:
    labels = torch.arange(classes).repeat_interleave(each)
    images = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    return ImageData(images=images, labels=labels, class_names=tuple(map(str, range(classes))))


def test_every_class_is_seen_alike_where_there_are_enough_records() -> None:
    assert stratified(_data(10, 7), 40).class_counts().tolist() == [4] * 10


def test_fewer_records_than_classes_are_of_classes_drawn_not_of_the_first() -> None:
    """Files sorted by class gave the first 48 classes, and a number that spoke of all."""
    data = _data(100, 3)
    seen = stratified(data, 48).labels
    assert len(torch.unique(seen)) == 48
    assert int((seen >= 50).sum()) > 10
    assert torch.equal(seen, stratified(data, 48).labels), "the same for every subject"
