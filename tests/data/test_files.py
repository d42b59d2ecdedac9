"""The user's own files: MedMNIST archives and picture folders, good and broken; decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddaudit.data import load_data
from ddaudit.data.decode import decode_images, index_classes
from ddaudit.data.splits import copies
from ddaudit.errors import BadInput


def _arrays(*, channels: int = 1, n: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.RandomState(0)
    shape = (n, 28, 28) if channels == 1 else (n, 28, 28, 3)
    out = {}
    for split in ("train", "val", "test"):
        out[f"{split}_images"] = rng.randint(0, 256, shape).astype(np.uint8)
        out[f"{split}_labels"] = (np.arange(n) % 3).astype(np.uint8)[:, None]
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_a_medmnist_file_keeps_its_own_three_splits(channels: int, tmp_path: Path) -> None:
    arrays = _arrays(channels=channels)
    np.savez(tmp_path / "toymnist.npz", **arrays)
    data = load_data("medmnist:file=toymnist", root=tmp_path)
    assert data.shape == (channels, 28, 28)
    assert data.num_classes == 3
    assert data.mean == data.std == (0.5,) * channels
    for split, key in ((data.train, "train"), (data.validation, "val"), (data.test, "test")):
        images = arrays[f"{key}_images"]
        stored = images[:, None] if channels == 1 else images.transpose(0, 3, 1, 2)
        assert np.array_equal(split.images.numpy(), stored)
        assert split.labels.tolist() == arrays[f"{key}_labels"].ravel().tolist()
    (tmp_path / "medmnist").mkdir()
    (tmp_path / "toymnist.npz").rename(tmp_path / "medmnist" / "toymnist.npz")
    assert len(load_data("medmnist:file=toymnist", root=tmp_path).train) == 12


def _save(path: Path, **changes: np.ndarray) -> Path:
    np.savez(path, **{**_arrays(), **changes})
    return path


def test_broken_medmnist_files_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(file: Path, says: str) -> None:
        with pytest.raises(BadInput, match=says) as error:
            load_data(f"medmnist:file={file}", root=tmp_path)
        assert "\n" not in str(error.value)

    n = 12
    refused(tmp_path / "gone.npz", "not found")
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"no zip at all")
    refused(bad, "not an .npz file")
    np.savez(tmp_path / "few.npz", train_images=np.zeros(1))
    refused(tmp_path / "few.npz", "lacks train_labels, val_images")
    refused(_save(tmp_path / "a.npz", val_labels=np.zeros((n, 14), np.uint8)), "Multi-label")
    refused(_save(tmp_path / "b.npz", test_images=np.zeros((n, 28, 28, 28), np.uint8)), "3-D")
    refused(_save(tmp_path / "c.npz", train_images=np.zeros((n, 28, 28))), "float64")
    refused(_save(tmp_path / "d.npz", train_labels=np.full((n, 1), -1)), "negative")
    refused(_save(tmp_path / "e.npz", train_labels=np.full((n, 1), "a")), "expected numbers")
    refused(
        _save(
            tmp_path / "f.npz",
            train_images=np.zeros((0, 28, 28), np.uint8),
            train_labels=np.zeros((0, 1), int),
        ),
        "no images",
    )


def test_pickled_arrays_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    labels = np.empty((12, 1), dtype=object)
    labels[:] = Trap()
    file = _save(tmp_path / "trap.npz", test_labels=labels)
    with pytest.raises(BadInput, match="cannot be read"):
        load_data(f"medmnist:file={file}")
    assert not (tmp_path / "sprung").exists()


def _folder(root: Path, *, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Path:
    for split, count in (("train", 20), ("test", 3)):
        for shade, name in ((40, "dark"), (200, "light")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                colour = shade + number if mode == "L" else (shade + number, shade, 7)
                Image.new(mode, size, colour).save(root / split / name / f"{number:02}.png")
    return root


def test_a_folder_of_pictures_is_read_with_its_folder_names_as_classes(tmp_path: Path) -> None:
    data = load_data(f"image-folder:path={_folder(tmp_path)}")
    assert data.train.class_names == ("dark", "light")
    assert data.shape == (3, 8, 8)
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 6)
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.images[4, :, 0, 0].tolist() == [201, 200, 7]
    together = torch.cat([data.train.pixels(), data.validation.pixels()]).double()
    assert data.mean == pytest.approx(together.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert any("Normalisation constants were computed" in note for note in data.notes)


def test_grey_pictures_stay_grey_and_size_resizes(tmp_path: Path) -> None:
    root = _folder(tmp_path, mode="L", size=(12, 8))
    data = load_data(f"image-folder:path={root},size=4")
    assert data.shape == (1, 4, 4)
    assert data.test.images[0].flatten().tolist() == [40] * 16


def test_an_own_validation_folder_is_used(tmp_path: Path) -> None:
    root = _folder(tmp_path / "pictures")
    (root / "val" / "light").mkdir(parents=True)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / "val" / "light" / "x.png")
    data = load_data("image-folder:path=pictures", root=tmp_path)
    assert (len(data.train), len(data.validation)) == (40, 1)
    assert data.validation.labels.tolist() == [1]
    assert not any("held out" in note for note in data.notes)


def test_broken_folders_name_the_fault(tmp_path: Path) -> None:
    root = _folder(tmp_path / "a")
    with pytest.raises(BadInput, match="has no folder 'train'"):
        load_data(f"image-folder:path={tmp_path}")
    (root / "test" / "odd").mkdir()
    Image.new("RGB", (8, 8)).save(root / "test" / "odd" / "x.png")
    with pytest.raises(BadInput, match="holds class 'odd'"):
        load_data(f"image-folder:path={root}")
    (root / "test" / "odd" / "x.png").unlink()
    Image.new("RGB", (9, 8)).save(root / "train" / "dark" / "zz.png")
    with pytest.raises(BadInput, match=r"zz\.png: is 9x8 pixels .* 8x8.*size=32"):
        load_data(f"image-folder:path={root}")
    (root / "train" / "dark" / "zz.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"zz\.png: is not a picture"):
        load_data(f"image-folder:path={root}")
    empty = tmp_path / "b"
    (empty / "train").mkdir(parents=True)
    (empty / "test").mkdir()
    with pytest.raises(BadInput, match="holds no pictures"):
        load_data(f"image-folder:path={empty}")


def test_files_that_are_not_read_and_classes_without_test_pictures_are_said(tmp_path: Path) -> None:
    root = _folder(tmp_path / "pictures")
    name = f"image-folder:path={root}"
    assert not [note for note in load_data(name).notes if "left out" in note or "no '" in note]
    (first, *_) = sorted(path.name for path in (root / "train").iterdir())
    (root / "train" / first / "deeper").mkdir()
    Image.new("RGB", (8, 8)).save(root / "train" / first / "deeper" / "a.png")
    Image.new("RGB", (8, 8)).save(root / "train" / "beside.png")
    for picture in (root / "test" / first).iterdir():
        picture.unlink()
    notes = "\n".join(load_data(name).notes)
    assert "2 files are no SPLIT/CLASS/NAME.png" in notes
    assert f"The test pictures show no '{first}'" in notes


def test_copies_between_splits_and_empty_class_folders_are_said(tmp_path: Path) -> None:
    root = _folder(
        tmp_path / "pictures"
    )  # of each class, the test pictures are the first training ones
    (root / "train" / "nothing").mkdir()
    notes = load_data(f"image-folder:path={root},validation=0").notes
    assert notes[0] == "Folders of train without a picture are no classes: nothing."
    data = load_data(f"image-folder:path={root},validation=0")
    assert copies(data.train, {"test": data.test}) == {"test": 6}  # an alert of every report
    for number, picture in enumerate(sorted((root / "test").rglob("*.png"))):
        Image.new("RGB", (8, 8), (number, 1, 99)).save(picture)
    data = load_data(f"image-folder:path={root},validation=0")
    assert copies(data.train, {"test": data.test}) == {}


def test_splits_of_different_shape_are_refused(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    for file in (root / "test").glob("*/*.png"):
        Image.new("RGB", (9, 9)).save(file)
    with pytest.raises(BadInput, match="another split has"):
        load_data(f"image-folder:path={root}")


def test_resizing_takes_the_centre_square(tmp_path: Path) -> None:
    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, 4:8] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    made = decode_images([("wide", tmp_path / "wide.png")], size=4)
    assert made.shape == (1, 3, 4, 4)
    assert int(made.min()) == 255


def test_one_colour_picture_makes_all_of_them_colour(tmp_path: Path) -> None:
    Image.new("L", (2, 2), 9).save(tmp_path / "grey.png")
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "rgb.png")
    both = [(name, tmp_path / name) for name in ("grey.png", "rgb.png")]
    assert decode_images(both, size=0).shape == (2, 3, 2, 2)
    assert decode_images(both, size=0, channels=1).shape == (2, 1, 2, 2)
    assert decode_images(both[:1], size=0).shape == (1, 1, 2, 2)


def test_class_names_become_positions() -> None:
    assert index_classes(["b", "a", "b"], ("a", "b"), where="x").tolist() == [1, 0, 1]
    with pytest.raises(BadInput, match="holds class 'c'"):
        index_classes(["c"], ("a", "b"), where="x")
