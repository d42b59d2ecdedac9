"""DSA: known answers from numpy and scipy, published magnitudes, Siamese draws, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from ddaudit.errors import BadInput
from ddaudit.training.augment import (
    OPERATIONS,
    AugmentParams,
    apply,
    concatenate,
    draw,
    fitted,
    operations,
)

ALL = "color_crop_cutout_flip_scale_rotate"


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 3, size: int = 9, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=gen(7), dtype=torch.float64)


def params(op: str, *values: float) -> AugmentParams:
    return AugmentParams(op, torch.tensor([values], dtype=torch.float64))


def test_only_data_that_are_mirrored_themselves_keep_mirror_images() -> None:
    own = "flip+color_crop_cutout_scale_rotate"
    assert fitted(own, "color_crop_cutout_flip_scale_rotate") == fitted(own, "") == own
    assert fitted(own, "color_crop_cutout_scale_rotate") == "color_crop_cutout_scale_rotate"


def test_flip_is_an_involution_and_mirrors_left_and_right() -> None:
    x = images()
    once = apply(x, params("flip", 1.0))
    assert np.array_equal(once.numpy(), np.flip(x.numpy(), axis=3))
    assert torch.equal(apply(once, params("flip", 1.0)), x)
    assert torch.equal(apply(x, params("flip", 0.0)), x)


@pytest.mark.parametrize(("rows", "cols"), [(0, 0), (1, 0), (0, -1), (-1, 1), (4, -4)])
def test_crop_is_an_integer_shift_with_zeros(rows: int, cols: int) -> None:
    x = images()
    expected = ndimage.shift(x.numpy(), (0, 0, -rows, -cols), order=0, mode="constant", cval=0.0)
    assert np.array_equal(apply(x, params("crop", rows, cols)).numpy(), expected)


@pytest.mark.parametrize(
    ("row", "col", "rows", "cols"),
    [(4, 4, (2, 6), (2, 6)), (0, 8, (0, 2), (6, 8)), (1, 7, (0, 3), (5, 8))],
)
def test_cutout_zeroes_a_square_of_half_the_side(
    row: int, col: int, rows: tuple[int, int], cols: tuple[int, int]
) -> None:
    x = images(size=8)
    expected = x.clone()
    expected[:, :, slice(*rows), slice(*cols)] = 0
    assert torch.equal(apply(x, params("cutout", row, col)), expected)


@pytest.mark.parametrize(("sx", "sy"), [(1.0, 1.0), (1.2, 0.9), (1 / 1.2, 1.1)])
def test_scale_equals_scipys_bilinear_resampling(sx: float, sy: float) -> None:
    x, c = images(), 4.0  # centre of a 9x9 image
    expected = [
        ndimage.affine_transform(
            image, np.diag([sy, sx]), offset=(c - sy * c, c - sx * c), order=1, mode="grid-constant"
        )
        for image in x.numpy().reshape(-1, 9, 9)
    ]
    ours = apply(x, params("scale", sx, sy)).numpy().reshape(-1, 9, 9)
    np.testing.assert_allclose(ours, np.stack(expected), atol=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 15.0, -7.5])
def test_rotate_equals_torchvisions_and_scipys_bilinear_rotation(degrees: float) -> None:
    x = images()
    ours = apply(x, params("rotate", math.radians(degrees)))
    # Positive angles turn anticlockwise in torchvision; scipy's (x, y) plane has y pointing down.
    theirs = rotate(x, degrees, interpolation=InterpolationMode.BILINEAR)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    expected = ndimage.rotate(
        x.numpy(), degrees, axes=(3, 2), reshape=False, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-9)


def test_color_is_brightness_then_saturation_then_contrast() -> None:
    x = images().numpy()
    shift, saturation, contrast = 0.3, 1.7, 0.6
    y = x + shift
    grey = y.mean(1, keepdims=True)
    y = (y - grey) * saturation + grey
    level = y.mean((1, 2, 3), keepdims=True)
    y = (y - level) * contrast + level
    ours = apply(images(), params("color", shift, saturation, contrast)).numpy()
    np.testing.assert_allclose(ours, y, atol=1e-12)


def test_saturation_does_nothing_to_grey_images() -> None:
    x = images(channels=1)
    a, b = (apply(x, params("color", 0.1, s, 1.2)) for s in (0.0, 1.9))
    assert torch.equal(a, b)


RANGES: dict[str, list[tuple[float, float]]] = {
    "color": [(-0.5, 0.5), (0.0, 2.0), (0.5, 1.5)],
    "crop": [(-4, 4), (-4, 4)],  # round(0.125 * 32)
    "cutout": [(0, 32), (0, 32)],  # any border of 32 pixels can be the centre of an even square
    "flip": [(0, 1)],
    "scale": [(1 / 1.2, 1.2)] * 2,
    "rotate": [(-math.pi / 12, math.pi / 12)],
}


@pytest.mark.parametrize("op", OPERATIONS)
def test_magnitudes_are_the_published_ones(op: str) -> None:
    values = draw(op, gen(), 20_000, shape=(3, 32, 32)).values
    for column, (low, high) in zip(values.T, RANGES[op], strict=True):
        assert low <= float(column.min())
        assert float(column.max()) <= high + 1e-6
        # Uniform (or a fair coin): extremes nearly reached, mean within 5 standard errors of the middle.
        assert float(column.min()) < low + 0.01 * (high - low)
        assert float(column.max()) > high - 0.01 * (high - low)
        error = (high - low) / 2 / math.sqrt(20_000)
        assert float(column.double().mean()) == pytest.approx((low + high) / 2, abs=5 * error)
    if op in ("crop", "cutout"):
        assert torch.equal(values, values.round())
        assert len(values[:, 0].unique()) == RANGES[op][0][1] - RANGES[op][0][0] + 1


def test_one_operation_a_call_each_equally_often() -> None:
    generator = gen(3)
    counts = dict.fromkeys(OPERATIONS, 0)
    for _ in range(6000):
        counts[draw(ALL, generator, shape=(3, 8, 8)).op] += 1
    chi2 = sum((c - 1000) ** 2 / 1000 for c in counts.values())
    assert chi2 < 20.5  # 99.9 % quantile of chi-square with 5 degrees of freedom


@pytest.mark.parametrize("op", OPERATIONS)
def test_siamese_draw_treats_equal_batches_and_every_image_alike(op: str) -> None:
    drawn = draw(op, gen(1), shape=(3, 12, 12))
    assert len(drawn.values) == 1
    one = images(1, 12).float()
    batch = one.expand(5, -1, -1, -1)
    out = apply(batch, drawn)
    assert torch.equal(out, apply(batch.clone(), drawn))
    assert all(torch.equal(row, out[0]) for row in out)
    torch.testing.assert_close(out[:1], apply(one, drawn))


@pytest.mark.parametrize("op", OPERATIONS)
def test_per_image_draw_equals_one_call_an_image(op: str) -> None:
    x = images(6, 12).float()
    drawn = draw(op, gen(2), 6, shape=x.shape)
    whole = apply(x, drawn)
    each = [apply(x[i : i + 1], AugmentParams(op, drawn.values[i : i + 1])) for i in range(6)]
    torch.testing.assert_close(whole, torch.cat(each))
    assert len({tuple(v.tolist()) for v in drawn.values}) > 1
    halves = [AugmentParams(op, drawn.values[:2]), AugmentParams(op, drawn.values[2:3])]
    joint = concatenate(halves, [2, 4])
    torch.testing.assert_close(apply(x, joint)[:3], whole[:3])


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("n", [None, 2])
def test_gradients_are_right(op: str, n: int | None) -> None:
    x = images(2, 6).requires_grad_()
    drawn = draw(op, gen(5), n, shape=x.shape)
    assert torch.autograd.gradcheck(lambda t: apply(t, drawn), (x,))


@pytest.mark.parametrize("op", OPERATIONS)
def test_applies_under_functional_transforms(op: str) -> None:
    x = images(4, 8)
    drawn = draw(op, gen(5), shape=x.shape)

    def loss(image: Tensor) -> Tensor:
        return apply(image.unsqueeze(0), drawn).pow(2).sum()

    per_image = torch.func.vmap(torch.func.grad(loss))(x)
    whole = torch.func.grad(lambda t: apply(t, drawn).pow(2).sum())(x)
    torch.testing.assert_close(per_image, whole)


def test_draws_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    a = [draw(ALL, g, 3, shape=(1, 28, 28)) for g in [gen(9)] for _ in range(8)]
    b = [draw(ALL, g, 3, shape=(1, 28, 28)) for g in [gen(9)] for _ in range(8)]
    assert all(p.op == q.op and torch.equal(p.values, q.values) for p, q in zip(a, b, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("strategy", ["", "none", "None"])
def test_no_strategy_changes_nothing(strategy: str) -> None:
    x = images()
    assert apply(x, draw(strategy, gen(), 3, shape=x.shape)) is x
    assert operations(strategy) == ()


@pytest.mark.parametrize("strategy", ["blur", "crop_", "flip-crop", "color_crop_cutoff"])
def test_unknown_operations_are_named(strategy: str) -> None:
    with pytest.raises(BadInput, match="unknown augmentation"):
        draw(strategy, gen(), shape=(3, 8, 8))


def test_wrong_number_of_parameter_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 parameter rows for 4 images"):
        apply(images(4), draw("flip", gen(), 3, shape=(3, 9, 9)))


@pytest.mark.parametrize("n", [None, 3])
def test_stages_are_applied_one_after_the_other(n: int | None) -> None:
    x = images()
    drawn = draw("color+crop+cutout", gen(3), n, shape=x.shape)
    assert drawn.op == "color+crop+cutout"
    one = gen(3)
    expected = x
    for op in ("color", "crop", "cutout"):
        expected = apply(expected, draw(op, one, n, shape=x.shape))
    assert torch.equal(apply(x, drawn), expected)


def test_each_stage_picks_one_of_its_operations() -> None:
    shared = gen(0)
    seen = {draw("flip+crop_scale_rotate", shared, shape=(8, 8)).op for _ in range(60)}
    assert seen == {"flip+crop", "flip+scale", "flip+rotate"}


def test_stages_can_be_put_together_for_several_batches() -> None:
    x = images(4)
    drawn = [draw("color+crop", gen(s), 2, shape=x.shape) for s in (1, 2)]
    joint = concatenate(drawn, [2, 2])
    apart = torch.cat([apply(x[:2], drawn[0]), apply(x[2:], drawn[1])])
    assert torch.equal(apply(x, joint), apart)


def test_unknown_operations_of_a_stage_are_named() -> None:
    with pytest.raises(BadInput, match="'blur'"):
        operations("color+blur")
