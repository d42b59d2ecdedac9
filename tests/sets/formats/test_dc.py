"""The DC/DSA/DM layout: list of experiments, normalised pixels, NumPy accuracies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddaudit.data import Dataset
from ddaudit.errors import BadInput
from ddaudit.sets import FORMATS, import_set
from ddaudit.sets.formats import _names

# Constants as printed in VICO-UoE/DatasetCondensation, utils.py.
_FMNIST = 0.2861, 0.3530
_KNOWN = {"FashionMNIST", "CIFAR10", "MNIST", "SVHN", "tinyimagenet", "CIFAR100"}
_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# Colour values off the 8-bit grid do not show whether they were whitened.
PLAIN = {"zca": "false"}


def _release(
    path: Path, *, classes: int = 10, ipc: int = 2, shape=(1, 28, 28), **change: Any
) -> Path:
    """A file as main_DM.py saves it: five experiments, 20 networks each."""
    data = [
        [
            torch.full((classes * ipc, *shape), float(exp)),
            torch.arange(classes).repeat_interleave(ipc),
        ]
        for exp in range(5)
    ]
    accuracies = {"ConvNet": [np.float64(0.8)] * 50 + [np.float64(0.9)] * 50}
    torch.save({"data": data, "accs_all_exps": accuracies, **change}, path)
    return path


def test_last_experiment_is_taken_and_un_normalised(tmp_path: Path) -> None:
    x = import_set(_release(tmp_path / "res_DM_FashionMNIST_ConvNet_2ipc.pt"), format="dc")
    mean, std = _FMNIST
    torch.testing.assert_close(x.images, torch.full((20, 1, 28, 28), 4 * std + mean))
    assert x.labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert (x.num_classes, x.card.ipc, x.card.method) == (10, 2, "dm")
    assert x.card.data == "FashionMNIST"
    assert (x.card.mean, x.card.std) == ([mean], [std])
    text = " ".join(x.card.notes)
    assert "experiment 4 (of 0 to 4)" in text
    assert "test accuracy 0.8500 on ConvNet (mean of 100 networks" in text


@pytest.mark.parametrize(
    ("accuracies", "noted"),
    [
        ({"ConvNet": 0.453}, True),
        ({"ConvNet": torch.tensor(0.453)}, True),
        ({"ConvNet": torch.full((3,), 0.453)}, True),
        ({"ConvNet": [torch.tensor(0.453), 0.453]}, True),
        ({"ConvNet": None}, False),
        ({"ConvNet": [torch.ones(2)]}, False),
        ({"ConvNet": ["45 %"]}, False),
        ({"ConvNet": [10**400]}, False),
        ({"ConvNet": torch.ones(2).to_sparse()}, False),
        ({"ConvNet": []}, False),
        ({3: [0.453]}, False),
        (None, False),
    ],
)
def test_accuracies_of_another_layout_never_fail_the_import(
    tmp_path: Path, accuracies: Any, noted: bool
) -> None:
    path = tmp_path / "res_DM_FashionMNIST_ConvNet_2ipc.pt"
    x = import_set(_release(path, accs_all_exps=accuracies), format="dc")
    assert ("test accuracy 0.4530 on ConvNet" in " ".join(x.card.notes)) is noted


@pytest.mark.parametrize(("option", "value"), [("0", 0), ("3", 3), ("-2", 3)])
def test_experiment_option(tmp_path: Path, option: str, value: int) -> None:
    path = _release(tmp_path / "res_DM_FashionMNIST_ConvNet_2ipc.pt")
    x = import_set(path, format="dc", options={"experiment": option})
    assert float(x.images[0, 0, 0, 0]) == pytest.approx(value * _FMNIST[1] + _FMNIST[0])


@pytest.mark.parametrize("option", ["5", "-6", "last"])
def test_experiment_that_is_not_there(tmp_path: Path, option: str) -> None:
    path = _release(tmp_path / "res_DM_FashionMNIST_ConvNet_2ipc.pt")
    with pytest.raises(BadInput, match=r"no experiment|not an integer"):
        import_set(path, format="dc", options={"experiment": option})


def test_each_channel_has_its_own_constants(tmp_path: Path) -> None:
    path = _release(tmp_path / "res_DC_CIFAR10_ConvNet_2ipc.pt", shape=(3, 32, 32))
    x = import_set(path, format="dc", options={**PLAIN, "experiment": "1"})
    expected = [m + s for m, s in zip(*_CIFAR10, strict=True)]
    assert x.images[0, :, 5, 5].tolist() == pytest.approx(expected)
    assert x.images[0, :, 5, 5].tolist() == pytest.approx([0.6937, 0.6816, 0.6475])


def test_constants_of_the_data_set_win_over_the_file_name(tmp_path: Path, tiny: Dataset) -> None:
    path = _release(tmp_path / "res_DSA_CIFAR10_ConvNet_2ipc.pt", classes=4, shape=(3, 8, 8))
    x = import_set(path, format="dc", data=tiny, options=PLAIN)
    assert float(x.images[0, 0, 0, 0]) == pytest.approx(4 * 0.25 + 0.4)
    assert (x.num_classes, x.card.data, x.card.mean) == (4, "tiny", [0.4] * 3)
    assert x.card.class_names == [f"class {c}" for c in range(4)]
    assert "the file says it was distilled from CIFAR10, not tiny" in x.card.notes


def test_constants_by_option(tmp_path: Path, tiny: Dataset) -> None:
    path = _release(tmp_path / "mine.pt", classes=4, shape=(3, 8, 8))
    options = {"mean": "0,0.5,1", "std": "1,2,3", "experiment": "1", **PLAIN}
    x = import_set(path, format="dc", data=tiny, options=options)
    assert x.images[0, :, 0, 0].tolist() == [1, 2.5, 4]
    assert (x.card.mean, x.card.std) == ([0, 0.5, 1], [1, 2, 3])
    assert x.card.method == "unknown"


def test_constants_that_nobody_knows(tmp_path: Path) -> None:
    path = _release(tmp_path / "mine.pt")
    with pytest.raises(BadInput, match=r"which mean and std.*--data"):
        import_set(path, format="dc")


def test_constants_for_other_channels(tmp_path: Path, tiny: Dataset) -> None:
    with pytest.raises(BadInput, match="1 channels but 3 means"):
        import_set(_release(tmp_path / "mine.pt"), format="dc", data=tiny)


def test_data_set_of_another_size_or_class_count(tmp_path: Path, tiny: Dataset) -> None:
    path = _release(tmp_path / "mine.pt", classes=4, shape=(3, 32, 32))
    with pytest.raises(BadInput, match=r"images are \(3, 32, 32\) .* 'tiny' is \(3, 8, 8\)"):
        import_set(path, format="dc", data=tiny, options=PLAIN)
    path = _release(tmp_path / "mine.pt", classes=10, shape=(3, 8, 8))
    with pytest.raises(BadInput, match="label 9 is out of range for 4 classes"):
        import_set(path, format="dc", data=tiny, options=PLAIN)


def test_datadam_release_is_one_pair(tmp_path: Path) -> None:
    path = tmp_path / "syn_data_CIFAR10_ipc_1.pt"
    torch.save({"data": [torch.zeros(10, 3, 32, 32), torch.arange(10)]}, path)
    x = import_set(path, options=PLAIN)
    assert x.images[3, :, 0, 0].tolist() == pytest.approx(list(_CIFAR10[0]))
    assert (x.card.method, x.card.data, x.card.ipc) == ("unknown", "CIFAR10", 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": 1}, "no 'data' list"),
        (torch.zeros(2), "no 'data' list"),
        ({"data": []}, "empty 'data' list"),
        ({"data": [[1, 2]]}, "not a pair"),
        ({"data": [[torch.zeros(2, 1, 4, 4)]]}, "not a pair"),
        ({"data": [[torch.zeros(2, 4, 4), torch.arange(2)]]}, r"images are \(2, 4, 4\)"),
        ({"data": [[torch.zeros(2, 1, 4, 4).byte(), torch.arange(2)]]}, "images are uint8"),
        ({"data": [[torch.zeros(2, 1, 4, 4), torch.arange(3)]]}, r"\(3,\) for 2 images"),
        ({"data": [[torch.zeros(0, 1, 4, 4), torch.arange(0)]]}, "no images"),
        ({"data": [[torch.zeros(2, 1, 4, 4) / 0, torch.arange(2)]]}, "NaN"),
        ({"data": [[torch.zeros(2, 1, 4, 4), torch.tensor([0, 10**15])]]}, "label 10+ is out"),
        ({"data": [[torch.zeros(2, 1, 4, 4), torch.tensor([0.5, 1])]]}, "not whole numbers"),
        ({"data": [[torch.zeros(2, 1, 4, 4), torch.zeros(2, 10)]]}, r"labels have shape \(2, 10\)"),
    ],
)
def test_content_that_is_something_else(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "res_DM_MNIST_ConvNet_1ipc.pt"
    torch.save(content, path)
    with pytest.raises(BadInput, match=words) as caught:
        import_set(path, format="dc")
    assert str(path) in str(caught.value)


def test_absurd_labels_without_a_class_count(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({"data": [[torch.zeros(2, 1, 4, 4), torch.tensor([0, 10**15])]]}, path)
    with pytest.raises(BadInput, match="claims 1000000000000001 classes"):
        import_set(path, format="dc", options={"mean": "0", "std": "1"})


def test_images_per_class_only_where_every_class_has_as_many(tmp_path: Path) -> None:
    path, options = tmp_path / "mine.pt", {"mean": "0", "std": "1", "num_classes": "3"}
    for labels, ipc in (
        ([0, 0, 1, 1, 2, 2], 2),
        ([0, 0, 0, 1, 1, 1], None),
        ([0, 0, 0, 1, 1, 2], None),
    ):
        torch.save({"data": [[torch.zeros(6, 1, 4, 4), torch.tensor(labels)]]}, path)
        assert import_set(path, format="dc", options=options).card.ipc == ipc


@pytest.mark.parametrize(
    ("name", "method", "data", "ipc"),
    [
        ("res_DM_FashionMNIST_ConvNet_10ipc.pt", "dm", "FashionMNIST", 10),
        ("res_DSA_CIFAR10_ConvNet_50ipc.pt", "dsa", "CIFAR10", 50),
        ("res_MNIST_ConvNet_1ipc.pt", "dc", "MNIST", 1),  # first release: no method in the name
        ("res_MNIST_ResNet18BN_AP_1ipc.pt", "dc", "MNIST", 1),
        ("res_DC_SVHN_ResNet18BN_AP_1ipc.pt", "dc", "SVHN", 1),
        ("res_DM_tinyimagenet_ConvNetD4_10ipc.pt", "dm", "tinyimagenet", 10),
        ("res_CAFE_MyData_ConvNet_10ipc.pt", "cafe", "MyData", 10),
        ("res_DM_CIFAR10_S_90_ConvNet_10ipc.pt", "dm", "CIFAR10_S_90", 10),  # FairDD's data
        ("res_CIFAR10_S_90_ConvNet_10ipc.pt", "dc", "CIFAR10_S_90", 10),
        ("res_DM_CIFAR10_0_ConvNet_10ipc.pt", "dm", "CIFAR10_0", 10),
        ("res_DM_CIFAR10_S_90_MyNet_10ipc.pt", None, None, 10),  # where does the name end?
        ("syn_data_CIFAR100_ipc_10.pt", None, "CIFAR100", 10),
        ("syn_data_CIFAR10_S_ipc_10.pt", None, "CIFAR10_S", 10),
        ("result.pt", None, None, None),
        ("res_10ipc.pt", None, None, None),
    ],
)
def test_file_names(name: str, method: str | None, data: str | None, ipc: int | None) -> None:
    named = _names.from_result_name(Path(name))
    assert (named.method, named.data, named.ipc) == (method, data, ipc)
    assert (named.published is not None) == (data in _KNOWN)


def test_constants_of_a_data_set_that_only_begins_like_a_published_one_are_asked_for(
    tmp_path: Path,
) -> None:
    path = _release(tmp_path / "res_DM_CIFAR10_S_90_ConvNet_2ipc.pt", shape=(3, 32, 32))
    with pytest.raises(BadInput, match=r"which mean and std.*--data"):
        import_set(path, options=PLAIN)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("FashionMNIST", "fashion-mnist:validation=0", True),
        ("fashion", "fashion-mnist", True),
        ("CIFAR10", "cifar10", True),
        ("CIFAR10", "cifar100", False),
        ("CIFAR10_0", "cifar100", False),
        ("CIFAR-10", "cifar10", True),
        ("CIFAR10_S_90", "cifar10", False),
        ("CIFAR10", "long-tail:base=cifar10", False),
    ],
)
def test_spellings_of_data_sets(a: str, b: str, same: bool) -> None:
    assert _names.same_data(a, b) is same


def test_the_format_is_listed() -> None:
    assert FORMATS.get("dc").options.keys() == {"experiment", "zca", "transform", "range"}
