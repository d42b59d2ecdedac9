"""A picture of the closest pairs: released image | nearest training record."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor

from ddaudit.findings import Picture

_TILE = 56
_GAP = 2
_SPACE = 14


def closest_pairs(
    released: Tensor,
    nearest: Tensor,
    ratio: Tensor,
    *,
    pairs: int = 12,
    columns: int = 4,
) -> Picture:
    """The pairs with the smallest ratio, most suspicious first, in reading order.

    Args:
        released: (M, C, H, W) released images, pixel space (clipped to [0, 1] for display).
        nearest: (M, C, H, W) the nearest training record of each, pixels in [0, 1].
        ratio: (M,) distance to training over distance to held-out records.
        pairs: at most this many.
        columns: pairs per row.

    Returns:
        A PNG. Its right halves are real training records: handle it like the data.
    """
    order = torch.argsort(ratio, stable=True)[:pairs]
    columns = min(columns, len(order))
    rows = -(-len(order) // columns)
    width = columns * (2 * _TILE + _GAP) + (columns - 1) * _SPACE
    height = rows * _TILE + (rows - 1) * _SPACE
    canvas = torch.full((height, width, 3), 0.5)
    for place, i in enumerate(order.tolist()):
        row, column = divmod(place, columns)
        top, left = row * (_TILE + _SPACE), column * (2 * _TILE + _GAP + _SPACE)
        canvas[top : top + _TILE, left : left + _TILE] = tile(released[i])
        left += _TILE + _GAP
        canvas[top : top + _TILE, left : left + _TILE] = tile(nearest[i])
    smallest = ", ".join(f"{float(ratio[i]):.2f}" for i in order[:4])
    return Picture(
        name="closest pairs",
        caption=(
            "Each pair: a released image (left) and the training record nearest to it (right), the "
            f"most suspicious pairs first (ratios {smallest}, ...). The right images are real "
            "records: do not publish this picture if the training data are confidential."
        ),
        png_base64=png(canvas),
    )


def tile(image: Tensor) -> Tensor:
    """(C, H, W) -> (_TILE, _TILE, 3), pixels repeated, not smoothed."""
    shown = image.detach().float().cpu().clamp(0, 1)
    shown = shown.expand(3, -1, -1) if len(shown) == 1 else shown[:3]
    scaled = torch.nn.functional.interpolate(shown[None], size=(_TILE, _TILE), mode="nearest-exact")
    return scaled[0].permute(1, 2, 0)


def png(canvas: Tensor) -> str:
    """(H, W, 3) in [0, 1] as a base64 PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = (canvas * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
