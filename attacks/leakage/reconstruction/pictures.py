"""A picture of the attack: target | reconstruction | blind guess."""

from __future__ import annotations

import torch
from torch import Tensor

from ddaudit.attacks.leakage.pictures import png, tile
from ddaudit.findings import Picture

_GAP, _SPACE = 2, 14


def strip(
    target: Tensor, rebuilt: Tensor, blind: Tensor, *, name: str, triples: int = 8, columns: int = 3
) -> Picture:
    """Triples side by side, the closest reconstructions first, in reading order.

    Args:
        target: (J, C, H, W) real records, pixels in [0, 1].
        rebuilt: (J, C, H, W) what the attack made of the release.
        blind: (J, C, H, W) the best guess without it.
        name: of the adversary.
        triples: at most this many.
        columns: triples per row.

    Returns:
        A PNG. It shows real records: handle it like the data.
    """
    distance = (rebuilt - target).flatten(1).norm(dim=1)
    order = torch.argsort(distance, stable=True)[:triples].tolist()
    columns = min(columns, len(order))
    tiles = [[tile(part[i]) for part in (target, rebuilt, blind)] for i in order]
    side = tiles[0][0].shape[0]
    wide = 3 * side + 2 * _GAP
    rows = -(-len(order) // columns)
    canvas = torch.full(
        (rows * side + (rows - 1) * _SPACE, columns * wide + (columns - 1) * _SPACE, 3), 0.5
    )
    for place, triple in enumerate(tiles):
        row, column = divmod(place, columns)
        top, left = row * (side + _SPACE), column * (wide + _SPACE)
        for part in triple:
            canvas[top : top + side, left : left + side] = part
            left += side + _GAP
    return Picture(
        name=f"reconstructions, {name}",
        caption=(
            "Each triple: a record that the attacker does not know (left), what the attack rebuilt from "
            "the release (middle), and the best guess without it (right); the closest reconstructions "
            "first. The left images are real records: do not publish this picture if the training data "
            "are confidential."
        ),
        png_base64=png(canvas),
    )
