"""Folders of images: class order, pixel values, and images that do not belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddaudit.data import Dataset, load_data
from ddaudit.errors import BadInput
from ddaudit.sets import FORMATS, DistilledSet, import_set, load, match_classes, save


def _image(path: Path, value: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    color = (value, 0, 255)[: 3 if mode == "RGB" else 1]
    Image.new(mode, size, color if mode == "RGB" else value).save(path)


def _digits(folder: Path, names: list[str], suffix: str = ".png") -> Path:
    for k, name in enumerate(names):
        for i in range(2):
            _image(folder / name / f"{i}{suffix}", 51 * k)
    return folder


def _red_by_class(x: DistilledSet) -> dict[int, int]:
    red = (x.images[:, 0, 0, 0] * 255).round().int()
    return dict(zip(x.labels.tolist(), red.tolist(), strict=True))


def test_pixels_are_255ths(tmp_path: Path) -> None:
    x = import_set(_digits(tmp_path, ["a", "b", "c"]))
    assert x.images.shape == (6, 3, 8, 8)
    assert x.images[2, :, 0, 0].tolist() == pytest.approx([51 / 255, 0, 1])
    assert x.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert x.card.class_names == ["a", "b", "c"]
    assert x.card.ipc == 2
    assert "by name" in " ".join(x.card.notes)


def test_height_and_width_keep_their_order(tmp_path: Path) -> None:
    array = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
    (tmp_path / "a").mkdir()
    Image.fromarray(array).save(tmp_path / "a" / "0.png")
    x = import_set(tmp_path)
    assert x.shape == (1, 4, 6)
    torch.testing.assert_close(x.images[0, 0] * 255, torch.from_numpy(array).float())
    given = {"num_classes": 1, "mean": None, "std": None, "options": {}}
    read = FORMATS.get("image-folder").read
    assert torch.equal(read(tmp_path, shape=(1, 4, 6), **given).images, x.images)
    with pytest.raises(BadInput, match="is 6 x 4, not the data set's 4 x 6"):
        read(tmp_path, shape=(1, 6, 4), **given)


@pytest.mark.parametrize("names", [["new002", "new010", "new000"], ["10", "0", "2"]])
def test_numbered_folders_are_class_indices(tmp_path: Path, names: list[str]) -> None:
    x = import_set(_digits(tmp_path, names), options={"num_classes": "11"})
    value = {0: 102, 2: 0, 10: 51} if names[0] == "new002" else {10: 0, 0: 51, 2: 102}
    assert x.labels.tolist() == [0, 0, 2, 2, 10, 10]
    red = _red_by_class(x)
    assert red == value
    # Numbers between have their names too, in the spelling of the folders.
    wanted = [f"new{c:03d}" if names[0] == "new002" else str(c) for c in range(11)]
    assert x.card.class_names == wanted


def test_endings_of_different_words_are_no_class_indices(tmp_path: Path) -> None:
    x = import_set(_digits(tmp_path, ["ant2", "bee0", "cat1"]))
    assert x.card.class_names == ["ant2", "bee0", "cat1"]
    assert _red_by_class(x) == {0: 0, 1: 51, 2: 102}


def test_numbers_that_are_no_indices_keep_their_order(tmp_path: Path) -> None:
    x = import_set(_digits(tmp_path, ["100", "20", "3"]))
    assert x.card.class_names == ["3", "20", "100"]
    assert _red_by_class(x) == {2: 0, 1: 51, 0: 102}


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    x = import_set(_digits(tmp_path, ["a", "b", ".ipynb_checkpoints"]))
    assert x.card.class_names == ["a", "b"]


def test_wordnet_numbers_are_names(tmp_path: Path) -> None:
    x = import_set(_digits(tmp_path, ["n02102040", "n01440764"]))
    assert x.card.class_names == ["n01440764", "n02102040"]


def test_classes_go_into_the_data_sets_order(tmp_path: Path, tiny: Dataset) -> None:
    # The data set's classes are "class 0" ... "class 3"; folder names end in those numbers.
    x = import_set(_digits(tmp_path, [f"class {c}" for c in (3, 1, 0, 2)]), data=tiny)
    red = _red_by_class(x)
    assert red == {3: 0, 1: 51, 0: 102, 2: 153}
    assert (x.card.mean, x.card.data) == ([0.4] * 3, "tiny")


DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_folders_by_the_alphabet_are_not_taken_for_the_datas_classes(tmp_path: Path) -> None:
    data = load_data("digits")
    for name in DIGITS:
        _image(tmp_path / "words" / name / "0.png", 1, mode="L")
    says = r"'eight', 'five', 'four', \.\.\.\. Rename them .* \('0', '1', '2', \.\.\.\), or number them"
    with pytest.raises(BadInput, match=says):
        import_set(tmp_path / "words", data=data)
    # A set file made without the data remembers that its order means nothing.
    stored = load(save(import_set(tmp_path / "words"), tmp_path / "set.safetensors"))
    with pytest.raises(BadInput, match=says):
        match_classes(stored, data.train.class_names, where=tmp_path)
    for number, name in enumerate(DIGITS):
        (tmp_path / "words" / name).rename(tmp_path / "words" / f"digit{number}")
    assert import_set(tmp_path / "words", data=data).labels.tolist() == list(range(10))


def test_case_and_punctuation_do_not_count(tmp_path: Path) -> None:
    names = ["T-shirt/top", "Bag", "Ankle boot"]
    x = import_set(_digits(tmp_path, ["ankle_boot", "BAG", "T-shirt top"]))
    made = match_classes(x, names, where=tmp_path)
    assert _red_by_class(made) == {2: 0, 1: 51, 0: 102}
    assert (made.card.class_names, made.card.names_sorted) == (names, False)


def test_too_few_named_folders(tmp_path: Path, tiny: Dataset) -> None:
    with pytest.raises(BadInput, match="holds 3 classes, the data 4"):
        import_set(_digits(tmp_path, ["ant", "bee", "cat"]), data=tiny)


def test_jpeg_is_noted(tmp_path: Path) -> None:
    assert "JPEG" in " ".join(import_set(_digits(tmp_path, ["a"], ".jpg")).card.notes)


def test_images_take_the_channels_of_the_data_set(tmp_path: Path, tiny: Dataset) -> None:
    for c in range(4):
        _image(tmp_path / str(c) / "0.png", 100, mode="L")
    assert import_set(tmp_path).shape == (1, 8, 8)
    assert import_set(tmp_path, data=tiny).shape == (3, 8, 8)


def test_images_of_two_sizes(tmp_path: Path, tiny: Dataset) -> None:
    _image(tmp_path / "a" / "0.png", 1)
    _image(tmp_path / "a" / "1.png", 1, size=(8, 9))
    with pytest.raises(BadInput, match=r"1\.png: is 8 x 9, not that of .*0\.png 8 x 8"):
        import_set(tmp_path)
    for c in range(4):
        _image(tmp_path / "other" / str(c) / "0.png", 1, size=(16, 16))
    with pytest.raises(BadInput, match="is 16 x 16, not the data set's 8 x 8"):
        import_set(tmp_path / "other", data=tiny)


def test_damaged_and_foreign_images(tmp_path: Path) -> None:
    _image(tmp_path / "a" / "0.png", 1)
    good = (tmp_path / "a" / "0.png").read_bytes()
    for data in (good[:40], b"", b"GIF89a", b"<svg/>"):
        (tmp_path / "a" / "1.png").write_bytes(data)
        with pytest.raises(BadInput, match=r"1\.png: is not a picture"):
            import_set(tmp_path)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(tmp_path / "a" / "1.png")
    with pytest.raises(BadInput, match="of 16 bits, but no picture has a value above 0"):
        import_set(tmp_path)


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".gif", ".tif", ".tiff", ".PNG"])
def test_classes_of_every_kind_of_picture_are_read(tmp_path: Path, suffix: str) -> None:
    """Those of data sets: a class of another kind than .png would be missing otherwise."""
    _image(tmp_path / "a" / "0.png", 51)
    _image(tmp_path / "b" / f"0{suffix}", 102)
    x = import_set(tmp_path)
    assert x.card.class_names == ["a", "b"]
    assert _red_by_class(x) == pytest.approx({0: 51, 1: 102}, abs=3)  # WebP loses some
    said = " ".join(x.card.notes)
    assert ("8-bit WEBP: the pixels carry its compression" in said) is (suffix == ".webp")
    assert "left out" not in said


def test_what_is_left_out_is_noted(tmp_path: Path) -> None:
    folder = _digits(tmp_path, ["a", "b"])
    (folder / "empty").mkdir()
    for name in ("README.md", "a/0.txt", "b/more/9.png", ".hidden/x.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    notes = import_set(folder).card.notes
    assert any(n.startswith("3 files are no CLASS/PICTURE") and "'README.md'" in n for n in notes)
    assert "folders without a picture are no classes: empty" in notes


@pytest.mark.parametrize("name", ["0.svg", "below/0.png"])
def test_a_class_without_a_readable_picture_is_refused(tmp_path: Path, name: str) -> None:
    _digits(tmp_path, ["a", "b"])
    (tmp_path / "c" / name).parent.mkdir(parents=True)
    (tmp_path / "c" / name).touch()
    with pytest.raises(BadInput, match=rf"c: holds no picture, but 1 other files \('{name}', say"):
        import_set(tmp_path)


def test_colour_pictures_are_refused_where_the_data_are_grey(tmp_path: Path) -> None:
    read = FORMATS.get("image-folder").read
    given = {"num_classes": 1, "mean": None, "std": None, "options": {}}
    rows = np.linspace(0, 240, 64).reshape(8, 8, 1).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(np.repeat(rows, 3, 2)).save(tmp_path / "a" / "0.jpg")  # grey, in colour
    x = read(tmp_path, shape=(1, 8, 8), **given)
    want = torch.from_numpy(rows[None, :, :, 0]).float()
    torch.testing.assert_close(x.images[0] * 255, want, atol=8, rtol=0)
    _image(tmp_path / "a" / "1.png", 100)
    with pytest.raises(BadInput, match=r"a/1\.png: has 3 channels, the data 1\. Convert"):
        read(tmp_path, shape=(1, 8, 8), **given)


def test_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(BadInput, match="no class folders"):
        import_set(tmp_path, format="image-folder")
    file = tmp_path / "x.png"
    file.touch()
    with pytest.raises(BadInput, match="is not a folder"):
        import_set(file, format="image-folder")


@pytest.mark.parametrize(
    ("folder", "file", "per"),
    [
        ("new{0:03d}", "class{0:03d}_id{1:03d}.jpg", "SRe2L"),
        ("{0:05d}", "class{0:05d}_id{1:05d}.jpg", "RDED"),
    ],
)
def test_released_folders_keep_classes_and_the_order_of_images(
    tmp_path: Path, tiny: Dataset, folder: str, file: str, per: str
) -> None:
    """The layouts of SRe2L, CDA, G-VBSM and WMDD, and of RDED and EDC, more than ten images of a class."""
    for c in range(4):
        for i in range(12):
            _image(tmp_path / folder.format(c) / file.format(c, i), 60 * c + i)
    x = import_set(tmp_path, data=tiny)
    assert x.labels.tolist() == [c for c in range(4) for _ in range(12)]
    red = (x.images[:, 0].mean((1, 2)) * 255).tolist()
    want = [60 * c + i for c in range(4) for i in range(12)]
    assert max(abs(a - b) for a, b in zip(red, want, strict=True)) < 2.5, per  # JPEG
    assert tuple(x.card.class_names or ()) == tiny.train.class_names
