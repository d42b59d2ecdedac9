"""Views of images: crop statistics against torchvision, exact crops and mirrors, CutMix by area."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from ddaudit.training.views import (
    Views,
    apply_views,
    crop_and_flip,
    draw_boxes,
    draw_views,
    mix_labels,
    paste,
    stack_views,
)

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 3, size: int = 8) -> torch.Tensor:
    return torch.rand(n, 2, size, size, generator=seeded(5))


@pytest.mark.parametrize(("h", "w"), [(64, 64), (40, 80)])
def test_crops_have_torchvisions_statistics(h: int, w: int) -> None:
    boxes = draw_boxes((0.08, 1.0), seeded(), 4000, h, w)
    torch.manual_seed(0)
    blank = torch.empty(1, h, w)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    )
    area = boxes[:, 2] * boxes[:, 3]
    their_area = theirs[:, 2] * theirs[:, 3] / (h * w)
    ratio = (boxes[:, 3] * w / (boxes[:, 2] * h)).log()
    their_ratio = (theirs[:, 3] / theirs[:, 2]).log()
    # Standard errors are below 0.005; whole pixels and torchvision's fall-back cost a little more.
    for ours, wanted in ((area, their_area), (ratio, their_ratio), (boxes[:, 0], theirs[:, 0] / h)):
        assert float(ours.mean()) == pytest.approx(float(wanted.mean()), abs=0.02)
        assert float(ours.std()) == pytest.approx(float(wanted.std()), abs=0.02)
    assert float(area.min()) >= 0.0799
    assert float(area.max()) <= 1.0001
    assert float(ratio.abs().max()) <= math.log(4 / 3) + 1e-4 or h != w
    assert bool((boxes[:, :2] + boxes[:, 2:] <= 1 + 1e-5).all())


def test_square_crops_are_square() -> None:
    boxes = draw_boxes((0.25, 0.5), seeded(), 100, 8, 8, ratios=(1.0, 1.0))
    assert torch.allclose(boxes[:, 2], boxes[:, 3])
    assert float((boxes[:, 2] ** 2).mean()) == pytest.approx(0.375, abs=0.02)


def test_a_box_that_never_fits_is_the_whole_image() -> None:
    boxes = draw_boxes((1.0, 1.0), seeded(), 50, 8, 8, ratios=(1.2, 1.3))
    assert torch.equal(boxes, WHOLE.expand(50, 4))


def test_the_whole_image_is_itself_and_its_mirror_is_exact() -> None:
    x = pictures()
    assert torch.allclose(crop_and_flip(x, WHOLE.expand(3, 4), None), x, atol=1e-6)
    flips = torch.tensor([True, False, True])
    mirrored = torch.stack([x[0].flip(2), x[1], x[2].flip(2)])
    assert torch.equal(crop_and_flip(x, None, flips), mirrored)
    assert torch.allclose(crop_and_flip(x, WHOLE.expand(3, 4), flips), mirrored, atol=1e-6)


def test_a_crop_is_the_box_enlarged() -> None:
    x = pictures(1)
    box = torch.tensor([[0.25, 0.5, 0.5, 0.5]])  # rows 2 to 5, columns 4 to 7
    wanted = F.interpolate(x[:, :, 2:6, 4:8], scale_factor=2, mode="bilinear", align_corners=False)
    got = crop_and_flip(x, box, None)
    # At its rim a box of the middle of an image blends with the pixels beside it.
    assert torch.allclose(got[..., 1:-1, 1:], wanted[..., 1:-1, 1:], atol=1e-5)


def test_cutmix_pastes_the_partner_and_mixes_labels_by_area() -> None:
    x = torch.stack([torch.full((1, 4, 8), v) for v in (0.0, 1.0)])
    views = Views(None, None, torch.tensor([1, 0]), torch.tensor([[1, 2, 2, 3]] * 2))
    seen = apply_views(x, views)
    assert float(seen[0].sum()) == 6
    assert float(seen[1].sum()) == 32 - 6
    assert seen[0, 0, 1:3, 2:5].eq(1).all()
    mixed = mix_labels(torch.eye(2), views, shape=x.shape)
    assert torch.allclose(mixed, torch.tensor([[26 / 32, 6 / 32], [6 / 32, 26 / 32]]))
    nothing = paste(x, x[[1, 0]], torch.zeros(2, 4, dtype=torch.int64))
    assert torch.equal(nothing, x)


def test_labels_are_mixed_by_the_pixels_that_are_there() -> None:
    """Indicator images: the mean of a mixed image is the weight of its partner's label."""
    x = torch.stack([torch.full((1, 16, 16), v) for v in (0.0, 1.0)])
    for seed in range(50):
        views = draw_views(seeded(seed), 2, shape=x.shape, cutmix=1.0)
        labels = mix_labels(torch.eye(2), views, shape=x.shape)
        assert torch.allclose(apply_views(x, views).mean((1, 2, 3)), labels[:, 1], atol=1e-6)


def test_cutmix_happens_as_often_as_asked_and_covers_what_beta_1_says() -> None:
    drawn = [draw_views(seeded(s), 4, shape=(64, 64), cutmix=0.3) for s in range(1500)]
    patches = torch.stack([v.patches[0] for v in drawn if v.patches is not None]).double()
    share = patches[:, 2] * patches[:, 3] / 64**2
    assert float((share > 0).double().mean()) == pytest.approx(0.3, abs=0.04)  # 3 standard errors
    # A side is sqrt(u), u uniform; a centre within half a side of the border loses a part of it:
    # E[cut side | side s] = s - s^2 / 4, so E[share] = E[(s - s^2 / 4)^2] = 1/2 - 1/5 + 1/48.
    assert float(share[share > 0].mean()) == pytest.approx(0.3208, abs=0.04)


def test_stacked_views_are_the_views_of_each_batch() -> None:
    x = torch.rand(3, 5, 2, 8, 8, generator=seeded(1))
    views = [
        draw_views(seeded(s), 5, shape=x.shape, crop=(0.2, 0.9), flip=True, cutmix=1.0)
        for s in range(3)
    ]
    apart = torch.stack([apply_views(x[k], views[k]) for k in range(3)])
    assert torch.allclose(apply_views(x.flatten(0, 1), stack_views(views, 5)), apart.flatten(0, 1))
    assert torch.equal(stack_views([Views()] * 2, 5).boxes or torch.zeros(1), torch.zeros(1))
