"""Pictures for the report: small images side by side, a group for each record."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from torch import Tensor

from ddaudit.data.decode import in_colour

_TILE = 56
_GAP = 2
_SPACE = 14


def mosaic(groups: Sequence[Sequence[Tensor]], *, columns: int) -> str:
    """A base64 PNG of groups of images that belong together, in reading order.

    Args:
        groups: at least one group; all hold the same number of (C, H, W) images, clipped to [0, 1].
        columns: groups per row.
    """
    columns = min(columns, len(groups))
    wide = len(groups[0]) * (_TILE + _GAP) - _GAP
    rows = -(-len(groups) // columns)
    height = rows * _TILE + (rows - 1) * _SPACE
    canvas = torch.full((height, columns * wide + (columns - 1) * _SPACE, 3), 0.5)
    for place, group in enumerate(groups):
        row, column = divmod(place, columns)
        top, left = row * (_TILE + _SPACE), column * (wide + _SPACE)
        for image in group:
            canvas[top : top + _TILE, left : left + _TILE] = _tile(image)
            left += _TILE + _GAP
    return _png(canvas)


def _tile(image: Tensor) -> Tensor:
    """(C, H, W) -> (_TILE, _TILE, 3), pixels repeated, not smoothed."""
    shown = in_colour(image.detach().float().cpu().clamp(0, 1))
    scaled = torch.nn.functional.interpolate(shown[None], size=(_TILE, _TILE), mode="nearest-exact")
    return scaled[0].permute(1, 2, 0)


def _png(canvas: Tensor) -> str:
    """(H, W, 3) in [0, 1] as a base64 PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = (canvas * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
