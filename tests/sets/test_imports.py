"""Importing: the right importer, options checked, the result checked and saved whole."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ddaudit.data import Dataset
from ddaudit.errors import BadInput
from ddaudit.sets import FORMATS, DistilledSet, detect, import_set, load, save

Make = Callable[..., DistilledSet]
_PAIR = [torch.zeros(2, 1, 4, 4), torch.arange(2)]


def test_formats_that_are_promised() -> None:
    promised = {"dc", "mtt", "frepo", "kip", "idc", "image-folder", "huggingface"}
    assert promised <= set(FORMATS.names())
    for name, entry in FORMATS.items():
        assert entry.name == name
        assert entry.summary
        assert "\n" not in entry.summary


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("res_DM_MNIST_ConvNet_1ipc.pt", {"data": [_PAIR]}, "dc"),
        ("syn_data_MNIST_ipc_1.pt", {"data": _PAIR}, "dc"),
        ("mine.pt", {"data": [_PAIR]}, "dc"),
        ("images_best.pt", _PAIR[0], "mtt"),
        ("images_zca_500.pt", _PAIR[0], "mtt"),
        ("tiny.pth", _PAIR[0], "mtt"),
        ("data.pt", _PAIR, "idc"),
        ("mine.pt", _PAIR, "idc"),
        ("model.pt", {"conv.weight": torch.zeros(2)}, None),
        ("labels_best.pt", torch.arange(2), None),
    ],
)
def test_torch_files_are_told_apart(
    tmp_path: Path, name: str, content: object, expected: str | None
) -> None:
    torch.save(content, tmp_path / name)
    assert detect(tmp_path / name) == expected


def test_other_files_are_told_apart(tmp_path: Path, make_set: Make) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros(1), label=np.zeros(1))
    np.savez(tmp_path / "b.npz", images=np.zeros(1), labels=np.zeros(1))
    np.savez(tmp_path / "c.npz", weights=np.zeros(1))
    (tmp_path / "d.parquet").write_bytes(b"PAR1....PAR1")
    (tmp_path / "e.txt").write_text("text")
    save(make_set(), tmp_path / "f.safetensors")
    found = {p.name[0]: detect(p) for p in tmp_path.iterdir()}
    assert found == {"a": "frepo", "b": "npz", "c": None, "d": "huggingface", "e": None, "f": None}


def test_folders_are_told_apart(tmp_path: Path) -> None:
    for name in ("run", "run2/Normal", "idc", "pictures/cat", "hub/data", "empty"):
        (tmp_path / name).mkdir(parents=True)
    torch.save(_PAIR[0], tmp_path / "run" / "images_best.pt")
    torch.save(_PAIR[0], tmp_path / "run2" / "Normal" / "images_best.pt")
    torch.save(_PAIR, tmp_path / "idc" / "data.pt")
    Image.new("L", (4, 4)).save(tmp_path / "pictures" / "cat" / "0.png")
    (tmp_path / "hub" / "data" / "train-0-of-1.parquet").write_bytes(b"PAR1")
    found = {p.name: detect(p) for p in tmp_path.iterdir()}
    assert found == {
        "run": "mtt",
        "run2": "mtt",
        "idc": "idc",
        "pictures": "image-folder",
        "hub": "huggingface",
        "empty": None,
    }
    assert detect(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["a.pt", "res_DM_MNIST_ConvNet_1ipc.pt", "data.pt", "a.npz", "x"])
def test_detecting_a_bomb_does_not_set_it_off(
    tmp_path: Path, bomb: object, marker: Path, name: str
) -> None:
    torch.save({"data": bomb}, tmp_path / name)
    detect(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps(bomb))
    detect(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["dc", "mtt", "frepo", "kip", "idc", "huggingface", "image-folder"]
)
def test_no_format_sets_a_bomb_off(tmp_path: Path, bomb: object, marker: Path, name: str) -> None:
    for file in ("images_best.pt", "labels_best.pt"):
        torch.save({"data": bomb}, tmp_path / file)
    with pytest.raises(BadInput) as caught:
        import_set(tmp_path / "images_best.pt", format=name)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_import_save_load(tmp_path: Path, tiny: Dataset) -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save({"data": [[images, torch.arange(4)]]}, tmp_path / "res_DM_tiny_ConvNet_1ipc.pt")
    path = tmp_path / "res_DM_tiny_ConvNet_1ipc.pt"
    x = import_set(path, data=tiny, options={"zca": "false"})
    back = load(save(x, tmp_path / "a.safetensors"))
    assert torch.equal(back.images, x.images)
    assert back.card == x.card
    assert back.card.notes[0].startswith("imported from format 'dc' (VICO-UoE")
    assert back.card.source_fingerprint is None  # nobody knows which records it was made from


def test_errors_of_the_call(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(BadInput, match="no such file or folder"):
        import_set(path)
    torch.save(_PAIR, path)
    with pytest.raises(BadInput, match="unknown format"):
        import_set(path, format="pickle")
    with pytest.raises(BadInput, match=r"format 'idc' has no such option.*factor, decode"):
        import_set(path, options={"experiment": "1"})
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(BadInput, match=r"no format that is known.*--format: dc"):
        import_set(path)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"mean": "a,b"}, "not a list of numbers"),
        ({"mean": ""}, "not a list of numbers"),
        ({"mean": "nan"}, "not a list of numbers"),
        ({"std": "0"}, "must be positive"),
        ({"num_classes": "-2"}, "not a positive number"),
        ({"num_classes": "1e3"}, "not a positive number"),
        ({"factor": "1.5"}, "not an integer"),
        ({"decode": "triple"}, "not one of single, multi"),
    ],
)
def test_option_values_are_checked(tmp_path: Path, option: dict[str, str], words: str) -> None:
    torch.save(_PAIR, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=words):
        import_set(tmp_path / "a.pt", format="idc", options=option)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"labels": "logits"}, "means nothing for .*a.npz"),  # labels are hard
        ({"layout": "nchw"}, "means nothing"),  # (N, H, W) has one
        ({"mean": "0.5"}, "was not used.* read as they are"),
        ({"std": "0.5"}, "was not used"),
    ],
)
def test_options_that_change_nothing_are_refused(
    tmp_path: Path, option: dict[str, str], words: str
) -> None:
    pixels = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 4, 4)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(2))
    assert len(import_set(tmp_path / "a.npz").images) == 2
    with pytest.raises(BadInput, match=words) as caught:
        import_set(tmp_path / "a.npz", options=option)
    assert caught.value.where.startswith(f"--set {next(iter(option))}=")


def test_a_number_of_classes_that_a_folder_contradicts_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4), 9).save(tmp_path / name / "0.png")
    assert import_set(tmp_path, options={"num_classes": "2"}).num_classes == 2
    with pytest.raises(BadInput, match="has 2 classes by itself"):
        import_set(tmp_path, options={"num_classes": "5"})


def test_zca_option_is_yes_or_no(tmp_path: Path) -> None:
    torch.save(torch.zeros(2, 3, 4, 4), tmp_path / "images_best.pt")
    torch.save(torch.arange(2), tmp_path / "labels_best.pt")
    with pytest.raises(BadInput, match="neither true nor false"):
        import_set(tmp_path, options={"zca": "maybe"})


@pytest.mark.parametrize(
    "names", [("x", "y"), ("data", "targets"), ("image_syn", "label_syn"), ("imgs", "labels")]
)
@pytest.mark.parametrize("suffix", ["pt", "npz", "safetensors"])
def test_images_and_labels_under_other_names(
    tmp_path: Path, tiny: Dataset, names: tuple[str, str], suffix: str
) -> None:
    images, labels = torch.rand(20, *tiny.shape), torch.arange(20) % tiny.num_classes
    path, held = tmp_path / f"mine.{suffix}", dict(zip(names, (images, labels), strict=True))
    if suffix == "pt":
        torch.save({**held, "epoch": 3}, path)
    elif suffix == "npz":
        np.savez(path, **{k: v.numpy() for k, v in held.items()})
    else:
        save_file(held, path)
    made = import_set(path, data=tiny)
    assert torch.equal(made.images, images)
    assert torch.equal(made.labels, labels)


def test_files_of_no_format_say_what_they_hold(tmp_path: Path) -> None:
    pickled, odd, array = (tmp_path / n for n in ("a.pt", "b.pt", "c.npz"))
    torch.save(torch.utils.data.TensorDataset(torch.rand(3, 1, 8, 8)), pickled)
    torch.save({"pixels": torch.rand(3, 1, 8, 8), "classes": torch.arange(3)}, odd)
    np.savez(array, foo=np.zeros(3))
    for path, words in (
        (pickled, r"pickled code \(torch\.utils\.data\.dataset\.TensorDataset\); refused"),
        (odd, r"it holds a dict: pixels, classes\)\. Save a dict or \.npz of images and labels"),
        (array, r"it holds foo\)"),
    ):
        with pytest.raises(BadInput, match=words):
            import_set(path)


def test_a_pair_in_memory_is_read_by_the_rules_of_files(tiny: Dataset) -> None:
    images, labels = torch.rand(20, *tiny.shape), torch.arange(20) % tiny.num_classes
    for pair in ((images, labels), (images.numpy(), labels.numpy())):
        made = import_set(pair, data=tiny)
        assert torch.equal(made.images, images)
        assert torch.equal(made.labels, labels)
        assert made.card.data == tiny.name
    with pytest.raises(BadInput, match=r"values run from .* and the file does not say"):
        import_set((images * 3 - 1, labels), data=tiny)
    with pytest.raises(BadInput, match="a pair was expected, not 1 values"):
        import_set((images,))
