"""The embedded data: scikit-learn's 8x8 digits and their coloured, long-tailed and noisy versions.

They need no download, so demos, tests and quick audits run anywhere. 1797 images are few: quote
results on them as a demonstration, not as a benchmark.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.coloured import BIAS, colour_dataset
from ddaudit.data.longtail import ORDER, imbalance_option, long_tail_dataset
from ddaudit.data.names import DIGIT_CLASSES
from ddaudit.data.noise import KIND, NOISE_SEED, RATE, noisy_dataset
from ddaudit.data.registry import Request, dataset

DIGITS_SEED = 20_240_101
"""Seed of the fixed split; NumPy keeps this stream frozen, so no version changes the split."""

VALIDATION_PER_CLASS, TEST_PER_CLASS = 20, 40
"""200 and 400 images, equally many of a class; the other 1197 (114 to 123 a class) are train."""

DIGITS_MEAN, DIGITS_STD = (0.3039,), (0.3754,)
"""Mean and standard deviation of the training pixels in [0, 1], computed once and fixed here."""

DIGITS_AUGMENT = "crop_scale_rotate"
"""No flip (digits), no colour (it may be the group), no cutout (4 of 8 pixels hide the digit)."""


@dataset(
    "digits", "scikit-learn's handwritten digits, 8x8 grey, 1197/200/400 images", embedded=True
)
def digits(request: Request) -> Dataset:
    """The 1797 digits with a fixed stratified split into 1197 / 200 / 400."""
    images, labels = _all_digits()
    train, validation, test = _split(labels)
    whole = ImageData(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        class_names=DIGIT_CLASSES,
    )
    return Dataset(
        name=request.name,
        train=whole.subset(torch.from_numpy(train)),
        validation=whole.subset(torch.from_numpy(validation)),
        test=whole.subset(torch.from_numpy(test)),
        mean=DIGITS_MEAN,
        std=DIGITS_STD,
        augment=DIGITS_AUGMENT,
        assumed=("the fixed split of the digits, which is by class",),
        notes=(
            "Digits are 8x8 and few: numbers on them are a demonstration and do not compare with "
            "published ones.",
        ),
    )


@dataset(
    "digits-colored",
    "digits in 10 foreground colours, colour tied to the class (bias); groups = colour",
    options=(BIAS,),
    embedded=True,
)
def digits_colored(request: Request) -> Dataset:
    """Coloured digits: biased train and validation, balanced test, and ``extra['test_paired']``."""
    return colour_dataset(request.base("digits"), style="fg", bias=request.number("bias"))


@dataset(
    "digits-lt",
    "digits with a long-tailed training set, balanced test",
    options=(imbalance_option(20.0), ORDER),
    embedded=True,
)
def digits_lt(request: Request) -> Dataset:
    """Long-tailed digits: class 0 is the head, class 9 the tail (see option ``order``)."""
    return long_tail_dataset(
        request.base("digits"),
        imbalance=request.number("imbalance"),
        order=request.text("order"),
        where=request.name,
    )


@dataset(
    "digits-noisy",
    "digits with wrong training labels, clean test",
    options=(RATE, KIND, NOISE_SEED),
    embedded=True,
)
def digits_noisy(request: Request) -> Dataset:
    """Digits with label noise in train and validation."""
    return noisy_dataset(
        request.base("digits"),
        rate=request.number("rate"),
        kind=request.text("kind"),
        seed=request.whole("seed"),
        where=request.name,
    )


@lru_cache(maxsize=1)
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 1, 8, 8) uint8 images, levels 0..16 stretched to 0..255, and (1797,) int64 labels."""
    table = _read_table()
    grey = np.rint(table[:, :64] * 255.0 / 16.0).astype(np.uint8)
    return grey.reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)


def _read_table() -> np.ndarray:
    """(1797, 65) pixels and label, read from scikit-learn's file: importing it takes a second."""
    package = find_spec("sklearn")
    origin = None if package is None else package.origin
    if origin is not None:
        file = Path(origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt", encoding="ascii") as lines:
                return np.loadtxt(lines, delimiter=",", dtype=np.float64)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted positions of train, validation and test."""
    rng = np.random.RandomState(DIGITS_SEED)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        last = len(members) - TEST_PER_CLASS
        cut = np.split(members, [last - VALIDATION_PER_CLASS, last])
        for part, indices in zip(parts, cut, strict=True):
            part.append(indices)
    train, validation, test = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation, test
