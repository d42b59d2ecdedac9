"""CIFAR10-S: half of the classes mostly grey, half mostly in colour; group = grey or colour.

Source: FairDD, NeurIPS 2025, arXiv 2411.19623; construction read from its repository's code.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.coloured import PAIRED
from ddaudit.data.registry import Request, dataset
from ddaudit.data.spec import Option, show
from ddaudit.data.splits import VALIDATION, LazySplits, empty_like, with_validation

GREY, COLOUR = 0, 1
GROUP_NAMES = ("grey", "colour")

SHUFFLE_SEED = 0
"""The published code shuffles train and test with this seed before it counts images per class."""

SKEW_MEAN = (0.4890520609319886, 0.48451061542917323, 0.46714946730198426)
SKEW_STD = (0.24278049202200438, 0.24082296066838135, 0.25098309397306334)
"""Published constants of the training set at bias 0.9, used for train and test."""

BIAS = Option(
    "bias", 0.9, "share of grey images in classes 0-4, of colour images in 5-9", low=0.0, high=1.0
)
BASE = Option("base", "cifar10", "which CIFAR-10", choices=("cifar10", "cifar10-jpeg"))


@dataset(
    "cifar10-s",
    "CIFAR-10 with classes 0-4 mostly grey and 5-9 mostly in colour, as published by FairDD",
    options=(BASE, BIAS, VALIDATION),
)
def cifar10_s(request: Request) -> Dataset:
    """CIFAR10-S: about 4500 / 500 training images per class, every test image in grey and in colour."""
    base = request.base(f"{request.text('base')}:validation=0")
    bias = request.number("bias")
    train = skew(_shuffled(base.train), bias=bias)
    test = _shuffled(base.test)
    construction = (
        f"CIFAR10-S (bias {show(bias)}) by FairDD's published construction, shuffle included: the "
        "test set holds every image twice, first all grey, then all in colour: intervals over its "
        "records, which take them as independent, are up to 1.4 times too narrow, those of the paired test set are "
        "not. Normalisation constants are the published ones of bias 0.9."
    )
    made = replace(
        base,
        name=request.name,
        train=train,
        validation=empty_like(train),
        test=both_versions(test),
        mean=SKEW_MEAN,
        std=SKEW_STD,
        extra=LazySplits({PAIRED: partial(paired_versions, test)}),
        notes=(*base.notes, construction),
        whole_set=(*base.whole_set, "CIFAR10-S greys the first records of a shuffled list"),
    )
    return with_validation(made, request.number("validation"))


def to_grey(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> three equal channels, by the integer luma of PIL's mode 'L'."""
    out = torch.empty_like(images)
    for start in range(0, len(images), 4096):
        red, green, blue = images[start : start + 4096].int().unbind(1)
        luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
        out[start : start + 4096] = luma.to(torch.uint8)[:, None]
    return out


def skew(data: ImageData, *, bias: float) -> ImageData:
    """Grey the first ``int(bias * n)`` images of every class in the lower half of the classes, and
    the first ``n - int(bias * n)`` of every other class; "first" is record order."""
    labels = data.labels.numpy()
    grey = np.zeros(len(labels), dtype=bool)
    for label in range(data.num_classes):
        members = np.flatnonzero(labels == label)
        many = int(len(members) * bias + 1e-9)
        grey[members[: many if label < data.num_classes // 2 else len(members) - many]] = True
    mask = torch.from_numpy(grey)
    images = data.images.clone()
    images[mask] = to_grey(data.images[mask])
    return replace(data, images=images, groups=(~mask).long(), group_names=GROUP_NAMES)


def both_versions(data: ImageData) -> ImageData:
    """Every image in grey, then every image in colour."""
    n = len(data)
    return replace(
        data,
        images=torch.cat([to_grey(data.images), data.images]),
        labels=data.labels.repeat(2),
        groups=torch.tensor([GREY, COLOUR]).repeat_interleave(n),
        group_names=GROUP_NAMES,
    )


def paired_versions(data: ImageData) -> ImageData:
    """The same records image by image: record ``2 * i + g`` is image i in group g."""
    both = both_versions(data)
    n = len(data)
    return both.subset(torch.stack([torch.arange(n), torch.arange(n) + n], dim=1).reshape(-1))


def _shuffled(data: ImageData) -> ImageData:
    order = np.arange(len(data))
    np.random.RandomState(SHUFFLE_SEED).shuffle(order)
    return data.subset(torch.from_numpy(order))
