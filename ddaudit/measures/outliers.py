"""Records that belong to no class: what a network should be less sure of than of test records.

Near: made of the test images themselves (their quarters shuffled, or damaged by a common corruption). Far: noise and
pictures of something else. Test images of unseen classes, the usual near set, need a set without these classes
(``ddaudit.data.unseen``).
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional

from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.data.corrupted import generated
from ddaudit.data.corruptions import CORRUPTIONS
from ddaudit.data.greyscale import to_grey
from ddaudit.data.names import DIGIT_CLASSES

UNSEEN, SHUFFLED, CORRUPTED = "unseen classes", "shuffled quarters", "corrupted"
PHOTOGRAPHS, DIGITS, NOISE = "photographs", "digits", "noise"
DISTANCE = {
    UNSEEN: "near", SHUFFLED: "near", CORRUPTED: "near", PHOTOGRAPHS: "far", DIGITS: "far", NOISE: "far",
}  # fmt: skip
"""How far each set is from the data; near and far are never averaged."""

_MOVES = [p for p in permutations(range(4)) if all(i != at for at, i in enumerate(p))]


def outliers(test: ImageData, data: Dataset, generator: torch.Generator) -> dict[str, ImageData]:
    """Outlier sets by name, each of as many records as ``test`` (fewer where no more exist).

    Data that are no pictures get noise alone.

    Args:
        test: the records that near sets are made of.
    """
    made = {NOISE: noise(test, generator)}
    if data.space == "pixels":
        pixels = as_bytes(test.images)
        made[SHUFFLED] = shuffled(pixels, generator)
        made[CORRUPTED] = damaged(test, level=5)
        made[PHOTOGRAPHS] = photographs(len(test), data.shape, generator)
        if not _of_digits(data):
            digits = load_data("digits").test.images[: len(test)]
            made[DIGITS] = fitted(digits.float() / 255, data.shape)
    return {name: _outside(images, test) for name, images in made.items()}


def _of_digits(data: Dataset) -> bool:
    """Whether more digits would be no outliers; some classes may have been left out, or coloured."""
    return data.train.class_names == DIGIT_CLASSES or (data.origin or data.name) in (
        "digits",
        "mnist",
    )


def noise(test: ImageData, generator: torch.Generator) -> Tensor:
    """Independent normal values with the mean and spread that each channel of ``test`` has."""
    x = test.pixels()
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    drawn = mean + std * torch.randn(x.shape, generator=generator)
    return drawn if test.space == "standard" else as_bytes(drawn.clamp(0, 1))


def shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image with its quarters in other places, none in its own; an odd last row or column stays."""
    h, w = (side // 2 for side in images.shape[2:])
    corners = [(i * h, j * w) for i in (0, 1) for j in (0, 1)]
    quarters = torch.stack([images[:, :, i : i + h, j : j + w] for i, j in corners], 1)
    moves = torch.tensor(_MOVES)[torch.randint(len(_MOVES), (len(images),), generator=generator)]
    out = images.clone()
    for place, (i, j) in enumerate(corners):
        out[:, :, i : i + h, j : j + w] = quarters[torch.arange(len(images)), moves[:, place]]
    return out


def damaged(test: ImageData, *, level: int) -> Tensor:
    """(N, C, H, W) uint8: each image under one type of C-lite, the types in turn."""
    out, turn = as_bytes(test.images).clone(), torch.arange(len(test)) % len(CORRUPTIONS)
    for k, kind in enumerate(CORRUPTIONS):
        chosen = turn == k
        if bool(chosen.any()):
            out[chosen] = generated(test.subset(chosen), kind, level)
    return out


def photographs(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """(count, *shape) uint8 crops of scikit-learn's two photographs, 48 to 256 pixels wide before they are resized."""
    from sklearn.datasets import load_sample_images

    pictures = [torch.from_numpy(p.copy()).permute(2, 0, 1) for p in load_sample_images().images]
    crops = []
    for k in range(count):
        picture = pictures[k % len(pictures)]
        side = int(torch.randint(48, 257, (), generator=generator))
        top, left = (
            int(torch.randint(length - side + 1, (), generator=generator))
            for length in picture.shape[1:]
        )
        crop = picture[None, :, top : top + side, left : left + side]
        crops.append(functional.interpolate(crop.float() / 255, shape[1:], mode="area"))
    return fitted(torch.cat(crops), shape)


def fitted(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(N, C, H, W) float pixels as uint8 of another shape; colour becomes grey, grey is repeated."""
    sized = functional.interpolate(images, shape[1:], mode="bilinear", antialias=True)
    made = as_bytes(sized.clamp(0, 1))
    if made.shape[1] == 3 and shape[0] != 3:
        made = to_grey(made)[:, :1]
    return made if made.shape[1] == shape[0] else made[:, :1].repeat(1, shape[0], 1, 1)


def as_bytes(images: Tensor) -> Tensor:
    """Float pixels in [0, 1] as uint8; uint8 as it is."""
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)


def _outside(images: Tensor, like: ImageData) -> ImageData:
    nowhere = torch.zeros(len(images), dtype=torch.int64)
    return ImageData(images, nowhere, ("none",), space=like.space, modality=like.modality)
