"""KIP's archives: channels last, centred labels, and whitening that cannot be undone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ddaudit.errors import BadInput
from ddaudit.sets import detect, import_set
from ddaudit.sets.formats import _names

_WHITE = "kip_cifar10_ConvNet3_ssize10_zca_nol_noaug_ckpt1000.npz"  # a name DC-BENCH reads
_LABELS = np.eye(10, dtype=np.float32) - 0.1


def _archive(path: Path, shape: tuple[int, ...] = (32, 32, 3)) -> Path:
    np.savez(path, images=np.ones((10, *shape), dtype=np.float32), labels=_LABELS)
    return path


def test_whitened_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="per-image scaling that the file does not hold"):
        import_set(_archive(tmp_path / _WHITE), format="kip")


def test_archive_without_whitening(tmp_path: Path) -> None:
    path = _archive(tmp_path / _WHITE.replace("_zca", "_nozca"))
    x = import_set(path)
    expected = [0.4914 + 0.2023, 0.4822 + 0.1994, 0.4465 + 0.2010]  # CIFAR-10's mean + std
    assert x.images[0, :, 3, 3].tolist() == pytest.approx(expected)
    assert x.labels.tolist() == list(range(10))
    assert (x.card.method, x.card.data, x.card.ipc, x.num_classes) == ("kip", "cifar10", 1, 10)
    assert "regression targets" in " ".join(x.card.notes)


def test_colour_archive_must_say(tmp_path: Path) -> None:
    path = _archive(tmp_path / "kip_cifar10_ConvNet_ssize10.npz")
    with pytest.raises(BadInput, match="does not say whether"):
        import_set(path)
    assert len(import_set(path, options={"zca": "false"})) == 10


def test_grey_archive(tmp_path: Path) -> None:
    x = import_set(_archive(tmp_path / "kip_mnist_ConvNet_ssize10.npz", (28, 28, 1)))
    assert x.images.unique().tolist() == pytest.approx([0.1307 + 0.3081])


def test_file_names() -> None:
    named = _names.from_kip_name(Path(_WHITE.replace("ssize10", "ssize500")))
    assert (named.method, named.data, named.ipc) == ("kip", "cifar10", 50)
    assert _names.from_kip_name(Path("best.npz")) == _names.Named()
    named = _names.from_kip_name(Path("kip_cifar10_S_90_ConvNet_ssize10.npz"))
    assert (named.data, named.published) == ("cifar10_S_90", None)


def test_an_archive_that_only_begins_like_kips_is_a_plain_one(tmp_path: Path) -> None:
    images = np.linspace(0, 1, 4 * 75, dtype=np.float32).reshape(4, 5, 5, 3)
    path = tmp_path / "kip_cifar10_mine.npz"
    np.savez(path, images=images, labels=np.arange(4))
    assert detect(path) == "npz"
    np.testing.assert_allclose(import_set(path).images.numpy(), images.transpose(0, 3, 1, 2))
