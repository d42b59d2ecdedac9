"""The picture of a distilled set."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from ddaudit.findings import Picture
from ddaudit.reports import gallery


def _pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.png_base64))).convert("RGBA"))


def test_classes_are_rows_and_pixels_are_repeated_not_smoothed() -> None:
    images = torch.stack([torch.full((1, 8, 8), v) for v in (0.0, 1.0, 0.5)])
    shown = _pixels(gallery(images, torch.tensor([1, 0, 1]), tile=16))
    gap = 2
    assert shown.shape == (2 * 16 + gap, 2 * 16 + gap, 4)
    assert (shown[:16, :16, 0] == 255).all()  # row 0: the one image of class 0
    assert (shown[:16, 16 + gap :, 3] == 0).all()  # nothing beside it
    assert (shown[16 + gap :, :16, 0] == 0).all()
    assert (shown[16 + gap :, 16 + gap :, 0] == 128).all()


def test_soft_labels_are_shown_under_their_argmax() -> None:
    images = torch.rand(2, 3, 4, 4)
    soft = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert gallery(images, soft).png_base64 == gallery(images, torch.tensor([1, 0])).png_base64


def test_clipping_and_leaving_out_are_said() -> None:
    images = torch.rand(6, 3, 4, 4)
    plain = gallery(images, torch.tensor([0, 0, 0, 1, 1, 1]), class_names=["cat", "dog"])
    assert plain.caption == "Rows: cat, dog."
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 1.7, -0.25
    cut = gallery(images, torch.tensor([0, 0, 0, 1, 1, 1]), per_class=2)
    assert "first 2 of up to 3" in cut.caption
    assert "from -0.25 to 1.70; clipped" in cut.caption


def test_images_are_never_shrunk_and_nan_is_survived() -> None:
    images = torch.full((1, 3, 64, 64), float("nan"))
    shown = _pixels(gallery(images, torch.tensor([0]), tile=10))
    assert shown.shape == (64, 64, 4)
    assert (shown[..., :3] == 0).all()


def test_many_classes_have_a_short_caption() -> None:
    picture = gallery(torch.rand(100, 1, 4, 4), torch.arange(100))
    assert picture.caption == "Rows: 0 to 99, 100 classes."
