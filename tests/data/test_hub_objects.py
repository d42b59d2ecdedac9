"""Objects of the ``datasets`` library: a stand-in for what is asked of them, and the library where it is installed.

datasets 5.2.0 was tried; it cannot be installed beside torchattacks, which the other tests need.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as Pillow

import ddaudit
from ddaudit.data import Dataset
from ddaudit.data.hub_objects import from_datasets
from ddaudit.errors import BadInput


class Image:
    pass


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Value:
    pass


class StandIn:
    """What is asked of a ``datasets.Dataset``: features, columns to select, rows as an Arrow table, a length."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self._columns, self.features = columns, features

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def select_columns(self, names: list[str]) -> StandIn:
        return StandIn({n: self._columns[n] for n in names}, {n: self.features[n] for n in names})

    def with_format(self, kind: str) -> StandIn:
        assert kind == "arrow"
        return self

    def __getitem__(self, rows: slice) -> pa.Table:
        assert rows == slice(None)
        named = {
            name: {"names": f.names, "_type": "ClassLabel"}
            if isinstance(f, ClassLabel)
            else {"_type": "x"}
            for name, f in self.features.items()
        }
        about = {"huggingface": json.dumps({"info": {"features": named}})}
        return pa.table(self._columns).replace_schema_metadata(about)


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("L", (4, 4), grey).save(buffer, format="PNG")
    return buffer.getvalue()


def stand_in(labels: list[int], *, names: dict[str, str], shift: int = 0) -> StandIn:
    pictures = [{"bytes": png(i + shift), "path": None} for i in range(len(labels))]
    image, label = names["image"], names["label"]
    return StandIn(
        {image: pictures, label: labels, "sex": [i % 2 for i in range(len(labels))], "age": labels},
        {
            image: Image(),
            label: ClassLabel(["wren", "auk"]),
            "sex": ClassLabel(["f", "m"]),
            "age": Value(),
        }
        if label in ("label", "fine_label")
        else {image: Image(), label: ClassLabel(["wren", "auk"]), "sex": Value(), "age": Value()},
    )


def real(labels: list[int], *, names: dict[str, str], shift: int = 0) -> Any:
    import datasets as library

    given = stand_in(labels, names=names, shift=shift)
    kinds = {
        "Image": lambda f: library.Image(),
        "ClassLabel": lambda f: library.ClassLabel(names=f.names),
    }
    features = {
        name: kinds.get(type(f).__name__, lambda f: library.Value("int64"))(f)
        for name, f in given.features.items()
    }
    # Shuffled and put back: rows go through the indices of a selection.
    made = library.Dataset.from_dict(given._columns, features=library.Features(features))
    order = np.random.default_rng(0).permutation(len(labels))
    return made.select(order).select(np.argsort(order))


@pytest.fixture(params=["stand-in", "datasets"])
def make(request):
    if request.param == "stand-in":
        return stand_in
    pytest.importorskip("datasets", reason="datasets is not installed")
    return real


USUAL = {"image": "img", "label": "label"}


def test_splits_pictures_names_and_groups_are_kept(make) -> None:
    splits = {
        "train": make([0, 1] * 10, names=USUAL),
        "test": make([1, 0, 1], names=USUAL, shift=100),
        "validation": make([1], names=USUAL, shift=200),
    }
    data = from_datasets(splits, group="sex")
    assert (data.name, data.origin) == ("datasets", "datasets")
    assert isinstance(data, Dataset)
    assert data.shape == (1, 4, 4)
    assert data.train.images[:, 0, 0, 0].tolist() == list(range(20))
    assert data.train.labels.tolist() == [0, 1] * 10
    assert data.test.images[:, 0, 0, 0].tolist() == [100, 101, 102]
    assert data.test.labels.tolist() == [1, 0, 1]
    assert len(data.validation) == 1
    assert data.train.class_names == ("wren", "auk")  # as declared, not as sorted
    assert data.train.group_names == ("f", "m")
    assert data.test.groups.tolist() == [0, 1, 0]


def test_the_only_features_of_their_kind_are_taken(make) -> None:
    odd = {"image": "scan", "label": "bird"}
    splits = {"train": make([0, 1] * 10, names=odd), "test": make([1], names=odd)}
    assert from_datasets(splits).train.class_names == ("wren", "auk")
    assert from_datasets(splits, label="age").train.class_names == ("class 0", "class 1")


def test_of_one_split_records_are_held_out_each_by_itself(make) -> None:
    data = from_datasets(make([0, 1] * 60, names=USUAL), validation=0)
    less = from_datasets(make([0, 1] * 59, names=USUAL), validation=0)
    values = [set(split.images[:, 0, 0, 0].tolist()) for split in (data.train, data.test)]
    fewer = [set(split.images[:, 0, 0, 0].tolist()) for split in (less.train, less.test)]
    assert len(values[0]) + len(values[1]) == 120
    assert 8 <= len(values[1]) <= 42  # 24 expected, false alarm below 1e-4
    assert [v - {118, 119} for v in values] == fewer
    assert from_datasets(make([0, 1] * 60, names=USUAL), name="birds").name == "birds"
    assert "held out for the test" in data.notes[0]
    assert data.train.labels.tolist() == [v % 2 for v in data.train.images[:, 0, 0, 0].tolist()]


def test_pictures_that_lie_in_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(7))
    cells = [{"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": png(9), "path": None}]
    split = StandIn(
        {"image": cells, "label": [0, 1]}, {"image": Image(), "label": ClassLabel(["a", "b"])}
    )
    data = from_datasets({"train": split, "test": split}, validation=0)
    assert data.train.images[:, 0, 0, 0].tolist() == [7, 9]


def test_what_does_not_fit_is_one_line(make) -> None:
    train = make([0, 1], names=USUAL)
    wrong = (
        ({"train": train}, {}, "has no test split .it has train"),
        ({"test": train}, {}, "is no datasets.Dataset, and no DatasetDict with train and test"),
        (
            {"train": train, "test": train},
            {"label": "species"},
            "has no column species. Columns: img, label",
        ),
        ([1, 2], {}, "is no datasets.Dataset"),
    )
    for given, options, message in wrong:
        with pytest.raises(BadInput, match=message):
            from_datasets(given, **options)
    with pytest.raises(BadInput, match=r"is no datasets\.Dataset"):
        ddaudit.audit("dm", data=3)


def test_a_stream_is_refused(make) -> None:
    if make is real:
        stream = real([0, 1], names=USUAL).to_iterable_dataset()
    else:
        stream = SimpleNamespace(features=None, with_format=None)
    with pytest.raises(BadInput, match="is a stream"):
        from_datasets({"train": stream, "test": stream})


def test_verbs_take_them(make) -> None:
    splits = {"train": make([0, 1] * 10, names=USUAL), "test": make([1, 0], names=USUAL, shift=100)}
    made = ddaudit.distill("random", data=splits, ipc=1, device="cpu", quiet=True)
    assert made.card.class_names == ["wren", "auk"]
    assert made.shape == (1, 4, 4)
