"""FRePo's archives: channels last, centred targets, whitening on colour sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ddaudit.data import Dataset
from ddaudit.errors import BadInput
from ddaudit.sets import import_set

_GREY = {"mean": "0.1307", "std": "0.3081"}


def _targets(classes: int, ipc: int, *, scaled: bool = True) -> np.ndarray:
    """Labels as init_proto makes them: one-hot minus 1 / K, divided by sqrt(K / 10)."""
    eye = np.eye(classes, dtype=np.float32).repeat(ipc, axis=0) - 1 / classes
    return eye / np.sqrt(classes / 10) if scaled else eye


def test_grey_archive(tmp_path: Path) -> None:
    images = np.zeros((20, 28, 28, 1), dtype=np.float32)
    images[3, 5, 7, 0] = 2
    path = tmp_path / "step500000.npz"
    np.savez(path, image=images, label=_targets(10, 2))
    x = import_set(path, options=_GREY)
    assert x.shape == (1, 28, 28)
    assert float(x.images[3, 0, 5, 7]) == pytest.approx(2 * 0.3081 + 0.1307)
    assert float(x.images[3, 0, 7, 5]) == pytest.approx(0.1307)
    assert x.labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert (x.num_classes, x.card.ipc, x.soft) == (10, 2, False)
    assert "regression targets, not distributions" in " ".join(x.card.notes)


def test_learned_targets_go_by_their_largest_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    label = np.array([[-0.9, -0.2, -0.4], [0.1, 0.4, -0.3]], dtype=np.float32)
    np.savez(path, image=np.zeros((2, 4, 4, 1), dtype=np.float32), label=label)
    x = import_set(path, options=_GREY)
    assert x.labels.tolist() == [1, 1]
    assert x.num_classes == 3


def test_targets_can_be_read_as_the_distributions_that_our_own_method_releases(
    tmp_path: Path,
) -> None:
    """Its start is one-hot, whatever K is; what was learned is moved as little as it must."""
    path = tmp_path / "a.npz"
    for classes in (4, 25):
        images = np.zeros((classes, 4, 4, 1), dtype=np.float32)
        np.savez(path, image=images, label=_targets(classes, 1))
        x = import_set(path, options={**_GREY, "targets": "soft"})
        assert torch.allclose(x.labels, torch.eye(classes), atol=1e-6)
    learned = np.array([[0.5, 0.2, 0.3], [1.4, -0.1, -0.3]]) - 1 / 3
    np.savez(path, image=np.zeros((2, 4, 4, 1), dtype=np.float32), label=learned / np.sqrt(0.3))
    x = import_set(path, options={**_GREY, "targets": "soft"})
    assert torch.allclose(x.labels, torch.tensor([[0.5, 0.2, 0.3], [1.0, 0, 0]]), atol=1e-6)
    assert "0.2 away on average" in " ".join(x.card.notes)
    with pytest.raises(BadInput, match="targets=firm"):
        import_set(path, options={**_GREY, "targets": "firm"})


def test_colour_archive_must_say_whether_whitened(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, image=np.zeros((4, 8, 8, 3), dtype=np.float32), label=_targets(4, 1))
    with pytest.raises(BadInput, match="does not say whether its images are ZCA-whitened"):
        import_set(path, data=tiny)
    x = import_set(path, data=tiny, options={"zca": "false"})
    assert x.images.unique().tolist() == pytest.approx([0.4])


def test_frepo_transform_gives_the_pixels_back(tmp_path: Path, tiny: Dataset) -> None:
    """Whiten known pixels as lib/dataset/ops.py does (normalise, flatten HWC, whiten), and back."""
    rng = np.random.default_rng(0)
    pixels = rng.random((4, 8, 8, 3))
    real = tiny.train.pixels().permute(0, 2, 3, 1).double().numpy()
    flat = ((real - 0.4) / 0.25).reshape(len(real), -1)
    center = flat.mean(0)
    cov = (flat - center).T @ (flat - center) / len(flat)
    u, s, _ = np.linalg.svd(cov + 0.1 * np.trace(cov) / len(cov) * np.eye(len(cov)))
    forward, reverse = (u * s**-0.5) @ u.T, (u * s**0.5) @ u.T
    white = (((pixels - 0.4) / 0.25).reshape(4, -1) - center) @ forward
    path, zca = tmp_path / "a.npz", tmp_path / "zca.npz"
    image = white.reshape(4, 8, 8, 3).astype(np.float32)
    np.savez(path, image=image, label=_targets(4, 1))
    np.savez(zca, whitening_transform=forward, rev_whitening_transform=reverse, zca_mean=center)
    x = import_set(path, data=tiny, options={"transform": str(zca)})
    expected = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()
    torch.testing.assert_close(x.images, expected, atol=1e-4, rtol=0)


def test_channels_first_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, image=np.zeros((2, 1, 4, 4), dtype=np.float32), label=_targets(2, 1))
    x = import_set(path, format="frepo", options=_GREY)
    assert x.shape == (1, 4, 4)
    assert "were stored (N, C, H, W)" in " ".join(x.card.notes)


@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        (np.zeros((2, 4, 4, 2), np.float32), _targets(2, 1), "no axis of 1 or 3 channels"),
        (np.zeros((2, 4, 4), np.float32), _targets(2, 1), "expected a tensor"),
        (np.zeros((2, 4, 4, 1), np.uint8), _targets(2, 1), "images are uint8"),
        (np.zeros((2, 4, 4, 1), np.complex64), _targets(2, 1), "complex64"),
        (np.zeros((2, 4, 4, 1), np.float32), _targets(3, 1), r"labels have shape \(3,\) for 2"),
        (np.zeros((2, 4, 4, 1), np.float32), np.full((2, 2), np.nan), "labels contain NaN"),
        (np.zeros((2, 4, 4, 1), np.float32), np.array(["a", "b"]), "labels are <U1"),
        (np.full((2, 4, 4, 1), np.inf, np.float32), _targets(2, 1), "NaN or infinity"),
    ],
)
def test_content_that_is_something_else(
    tmp_path: Path, image: np.ndarray, label: np.ndarray, words: str
) -> None:
    np.savez(tmp_path / "a.npz", image=image, label=label)
    with pytest.raises(BadInput, match=words):
        import_set(tmp_path / "a.npz", format="frepo", options=_GREY)
