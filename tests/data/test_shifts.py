"""Rotations and changes of colour: exact indexing, angles both ways, shapes that are not square."""

from __future__ import annotations

import torch

from ddaudit.data.shifts import COLOURS, inverted, rotated, turned_channels


def _images(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_quarter_and_half_turns_are_exact_indexing() -> None:
    x = _images(3, 2, 8, 8)
    for turns in range(4):
        off = rotated(x, 90 * turns).int() - x.rot90(turns, (2, 3)).int()
        assert int(off.abs().max()) <= 1
    wide = _images(2, 1, 5, 9)
    assert int((rotated(wide, 180).int() - wide.flip(2, 3).int()).abs().max()) <= 1


def test_a_positive_angle_is_anticlockwise() -> None:
    """A dot right of the centre goes up."""
    x = torch.zeros(1, 1, 11, 11, dtype=torch.uint8)
    x[0, 0, 5, 9] = 255
    row, column = divmod(int(rotated(x, 45)[0, 0].argmax()), 11)
    assert row < 5 < column


def test_a_rotation_of_an_oblong_image_keeps_distances() -> None:
    """A dot 3 pixels right of the centre is 3 pixels above it after a quarter turn, whatever the sides."""
    x = torch.zeros(1, 1, 11, 21, dtype=torch.uint8)
    x[0, 0, 5, 13] = 255
    assert divmod(int(rotated(x, 90)[0, 0].argmax()), 21) == (2, 10)


def test_colours() -> None:
    x = _images(2, 3, 4, 4)
    assert torch.equal(turned_channels(x)[:, 1], x[:, 0])
    assert torch.equal(turned_channels(COLOURS["channels turned twice"](x)), x)
    assert torch.equal(inverted(inverted(x)), x)
    grey = COLOURS["grey"](x)
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert torch.equal(COLOURS["grey"](x[:, :1]), x[:, :1])
