"""Parquet as the hub serves it: image structs, class names in the schema, shards and splits."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ddaudit.data import Dataset
from ddaudit.errors import BadInput
from ddaudit.sets import import_set


def _png(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, 0, 255)).save(file, "PNG")
    return file.getvalue()


def _parquet(
    path: Path,
    labels: Sequence[Any] = (0, 1, 2, 3),
    *,
    image: str = "image",
    names: list[str] | None = None,
) -> Path:
    rows = [{"bytes": _png(51 * k), "path": f"{k}.png"} for k in range(len(labels))]
    table = pa.table({image: rows, "label": list(labels)})
    if names is not None:
        features = {image: {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("column", ["image", "img"])
def test_image_and_label_columns(tmp_path: Path, tiny: Dataset, column: str) -> None:
    path = _parquet(tmp_path / "train-00000-of-00001.parquet", image=column)
    x = import_set(path, data=tiny)
    assert x.images[2, :, 0, 0].tolist() == pytest.approx([102 / 255, 0, 1])
    assert x.labels.tolist() == [0, 1, 2, 3]
    assert (x.num_classes, x.card.ipc) == (4, 1)
    assert "8-bit" in " ".join(x.card.notes)


def test_class_names_come_from_the_schema(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "a.parquet", [0, 1, 1, 0], names=["ant", "bee", "cat"])
    x = import_set(path)
    assert x.card.class_names == ["ant", "bee", "cat"]
    assert x.num_classes == 3


def test_classes_are_matched_by_name(tmp_path: Path, tiny: Dataset) -> None:
    names = ["class 2", "class 0", "class 3", "class 1"]
    x = import_set(_parquet(tmp_path / "a.parquet", names=names), data=tiny)
    assert x.labels.tolist() == [2, 0, 3, 1]
    assert x.card.class_names == [f"class {c}" for c in range(4)]
    assert "put into the data set's order" in " ".join(x.card.notes)


def test_soft_labels_are_matched_by_name_too(tmp_path: Path, tiny: Dataset) -> None:
    rows = [[0.7, 0.1, 0.15, 0.05]] * 2
    names = ["class 2", "class 0", "class 3", "class 1"]
    x = import_set(_parquet(tmp_path / "a.parquet", rows, names=names), data=tiny)
    torch.testing.assert_close(x.labels, torch.tensor([[0.1, 0.05, 0.7, 0.15]] * 2))


def test_other_class_names_are_noted(tmp_path: Path, tiny: Dataset) -> None:
    x = import_set(_parquet(tmp_path / "a.parquet", names=["a", "b", "c", "d"]), data=tiny)
    assert x.labels.tolist() == [0, 1, 2, 3]
    assert "class names differ" in " ".join(x.card.notes)


def test_folder_is_read_shard_by_shard(tmp_path: Path) -> None:
    for k in range(2):
        _parquet(tmp_path / "data" / f"train-0000{k}-of-00002.parquet", [k, k])
    _parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [5])
    assert import_set(tmp_path).labels.tolist() == [0, 0, 1, 1]
    options = {"split": "test"}
    assert import_set(tmp_path, format="huggingface", options=options).labels.tolist() == [5]
    with pytest.raises(BadInput, match="Known: test, train"):
        import_set(tmp_path, format="huggingface", options={"split": "dev"})


def test_each_shard_counts_classes_in_its_own_order(tmp_path: Path) -> None:
    for part, rows in (("hard", [0, 1]), ("soft", [[0.9, 0.1], [0.2, 0.8]])):
        for number, names in enumerate((["ant", "bee"], ["bee", "ant"])):
            _parquet(tmp_path / part / f"train-{number}-of-2.parquet", rows, names=names)
        x = import_set(tmp_path / part)
        assert x.card.class_names == ["ant", "bee"]
        assert x.hard_labels.tolist() == [0, 1, 1, 0]


def test_a_missing_shard_is_named_and_a_single_one_is_noted(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "train-00000-of-00003.parquet")
    with pytest.raises(BadInput, match="the first missing one is train-00001-of-00003"):
        import_set(tmp_path)
    assert "one of 3 shards; the others are not read" in " ".join(import_set(path).card.notes)


def test_texts_that_are_no_names_of_the_data_are_refused(tmp_path: Path, tiny: Dataset) -> None:
    path = _parquet(tmp_path / "a.parquet", ["d", "a", "c", "b"])
    with pytest.raises(BadInput, match="alphabetical order that the data do not name: 'a', 'b'"):
        import_set(path, data=tiny)
    _parquet(path, [f"Class_{c}" for c in (2, 0, 1, 3)])
    assert import_set(path, data=tiny).labels.tolist() == [2, 0, 1, 3]


def test_converted_layout_names_splits_by_folder(tmp_path: Path) -> None:
    _parquet(tmp_path / "default" / "train" / "0000.parquet", [0, 1])
    _parquet(tmp_path / "default" / "test" / "0000.parquet", [0])
    assert import_set(tmp_path).labels.tolist() == [0, 1]


def test_columns_by_option(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "a.parquet", image="picture")
    with pytest.raises(BadInput, match=r"no column image or img\. Columns: picture, label\."):
        import_set(path)
    assert len(import_set(path, options={"image": "picture"})) == 4


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [{"bytes": None, "path": "a.png"}], "label": [0]}, "row 0 .* no image bytes"),
        ({"image": ["a.png"], "label": [0]}, "no image bytes"),
        ({"image": [{"bytes": b"no image", "path": ""}], "label": [0]}, "row 0: is not a picture"),
        ({"image": [{"bytes": _png(0), "path": ""}], "label": [[[1]]]}, "expected"),
        ({"image": [{"bytes": _png(0), "path": ""}], "label": [None]}, "1 of 1 labels are missing"),
        ({"image": [{"bytes": _png(0), "path": ""}], "label": [-1]}, "1 of 1 labels are negative"),
        ({"image": [{"bytes": _png(0), "path": ""}]}, "no column label or labels"),
    ],
)
def test_content_that_is_something_else(
    tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=words):
        import_set(tmp_path / "a.parquet")


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no images"):
        import_set(_parquet(tmp_path / "a.parquet", []), options={"num_classes": "2"})


@pytest.mark.parametrize("keep", [4, 100, -10])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = _parquet(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInput, match="not a readable parquet file"):
        import_set(path)


def test_class_count_that_differs_from_the_data_set(tmp_path: Path, tiny: Dataset) -> None:
    path = _parquet(tmp_path / "a.parquet", [0, 1], names=["a", "b"])
    with pytest.raises(BadInput, match="names 2 classes but the data set has 4"):
        import_set(path, data=tiny)
