"""One record more or less: every other record keeps its role and its content, or private recipes refuse the data.

A role is what the construction decides for a record: train, validation or neither; its colour; its label.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ddaudit.data import Dataset, load_data
from ddaudit.data.coins import coins
from ddaudit.data.coloured import colour_dataset
from ddaudit.data.longtail import long_tail_dataset, thin_tail
from ddaudit.data.noise import noisy_dataset
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.requests import check_recipe
from ddaudit.errors import BadInput


def _number(record: int) -> np.ndarray:
    """A 6x6 grey picture that no other record has."""
    return np.random.RandomState(record).randint(0, 256, (6, 6)).astype(np.uint8)


def _folder(root: Path, records: list[int]) -> Dataset:
    for split, members in (("train", records), ("test", [1000, 1001])):
        for record in members:
            file = root / split / f"class {record % 2}" / f"{record}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_number(record)).save(file)
    return load_data(f"image-folder:path={root},validation=0.3")


def _parquet(root: Path, records: list[int]) -> Dataset:
    import io

    for split, members in (("train", records), ("test", [1000, 1001])):
        cells = []
        for record in members:
            buffer = io.BytesIO()
            Image.fromarray(_number(record)).save(buffer, format="PNG")
            cells.append({"bytes": buffer.getvalue(), "path": None})
        table = pa.table({"img": cells, "label": [r % 2 for r in members]})
        root.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / f"{split}.parquet")
    return load_data(f"parquet:path={root},validation=0.3")


def _roles(data: Dataset) -> dict[bytes, tuple[str, int, int]]:
    """By image: split, label, group."""
    roles = {}
    for name in ("train", "validation"):
        split = getattr(data, name)
        groups = split.labels * 0 if split.groups is None else split.groups
        for image, label, group in zip(split.images, split.labels, groups, strict=True):
            # A coloured image is known by its grey levels.
            key = image.amax(0).numpy().tobytes()
            assert key not in roles
            roles[key] = (name, int(label), int(group))
    return roles


MAKERS = {
    "as it is": lambda d: d,
    "coloured": lambda d: colour_dataset(d, style="fg", bias=0.6),
    "long tail": lambda d: long_tail_dataset(d, imbalance=3, order="label", where="x"),
    "noisy": lambda d: noisy_dataset(d, rate=0.4, kind="symmetric", seed=0, where="x"),
}


@pytest.mark.parametrize("read", [_folder, _parquet])
def test_files_without_one_record_leave_all_others_in_their_roles(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    records = list(range(40))
    whole = read(tmp_path / "whole", records)
    assert len(whole.validation) > 3
    for gone in (0, 17, 39):
        rest = read(tmp_path / f"without {gone}", [r for r in records if r != gone])
        for name, make in MAKERS.items():
            before, after = _roles(make(whole)), _roles(make(rest))
            lost = {k for k in before if k not in after}
            assert all(after[k] == before[k] for k in after), name
            # A long tail may have left the record out in the first place.
            assert lost <= {_key(make, gone, before)}, name


def _key(make, record: int, before: dict[bytes, tuple[str, int, int]]) -> bytes:  # type: ignore[no-untyped-def]
    """How the record looks among ``before``: painted images lose levels, so the nearest by its own colouring."""
    grey = torch.from_numpy(_number(record))[None, None]
    for key in before:
        shown = torch.frombuffer(bytearray(key), dtype=torch.uint8).view(1, 1, 6, 6)
        if int((shown.int() - grey.int()).abs().max()) <= 2:
            return key
    return b""


def test_a_permutation_of_all_records_would_be_noticed(tmp_path: Path) -> None:
    """The rule that was used before, planted: most roles move when one record goes."""
    records = list(range(40))

    def permuted(members: list[int]) -> set[int]:
        order = np.random.RandomState(2024).permutation(len(members))
        return {members[i] for i in order[-12:]}

    moved = permuted(records) ^ permuted(records[1:])
    assert len(moved) > 5


@pytest.mark.parametrize(
    "spec", ["c-fmnist-fg", "c-mnist-bg", "fmnist-lt:imbalance=5", "colored:base=fashion-mnist"]
)
def test_private_recipes_refuse_data_whose_records_are_tied_together(
    mnist_root: Path, spec: str
) -> None:
    data = load_data(spec, root=mnist_root)
    recipe = resolve("dm+dp", profile="small", options={"reader.delta": 1e-4})
    if spec.startswith("colored"):
        check_recipe(recipe, data)
        return
    with pytest.raises(BadInput, match="one record more would change others"):
        check_recipe(recipe, data)
    with pytest.raises(BadInput, match="one record more would change others"):
        distill(recipe, data.train, data=data, ipc=1, seed=0)
    check_recipe(resolve("dm", profile="small"), data)


def test_whole_set_reasons_reach_versions_of_the_data(tiny: Dataset) -> None:
    tied = replace(tiny, whole_set=("a list was shuffled",))
    noisy = noisy_dataset(tied, rate=0.1, kind="symmetric", seed=0, where="x")
    assert noisy.whole_set == tied.whole_set


def test_coins_are_uniform_and_those_of_two_purposes_independent() -> None:
    images = torch.arange(20_000).view(-1, 1)
    one, other = coins(images, "one"), coins(images, "other")
    # Kolmogorov and Smirnov at 1e-6; correlation of 20 000 pairs beyond 5 standard errors: 6e-7.
    from scipy.stats import kstest

    assert kstest(one, "uniform").pvalue > 1e-6
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / 20_000**0.5
    assert 0 <= one.min() <= one.max() < 1


def test_a_coin_is_the_same_everywhere() -> None:
    # 64 bits of BLAKE2b over the bytes 00 01 02, keyed by SHA-256("x"), without their last 11 bits.
    assert coins(torch.tensor([[0, 1, 2]], dtype=torch.uint8), "x")[0] * 2**53 == 3307192409556591


def test_thinning_alone_keeps_roles(tiny: Dataset) -> None:
    kept = thin_tail(tiny.train, imbalance=3, order=[0, 1, 2, 3])
    rest = thin_tail(tiny.train.subset(torch.arange(1, 240)), imbalance=3, order=[0, 1, 2, 3])
    assert len(kept) - len(rest) in (0, 1)
