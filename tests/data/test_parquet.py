"""Parquet data sets: the Hub's layouts and columns, groups, class names, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ddaudit.data import Dataset, load_data
from ddaudit.data.splits import with_validation
from ddaudit.errors import BadInput
from ddaudit.sets import import_set


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (value, 10, 20)).save(buffer, format="PNG")
    return buffer.getvalue()


def _write(
    path: Path,
    labels: list[Any],
    *,
    image: str = "img",
    label: str = "label",
    names: list[str] | None = None,
    groups: list[str] | None = None,
    raw: bool = False,
    **columns: list[Any],
) -> None:
    pictures = [_png(number) for number in range(len(labels))]
    cells: list[Any] = pictures if raw else [{"bytes": p, "path": None} for p in pictures]
    table = pa.table({image: cells, label: labels, **columns})
    declared = {label: names, "sex": groups}
    features = {c: {"names": n, "_type": "ClassLabel"} for c, n in declared.items() if n}
    if features:
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def test_pictures_labels_and_order_are_kept(tmp_path: Path) -> None:
    _write(tmp_path / "train.parquet", [0, 1] * 10)
    _write(tmp_path / "test.parquet", [1, 0, 1])
    data = load_data(f"parquet:path={tmp_path},validation=0")
    assert data.shape == (3, 6, 6)
    assert data.train.images[:, 0, 0, 0].tolist() == list(range(20))
    assert data.train.labels.tolist() == [0, 1] * 10
    assert data.test.labels.tolist() == [1, 0, 1]
    assert data.train.class_names == ("class 0", "class 1")
    split = load_data(f"parquet:path={tmp_path}")
    assert split.validation.class_counts().tolist() == [1, 1]


def test_the_hubs_numbered_parts_names_and_columns_are_understood(tmp_path: Path) -> None:
    places = {"image": "image", "label": "fine_label", "names": ["cat", "dog"], "raw": True}
    for part in range(2):
        _write(
            tmp_path / "set" / "data" / f"train-0000{part}-of-00002.parquet", [part] * 4, **places
        )  # type: ignore[arg-type]
    _write(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", [0], **places)  # type: ignore[arg-type]
    _write(tmp_path / "set" / "data" / "validation-00000-of-00001.parquet", [1, 1], **places)  # type: ignore[arg-type]
    data = load_data("parquet:path=set", root=tmp_path)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.train.class_names == ("cat", "dog")
    assert data.validation.labels.tolist() == [1, 1]


def test_texts_become_classes_and_a_column_becomes_groups(tmp_path: Path) -> None:
    _write(
        tmp_path / "train.parquet",
        ["b", "a", "b", "a"],
        sex=["f", "m", "m", "f"],
        what=[3, 0, 0, 0],
    )
    _write(tmp_path / "test.parquet", ["a"], sex=["m"], what=[1])
    data = load_data(f"parquet:path={tmp_path},group=sex,validation=0,size=4")
    assert data.train.class_names == ("a", "b")
    assert data.train.labels.tolist() == [1, 0, 1, 0]
    assert data.train.group_names == ("f", "m")
    assert data.train.groups is not None
    assert data.train.groups.tolist() == [0, 1, 1, 0]
    assert data.shape == (3, 4, 4)
    numbered = load_data(f"parquet:path={tmp_path},group=what")
    assert numbered.train.group_names == ("group 0", "group 1", "group 3")


def test_each_file_counts_classes_and_groups_in_its_own_order(tmp_path: Path) -> None:
    here = {"names": ["cat", "dog"], "groups": ["f", "m"], "sex": [0, 1, 1]}
    there = {"names": ["dog", "cat"], "groups": ["m", "f"], "sex": [0, 1, 1]}
    _write(tmp_path / "train-00000-of-00002.parquet", [0, 1, 0], **here)  # type: ignore[arg-type]
    _write(tmp_path / "train-00001-of-00002.parquet", [0, 1, 1], **there)  # type: ignore[arg-type]
    _write(tmp_path / "test.parquet", [0, 0, 1], **there)  # type: ignore[arg-type]
    data = load_data(f"parquet:path={tmp_path},group=sex,validation=0")
    assert (data.train.class_names, data.train.group_names) == (("cat", "dog"), ("f", "m"))
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 0]
    assert data.test.labels.tolist() == [1, 1, 0]
    assert data.train.groups is not None
    assert data.train.groups.tolist() == [0, 1, 1, 1, 0, 0]
    assert data.test.groups is not None
    assert data.test.groups.tolist() == [1, 0, 0]


def test_files_that_declare_other_classes_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "train.parquet", [0, 1], names=["cat", "dog"])
    _write(tmp_path / "test.parquet", [0, 1], names=["cat", "cow"])
    with pytest.raises(BadInput, match=r"test\.parquet: declares 2 label names.*'cow'"):
        load_data(f"parquet:path={tmp_path}")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "test-00000-of-00001.parquet", [0, 1])
    for number in (0, 2):
        _write(tmp_path / f"train-0000{number}-of-00003.parquet", [0, 1])
        with pytest.raises(BadInput, match="the first missing one is train-00001-of-00003"):
            load_data(f"parquet:path={tmp_path}")
    _write(tmp_path / "train-00001-of-00003.parquet", [0, 1])
    assert len(load_data(f"parquet:path={tmp_path},validation=0").train) == 6
    _write(tmp_path / "train-00000-of-00001.parquet", [0, 1])
    with pytest.raises(BadInput, match=r"holds 4 shards 'train-\.\.\.' but their names state 3"):
        load_data(f"parquet:path={tmp_path}")


def test_shards_of_different_columns_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "test.parquet", [0, 1])
    _write(tmp_path / "train-00000-of-00002.parquet", [0, 1])
    _write(tmp_path / "train-00001-of-00002.parquet", [0, 1], label="kind")
    with pytest.raises(BadInput, match=r"00001-of-00002\.parquet: has other columns"):
        load_data(f"parquet:path={tmp_path}")


def test_broken_parquet_folders_name_the_fault(tmp_path: Path) -> None:
    def refused(says: str, options: str = "") -> None:
        with pytest.raises(BadInput, match=says) as error:
            load_data(f"parquet:path={tmp_path}{options}")
        assert "\n" not in str(error.value)

    refused("holds no train.parquet")
    _write(tmp_path / "train.parquet", [0, 1])
    refused("holds no test.parquet")
    _write(tmp_path / "test.parquet", [0, 1])
    refused(r"no column x\. Columns: img, label", ",label=x")
    refused("no encoded picture", ",image=label")
    _write(tmp_path / "test.parquet", [0, -1])
    refused("1 of 2 labels are negative")
    _write(tmp_path / "train.parquet", [0, 1], names=["a", "b"])
    _write(tmp_path / "test.parquet", [0, 2])
    refused("label column holds 2, out of range: 2 names are declared")
    _write(tmp_path / "test.parquet", [])
    refused("no (column|rows)")
    (tmp_path / "test.parquet").write_bytes(b"PAR1 nothing")
    refused("not a readable parquet file")


@pytest.mark.realdata
def test_the_jpeg_cifar_is_named_so_and_split_by_coins(
    data_root: Path, jpeg: Dataset, within: Callable[[int, int, float], bool]
) -> None:
    data = with_validation(jpeg, 0.1)
    assert (len(data.train) + len(data.validation), len(data.test)) == (50_000, 10_000)
    for count in data.validation.class_counts().tolist():
        assert within(count, 5000, 0.1)
    assert data.test.labels.tolist() == [i % 10 for i in range(10_000)]
    assert data.train.class_names[:2] == ("airplane", "automobile")
    assert any("CIFAR-10 (JPEG)" in note for note in data.notes)
    assert (data.mean, data.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    pixels = torch.cat([data.train.pixels(), data.validation.pixels()])
    # The field's mean is that of the images; its std is not the pixels' (0.247), as is well known.
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(data.mean, abs=1e-3)
    parquet = pq.ParquetFile(data_root / "cifar10_jpeg" / "test.parquet")
    first = next(parquet.iter_batches(1)).column(0)[0].as_py()["bytes"]
    expected = np.asarray(Image.open(io.BytesIO(first)).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(data.test.images[0].numpy(), expected)


def test_numbers_that_leave_gaps_are_groups_of_their_own_names(tmp_path: Path) -> None:
    """Postal codes: 99 999 groups before, none of which but three had a record."""
    _write(tmp_path / "train.parquet", [0, 1] * 2, zip=[10115, 80331, 99998, 10115])
    _write(tmp_path / "test.parquet", [0, 1], zip=[99998, 10115])
    data = load_data(f"parquet:path={tmp_path},group=zip,validation=0")
    assert data.train.group_names == ("group 10115", "group 80331", "group 99998")
    assert data.train.groups is not None
    assert data.train.groups.tolist() == [0, 1, 2, 0]
    assert data.test.groups is not None
    assert data.test.groups.tolist() == [2, 0]


def test_a_split_without_any_group_and_two_columns_of_one_name_are_one_line(tmp_path: Path) -> None:
    _write(tmp_path / "g" / "train.parquet", [0, 1] * 2, zip=["a", "b", "a", "b"])
    _write(tmp_path / "g" / "test.parquet", [0, 1], zip=pa.nulls(2, pa.string()))
    with pytest.raises(BadInput, match=r"test.parquet: column 'zip' records no group at all"):
        load_data(f"parquet:path={tmp_path / 'g'},group=zip,validation=0")
    for split in ("train", "test"):
        cells = pa.array([{"bytes": _png(i), "path": None} for i in range(2)])
        twice = pa.Table.from_arrays(
            [cells, pa.array([0, 1]), pa.array([0, 1])], names=["img", "label", "label"]
        )
        (tmp_path / "t").mkdir(exist_ok=True)
        pq.write_table(twice, tmp_path / "t" / f"{split}.parquet")
    with pytest.raises(BadInput, match="has 2 columns called 'label'"):
        load_data(f"parquet:path={tmp_path / 't'},validation=0")


def test_of_two_columns_with_usual_names_one_has_to_be_named(tmp_path: Path) -> None:
    """Data took one of them, and a distilled set of the same file the other."""
    for split in ("train", "test"):
        other = [{"bytes": _png(9), "path": None}] * 2
        _write(tmp_path / f"{split}.parquet", [0, 1], image="image", img=other)
    said = r"columns image and img\. .*Name one with {}image=COLUMN"
    with pytest.raises(BadInput, match=said.format("")):
        load_data(f"parquet:path={tmp_path},validation=0")
    with pytest.raises(BadInput, match=said.format("--set ")):
        import_set(tmp_path / "train.parquet")
    data = load_data(f"parquet:path={tmp_path},validation=0,image=img")
    made = import_set(tmp_path / "train.parquet", options={"image": "img"})
    assert torch.equal(data.train.pixels(torch.arange(2)), made.images)


def test_a_name_for_two_classes_is_refused_before_any_work(tmp_path: Path) -> None:
    """The card of the set refused it, when the distillation was done."""
    for split in ("train", "test"):
        _write(tmp_path / f"{split}.parquet", [0, 1], names=["a", "a"])
    with pytest.raises(BadInput, match="declares the label name 'a' twice"):
        load_data(f"parquet:path={tmp_path},validation=0")
