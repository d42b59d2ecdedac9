"""The same images turned or in other colours: shifts that keep what is shown (damage is in ``corruptions``)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ddaudit.data.greyscale import to_grey


def rotated(images: Tensor, degrees: float) -> Tensor:
    """(N, C, H, W) uint8, anticlockwise about the centre, bilinear; corners continue the border.

    Args:
        images: (N, C, H, W) uint8.
    """
    a = math.radians(degrees)
    h, w = images.shape[2:]
    # Sides may differ: a turn is one of pixels, and the grid counts in half sides.
    turn = [[math.cos(a), -math.sin(a) * h / w, 0.0], [math.sin(a) * w / h, math.cos(a), 0.0]]
    theta = torch.tensor(turn).expand(len(images), 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    made = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return made.round().clamp(0, 255).to(torch.uint8)


def turned_channels(images: Tensor) -> Tensor:
    """Red becomes green, green blue, blue red."""
    return images.roll(1, dims=1)


def inverted(images: Tensor) -> Tensor:
    """Every value from the other end."""
    return 255 - images


COLOURS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels turned": turned_channels,
    "channels turned twice": lambda x: turned_channels(turned_channels(x)),
    "grey": lambda x: to_grey(x) if x.shape[1] == 3 else x,
    "inverted": inverted,
}
"""Changes of colour of uint8 images; some change nothing in grey ones."""
