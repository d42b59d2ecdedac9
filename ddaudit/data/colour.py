"""Colour as a protected attribute: how FairDD colours grey images, and how it should have.

Class c has majority colour c; a fraction ``bias`` of its images gets it and the rest is spread over
the other colours in chunks. The group of a record is its colour.

Source: FairDD, NeurIPS 2025, arXiv 2411.19623; construction read from its repository's code.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from ddaudit.data._types import ImageData
from ddaudit.data.coins import coins

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "orange": (255, 128, 0),
    "yellow": (255, 255, 0),
    "pale yellow": (255, 255, 128),
    "green": (0, 255, 0),
    "cyan": (0, 255, 255),
    "blue": (0, 0, 255),
    "violet": (128, 0, 255),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
}
"""FairDD's ten colours, in its order: the index is the class whose majority colour it is."""

STYLES: dict[str, str] = {
    "fg": "grey/255 * colour on black",
    "fg-binary": "colour where grey >= 128, black elsewhere",
    "bg": "(1 - grey/255) * colour",
    "bg-binary": "colour where grey < 128, black elsewhere",
    "bg-wrapped": "colour background, garment levels wrapped modulo 256 as published",
}
"""How a grey image is painted: the pixel of each style."""


def assign_biased(data: ImageData, *, bias: float, rng: np.random.RandomState) -> ImageData:
    """FairDD's routine: ``int(bias * n_c)`` of a shuffled class c get colour c, chunks the rest.

    The rest is cut into chunks of ceil(rest / 9), one per other colour in shuffled order. A class
    of 6000 at bias 0.9 gives cells of 5400, eight of 67 and one of 64; in a small class some
    colours get no image. Draws from ``rng`` as the published code does from NumPy's global one.

    Args:
        data: (N, 1, H, W) images, at most 10 classes.
        bias: fraction in [0, 1].
        rng: a frozen legacy stream; ``RandomState(30)`` gives the published colours.

    Returns:
        The records in a shuffled order, still grey, with their colours as groups.
    """
    colours = len(COLOURS)
    targets = data.labels.numpy()
    index, groups = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for label in range(int(targets.max()) + 1 if len(targets) else 0):
        members = np.flatnonzero(targets == label)
        rng.shuffle(members)
        # The small term keeps 0.29 * 100 at 29; no published size is that close to a whole number.
        own = int(len(members) * bias + 1e-9)
        others = np.array([(label + step) % colours for step in range(1, colours)])
        rng.shuffle(others)
        rest = len(members) - own
        chunk = max(1, -(-rest // len(others)))
        index.append(members)
        groups.append(np.concatenate([np.full(own, label), others[np.arange(rest) // chunk]]))
    position, chosen = np.concatenate(index), np.concatenate(groups)
    # The published code lists the records colour by colour, then shuffles the list.
    order = np.argsort(chosen, kind="stable")
    shuffled = np.arange(len(order))
    rng.shuffle(shuffled)
    order = order[shuffled]
    return _with_groups(data.subset(torch.from_numpy(position[order])), chosen[order])


def assign_by_record(data: ImageData, *, bias: float) -> ImageData:
    """Each record in its class's own colour with probability ``bias``, else in one of the others.

    A record's colour depends on its own image and label alone (see ``ddaudit.data.coins``): this is the biased
    assignment that a privacy claim can rest on. Keeps the record order.
    """
    labels = data.labels.numpy()
    step = 1 + (coins(data.images, "which colour") * (len(COLOURS) - 1)).astype(np.int64)
    own = coins(data.images, "own colour") < bias
    return _with_groups(data, np.where(own, labels, (labels + step) % len(COLOURS)))


def assign_balanced(data: ImageData, *, rng: np.random.RandomState) -> ImageData:
    """Every class in every colour as evenly as possible: cells of a class differ by at most one.

    Keeps the record order. Which colours get one record more rotates with the class.
    """
    targets = data.labels.numpy()
    groups = np.zeros(len(targets), dtype=np.int64)
    for label in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == label))
        groups[members] = (np.arange(len(members)) + label) % len(COLOURS)
    return _with_groups(data, groups)


def assign_all(data: ImageData) -> ImageData:
    """Every image in every colour: record ``10 * i + g`` is image i in colour g.

    A gap between groups on it is free of the images' own difficulty, which is most of the noise
    floor of a max-min gap on a balanced test set.
    """
    index = torch.arange(len(data)).repeat_interleave(len(COLOURS))
    return _with_groups(data.subset(index), np.tile(np.arange(len(COLOURS)), len(data)))


def painted(data: ImageData, *, style: str) -> ImageData:
    """Grey records with colours as groups -> (N, 3, H, W) coloured ones."""
    if data.groups is None:
        raise ValueError("records have no colours: assign them first")
    return replace(data, images=paint(data.images, data.groups, style=style))


def paint(grey: Tensor, groups: Tensor, *, style: str) -> Tensor:
    """Colour grey images.

    Args:
        grey: (N, 1, H, W) uint8.
        groups: (N,) int64 index into ``COLOURS``.
        style: a key of ``STYLES``.

    Returns:
        (N, 3, H, W) uint8.
    """
    table = _palette(style)
    levels, chosen = grey.numpy()[:, 0], groups.numpy()
    out = np.empty((len(levels), 3, *levels.shape[1:]), dtype=np.uint8)
    for colour in np.unique(chosen):
        rows = np.flatnonzero(chosen == colour)
        block = levels[rows]
        for channel in range(3):
            out[rows, channel] = table[colour, channel].take(block)
    return torch.from_numpy(out)


def pad_top_left(data: ImageData, pixels: int) -> ImageData:
    """Zeros on top and left only: the image sits in the lower-right corner, as published."""
    return data if pixels == 0 else replace(data, images=pad(data.images, (pixels, 0, pixels, 0)))


def without_colour_and_flip(augment: str) -> str:
    """A DSA string without the operations that would change the group or mirror a symbol."""
    return "_".join(part for part in augment.split("_") if part not in ("color", "flip", ""))


def _with_groups(data: ImageData, groups: NDArray[np.int64]) -> ImageData:
    return replace(data, groups=torch.from_numpy(groups), group_names=tuple(COLOURS))


def _palette(style: str) -> NDArray[np.uint8]:
    """(10, 3, 256): what each grey level becomes in each channel of each colour."""
    colour = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)[:, :, None]
    level = torch.arange(256, dtype=torch.uint8)[None, None, :]
    if style == "fg":
        # float32 and truncation in the published order of operations, so some levels lose one.
        values = (level.float() / 255.0 * (colour.float() / 255.0) * 255).long()
    elif style == "fg-binary":
        values = (level >= 128).long() * colour.long()
    elif style == "bg":
        values = ((255 - level.long()) * colour.long() * 2 + 255) // 510
    elif style == "bg-binary":
        values = (level < 128).long() * colour.long()
    elif style == "bg-wrapped":
        # Start colour 255, end colour in [0, 1], times 255 again: up to 65025 in one byte.
        share = (255.0 - level.float()) / 255.0
        values = ((255.0 + share * (colour.float() / 255.0 - 255.0)) * 255).long() % 256
    else:
        raise ValueError(f"unknown style '{style}'; known: {', '.join(STYLES)}")
    table: NDArray[np.uint8] = values.to(torch.uint8).numpy()
    return table
