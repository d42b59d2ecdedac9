"""FairDD's colouring: cell counts, the published random stream, pixels, padding, paired records."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ddaudit.data import ImageData
from ddaudit.data.colour import (
    COLOURS,
    STYLES,
    assign_all,
    assign_balanced,
    assign_biased,
    pad_top_left,
    paint,
    painted,
    without_colour_and_flip,
)

NAMES = list(COLOURS)


def _cells(data: ImageData) -> list[list[int]]:
    """Records of each (class, colour)."""
    assert data.groups is not None
    return torch.bincount(data.labels * 10 + data.groups, minlength=100).reshape(-1, 10).tolist()


def _pixel(level: int, colour: str, style: str) -> tuple[int, ...]:
    grey = torch.full((1, 1, 1, 1), level, dtype=torch.uint8)
    group = torch.tensor([NAMES.index(colour)])
    return tuple(paint(grey, group, style=style).flatten().tolist())


def test_cells_of_a_class_of_6000_are_5400_eight_of_67_and_one_of_64(
    grey: Callable[..., ImageData],
) -> None:
    data = assign_biased(grey([6000] * 10, size=1), bias=0.9, rng=np.random.RandomState(30))
    for label, counts in enumerate(_cells(data)):
        assert counts[label] == 5400
        assert sorted(counts) == [64, *[67] * 8, 5400]


def test_the_published_test_set_has_100_records_in_every_cell(
    grey: Callable[..., ImageData],
) -> None:
    data = assign_biased(grey([1000] * 10, size=1), bias=0.1, rng=np.random.RandomState(30))
    assert _cells(data) == [[100] * 10] * 10


def _published(labels: list[int], share: float) -> tuple[list[int], list[int]]:
    """The published steps one by one, on NumPy's global generator: (positions, colours)."""
    cells: dict[int, list[int]] = {colour: [] for colour in range(10)}
    for label in range(10):
        members = np.array([i for i, value in enumerate(labels) if value == label])
        np.random.shuffle(members)  # noqa: NPY002
        own = int(len(members) * share)
        rest = members[own:].tolist()
        cells[label] += members[:own].tolist()
        others = [(label + step) % 10 for step in range(1, 10)]
        np.random.shuffle(others)  # noqa: NPY002
        step = int(np.ceil(len(rest) / 9))
        for colour in others:
            chunk, rest = rest[:step], rest[step:]
            cells[colour] += chunk
    listed = [(record, colour) for colour in range(10) for record in cells[colour]]
    order = np.arange(len(listed))
    np.random.shuffle(order)  # noqa: NPY002
    return [listed[i][0] for i in order], [listed[i][1] for i in order]


def test_records_and_colours_follow_the_published_stream(grey: Callable[..., ImageData]) -> None:
    train, test = grey([61, 60, 59, 64, 50, 71, 66, 60, 58, 63]), grey([30] * 10, seed=1)
    np.random.seed(30)  # noqa: NPY002
    expected = [_published(train.labels.tolist(), 0.9), _published(test.labels.tolist(), 0.1)]
    rng = np.random.RandomState(30)
    for data, bias, (positions, colours) in zip((train, test), (0.9, 0.1), expected, strict=True):
        made = assign_biased(data, bias=bias, rng=rng)
        assert made.groups is not None
        assert made.groups.tolist() == colours
        assert torch.equal(made.images, data.images[torch.tensor(positions)])
        assert torch.equal(made.labels, data.labels[torch.tensor(positions)])


def test_bias_is_not_cut_short_by_floating_point(grey: Callable[..., ImageData]) -> None:
    assert int(100 * 0.29) == 28, "the trap this test is about"
    data = assign_biased(grey([100], size=1), bias=0.29, rng=np.random.RandomState(0))
    assert _cells(data)[0][0] == 29


@pytest.mark.parametrize("bias", [0.0, 0.5, 1.0])
def test_every_record_is_kept_once_at_any_bias(bias: float, grey: Callable[..., ImageData]) -> None:
    data = grey([11, 7, 1])
    made = assign_biased(data, bias=bias, rng=np.random.RandomState(0))
    assert sorted(image.sum().item() for image in made.images) == sorted(
        image.sum().item() for image in data.images
    )
    assert made.class_counts().tolist() == [11, 7, 1]


def test_no_records_give_no_records(grey: Callable[..., ImageData]) -> None:
    empty = grey([3]).subset(torch.empty(0, dtype=torch.int64))
    made = painted(assign_biased(empty, bias=0.9, rng=np.random.RandomState(0)), style="fg")
    assert made.shape == (3, 4, 4)
    assert len(made) == 0


def test_balanced_cells_of_a_class_differ_by_at_most_one(grey: Callable[..., ImageData]) -> None:
    data = grey([40, 37, 98, 5])
    made = assign_balanced(data, rng=np.random.RandomState(0))
    for counts in _cells(made)[:4]:
        assert max(counts) - min(counts) <= 1
    assert torch.equal(made.images, data.images), "record order is kept"
    assert made.groups is not None
    one = assign_balanced(data, rng=np.random.RandomState(1))
    assert not torch.equal(made.groups, one.groups), "colours are random within a class"


def test_the_colours_are_the_published_ones_in_the_order_of_their_classes() -> None:
    """FairDD's code, its list of ten: index is the class whose majority colour it is."""
    assert list(COLOURS.values()) == [
        (255, 0, 0), (255, 128, 0), (255, 255, 0), (255, 255, 128), (0, 255, 0),
        (0, 255, 255), (0, 0, 255), (128, 0, 255), (255, 0, 255), (255, 255, 255),
    ]  # fmt: skip


def test_paired_records_run_through_all_colours_of_each_image(
    grey: Callable[..., ImageData],
) -> None:
    data = grey([2, 1])
    made = assign_all(data)
    assert made.groups is not None
    assert made.groups.tolist() == [*range(10)] * 3
    assert torch.equal(made.images[10:20], data.images[1:2].expand(10, -1, -1, -1))


@pytest.mark.parametrize(
    ("level", "colour", "style", "expected"),
    [
        (255, "orange", "fg", (255, 128, 0)),
        (0, "white", "fg", (0, 0, 0)),
        (51, "white", "fg", (51, 51, 51)),
        (128, "violet", "fg-binary", (128, 0, 255)),
        (127, "violet", "fg-binary", (0, 0, 0)),
        (127, "pale yellow", "bg-binary", (255, 255, 128)),
        (128, "pale yellow", "bg-binary", (0, 0, 0)),
        (0, "orange", "bg", (255, 128, 0)),
        (255, "orange", "bg", (0, 0, 0)),
        (51, "white", "bg", (204, 204, 204)),
        (0, "orange", "bg-wrapped", (255, 128, 0)),
    ],
)
def test_a_pixel_is_painted_as_defined(
    level: int, colour: str, style: str, expected: tuple[int, ...]
) -> None:
    assert _pixel(level, colour, style) == expected


# Derived by hand in the method sheet from the published formula, modulo 256.
@pytest.mark.parametrize(
    ("level", "dark", "bright"),
    [(0, 0, 255), (1, 255, None), (64, 192, 127), (128, 128, 255), (200, None, 111), (255, 1, 1)],
)
def test_background_pixels_wrap_as_published(
    level: int, dark: int | None, bright: int | None
) -> None:
    red = _pixel(level, "red", "bg-wrapped")
    if bright is not None:
        assert red[0] == bright
    if dark is not None:
        assert red[1] == red[2] == dark


@pytest.mark.parametrize("style", sorted(STYLES))
def test_painting_follows_its_formula_everywhere(style: str) -> None:
    """Against float64 arithmetic; float32 truncation, as published, may be off by one level."""
    allowed = {"fg": {0, 1}, "bg": {0, 255}, "bg-wrapped": {0, 1, 255}}.get(style, {0})
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(10, -1, -1, -1)
    out = paint(levels, torch.arange(10), style=style).reshape(10, 3, 256).numpy().astype(int)
    for number, colour in enumerate(COLOURS.values()):
        for channel, full in enumerate(colour):
            g = np.arange(256)
            exact = {
                "fg": g / 255 * full,
                "fg-binary": np.where(g >= 128, full, 0),
                "bg": (1 - g / 255) * full,
                "bg-binary": np.where(g < 128, full, 0),
                "bg-wrapped": (255 + (255 - g) / 255 * (full / 255 - 255)) * 255,
            }[style]
            gap = (np.floor(exact) - out[number, channel]) % 256
            assert set(np.unique(gap)) <= allowed


def test_padding_is_on_top_and_left_only(grey: Callable[..., ImageData]) -> None:
    data = grey([5], size=28)
    made = pad_top_left(data, 4)
    assert made.shape == (1, 32, 32)
    assert torch.equal(made.images[:, :, 4:, 4:], data.images)
    assert int(made.images[:, :, :4].sum()) == int(made.images[:, :, :, :4].sum()) == 0
    assert pad_top_left(data, 0) is data


def test_painting_needs_colours_and_a_known_style(grey: Callable[..., ImageData]) -> None:
    with pytest.raises(ValueError, match="no colours"):
        painted(grey([2]), style="fg")
    with pytest.raises(ValueError, match="unknown style"):
        painted(assign_all(grey([2])), style="plaid")


def test_the_clean_string_has_no_colour_and_no_flip() -> None:
    assert (
        without_colour_and_flip("color_crop_cutout_flip_scale_rotate") == "crop_cutout_scale_rotate"
    )
    assert without_colour_and_flip("") == ""
