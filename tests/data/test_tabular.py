"""Tables: what a CSV becomes, which rows are refused, and that a record's part depends on its own row alone."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.data.tabular import split_roles
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.requests import check_recipe
from ddaudit.errors import BadInput

HEADER = ["id", "age", "income", "job", "sex", "risk"]


def table(n: int = 300, *, seed: int = 0) -> list[list[str]]:
    """Rows of two classes: numbers, a category, an identifier, and a protected column that goes with the class."""
    r = np.random.RandomState(seed)
    rows = []
    for i in range(n):
        high = r.rand() < 0.5
        age, income = 40 + 8 * high + 9 * r.randn(), math.exp(10 + 0.5 * high + 0.4 * r.randn())
        job = r.choice(["field", "office"], p=[0.2, 0.8] if high else [0.7, 0.3])
        sex = r.choice(["F", "M"], p=[0.3, 0.7] if high else [0.6, 0.4])
        rows.append([f"r{i}", f"{age:.0f}", f"{income:.2f}", job, sex, "high" if high else "low"])
    return rows


def write(path: Path, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def load(path: Path, more: str = "drop=id") -> Dataset:
    return load_data(f"csv:path={path},target=risk,group=sex,{more}")


def parts(data: Dataset) -> dict[str, ImageData]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


def test_numbers_are_standardised_by_train_and_categories_one_hot(tmp_path):
    rows = table()
    data = load(write(tmp_path / "t.csv", rows))
    assert data.columns == ("age", "income", "job=field", "job=office")
    assert (data.space, data.modality, data.augment) == ("standard", "tabular", "")
    x = data.train.images[:, 0, 0]
    assert torch.allclose(x[:, :2].mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(x[:, :2].std(0, correction=0), torch.ones(2), atol=1e-5)
    assert set(x[:, 2:].unique().tolist()) == {0.0, 1.0}
    assert bool((x[:, 2:].sum(1) == 1).all())
    # NumPy's standardisation of the same rows, found again by their role.
    roles = split_roles(["\x1f".join(r) for r in rows], test=0.2, validation=0.1)
    income = np.array([float(r[2]) for r, role in zip(rows, roles, strict=True) if role == "train"])
    assert np.allclose(x[:, 1].numpy(), (income - income.mean()) / income.std(), atol=1e-4)
    assert sum(len(p) for p in parts(data).values()) == len(rows)


def test_names_of_classes_and_groups_fit_the_cells(tmp_path):
    rows = table()
    data = load(write(tmp_path / "t.csv", rows), "drop=id,validation=0")
    assert (data.train.class_names, data.train.group_names) == (("high", "low"), ("F", "M"))
    high = sum(r[5] == "high" for r in rows)
    counted = sum(int((p.labels == 0).sum()) for p in parts(data).values())
    assert counted == high
    assert sum(int((p.groups == 0).sum()) for p in parts(data).values()) == sum(
        r[4] == "F" for r in rows
    )


def test_removing_one_record_moves_no_other(tmp_path):
    rows = table(120)
    before = split_roles(["\x1f".join(r) for r in rows], test=0.2, validation=0.1)
    assert set(before) == {"train", "validation", "test"}
    for gone in (0, 57, 119):
        rest = rows[:gone] + rows[gone + 1 :]
        after = split_roles(["\x1f".join(r) for r in rest], test=0.2, validation=0.1)
        assert after == before[:gone] + before[gone + 1 :]


def test_shares_of_the_split_are_as_asked():
    roles = split_roles([f"record {i}" for i in range(20_000)], test=0.2, validation=0.1)
    # Five standard deviations of a binomial share: one false alarm in 1.7 million.
    for role, share in (("test", 0.2), ("validation", 0.1), ("train", 0.7)):
        assert abs(roles.count(role) / 20_000 - share) < 5 * math.sqrt(share * (1 - share) / 20_000)


def test_missing_values_are_refused_with_count_and_column(tmp_path):
    rows = table()
    for row in rows[:7]:
        row[2] = ""
    for row in rows[5:9]:
        row[3] = "NA"
    path = write(tmp_path / "t.csv", rows)
    with pytest.raises(
        BadInput, match=r"7 of 300 records have no value in column 'income'.*4 in 'job'"
    ):
        load(path)
    dropped = load(path, "drop=id,missing=drop")
    assert sum(len(p) for p in parts(dropped).values()) == 291
    assert any("9 of 300 records" in note for note in dropped.notes)
    filled = load(path, "drop=id,missing=mean")
    everything = torch.cat([p.images[:, 0, 0] for p in parts(filled).values()])
    assert len(everything) == 300
    assert int((everything[:, 1] == 0).sum()) == 7
    assert int((everything[:, 2:].sum(1) == 0).sum()) == 4


@pytest.mark.parametrize("column", [4, 5])
def test_a_missing_class_or_group_is_never_filled_in(tmp_path, column):
    rows = table()
    rows[3][column] = "nan"
    with pytest.raises(
        BadInput, match=f"1 of 300 records have no value in column '{HEADER[column]}'"
    ):
        load(write(tmp_path / "t.csv", rows), "drop=id,missing=mean")


def test_declared_ranges_leave_no_constant_of_the_records(tmp_path):
    ranges = {
        "age": [0, 100],
        "job": ["office", "field"],
        "sex": ["F", "M"],
        "risk": ["low", "high"],
    }
    (tmp_path / "r.json").write_text(json.dumps(ranges))
    more = f"drop=id,ranges={tmp_path / 'r.json'}"
    rows = table()
    rows[0][1] = "250"
    data = load(write(tmp_path / "t.csv", rows), more)
    assert data.whole_set == ()
    assert "r.json" in data.assumed[0]
    assert data.columns == ("age", "job=office", "job=field")
    assert data.train.class_names == ("low", "high")
    everything = torch.cat([p.images[:, 0, 0, 0] for p in parts(data).values()])
    # (100 - 50) / (100 / sqrt(12)): the end of the declared range.
    assert math.isclose(float(everything.max()), math.sqrt(3), rel_tol=1e-6)
    fewer = load(write(tmp_path / "u.csv", rows[:150]), more)
    known = {tuple(x) for x in data.train.images.flatten(1).tolist()}
    assert {tuple(x) for x in fewer.train.images.flatten(1).tolist()} <= known


def test_a_private_recipe_refuses_constants_of_the_records(tmp_path):
    path = write(tmp_path / "t.csv", table())
    recipe = resolve("dm+dp", profile="small", options={"reader.delta": 1e-4})
    with pytest.raises(BadInput, match="ranges=FILE"):
        check_recipe(recipe, load(path))
    declared = load(path, "drop=id,constants=public")
    check_recipe(recipe, declared)
    few = recipe.options({"loop.iterations": 3})
    made = distill(few, declared.train, data=declared, ipc=1, seed=0)
    assert made.card.privacy is not None
    assert set(declared.assumed) <= set(made.card.privacy.public)
    assert not any("0.5" in said for said in made.card.privacy.public)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[4].append("x"), "record 6 has 7 cells"),
        (lambda rows: rows[4].__setitem__(5, "0.5"), None),
        (
            lambda rows: [r.__setitem__(5, str(i / 7)) for i, r in enumerate(rows)],
            "different labels",
        ),
        (lambda rows: rows.clear(), "holds no records"),
        # Not a column of texts: its numbers would become categories without a word.
        (lambda rows: rows[4].__setitem__(1, "-inf"), r"not finite \(1, such as '-inf'\)"),
        (lambda rows: rows[4].__setitem__(1, "1e999"), r"not finite \(1, such as '1e999'\)"),
        (
            lambda rows: rows[4].__setitem__(1, "4o"),
            r"'age' holds 299 numbers and 1 texts \('4o', say\)",
        ),
    ],
)
def test_what_is_no_table_of_classes_is_refused(tmp_path, change, said):
    rows = table()
    change(rows)
    path = write(tmp_path / "t.csv", rows)
    if said is None:
        assert load(path).num_classes == 3
        return
    with pytest.raises(BadInput, match=said):
        load(path)


def test_identifiers_and_unknown_columns_are_named(tmp_path):
    path = write(tmp_path / "t.csv", table())
    with pytest.raises(BadInput, match=r"column 'id' holds 300 different texts.*drop=id"):
        load(path, "validation=0")
    with pytest.raises(BadInput, match="has no column 'name'"):
        load(path, "drop=id+name")


def test_a_column_that_never_repeats_is_told_of(tmp_path):
    rows = [[str(i), f"{i / 7:.3f}", str(i % 5), "ab"[i % 2]] for i in range(60)]
    path = write(tmp_path / "t.csv", rows, ["id", "height", "floor", "risk"])
    said = [n for n in load_data(f"csv:path={path},target=risk").notes if "differs in every" in n]
    assert said == ["Column 'id' differs in every record: if it is an identifier, add drop=id."]


def test_numeral_classes_sort_by_value(tmp_path):
    rows = [[str(i / 3), str(i % 12)] for i in range(240)]
    path = write(tmp_path / "t.csv", rows, ["x", "y"])
    data = load_data(f"csv:path={path},target=y")
    assert data.train.class_names == tuple(str(c) for c in range(12))


@pytest.mark.parametrize(
    ("name", "records", "shape", "classes"),
    [("wine", 178, (1, 1, 13), 3), ("breast-cancer", 569, (1, 1, 30), 2)],
)
def test_embedded_tables_are_scikit_learns(name, records, shape, classes):
    sklearn = pytest.importorskip("sklearn.datasets")
    data = load_data(name)
    assert (data.shape, len(data.columns), data.num_classes) == (shape, shape[2], classes)
    theirs = getattr(sklearn, f"load_{name.replace('-', '_')}")()
    assert data.train.class_names == tuple(theirs.target_names)
    assert sum(len(p) for p in parts(data).values()) == records
    counts = sum(p.class_counts() for p in parts(data).values())
    assert counts.tolist() == np.bincount(theirs.target).tolist()
    # Standardised columns are the raw ones up to an affine map: correlations stay.
    ours = torch.cat([p.images[:, 0, 0] for p in parts(data).values()]).numpy()
    raw = theirs.data
    assert np.allclose(np.corrcoef(ours.T), np.corrcoef(raw.T), atol=1e-4)


def test_records_that_are_no_pixels_are_checked():
    with pytest.raises(ValueError, match="NaN"):
        ImageData(
            torch.full((1, 1, 1, 2), math.nan),
            torch.zeros(1, dtype=torch.int64),
            ("a",),
            space="standard",
        )
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        ImageData(torch.full((1, 1, 2, 2), 2.0), torch.zeros(1, dtype=torch.int64), ("a",))
    with pytest.raises(ValueError, match="must be float32"):
        ImageData(
            torch.zeros(1, 1, 1, 2, dtype=torch.uint8),
            torch.zeros(1, dtype=torch.int64),
            ("a",),
            space="standard",
        )


def test_a_text_in_a_column_declared_as_numbers_is_refused_in_one_line(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"age": [0, 120], "risk": ["low", "high"]}))
    rows = table(40)
    rows[3][1] = "forty"
    file = write(tmp_path / "t.csv", rows)
    with pytest.raises(BadInput, match=r"column 'age': holds a text .* 'forty'"):
        load_data(f"csv:path={file},target=risk,ranges={tmp_path / 'r.json'}")


def test_the_class_is_no_group(tmp_path):
    path = write(tmp_path / "t.csv", table())
    with pytest.raises(BadInput, match="target and group are the same column"):
        load_data(f"csv:path={path},target=risk,group=risk")


def test_categories_that_differ_in_capitals_alone_are_told_of(tmp_path):
    rows = [
        [str(i), "1e5" if i % 3 else "1E5", ["yes", "Yes", "no"][i % 3], "ab"[i % 2]]
        for i in range(60)
    ]
    path = write(tmp_path / "t.csv", rows, ["id", "size", "smokes", "y"])
    data = load_data(f"csv:path={path},target=y,drop=id")
    (note,) = [n for n in data.notes if "spell them alike" in n]
    assert note.startswith("Column 'smokes' tells apart 'Yes' and 'yes'")
    with pytest.raises(BadInput, match="is the column of target="):
        load_data(f"csv:path={path},target=y,drop=id+y")
