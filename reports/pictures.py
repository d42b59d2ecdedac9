"""Distilled images as one picture: a row per class, a few images of each."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ddaudit.data.decode import in_colour
from ddaudit.findings import Picture

_PAPER = 255


def gallery(
    images: Tensor,
    labels: Tensor,
    *,
    per_class: int = 10,
    class_names: Sequence[str] = (),
    name: str = "gallery",
    tile: int = 40,
) -> Picture:
    """A class-wise grid of a distilled set, for looking at only.

    Args:
        images: (M, C, H, W) float pixels, nominally in [0, 1], C = 1 to 4; clipped to [0, 1] in
            the picture.
        labels: (M,) int64 classes or (M, K) soft labels, which are shown under their argmax.
        per_class: at most this many images of each class, the first ones.
        class_names: names for the caption.
        name: the picture's name.
        tile: wanted side of one image in the picture, in screen pixels; images are enlarged by
            whole factors,
            nearest neighbour, so what is seen are the pixels themselves.

    Returns:
        A PNG, base64. The caption says what was left out and whether pixels were clipped.
    """
    from PIL import Image

    classes = labels.argmax(1) if labels.ndim == 2 else labels
    present = sorted({int(c) for c in classes})
    pixels = images.detach().float().cpu()
    shown = [[int(i) for i in (classes == c).nonzero().flatten()[:per_class]] for c in present]
    height, width = int(pixels.shape[2]), int(pixels.shape[3])
    scale = max(1, round(tile / max(height, width)))
    gap, columns = max(1, 3 // scale), max(len(row) for row in shown)
    grid = np.full(
        (len(shown) * (height + gap) - gap, columns * (width + gap) - gap, 4),
        _PAPER,
        dtype=np.uint8,
    )
    grid[..., 3] = 0
    for r, row in enumerate(shown):
        for c, index in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            grid[top : top + height, left : left + width] = _rgba(pixels[index])
    picture = Image.fromarray(grid).resize(
        (grid.shape[1] * scale, grid.shape[0] * scale), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return Picture(
        name=name,
        caption=_caption(pixels, classes, present, columns, class_names),
        png_base64=base64.b64encode(buffer.getvalue()).decode("ascii"),
    )


def _rgba(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    values = (
        in_colour(image)
        .nan_to_num(0.0)
        .clamp(0, 1)
        .mul(255)
        .round()
        .permute(1, 2, 0)
        .numpy()
        .astype(np.uint8)
    )
    opaque = np.full((*values.shape[:2], 1), 255, dtype=np.uint8)
    return np.concatenate([values, opaque], axis=2)


def _caption(
    pixels: Tensor, classes: Tensor, present: Sequence[int], columns: int, names: Sequence[str]
) -> str:
    rows = [names[c] if c < len(names) else str(c) for c in present]
    text = (
        f"Rows: {', '.join(rows)}."
        if len(rows) <= 12
        else f"Rows: {rows[0]} to {rows[-1]}, {len(rows)} classes."
    )
    most = max(int((classes == c).sum()) for c in present)
    if most > columns:
        text += f" The first {columns} of up to {most} images of each class."
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0.0 and high <= 1.0):
        text += f" Pixels reach from {low:.2f} to {high:.2f}; clipped to [0, 1] for viewing only."
    return text
