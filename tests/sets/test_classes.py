"""A set's classes are those of the data with the same names, whatever their order in the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddaudit.audits.subjects import make_subject
from ddaudit.data import load_data
from ddaudit.errors import BadInput
from ddaudit.models import Arch
from ddaudit.sets import Card, DistilledSet, LabelStore, match_classes, save


def a_set(names: list[str] | None, *, soft: bool = False, count: int = 3) -> DistilledSet:
    labels = torch.eye(count) if soft else torch.arange(count)
    return DistilledSet(torch.zeros(count, 1, 8, 8), labels, count, Card(class_names=names))


@pytest.mark.parametrize("soft", [False, True])
def test_labels_follow_the_names(soft: bool):
    made = match_classes(a_set(["c", "a", "b"], soft=soft), ["a", "b", "c"], where="x")
    assert made.hard_labels.tolist() == [2, 0, 1]
    assert made.card.class_names == ["a", "b", "c"]
    assert any("by name" in note for note in made.card.notes)


def test_a_label_store_follows_too():
    logits = torch.arange(6, dtype=torch.float16).view(1, 2, 3)
    boxes, flips = torch.tensor([0.0, 0, 1, 1]).expand(1, 2, 4), torch.zeros(1, 2, dtype=torch.bool)
    stored = replace(
        a_set(["c", "a", "b"]),
        images=torch.zeros(2, 1, 8, 8),
        labels=torch.arange(2),
        store=LabelStore(boxes.contiguous(), flips, logits),
    )
    made = match_classes(stored, ["a", "b", "c"], where="x").check()
    assert made.store is not None
    assert made.store.logits.tolist() == [[[1, 2, 0], [4, 5, 3]]]


@pytest.mark.parametrize("soft", [False, True])
def test_a_set_of_some_classes_finds_them(soft: bool):
    made = match_classes(a_set(["d", "b", "a"], soft=soft), ["a", "b", "c", "d"], where="x")
    assert made.num_classes == 4
    assert made.hard_labels.tolist() == [3, 1, 0]
    made.check()


def test_positions_count_without_names_or_where_none_fits():
    assert match_classes(a_set(None), ["a", "b", "c"], where="x").labels.tolist() == [0, 1, 2]
    made = match_classes(a_set(["0", "1", "2"]), ["a", "b", "c"], where="x")
    assert made.labels.tolist() == [0, 1, 2]
    assert any("by position" in note for note in made.card.notes)
    with pytest.raises(BadInput, match="stands elsewhere"):
        match_classes(a_set(["b", "a", "x"]), ["a", "b", "c"], where="x")
    with pytest.raises(BadInput, match="holds 3 classes, the data 4"):
        match_classes(a_set(["x", "y", "z"]), ["a", "b", "c", "d"], where="x")


def test_an_audited_file_is_matched_by_name(tmp_path: Path):
    data = load_data("digits")
    names = list(data.train.class_names)[::-1]
    path = save(a_set(names, count=10), tmp_path / "reversed.safetensors")
    subject = make_subject(
        str(path), data=data, profile="small", ipc=1, arch=Arch.parse("ConvNetD2W16")
    )
    assert subject.set is not None
    assert subject.set.labels.tolist() == list(range(10))[::-1]
