"""C-lite: each image's corruption is its own, levels get worse, closed forms where a type has one; published files."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from ddaudit.data import load_data
from ddaudit.data.corrupted import MNIST_C, published
from ddaudit.data.corruptions import CORRUPTIONS, LEVELS, corrupt
from ddaudit.errors import BadInput


def pictures(n: int = 5, channels: int = 3, height: int = 16, width: int = 16) -> torch.Tensor:
    """Smooth random pictures: noise alone cannot be blurred any further."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, channels, 4, 4, generator=g)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (fine * 255).to(torch.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 16, 16), (4, 9, 14)])
def test_every_type_keeps_shape_is_deterministic_and_belongs_to_the_image(
    name, channels, height, width
):
    x = pictures(4, channels, height, width)
    before = x.clone()
    out = corrupt(x, name, 3)
    assert out.shape == x.shape
    assert out.dtype == torch.uint8
    assert torch.equal(x, before)
    assert torch.equal(out, corrupt(x, name, 3))
    shuffled = corrupt(x[[3, 1]], name, 3)
    assert torch.equal(shuffled, out[[3, 1]])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_levels_change_images_more_and_more(name):
    x = pictures(12, 3, 32, 32)
    away = [float((corrupt(x, name, k).float() - x).abs().mean()) for k in LEVELS]
    assert away[0] > 0
    assert away[-1] > away[0]
    assert all(b > 0.97 * a for a, b in pairwise(away))


def test_closed_forms():
    flat = torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)
    assert corrupt(flat, "brightness", 1).unique().tolist() == [113]  # 100 + 0.05 * 255
    halves = flat.clone()
    halves[..., :4] = 60  # mean 80; what is left of the contrast at level 2 is half
    assert sorted(corrupt(halves, "contrast", 2).unique().tolist()) == [70, 90]
    for blur in ("defocus_blur", "motion_blur", "glass_blur", "elastic_transform", "pixelate"):
        assert corrupt(flat, blur, 5).unique().tolist() == [100]  # a plain wall stays what it is


def test_noise_has_the_stated_strength():
    grey = torch.full((50, 1, 32, 32), 128, dtype=torch.uint8)
    noisy = corrupt(
        grey + torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1) % 2, "gaussian_noise", 5
    )
    assert float(noisy.float().std() / 255) == pytest.approx(0.10, abs=0.004)
    shot = corrupt(
        grey[:20] + torch.arange(20, dtype=torch.uint8).view(-1, 1, 1, 1), "shot_noise", 3
    )
    expected = (137.5 / 255 / 100) ** 0.5  # Poisson: variance is mean / photons
    within = shot.float().flatten(1).std(1).mean() / 255
    assert float(within) == pytest.approx(expected, rel=0.05)
    spots = corrupt(grey, "impulse_noise", 5)
    share = float(((spots == 0) | (spots == 255)).double().mean())
    assert share == pytest.approx(0.07, abs=0.01)


def test_jpeg_is_pil_s():
    x = pictures(1, 3, 16, 16)
    file = io.BytesIO()
    Image.fromarray(x[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=50)
    read = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)
    assert torch.equal(corrupt(x, "jpeg_compression", 4)[0], read)


@pytest.mark.parametrize(
    ("name", "level", "says"), [("fogg", 1, "Did you mean fog"), ("fog", 6, "levels 1 to 5")]
)
def test_bad_requests_are_one_line(name, level, says):
    with pytest.raises(BadInput, match=says):
        corrupt(pictures(), name, level)


# ---- published files ---------------------------------------------------------------------------------


def _of_shape(data, channels, side):
    def blank(split):
        images = torch.zeros(len(split), channels, side, side, dtype=torch.uint8)
        return replace(split, images=images)

    return replace(data, **{k: blank(getattr(data, k)) for k in ("train", "validation", "test")})


def test_cifar10_c_is_read_by_level_without_pickles(tmp_path, monkeypatch):
    from ddaudit.data import corrupted

    monkeypatch.setattr(corrupted, "_SIZE", 20)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    data = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    np.save(folder / "fog.npy", data)
    np.save(folder / "labels.npy", np.tile(np.arange(20) % 10, 5))
    digits = load_data("digits")
    cifar = replace(_of_shape(digits, 3, 32), name="cifar10", origin="", root=tmp_path)
    found = published(cifar)
    assert (found.name, found.types, found.levels) == ("CIFAR-10-C", ("fog",), LEVELS)
    cell = found.images("fog", 3, torch.tensor([0, 7]))
    assert cell.shape == (2, 3, 32, 32)
    assert cell[:, 0, 0, 0].tolist() == [40, 47]
    before = found.fingerprint
    np.save(folder / "fog.npy", data + 1)
    assert published(cifar).fingerprint != before
    np.save(folder / "fog.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="not a readable"):
        published(cifar).images("fog", 1, torch.tensor([0]))
    assert published(digits) is None


def test_cifar10_c_of_an_interrupted_download_is_none(tmp_path):
    (tmp_path / "CIFAR-10-C").mkdir()
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.zeros(50_000, np.int64))
    cifar = _of_shape(load_data("digits"), 3, 32)
    assert published(replace(cifar, name="cifar10", origin="", root=tmp_path)) is None


def test_mnist_c_scores_its_fifteen_types(tmp_path):
    """Spatter is one of them, and an extra type of CIFAR-10-C; the clean images are none."""
    for kind in (*MNIST_C, "identity"):
        (tmp_path / "mnist_c" / kind).mkdir(parents=True)
        np.save(tmp_path / "mnist_c" / kind / "test_images.npy", np.zeros((9, 28, 28, 1), np.uint8))
        np.save(tmp_path / "mnist_c" / kind / "test_labels.npy", np.arange(9))
    mnist = replace(_of_shape(load_data("digits"), 1, 28), name="mnist", origin="", root=tmp_path)
    assert published(mnist).types == MNIST_C
    assert len(MNIST_C) == 15


def test_mnist_c_has_one_level(tmp_path):
    folder = tmp_path / "mnist_c" / "fog"
    folder.mkdir(parents=True)
    np.save(folder / "test_images.npy", np.full((30, 28, 28, 1), 9, np.uint8))
    np.save(folder / "test_labels.npy", np.arange(30) % 10)
    mnist = replace(_of_shape(load_data("digits"), 1, 28), name="mnist", origin="", root=tmp_path)
    found = published(mnist)
    assert (found.name, found.levels) == ("MNIST-C", (0,))
    assert found.images("fog", 0, torch.tensor([4])).shape == (1, 1, 28, 28)
    some = replace(mnist.test, class_names=mnist.test.class_names[:7], labels=mnist.test.labels % 7)
    grouped = replace(
        mnist.test, groups=torch.zeros(len(mnist.test), dtype=torch.int64), group_names=("a",)
    )
    for changed in (
        replace(_of_shape(mnist, 3, 28)),  # coloured
        replace(
            mnist,
            train=replace(mnist.train, class_names=some.class_names, labels=mnist.train.labels % 7),
        ),
        replace(mnist, test=grouped),
    ):
        assert published(changed) is None, "the files hold other images, or other classes"
