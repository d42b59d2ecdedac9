"""Plain arrays and tensors: the range is found, said or refused; nothing is guessed and nothing unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddaudit.data import load_data
from ddaudit.errors import BadInput
from ddaudit.sets import detect, import_set

LABELS = np.arange(4)


def unit(shape: tuple[int, ...] = (4, 3, 6, 6)) -> np.ndarray[Any, Any]:
    """Values in [0, 1], both ends among them."""
    x = np.random.RandomState(0).rand(*shape).astype(np.float32)
    x.flat[0], x.flat[1] = 0.0, 1.0
    return x


def npz(path: Path, images: Any, labels: Any = LABELS) -> Path:
    np.savez(path, images=images, labels=labels)
    return path


@pytest.mark.parametrize(
    ("stored", "options", "error"),
    [
        (unit(), {}, 0.0),
        (unit(), {"range": "0-1"}, 0.0),
        ((unit() * 255).round().astype(np.uint8), {}, 0.5 / 255),
        ((unit() * 255).round(), {}, 0.5 / 255),
        (unit() * 255, {"range": "0-255"}, 0.0),
        (unit() * 2 - 1, {"range": "-1-1"}, 0.0),
        (
            (unit() - 0.4) / 0.2,
            {"range": "normalised", "mean": "0.4,0.4,0.4", "std": "0.2,0.2,0.2"},
            0.0,
        ),
        (unit().transpose(0, 2, 3, 1), {}, 0.0),
    ],
)
def test_every_range_comes_back_to_pixels(tmp_path: Path, stored: Any, options: Any, error: float):
    made = import_set(npz(tmp_path / "x.npz", stored), options=options)
    assert made.labels.tolist() == [0, 1, 2, 3]
    assert float((made.images - torch.from_numpy(unit())).abs().max()) <= error + 1e-6
    assert "read as" in made.card.notes[1]


@pytest.mark.parametrize(
    ("stored", "options", "said"),
    [
        (unit() * 2 - 1, {}, "-1-1 or normalised"),
        ((unit() - 0.4) / 0.2, {}, "normalised, or"),
        (unit() * 3, {}, "0-255 or 0-1"),
        ((unit() > 0.5).astype(np.uint8), {}, "integers of 0 and 1"),
        (unit() * 1000, {}, "none of the usual"),
        (unit() * 255, {"range": "0-1"}, "which is not 0-1"),
        (unit(), {"range": "0-255"}, "which is not 0-255"),
        (unit((4, 3, 6, 3)), {}, "first and its last axis"),
        (unit((4, 5, 6, 7)), {}, "neither axis"),
        (unit((4, 6)), {}, "range=standard"),
        (np.where(unit() > 0.9, np.nan, unit()), {}, "NaN"),
    ],
)
def test_two_readings_are_refused_with_the_option_that_decides(
    tmp_path: Path, stored: Any, options: Any, said: str
):
    with pytest.raises(BadInput, match=said):
        import_set(npz(tmp_path / "x.npz", stored), options=options)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_whole_numbers_of_few_levels_are_asked_about(tmp_path: Path, dtype: Any):
    """scikit-learn's digits run from 0 to 16: read as 0-255 they are almost black."""
    digits = (unit() * 16).round().astype(dtype)
    path = npz(tmp_path / "x.npz", digits)
    with pytest.raises(
        BadInput, match=r"0 to 16 .*: 0-255, or another depth. Pass --set range=0-255, or divide"
    ):
        import_set(path)
    assert float(import_set(path, options={"range": "0-255"}).images.max()) == pytest.approx(16 / 255)  # fmt: skip
    assert float(import_set(npz(path, digits / digits.max())).images.max()) == 1
    for largest, fits in ((127, False), (128, True)):
        npz(path, (unit() * largest).round().astype(dtype))
        if fits:
            assert float(import_set(path).images.max()) == pytest.approx(128 / 255)
        else:
            with pytest.raises(BadInput, match="another depth"):
                import_set(path)


@pytest.mark.parametrize("name", ["uint16", "uint32", "uint64"])
def test_unsigned_types_of_any_width_are_read(tmp_path: Path, name: str):
    stored = (unit() * 255).round().astype(name)
    torch.save({"images": torch.from_numpy(stored), "labels": torch.arange(4)}, tmp_path / "x.pt")
    for path in (npz(tmp_path / "x.npz", stored), tmp_path / "x.pt"):
        made = import_set(path)
        torch.testing.assert_close(made.images, torch.from_numpy(stored.astype("f4") / 255))
    npz(tmp_path / "x.npz", (unit() * 65535).astype("f8").round().astype(name))
    with pytest.raises(BadInput, match=r"0 to 65535 .*integers of 16 bits"):
        import_set(tmp_path / "x.npz")


def test_numbers_beyond_64_bits_with_a_sign_are_refused(tmp_path: Path):
    stored = np.full((4, 1, 2, 2), 2**64 - 1, dtype=np.uint64)
    with pytest.raises(BadInput, match="images hold numbers above 9223372036854775807"):
        import_set(npz(tmp_path / "x.npz", stored))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floating_point_of_8_bits_is_read(tmp_path: Path, dtype: torch.dtype):
    stored = torch.from_numpy(unit()).to(dtype)
    torch.save({"images": stored, "labels": torch.arange(4)}, tmp_path / "x.pt")
    assert torch.equal(import_set(tmp_path / "x.pt").images, stored.float())
    save_file({"images": stored, "labels": torch.arange(4)}, tmp_path / "x.safetensors")
    assert torch.equal(import_set(tmp_path / "x.safetensors").images, stored.float())


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_two_pairs_of_images_and_labels_are_refused(tmp_path: Path, save: Any):
    images, labels = torch.from_numpy(unit()), torch.arange(4)
    real = {"images": images, "labels": labels}
    path = tmp_path / ("x.pt" if save is torch.save else "x.safetensors")
    save({**real, "image_syn": images / 2, "label_syn": labels.clone()}, path)
    with pytest.raises(
        BadInput, match=r"holds \(images, labels\) and \(image_syn, label_syn\)\. Save .* without"
    ):
        import_set(path)
    assert torch.equal(import_set(_saved(path, real, save)).images, images)


def _saved(path: Path, content: Any, save: Any) -> Path:
    save(content, path)
    return path


def test_the_name_of_the_data_is_no_second_pair(tmp_path: Path):
    content = {"images": torch.from_numpy(unit()), "labels": torch.arange(4), "data": "cifar10"}
    torch.save(content, tmp_path / "x.pt")
    assert torch.equal(import_set(tmp_path / "x.pt").images, content["images"])


def test_files_of_tensors_are_found_and_read(tmp_path: Path):
    content = {"images": torch.from_numpy(unit()), "labels": torch.arange(4), "note": "ours"}
    torch.save(content, tmp_path / "x.pt")
    save_file({k: content[k] for k in ("images", "labels")}, tmp_path / "x.safetensors")
    for name in ("x.pt", "x.safetensors"):
        assert detect(tmp_path / name) == "tensors"
        made = import_set(tmp_path / name)
        assert torch.equal(made.images, content["images"])
        assert made.shape == (3, 6, 6)


def test_soft_labels_stay_what_they_are(tmp_path: Path):
    soft = np.full((4, 4), 0.1, np.float32) + 0.6 * np.eye(4, dtype=np.float32)
    made = import_set(npz(tmp_path / "x.npz", unit(), soft))
    assert torch.allclose(made.labels, torch.from_numpy(soft))


def test_a_table_of_somebody_else_is_checked_against_its_data(tmp_path: Path):
    rows = np.random.RandomState(0).randn(6, 13)
    path = npz(tmp_path / "x.npz", rows, np.arange(6) % 2)
    made = import_set(path, options={"range": "standard"}, data=load_data("wine"))
    assert (made.shape, made.card.space, made.card.modality) == ((1, 1, 13), "standard", "tabular")
    with pytest.raises(BadInput, match=r"\(1, 1, 13\) .* is \(1, 1, 30\)"):
        import_set(path, options={"range": "standard"}, data=load_data("breast-cancer"))


class Planted:
    def __reduce__(self) -> Any:
        return print, ("planted code ran",)


@pytest.mark.parametrize("name", ["x.pt", "x.npz"])
def test_pickled_code_is_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / name
    if name == "x.pt":
        torch.save({"images": Planted(), "labels": torch.arange(4)}, path)
    else:
        np.savez(path, images=np.array([Planted()], dtype=object), labels=LABELS)
    with pytest.raises(BadInput, match="pickled code"):
        import_set(path, format="tensors" if name == "x.pt" else "npz")
    assert "planted" not in capsys.readouterr().out


def test_a_column_of_class_indices_is_hard_labels(tmp_path: Path):
    """As Keras stores them: (M, 1)."""
    made = import_set(npz(tmp_path / "x.npz", unit(), LABELS[:, None]))
    assert made.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(4, 1, 8, 8).to_sparse(), "a tensor of layout sparse_coo"),
        (torch.zeros(4, 1, 8, 8, dtype=torch.complex64), "a tensor of complex64"),
        ([[0.0]], "of type list"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(tmp_path: Path, images: Any, said: str):
    torch.save({"images": images, "labels": torch.arange(4)}, tmp_path / "x.pt")
    with pytest.raises(BadInput, match=f"images are {said}, expected a numeric array"):
        import_set(tmp_path / "x.pt", format="tensors")


def test_images_of_other_channels_than_the_data_are_named_as_such(tmp_path: Path):
    digits = load_data("digits")
    with pytest.raises(BadInput, match=r"images are \(3, 8, 8\) .* 'digits' is \(1, 8, 8\)"):
        import_set(npz(tmp_path / "x.npz", unit((4, 3, 8, 8))), data=digits)
