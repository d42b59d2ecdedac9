"""Stored values that do not look as their format has them are asked about, never squeezed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.data import Dataset
from ddaudit.errors import BadInput
from ddaudit.sets import import_set

MEAN, STD = 0.4, 0.25  # of the data set "tiny"


def smooth(count: int = 4, size: int = 8, seed: int = 0) -> Tensor:
    """(count, 3, size, size) pictures in [0, 1] with large shapes, both ends among them."""
    g = torch.Generator().manual_seed(seed)
    x = F.interpolate(torch.rand(count, 3, 3, 3, generator=g), size=(size, size), mode="bilinear")
    x = x + 0.05 * torch.randn(x.shape, generator=g)
    return (x - x.min()) / (x.max() - x.min())


def _dc(folder: Path, x: Tensor) -> Path:
    torch.save({"data": [[x, torch.arange(len(x))]]}, folder / "mine.pt")
    return folder / "mine.pt"


def _mtt(folder: Path, x: Tensor) -> Path:
    torch.save(x, folder / "images_best.pt")
    torch.save(torch.arange(len(x)), folder / "labels_best.pt")
    return folder / "images_best.pt"


def _archive(name: str, image: str, label: str) -> Callable[[Path, Tensor], Path]:
    def write(folder: Path, x: Tensor) -> Path:
        content = {image: x.permute(0, 2, 3, 1).numpy(), label: np.eye(len(x), dtype=np.float32)}
        np.savez(folder / name, **content)
        return folder / name

    return write


FORMATS: dict[str, Callable[[Path, Tensor], Path]] = {
    "dc": _dc,
    "mtt": _mtt,
    "frepo": _archive("a.npz", "image", "label"),
    "kip": _archive("kip_tiny_ConvNet_ssize4_nozca.npz", "images", "labels"),
}
STORED: dict[str, Callable[[Tensor], Tensor]] = {
    "normalised": lambda x: (x - MEAN) / STD,
    "0-1": lambda x: x,
    "-1-1": lambda x: x * 2 - 1,
    "0-255": lambda x: x * 255,
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", STORED)
def test_only_what_is_normalised_is_read_without_being_told(
    tmp_path: Path, tiny: Dataset, name: str, kind: str
) -> None:
    path = FORMATS[name](tmp_path, STORED[kind](smooth()))
    asked: dict[str, Any] = {"format": name, "data": tiny}
    zca = {"zca": "false"}
    if kind == "normalised":
        made = import_set(path, options=zca, **asked)
    else:
        with pytest.raises(BadInput, match=rf"--set range=normalised or --set range={kind}\."):
            import_set(path, options=zca, **asked)
        made = import_set(path, options={"range": kind, **({} if name == "mtt" else zca)}, **asked)
    torch.testing.assert_close(made.images, smooth(), atol=1e-5, rtol=0)
    assert any(f"read as {kind}" in note for note in made.card.notes)


def test_the_reading_that_the_format_has_can_be_insisted_on(tmp_path: Path, tiny: Dataset) -> None:
    path = _dc(tmp_path, smooth())
    made = import_set(path, data=tiny, options={"range": "normalised", "zca": "false"})
    torch.testing.assert_close(made.images, smooth() * STD + MEAN)
    with pytest.raises(BadInput, match="which is not 0-255"):
        import_set(path, data=tiny, options={"range": "0-255"})


def test_values_of_idc_are_pixels_or_are_asked_about(tmp_path: Path, tiny: Dataset) -> None:
    def stored(x: Tensor) -> Path:
        torch.save([x, torch.arange(len(x))], tmp_path / "data.pt")
        return tmp_path / "data.pt"

    path = stored((smooth() - MEAN) / STD)
    with pytest.raises(BadInput, match=r"--set range=0-1 or --set range=normalised"):
        import_set(path, data=tiny)
    made = import_set(path, data=tiny, options={"range": "normalised"})
    torch.testing.assert_close(made.images, smooth(), atol=1e-5, rtol=0)
    path = stored(smooth() * 1.2 - 0.1)  # optimised pixels overshoot
    assert "read as 0-1" in " ".join(import_set(path, data=tiny).card.notes)


def natural(count: int, size: int = 16) -> Tensor:
    """(count, 3, size, size) in [0, 1]: the spectrum of pictures, power over squared frequency, and colours alike."""
    g, wide = torch.Generator().manual_seed(0), 4 * size  # cut out of a larger scene
    f = torch.fft.fftfreq(wide)
    strength = 1 / (f[:, None] ** 2 + f[None, :] ** 2 + wide**-2).sqrt()
    noise = torch.randn(count, 4, wide, wide, generator=g)
    fields = torch.fft.ifft2(torch.fft.fft2(noise) * strength).real[..., :size, :size]
    x = fields[:, :1] + 0.4 * fields[:, 1:]
    return (0.5 + 0.25 * x / x.std()).clamp(0, 1)


def whitened(pixels: Tensor) -> Tensor:
    """As kornia's ZCAWhitening gives them (epsilon 0.1)."""
    flat = pixels.flatten(1).double()
    centred = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(flat) - 1))
    root = torch.diag((values.clamp(min=0) + 0.1).rsqrt())
    return (centred @ (vectors @ root @ vectors.T)).float().view_as(pixels)


@pytest.mark.parametrize("write", [_dc, _mtt])
def test_a_whitened_set_is_refused_by_both_readers_for_the_same_reason(
    tmp_path: Path, write: Callable[[Path, Tensor], Path]
) -> None:
    pictures = natural(1000)
    options = {"mean": "0.5,0.5,0.5", "std": "0.2,0.2,0.2"}
    path = write(tmp_path, whitened(pictures)[:10])
    with pytest.raises(
        BadInput, match=r"does not say whether its images are ZCA-whitened.*zca=false"
    ):
        import_set(path, options=options)
    plain = write(tmp_path, (pictures[:10] - 0.5) / 0.2)
    with pytest.raises(BadInput, match="does not say whether"):
        import_set(plain, options=options)
    records = (pictures[:10] * 255).round() / 255  # on the 8-bit grid: never whitened
    made = import_set(write(tmp_path, (records - 0.5) / 0.2), options=options)
    torch.testing.assert_close(made.images, records, atol=1e-5, rtol=0)
    assert "taken as not ZCA-whitened" in made.card.notes


def test_a_name_that_says_zca_is_believed(tmp_path: Path) -> None:
    path = _dc(tmp_path, (smooth() - 0.5) / 0.2)
    path = path.rename(tmp_path / "res_DM_CIFAR10_ConvNet_zca_1ipc.pt")
    with pytest.raises(BadInput, match="are ZCA-whitened and the transform is not in the file"):
        import_set(path)
