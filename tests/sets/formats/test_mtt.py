"""The trajectory-matching layout: tensor pairs, logits labels, ZCA that the file does not tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddaudit.data import Dataset
from ddaudit.errors import BadInput
from ddaudit.sets import import_set

_NO_ZCA = {"zca": "false"}


def _run(
    folder: Path, labels: Tensor | None = None, *, tag: str = "best", value: float = 2
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(torch.full((8, 3, 8, 8), float(value)), folder / f"images_{tag}.pt")
    labels = torch.arange(4).repeat_interleave(2) if labels is None else labels
    torch.save(labels, folder / f"labels_{tag}.pt")
    return folder


@pytest.mark.parametrize("as_file", [True, False])
def test_pair_is_read_by_folder_or_images_file(
    tmp_path: Path, tiny: Dataset, as_file: bool
) -> None:
    path = _run(tmp_path)
    x = import_set(path / "images_best.pt" if as_file else path, data=tiny, options=_NO_ZCA)
    torch.testing.assert_close(x.images, torch.full((8, 3, 8, 8), 0.9))
    assert x.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (x.card.method, x.card.ipc, x.card.data) == ("unknown", 2, "tiny")
    text = " ".join(x.card.notes)
    assert "best TEST accuracy" in text
    assert "taken as not ZCA-whitened" in text
    assert "learning rate is not in the files" in text


def test_latest_iteration_without_a_best(tmp_path: Path, tiny: Dataset) -> None:
    for tag, value in (("900", 1), ("5000", 3), ("1000", 2)):
        _run(tmp_path, tag=tag, value=value)
    x = import_set(tmp_path, format="mtt", data=tiny, options=_NO_ZCA)
    assert float(x.images[0, 0, 0, 0]) == pytest.approx(3 * 0.25 + 0.4)
    assert "TEST accuracy" not in " ".join(x.card.notes)


def test_the_averages_of_ftd_are_read(tmp_path: Path, tiny: Dataset) -> None:
    """In a folder of their own, or by name beside the images themselves, with the labels of the same prefix."""
    folder = _run(tmp_path / "beside")
    averages = tmp_path / "own"
    averages.mkdir()
    for place in (folder, averages):
        torch.save(torch.full((8, 3, 8, 8), 1.0), place / "ema_images_best.pt")
        torch.save(torch.arange(4).repeat(2), place / "ema_labels_best.pt")
    for path in (averages, folder / "ema_images_best.pt"):
        x = import_set(path, data=tiny, options=_NO_ZCA)
        assert float(x.images[0, 0, 0, 0]) == pytest.approx(1 * 0.25 + 0.4)
        assert x.labels.tolist() == [0, 1, 2, 3] * 2
    x = import_set(folder, data=tiny, options=_NO_ZCA)
    assert float(x.images[0, 0, 0, 0]) == pytest.approx(2 * 0.25 + 0.4)


def test_datm_logits_become_probabilities(tmp_path: Path, tiny: Dataset) -> None:
    logits = torch.log(torch.tensor([[8.0, 1, 1, 0.5]])).repeat(8, 1) + 3
    folder = _run(tmp_path / "Normal", logits)
    torch.save(torch.tensor(0.0625), folder / "lr_best.pt")
    x = import_set(tmp_path, format="mtt", data=tiny, options=_NO_ZCA)
    expected = torch.tensor([8, 1, 1, 0.5]) / 10.5  # softmax(log a + c) = a / sum(a)
    torch.testing.assert_close(x.labels, expected.repeat(8, 1))
    assert x.soft
    text = " ".join(x.card.notes)
    assert "softmax taken" in text
    assert "learning rate is 0.0625 (lr_best.pt)" in text
    assert x.card.learned_lr == 0.0625


@pytest.mark.parametrize("value", [-0.01, 0.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_stays_off_the_card(
    tmp_path: Path, tiny: Dataset, value: float
) -> None:
    torch.save(torch.tensor(value), _run(tmp_path) / "lr_best.pt")
    x = import_set(tmp_path, format="mtt", data=tiny, options=_NO_ZCA)
    assert x.card.learned_lr is None
    assert "not in the files, or no rate" in " ".join(x.card.notes)


def test_probabilities_are_kept(tmp_path: Path, tiny: Dataset) -> None:
    labels = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).repeat(8, 1)
    x = import_set(_run(tmp_path, labels), format="mtt", data=tiny, options=_NO_ZCA)
    assert torch.equal(x.labels, labels)


def test_colour_set_that_does_not_say_whether_zca(tmp_path: Path, tiny: Dataset) -> None:
    with pytest.raises(BadInput, match=r"does not say whether.*zca=false.*transform=FILE"):
        import_set(_run(tmp_path), format="mtt", data=tiny)


def test_grey_sets_are_never_whitened(tmp_path: Path) -> None:
    torch.save(torch.zeros(2, 1, 4, 4), tmp_path / "images_best.pt")
    torch.save(torch.arange(2), tmp_path / "labels_best.pt")
    x = import_set(tmp_path, options={"mean": "0.25", "std": "0.5"})
    assert float(x.images[0, 0, 0, 0]) == 0.25


@pytest.mark.parametrize("evidence", ["option", "folder"])
def test_whitened_images_are_refused(tmp_path: Path, tiny: Dataset, evidence: str) -> None:
    _run(tmp_path)
    options = {"zca": "true"} if evidence == "option" else {}
    if evidence == "folder":  # MTT writes this view only under --zca
        torch.save(torch.zeros(8, 3, 8, 8), tmp_path / "images_zca_5000.pt")
    with pytest.raises(BadInput, match="are ZCA-whitened and the transform is not in the file"):
        import_set(tmp_path, format="mtt", data=tiny, options=options)


def test_inverse_zca_view_is_in_pixel_space(tmp_path: Path, tiny: Dataset) -> None:
    _run(tmp_path, tag="5000")
    torch.save(torch.full((8, 3, 8, 8), 0.625), tmp_path / "images_zca_5000.pt")
    x = import_set(tmp_path / "images_zca_5000.pt", data=tiny)
    assert torch.equal(x.images, torch.full((8, 3, 8, 8), 0.625))
    assert "inverse-ZCA view" in " ".join(x.card.notes)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_kornia_transform_gives_the_pixels_back(tmp_path: Path, tiny: Dataset, suffix: str) -> None:
    """Whiten known pixels as kornia does, import, and expect them back."""
    g = torch.Generator().manual_seed(0)
    pixels = torch.rand(8, 3, 8, 8, generator=g)
    flat = tiny.train.pixels().flatten(1).double()
    mean = flat.mean(0, keepdim=True)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / (len(flat) - 1))
    root = (values.clamp(min=0) + 0.1).rsqrt()
    forward = vectors @ torch.diag(root) @ vectors.T
    whitened = ((pixels.flatten(1).double() - mean) @ forward).float().view_as(pixels)
    torch.save(whitened, tmp_path / "images_best.pt")
    torch.save(torch.arange(4).repeat_interleave(2), tmp_path / "labels_best.pt")
    arrays = {"transform_inv": torch.linalg.inv(forward), "mean_vector": mean}
    file = tmp_path / f"zca{suffix}"
    if suffix == ".npz":
        np.savez(file, **{name: value.numpy() for name, value in arrays.items()})
    else:
        torch.save(arrays, file)
    x = import_set(tmp_path, format="mtt", data=tiny, options={"transform": str(file)})
    torch.testing.assert_close(x.images, pixels, atol=1e-4, rtol=0)
    assert not torch.allclose(x.images, whitened, atol=0.1)
    assert "inverse ZCA by zca" in " ".join(x.card.notes)


def test_transform_that_does_not_fit(tmp_path: Path, tiny: Dataset) -> None:
    _run(tmp_path)
    np.savez(tmp_path / "zca.npz", transform_inv=np.eye(4), mean_vector=np.zeros(4))
    np.savez(tmp_path / "other.npz", matrix=np.eye(4))
    for name, words in (("zca", r"transform is \(4, 4\) for images of 192"), ("other", "neither")):
        options = {"transform": str(tmp_path / f"{name}.npz")}
        with pytest.raises(BadInput, match=words):
            import_set(tmp_path, format="mtt", data=tiny, options=options)
    with pytest.raises(BadInput, match="contradicts"):
        import_set(tmp_path, format="mtt", options={"transform": "x.npz", "zca": "false"})


def test_transform_bomb_is_refused(tmp_path: Path, bomb: object, marker: Path) -> None:
    _run(tmp_path)
    torch.save({"transform_inv": bomb}, tmp_path / "zca.pt")
    with pytest.raises(BadInput, match="refused"):
        import_set(tmp_path, format="mtt", options={"transform": str(tmp_path / "zca.pt")})
    assert not marker.exists()


def test_cifar100_constants_are_flagged(tmp_path: Path) -> None:
    torch.save(torch.zeros(100, 3, 8, 8), tmp_path / "images_best.pt")
    torch.save(torch.arange(100), tmp_path / "labels_best.pt")
    options = {"zca": "false", "mean": "0.5,0.5,0.5", "std": "1,1,1", "num_classes": "100"}
    x = import_set(tmp_path, format="mtt", options=options)
    assert "with the constants of CIFAR-10" in " ".join(x.card.notes)


def test_labels_file_by_option(tmp_path: Path, tiny: Dataset) -> None:
    _run(tmp_path)
    (tmp_path / "images_best.pt").rename(tmp_path / "tiny_images.pt")
    (tmp_path / "labels_best.pt").rename(tmp_path / "tiny_labels.pt")
    path = tmp_path / "tiny_images.pt"
    with pytest.raises(BadInput, match=r"is not named.*--set labels_file=FILE"):
        import_set(path, data=tiny, options=_NO_ZCA)
    options = {**_NO_ZCA, "labels_file": str(tmp_path / "tiny_labels.pt")}
    assert len(import_set(path, data=tiny, options=options)) == 8


def test_incomplete_pairs(tmp_path: Path, tiny: Dataset) -> None:
    with pytest.raises(BadInput, match=r"no images_best\.pt"):
        import_set(tmp_path, format="mtt")
    _run(tmp_path, torch.arange(3))
    with pytest.raises(BadInput, match="3 labels for 8 images"):
        import_set(tmp_path, format="mtt", data=tiny, options=_NO_ZCA)
    (tmp_path / "labels_best.pt").unlink()
    with pytest.raises(BadInput, match=r"no labels file labels_best\.pt"):
        import_set(tmp_path, format="mtt")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.full((8, 4), float("nan")), "labels contain NaN"),
        (torch.zeros(8, 0), "empty"),
        (torch.zeros(8, 2, 2), "labels have shape"),
        (torch.eye(8)[:, :7].clamp(min=0.01).log(), "4 classes|expected float32"),
    ],
)
def test_labels_that_make_no_sense(
    tmp_path: Path, tiny: Dataset, labels: Tensor, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        import_set(_run(tmp_path, labels), format="mtt", data=tiny, options=_NO_ZCA)


def test_bombs_are_refused(tmp_path: Path, bomb: object, marker: Path) -> None:
    _run(tmp_path)
    torch.save(bomb, tmp_path / "labels_best.pt")
    with pytest.raises(BadInput, match=r"labels_best\.pt: holds pickled code"):
        import_set(tmp_path, format="mtt", options=_NO_ZCA)
    assert not marker.exists()
