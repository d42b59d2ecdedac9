"""Differentiable Siamese augmentation (DSA) of normalised images: draw once, apply anywhere.

Mode "S" of the field: every call picks one operation of the strategy, uniformly, and applies it to
the batch. A strategy of several stages ("flip+color+crop_scale_rotate") applies them one after the
other, each picking one of its operations: the way of IDC. Drawing and applying are separate, so that
real and synthetic batches can share one draw (Siamese), and no step touches torch's global random
state.

Source: Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021,
section 3, with the magnitudes of the released code. Stages: Kim et al., "Dataset Condensation via
Efficient Synthetic-Data Parameterization" (IDC), ICML 2022, the released code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.errors import BadInput

BRIGHTNESS = 1.0  # shift in +- half of it, normalised units
SATURATION = 2.0  # factor in [0, 2]
CONTRAST = 0.5  # factor in [0.5, 1.5]
CROP = 0.125  # largest shift, fraction of the side
CUTOUT = 0.5  # side of the square, fraction of the image's
FLIP = 0.5  # probability
SCALE = 1.2  # factor in [1 / 1.2, 1.2], each axis on its own
ROTATE = 15.0  # degrees either way

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
_COLUMNS = {"color": 3, "crop": 2, "cutout": 2, "flip": 1, "scale": 2, "rotate": 1}


@dataclass(frozen=True, eq=False)
class AugmentParams:
    """One drawn operation, or one of each stage.

    Attributes:
        op: one of OPERATIONS, several joined by "+" in the order of their application, or "none".
        values: the columns of each operation side by side; (1, k) shared by every image (Siamese), or
            (n, k) one row per image; float32 on the CPU. Columns: color (brightness shift, saturation
            factor, contrast factor), crop (rows, columns of shift, pixels), cutout (row, column of the
            centre, pixels), flip (0 or 1), scale (x, y factor), rotate (radians, anticlockwise).
    """

    op: str
    values: Tensor


def operations(strategy: str) -> tuple[str, ...]:
    """The operations a strategy string names; () for "" and "none".

    Raises:
        BadInput: an operation that DSA does not have.
    """
    return tuple(op for stage in _stages(strategy) for op in stage)


def without(strategy: str, operation: str) -> str:
    """The strategy string without an operation, and without stages that have no other."""
    kept = ["_".join(op for op in stage if op != operation) for stage in _stages(strategy)]
    return "+".join(filter(None, kept))


def mirrors(of_data: str) -> bool:
    """False where a data set's own strategy has augmentations and none of them mirrors: a digit in a mirror is another
    digit, or none."""
    ops = operations(of_data)
    return not ops or "flip" in ops


def fitted(strategy: str, of_data: str) -> str:
    """The strategy string, without mirror images where the data set has none (see :func:`mirrors`)."""
    return strategy if mirrors(of_data) else without(strategy, "flip")


def _stages(strategy: str) -> list[list[str]]:
    """The operations of each stage; one of each stage is applied."""
    if strategy.lower() in ("", "none"):
        return []
    stages = [stage.split("_") for stage in strategy.split("+")]
    for op in (op for stage in stages for op in stage):
        if op not in OPERATIONS:
            raise BadInput(
                f"augment={strategy}",
                f"unknown augmentation '{op}'",
                f"Join some of {', '.join(OPERATIONS)} with '_' (one of them is applied) or '+' "
                "(one after the other), or leave it empty.",
            )
    return stages


def draw(
    strategy: str,
    generator: torch.Generator,
    n: int | None = None,
    *,
    shape: Sequence[int],
) -> AugmentParams:
    """Pick one operation of each stage of ``strategy`` and its parameters.

    Args:
        strategy: operations joined by "_" ("color_crop_cutout_flip_scale_rotate"), stages by "+";
            "" draws nothing.
        generator: a CPU generator; the only source of randomness.
        n: None for one parameter set shared by every image it is applied to, else parameters for n
            images.
        shape: (..., H, W) of the images.

    Raises:
        BadInput: unknown operation in ``strategy``.
    """
    stages = _stages(strategy)
    if not stages:
        return AugmentParams("none", torch.empty(1, 0))
    picked: list[str] = []
    drawn: list[Tensor] = []
    for ops in stages:
        picked.append(ops[int(torch.randint(len(ops), (), generator=generator))])
        drawn.append(_values(picked[-1], generator, rows=1 if n is None else n, shape=shape))
    return AugmentParams("+".join(picked), torch.cat(drawn, 1))


def _values(op: str, generator: torch.Generator, *, rows: int, shape: Sequence[int]) -> Tensor:
    """(rows, k) parameters of one operation."""
    size = torch.tensor([float(shape[-2]), float(shape[-1])])
    u = torch.rand(rows, _COLUMNS[op], generator=generator)
    if op == "color":
        low = torch.tensor([-BRIGHTNESS / 2, 0.0, CONTRAST])
        span = torch.tensor([BRIGHTNESS, SATURATION, 1.0])
        values = low + span * u
    elif op == "crop":
        reach = torch.floor(size * CROP + 0.5)
        values = torch.floor(u * (2 * reach + 1)).clamp_(max=2 * reach) - reach
    elif op == "cutout":
        side = torch.floor(size * CUTOUT + 0.5)
        last = size - side % 2  # an even square may be centred on any of the H + 1 pixel borders
        values = torch.minimum(torch.floor(u * (last + 1)), last)
    elif op == "flip":
        values = (u < FLIP).float()
    elif op == "scale":
        values = 1 / SCALE + (SCALE - 1 / SCALE) * u
    else:
        values = math.radians(ROTATE) * (2 * u - 1)
    return values


def apply(x: Tensor, params: AugmentParams) -> Tensor:
    """Augment a batch; differentiable with respect to ``x``.

    Args:
        x: (N, C, H, W) normalised images; what leaves the frame is filled with zeros (the mean
            image).
        params: from :func:`draw`; per-image parameters need as many rows as x has images.
    """
    if params.op == "none":
        return x
    if len(params.values) not in (1, len(x)):
        raise ValueError(f"{len(params.values)} parameter rows for {len(x)} images")
    values = params.values.to(device=x.device, dtype=x.dtype)
    start = 0
    for op in params.op.split("+"):
        end = start + _COLUMNS[op]
        x = _APPLY[op](x, values[:, start:end])
        start = end
    return x


def concatenate(params: Sequence[AugmentParams], counts: Sequence[int]) -> AugmentParams:
    """One parameter set for several batches put together that all drew the same operation."""
    rows = [p.values.expand(n, -1) for p, n in zip(params, counts, strict=True)]
    return AugmentParams(params[0].op, torch.cat(rows))


def _color(x: Tensor, v: Tensor) -> Tensor:
    brightness, saturation, contrast = (v[:, i].view(-1, 1, 1, 1) for i in range(3))
    x = x + brightness
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * saturation + grey if x.shape[1] > 1 else x
    level = x.mean((1, 2, 3), keepdim=True)
    return (x - level) * contrast + level


def _crop(x: Tensor, v: Tensor) -> Tensor:
    n, c, h, w = x.shape
    rows, inside_r = _shifted(h, v[:, 0])
    cols, inside_c = _shifted(w, v[:, 1])
    x = x.gather(2, rows.view(-1, 1, h, 1).expand(n, c, h, w))
    x = x.gather(3, cols.view(-1, 1, 1, w).expand(n, c, h, w))
    return x * (inside_r.view(-1, 1, h, 1) & inside_c.view(-1, 1, 1, w))


def _shifted(size: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, size) source position of every pixel and whether it lies in the image."""
    at = torch.arange(size, device=shift.device) + shift.long().view(-1, 1)
    return at.clamp(0, size - 1), (at >= 0) & (at < size)


def _cutout(x: Tensor, v: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    inside_r = _covered(h, v[:, 0]).view(-1, 1, h, 1)
    inside_c = _covered(w, v[:, 1]).view(-1, 1, 1, w)
    return x * ~(inside_r & inside_c)


def _covered(size: int, centre: Tensor) -> Tensor:
    """(rows, size) True where the square covers the axis."""
    side = int(size * CUTOUT + 0.5)
    first = centre.long().view(-1, 1) - side // 2
    at = torch.arange(size, device=centre.device)
    return (at >= first) & (at < first + side)


def _flip(x: Tensor, v: Tensor) -> Tensor:
    return torch.where(v.view(-1, 1, 1, 1) > 0.5, x.flip(3), x)


def _scale(x: Tensor, v: Tensor) -> Tensor:
    zero = torch.zeros_like(v[:, 0])
    return _affine(x, [v[:, 0], zero, zero, v[:, 1]])


def _rotate(x: Tensor, v: Tensor) -> Tensor:
    cos, sin = v[:, 0].cos(), v[:, 0].sin()
    return _affine(x, [cos, -sin, sin, cos])


def _affine(x: Tensor, matrix: list[Tensor]) -> Tensor:
    """Bilinear resampling; ``matrix`` (row-major 2x2) maps output to input coordinates."""
    a, b, c, d = matrix
    zero = torch.zeros_like(a)
    theta = torch.stack([a, b, zero, c, d, zero], 1).view(-1, 2, 3)
    n, channels, h, w = x.shape
    grid = F.affine_grid(theta, [len(theta), channels, h, w], align_corners=False)
    return F.grid_sample(x, grid.expand(n, -1, -1, -1), padding_mode="zeros", align_corners=False)


_APPLY = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
