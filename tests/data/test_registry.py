"""``load_data`` by name: what is there, what it is called, where it looks, how it fails."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddaudit.data import DATASETS, Dataset, canonical_spec, load_data
from ddaudit.errors import BadInput

EMBEDDED = ["breast-cancer", "digits", "digits-colored", "digits-lt", "digits-noisy", "wine"]


def test_the_promised_data_sets_are_registered_and_described() -> None:
    promised = {
        *EMBEDDED, "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "cifar10-jpeg",
        "parquet", "medmnist", "image-folder", "c-fmnist-fg", "c-fmnist-bg", "c-fmnist-bg-clean", "c-mnist-fg",
        "c-mnist-bg", "colored", "cifar10-s", "long-tail", "cifar10-lt", "fmnist-lt", "noisy",
    }  # fmt: skip
    assert promised <= set(DATASETS.names())
    for name, source in DATASETS.items():
        assert source.name == name
        assert source.description
        assert "\n" not in source.description
        assert all(option.help for option in source.options)
    assert [name for name, source in DATASETS.items() if source.embedded] == EMBEDDED


def test_listing_loads_no_heavy_library() -> None:
    code = (
        "import sys, ddaudit.errors; before = set(sys.modules); "
        "from ddaudit.data import DATASETS; DATASETS.names(); "
        "heavy = {'sklearn', 'torchvision', 'pyarrow', 'PIL'}; "
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("digits-colored:bias=0.9", "digits-colored"),
        ("digits-colored:bias=.950", "digits-colored:bias=0.95"),
        ("digits-noisy:kind=asymmetric,rate=0.4", "digits-noisy:rate=0.4,kind=asymmetric"),
        ("digits-lt:imbalance=50", "digits-lt:imbalance=50"),
        ("long-tail:imbalance=5,base=digits", "long-tail:imbalance=5"),
        ("noisy:base=(digits-colored:bias=0.9)", "noisy:base=digits-colored"),
        ("noisy:base=(digits-lt:imbalance=5)", "noisy:base=(digits-lt:imbalance=5)"),
    ],
)
def test_a_data_set_is_named_by_the_one_spelling_of_its_spec(spec: str, name: str) -> None:
    data = load_data(spec)
    assert data.name == name == canonical_spec(spec)
    again = load_data(data.name)
    assert again.name == data.name
    assert again.train.fingerprint == data.train.fingerprint


def test_unknown_names_and_options_are_bad_input() -> None:
    with pytest.raises(BadInput, match="Did you mean digits"):
        load_data("digit")
    with pytest.raises(BadInput, match=r"no option 'bias'\. Accepted: rate=0\.2 \(0 to 1\), kind="):
        load_data("digits-noisy:bias=1")
    with pytest.raises(BadInput, match="unknown dataset"):
        load_data("long-tail:base=nothing-like-it")


def test_missing_files_say_where_it_looked_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput) as error:
        load_data("fashion-mnist", root=tmp_path)
    message = str(error.value)
    assert str(tmp_path / "FashionMNIST" / "raw") in message
    assert "--download" in message
    assert "ROOT/FashionMNIST/raw" in message
    assert list(tmp_path.iterdir()) == [], "nothing may be downloaded or created"
    monkeypatch.delenv("DDAUDIT_DATA", raising=False)
    with pytest.raises(BadInput, match="DDAUDIT_DATA"):
        load_data("mnist")
    with pytest.raises(BadInput, match="DDAUDIT_DATA"):
        load_data("mnist", download=True)


def test_the_root_comes_from_the_environment_unless_given(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDAUDIT_DATA", str(mnist_root))
    assert len(load_data("mnist").test) == 1000
    with pytest.raises(BadInput, match="not found"):
        load_data("mnist", root=tmp_path)


@pytest.mark.parametrize("spec", EMBEDDED)
def test_embedded_sets_load_without_a_root_and_survive_a_process_border(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DDAUDIT_DATA", raising=False)
    data = load_data(spec)
    copy: Dataset = pickle.loads(pickle.dumps(data))
    assert copy.name == spec
    assert copy.train.fingerprint == data.train.fingerprint
    assert set(copy.extra) == set(data.extra)
    for split in (copy.train, copy.validation, copy.test):
        assert split.images.dtype == (torch.uint8 if data.space == "pixels" else torch.float32)
        assert 0 <= int(split.labels.min()) <= int(split.labels.max()) < 10
