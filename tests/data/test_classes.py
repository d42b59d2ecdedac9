"""Class identity: what label columns and folder names mean, and the groups that come as files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddaudit.data import Dataset, load_data
from ddaudit.data.classes import class_order, index_names, is_missing, match_names
from ddaudit.errors import BadInput

NAN = float("nan")


def test_numbers_sort_by_value_and_other_names_as_text():
    assert class_order(["10", "9", "0", "9"]) == ("0", "9", "10")
    assert class_order(["b10", "b9", "a"]) == ("a", "b10", "b9")
    assert class_order(str(c) for c in reversed(range(100))) == tuple(map(str, range(100)))


@pytest.mark.parametrize(
    ("values", "names", "wanted"),
    [
        ([2, 0, 1], None, (None, [2, 0, 1])),
        ([2.0, 0.0, 1.0], None, (None, [2, 0, 1])),
        (["10", "9", "0"], None, (("0", "9", "10"), [2, 1, 0])),
        (["cat", "ant"], None, (("ant", "cat"), [1, 0])),
        ([False, True], None, (("False", "True"), [0, 1])),
        # Integers of a ClassLabel are positions, also where its names are numerals.
        ([0, 1, 2], ["2", "0", "1"], (("2", "0", "1"), [0, 1, 2])),
        (["2", "0", "1"], ["2", "0", "1"], (("2", "0", "1"), [0, 1, 2])),
    ],
)
def test_columns_are_numbered_by_one_rule(values: list[Any], names: Any, wanted: Any):
    found, indexed = index_names({"file": values}, kind="label", names=names)
    assert (found, indexed["file"].tolist()) == wanted


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, None, None], "2 of 3 labels are missing"),
        ([0.0, NAN, 1.0], "1 of 3 labels are missing"),
        (["a", "", "b"], "1 of 3 labels are missing"),
        ([0, -1, -1, -1], "3 of 4 labels are negative"),
        ([0.5, 1.0], "1 of 2 labels are not whole numbers"),
        ([0, "a"], "mixes numbers and texts"),
        ([0, 10**9], "holds 1000000000, out of range"),
        ([10, 0, 5, 5], "labels are 0, 5, 10 and no record has 1"),
        ([1, 2, 3], "labels are 1, 2, 3 and no record has 0"),
        ([[0], [0, 2]], r"2 of 2 labels are of type list \(\[0\]\)"),
        ([b"a", b"b"], "2 of 2 labels are of type bytes"),
    ],
)
def test_values_that_are_no_class_are_refused_with_their_count(values: list[Any], said: str):
    with pytest.raises(BadInput, match=said):
        index_names({"file": values}, kind="label", gaps=False)


@pytest.mark.parametrize("kind", ["group", "label"])
def test_groups_and_distilled_sets_may_leave_numbers_out(kind: str):
    found, indexed = index_names({"file": [1, 2, 1]}, kind=kind)
    assert (found, indexed["file"].tolist()) == (None, [1, 2, 1])


def test_names_decide_where_they_fit_and_doubt_is_refused():
    assert match_names(["b", "a"], ["a", "b", "c"]) == [1, 0]
    assert match_names(["0002", "10"], ["2", "10"]) == [0, 1]
    assert match_names(["ankle_boot", "BAG"], ["Bag", "Ankle boot"]) == [1, 0]
    # As it is goes first: without punctuation these would be one name. A sign is no punctuation.
    assert match_names(["C#", "C++"], ["C++", "C#"]) == [1, 0]
    assert match_names(["1", "-1"], ["-1", "1"]) == [1, 0]
    assert match_names(["1.5", "2"], ["15", "2"]) is None
    # Two spellings of one list: position is all there is.
    assert match_names(["T-shirt", "Trouser"], ["T-shirt/top", "Trouser"]) is None
    with pytest.raises(ValueError, match="'b' stands elsewhere"):
        match_names(["b", "x"], ["a", "b"])
    letters = [f"{chr(97 + (7 * c) % 26)}{(3 * c) % 100}" for c in range(100)]
    assert match_names(letters, sorted(letters)) == [sorted(letters).index(n) for n in letters]


def pictures(root: Path, classes: list[str], *, each: int = 2) -> Path:
    """A split folder pair whose class c is one grey level, 2 c."""
    for split in ("train", "test"):
        for level, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(each):
                Image.fromarray(np.full((4, 4), 2 * level, np.uint8)).save(folder / f"{i}.png")
    return root


def levels(data: Dataset) -> dict[str, int]:
    """Class name -> grey level."""
    named = zip(data.train.labels.tolist(), data.train.images[:, 0, 0, 0].tolist(), strict=True)
    return {data.train.class_names[label]: level for label, level in named}


def test_a_hundred_unpadded_numbers_are_their_own_classes(tmp_path: Path):
    names = [str(c) for c in range(100)]
    data = load_data(f"image-folder:path={pictures(tmp_path, names, each=1)},validation=0")
    assert data.train.class_names == tuple(names)
    assert levels(data) == {name: 2 * int(name) for name in names}
    assert any("torchvision" in note for note in data.notes)


def test_hidden_and_empty_folders_are_no_classes(tmp_path: Path):
    root = pictures(tmp_path, ["a", "b", ".ipynb_checkpoints"])
    (root / "train" / "empty").mkdir()
    data = load_data(f"image-folder:path={root},validation=0")
    assert data.train.class_names == ("a", "b")
    assert not data.notes[0].startswith("Class folders")


def table(path: Path, rows: list[tuple[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        files, groups = zip(*rows, strict=True)
        pq.write_table(pa.table({"file": list(files), "group": list(groups)}), path)
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("file", "group"), *rows])
    return path


def rows_of(root: Path) -> list[tuple[str, str]]:
    files = sorted(p.relative_to(root).as_posix() for p in root.glob("*/*/*.png"))
    return [(name, "odd" if name.endswith("1.png") else "even") for name in files]


@pytest.mark.parametrize("name", ["groups.csv", "groups.parquet"])
def test_groups_of_pictures_come_from_a_table(tmp_path: Path, name: str):
    root = pictures(tmp_path / "d", ["a", "b"])
    groups = table(tmp_path / name, rows_of(root)[::-1])
    data = load_data(f"image-folder:path={root},groups={groups},validation=0")
    assert data.train.group_names == ("even", "odd")
    assert data.train.groups.tolist() == [0, 1, 0, 1]
    assert data.test.groups.tolist() == [0, 1, 0, 1]


def test_pictures_and_rows_without_each_other_are_counted(tmp_path: Path):
    root = pictures(tmp_path / "d", ["a", "b"])
    rows = [*rows_of(root)[1:], ("train/a/9.png", "odd"), ("train/a/8.png", "odd")]
    groups = table(tmp_path / "g.csv", rows)
    with pytest.raises(BadInput, match=r"1 of 8 pictures have no row .* and 2 of 9 rows have no"):
        load_data(f"image-folder:path={root},groups={groups}")
    groups = table(tmp_path / "g.csv", [*rows_of(root), rows_of(root)[0]])
    with pytest.raises(BadInput, match=r"names 'test/a/0\.png' twice"):
        load_data(f"image-folder:path={root},groups={groups}")


def test_records_without_a_recorded_group_are_left_out_and_said(tmp_path: Path):
    root = pictures(tmp_path / "d", ["a", "b"])
    rows = [(name, None if i == 4 else group) for i, (name, group) in enumerate(rows_of(root))]
    groups = table(tmp_path / "g.parquet", rows)
    data = load_data(f"image-folder:path={root},groups={groups},validation=0")
    assert data.train.group_names == ("even", "odd")
    assert (len(data.train), len(data.test)) == (3, 4)
    assert any("1 of 4 records have no 'group'" in note for note in data.notes)


def test_none_is_a_category_and_what_programs_write_for_nothing_is_missing():
    assert all(map(is_missing, [None, NAN, "", " ", "NA", "n/a", "NaN", "null", "None", "?"]))
    assert not any(map(is_missing, ["none", "no", "0", 0, 0.0, "nana"]))
