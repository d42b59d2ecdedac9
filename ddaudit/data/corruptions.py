"""C-lite: fifteen everyday corruptions of images at five levels, generated here, for data without a published -C set.

The types are those of CIFAR-10-C; the strengths are our own, scaled to the side of the image, and the textures of snow,
frost and fog are simple noise. Numbers on it are comparable with numbers on it alone, never with CIFAR-10-C. What
happens to an image depends on (its own content, type, level, seed), not on its neighbours.

Source of the types: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ddaudit.errors import BadInput, closest

LEVELS = (1, 2, 3, 4, 5)
functional = torch.nn.functional


class Draws:
    """Random numbers for a batch, each image's by a generator of its own."""

    def __init__(self, images: Tensor, name: str, level: int, seed: int) -> None:
        self.generators = [_generator(image, name, level, seed) for image in images]

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) standard normal."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators])

    def uniform(self, *shape: int) -> Tensor:
        """(N, *shape) in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators])

    def poisson(self, rates: Tensor) -> Tensor:
        """Counts with the (N, ...) rates."""
        pairs = zip(rates, self.generators, strict=True)
        return torch.stack([torch.poisson(r, generator=g) for r, g in pairs])


def corrupt(images: Tensor, name: str, level: int, *, seed: int = 0) -> Tensor:
    """(N, C, H, W) uint8, corrupted.

    Args:
        images: (N, C, H, W) uint8; any size, 1 to 4 channels.
        name: one of ``CORRUPTIONS``.
        level: 1 (mild) to 5.
        seed: other draws for every image.

    Raises:
        BadInput: unknown type or level, or images that are not uint8.
    """
    if name not in CORRUPTIONS:
        raise BadInput(name, "unknown corruption", closest(name, CORRUPTIONS))
    if level not in LEVELS:
        raise BadInput(f"level {level}", "corruptions have levels 1 to 5")
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise BadInput("images", "corruptions work on uint8 images (N, C, H, W)")
    if not len(images):
        return images.clone()
    draws = Draws(images, name, level, seed)
    out = CORRUPTIONS[name](images.float() / 255, level, draws)
    return out.clamp(0, 1).mul(255).round().to(torch.uint8)


def _generator(image: Tensor, name: str, level: int, seed: int) -> torch.Generator:
    content = f"{name}/{level}/{seed}/".encode() + image.contiguous().numpy().tobytes()
    return torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(content).digest()[:7], "big")
    )


def _at(level: int, *values: float) -> float:
    return values[level - 1]


# ---- noise -------------------------------------------------------------------------------------------


def _gaussian_noise(x: Tensor, level: int, draws: Draws) -> Tensor:
    return x + _at(level, 0.04, 0.06, 0.08, 0.09, 0.10) * draws.normal(*x.shape[1:])


def _shot_noise(x: Tensor, level: int, draws: Draws) -> Tensor:
    photons = _at(level, 500, 250, 100, 75, 50)
    return draws.poisson(x * photons) / photons


def _impulse_noise(x: Tensor, level: int, draws: Draws) -> Tensor:
    share, where = _at(level, 0.01, 0.02, 0.03, 0.05, 0.07), draws.uniform(*x.shape[1:])
    return torch.where(where < share / 2, 0.0, torch.where(where > 1 - share / 2, 1.0, x))


# ---- blur --------------------------------------------------------------------------------------------


def _defocus_blur(x: Tensor, level: int, draws: Draws) -> Tensor:
    radius = _at(level, 0.6, 0.9, 1.2, 1.6, 2.0) * _unit(x)
    i, j = _offsets(math.ceil(radius) + 1)
    # The share of each cell that a disk of this radius covers, with a soft rim of one pixel.
    return _filter(x, (radius + 0.5 - (i.square() + j.square()).sqrt()).clamp(0, 1))


def _glass_blur(x: Tensor, level: int, draws: Draws) -> Tensor:
    reach = _at(level, 0.5, 0.75, 1.0, 1.5, 2.0) * _unit(x)
    moved = _warp(x, (2 * draws.uniform(2, *x.shape[2:]) - 1) * reach)
    return _gauss(moved, 0.4 * _unit(x))


def _motion_blur(x: Tensor, level: int, draws: Draws) -> Tensor:
    length = _at(level, 1.0, 1.5, 2.0, 3.0, 4.0) * _unit(x)
    return _streak(x, length, math.pi * draws.uniform())


def _zoom_blur(x: Tensor, level: int, draws: Draws) -> Tensor:
    most = _at(level, 0.06, 0.11, 0.16, 0.21, 0.26)
    views = [_zoom(x, 1 + most * k / 5) for k in range(6)]
    return torch.stack(views).mean(0)


# ---- weather -----------------------------------------------------------------------------------------


def _snow(x: Tensor, level: int, draws: Draws) -> Tensor:
    share, white = _at(level, 0.02, 0.03, 0.05, 0.07, 0.09), _at(level, 0.05, 0.08, 0.1, 0.12, 0.15)
    flakes = (draws.uniform(1, *x.shape[2:]) < share).float()
    angle = math.pi * (0.35 + 0.3 * draws.uniform())
    return x * (1 - white) + white + 2 * _streak(flakes, _unit(x), angle)


def _frost(x: Tensor, level: int, draws: Draws) -> Tensor:
    share = _at(level, 0.15, 0.22, 0.3, 0.37, 0.45)
    ice = 0.5 + 0.5 * _clouds(x, draws, rough=0.8)
    return x * (1 - share) + share * ice


def _fog(x: Tensor, level: int, draws: Draws) -> Tensor:
    thick = _at(level, 0.2, 0.35, 0.5, 0.65, 0.8)
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + thick * _clouds(x, draws, rough=0.4)) * most / (most + thick).clamp_min(1e-6)


def _brightness(x: Tensor, level: int, draws: Draws) -> Tensor:
    return x + _at(level, 0.05, 0.1, 0.15, 0.2, 0.3)


# ---- digital -----------------------------------------------------------------------------------------


def _contrast(x: Tensor, level: int, draws: Draws) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + (x - mean) * _at(level, 0.75, 0.5, 0.4, 0.3, 0.15)


def _elastic(x: Tensor, level: int, draws: Draws) -> Tensor:
    size = _at(level, 0.5, 0.8, 1.1, 1.5, 2.0) * _unit(x)
    field = _gauss(2 * draws.uniform(2, *x.shape[2:]) - 1, 2.0 * _unit(x))
    return _warp(x, field / field.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-6) * size)


def _pixelate(x: Tensor, level: int, draws: Draws) -> Tensor:
    keep = _at(level, 0.9, 0.75, 0.6, 0.45, 0.3)
    size = [max(1, round(keep * side)) for side in x.shape[2:]]
    small = functional.interpolate(x, size, mode="area")
    return functional.interpolate(small, list(x.shape[2:]), mode="nearest")


def _jpeg(x: Tensor, level: int, draws: Draws) -> Tensor:
    quality = int(_at(level, 80, 65, 58, 50, 40))
    return torch.stack([_compressed(image, quality) for image in x])


def _compressed(image: Tensor, quality: int) -> Tensor:
    """One image through a JPEG file; channels that are no colour are compressed one by one."""
    from PIL import Image

    pixels = (image * 255).round().to(torch.uint8).numpy()
    planes = [pixels.transpose(1, 2, 0)] if len(pixels) == 3 else list(pixels)
    read = []
    for plane in planes:
        file = io.BytesIO()
        Image.fromarray(plane).save(file, "JPEG", quality=quality)
        read.append(np.asarray(Image.open(file)))
    joined = read[0].transpose(2, 0, 1) if len(pixels) == 3 else np.stack(read)
    return torch.from_numpy(joined.copy()).float() / 255


# ---- tools -------------------------------------------------------------------------------------------


def _unit(x: Tensor) -> float:
    """One pixel of a 32 x 32 image, in pixels of these."""
    return max(min(x.shape[2:]) / 32, 0.5)


def _offsets(reach: int) -> tuple[Tensor, Tensor]:
    line = torch.arange(-reach, reach + 1).float()
    return line[:, None], line[None]


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel of every image filtered by a (k, k) kernel, or image by image by (N, k, k); sum 1, odd k."""
    kernel = kernel / kernel.sum((-2, -1), keepdim=True)
    n, channels = x.shape[:2]
    per_image = kernel.expand(n, *kernel.shape[-2:]).repeat_interleave(channels, 0)[:, None]
    pad = kernel.shape[-1] // 2
    padded = functional.pad(x, (pad, pad, pad, pad), mode="replicate")
    flat = padded.reshape(1, n * channels, *padded.shape[2:])
    return functional.conv2d(flat, per_image, groups=n * channels).view_as(x)


def _gauss(x: Tensor, sigma: float) -> Tensor:
    i, j = _offsets(max(1, math.ceil(2.5 * sigma)))
    return _filter(x, torch.exp(-(i.square() + j.square()) / (2 * sigma**2)))


def _streak(x: Tensor, length: float, angle: Tensor) -> Tensor:
    """Blurred along a line of +-``length`` pixels at (N,) angles."""
    i, j = _offsets(max(1, math.ceil(length)))
    a = angle.view(-1, 1, 1)
    across = (i * torch.cos(a) - j * torch.sin(a)).abs()
    along = (i * torch.sin(a) + j * torch.cos(a)).abs()
    return _filter(x, (1 - across).clamp_min(0) * (length + 0.5 - along).clamp(0, 1) + 1e-6)


def _warp(x: Tensor, shift: Tensor) -> Tensor:
    """Each pixel read from (row, column) + shift (N, 2, H, W), in pixels, between its neighbours."""
    height, width = x.shape[2:]
    rows = torch.arange(height).float()[:, None] + shift[:, 0]
    columns = torch.arange(width).float()[None] + shift[:, 1]
    grid = torch.stack([2 * columns / max(1, width - 1) - 1, 2 * rows / max(1, height - 1) - 1], 3)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=True)


def _zoom(x: Tensor, factor: float) -> Tensor:
    """Enlarged about the centre, the size kept."""
    height, width = x.shape[2:]
    rows, columns = torch.linspace(-1, 1, height) / factor, torch.linspace(-1, 1, width) / factor
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2)
    return functional.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=True)


def _clouds(x: Tensor, draws: Draws, *, rough: float) -> Tensor:
    """(N, 1, H, W) in [0, 1]: noise at doubling resolutions, each octave ``rough`` times the one before."""
    total, weight, side = torch.zeros(len(x), 1, *x.shape[2:]), 1.0, 2
    while side <= max(x.shape[2:]):
        octave = draws.uniform(1, side, side)
        total += weight * functional.interpolate(octave, list(x.shape[2:]), mode="bilinear")
        weight, side = weight * rough, side * 2
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-6)


CORRUPTIONS: dict[str, Callable[[Tensor, int, Draws], Tensor]] = {
    "gaussian_noise": _gaussian_noise, "shot_noise": _shot_noise, "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur, "glass_blur": _glass_blur, "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur, "snow": _snow, "frost": _frost, "fog": _fog, "brightness": _brightness,
    "contrast": _contrast, "elastic_transform": _elastic, "pixelate": _pixelate, "jpeg_compression": _jpeg,
}  # fmt: skip
"""Name -> corruption of float images in [0, 1]; the names are those of CIFAR-10-C's files."""
