"""Long-tailed data: exponentially fewer images from the first class to the last, balanced test.

Source: Distilling Long-tailed Datasets, CVPR 2025, arXiv 2408.14506, and its repository (LTDD).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.coins import coins
from ddaudit.data.registry import Request, dataset
from ddaudit.data.spec import Option, show
from ddaudit.data.splits import VALIDATION, empty_like, with_validation
from ddaudit.errors import BadInput


class Take(Protocol):
    """Chooses the records of a long tail: :func:`long_tail` or :func:`thin_tail`."""

    def __call__(self, data: ImageData, *, imbalance: float, order: Sequence[int]) -> ImageData: ...


SUBSAMPLE_SEED = 42
"""LTDD draws every class with a fresh NumPy generator of this seed."""

ORDER = Option(
    "order",
    "label",
    "which class is head and which tail",
    choices=("label", "reversed", "permuted"),
)


def imbalance_option(default: float) -> Option:
    """The option ``imbalance``: images of the head class for one image of the tail class."""
    return Option("imbalance", default, "head images for one tail image", low=1.0, high=10_000.0)


def long_tail_counts(largest: int, classes: int, *, imbalance: float) -> list[int]:
    """n_c = floor(largest * (1 / imbalance)^(c / (classes - 1))), c = 0 the head.

    Guarded against floating point: 6000 / 100 is 60, not floor(59.999...).
    """
    if classes == 1:
        return [largest]
    return [math.floor(largest * imbalance ** (-c / (classes - 1)) + 1e-6) for c in range(classes)]


def long_tail(data: ImageData, *, imbalance: float, order: Sequence[int]) -> ImageData:
    """Subsample to a long tail; record order is kept.

    Args:
        data: any split.
        imbalance: factor >= 1 between the first and the last class of ``order``.
        order: classes from head to tail.

    Returns:
        The subset. The head has as many records as the smallest class, so every count fits, and every class of
        the published sets keeps a record.
    """
    if not len(data):
        return data
    largest = int(data.class_counts().min())
    counts = long_tail_counts(largest, len(order), imbalance=imbalance)
    labels = data.labels.numpy()
    kept = []
    for label, count in zip(order, counts, strict=True):
        members = np.flatnonzero(labels == label)
        # A fresh generator per class, as in LTDD: on its data this draws its very subset.
        chosen = np.random.RandomState(SUBSAMPLE_SEED).choice(
            len(members), max(1, count), replace=False
        )
        kept.append(members[chosen])
    return data.subset(torch.from_numpy(np.sort(np.concatenate(kept))))


def thin_tail(data: ImageData, *, imbalance: float, order: Sequence[int]) -> ImageData:
    """Keep each record of class c with probability ``imbalance ** (-rank / (classes - 1))``, by its own coin.

    Whether a record stays depends on its own image and class alone (see ``ddaudit.data.coins``), so a privacy claim
    holds through it. On a balanced base the expected counts are those of :func:`long_tail_counts`.

    Args:
        data: any split; record order is kept.
        imbalance: factor >= 1 between the first and the last class of ``order``.
        order: classes from head to tail.
    """
    rank = torch.empty(len(order), dtype=torch.int64)
    rank[torch.tensor(order)] = torch.arange(len(order))
    share = imbalance ** (-rank.double() / max(1, len(order) - 1))
    return data.subset(torch.from_numpy(coins(data.images, "tail")) < share[data.labels])


def long_tail_dataset(
    base: Dataset, *, imbalance: float, order: str, where: str, take: Take = thin_tail
) -> Dataset:
    """``base`` with a long-tailed train and validation split; its test split is left as it is.

    Args:
        base: any data set.
        imbalance, order: see :func:`long_tail`; "label", "reversed" or "permuted" classes.
        where: what a refusal names.
        take: how records are chosen: each by its own coin, or as the published sets were made.

    Raises:
        BadInput: the imbalance leaves a class without a training image.
    """
    classes = _class_order(order, base.num_classes)
    train, validation = (
        take(split, imbalance=imbalance, order=classes) for split in (base.train, base.validation)
    )
    counts = train.class_counts()
    if int(counts.min()) < 1:
        what = f"imbalance={show(imbalance)} leaves a class without a training image"
        raise BadInput(where, what, "Take a smaller imbalance.")
    note = (
        f"Long-tailed training set, imbalance factor {show(imbalance)}, class order '{order}': "
        f"{int(counts.max())} images of the largest class, {int(counts.min())} of the smallest; "
        "test is as the base has it."
    )
    return replace(base, train=train, validation=validation, notes=(*base.notes, note))


@dataset(
    "long-tail",
    "any data set with a long-tailed training set",
    options=(Option("base", "digits", "data set to subsample"), imbalance_option(100.0), ORDER),
)
def long_tailed(request: Request) -> Dataset:
    """A long-tailed version of any data set."""
    return long_tail_dataset(
        request.base(request.text("base")),
        imbalance=request.number("imbalance"),
        order=request.text("order"),
        where=request.name,
    )


@dataset(
    "cifar10-lt",
    "CIFAR-10-LT: 5000 to 50 images per class at imbalance 100",
    options=(
        Option("base", "cifar10", "which CIFAR-10", choices=("cifar10", "cifar10-jpeg")),
        imbalance_option(100.0),
        ORDER,
        VALIDATION,
    ),
)
def cifar10_lt(request: Request) -> Dataset:
    """CIFAR-10-LT as published; train and validation together are the published training set."""
    return _published(request, request.text("base"))


@dataset(
    "cifar100-lt",
    "CIFAR-100-LT: 500 to 5 images per class at imbalance 100",
    options=(imbalance_option(100.0), ORDER, VALIDATION),
)
def cifar100_lt(request: Request) -> Dataset:
    """CIFAR-100-LT; train and validation together are the published training set."""
    return _published(request, "cifar100")


@dataset(
    "fmnist-lt",
    "Fashion-MNIST-LT: 6000 to 60 images per class at imbalance 100",
    options=(imbalance_option(100.0), ORDER, VALIDATION),
)
def fmnist_lt(request: Request) -> Dataset:
    """Fashion-MNIST-LT; train and validation together are the long-tailed training set."""
    return _published(request, "fashion-mnist")


def _published(request: Request, base: str) -> Dataset:
    """Subsample the full training set as LTDD does, then hold out a part of the result."""
    whole = long_tail_dataset(
        request.base(f"{base}:validation=0"),
        imbalance=request.number("imbalance"),
        order=request.text("order"),
        where=request.name,
        take=long_tail,
    )
    whole = replace(
        whole,
        validation=empty_like(whole.train),
        whole_set=(*whole.whole_set, "the published long tail is a permutation of whole classes"),
    )
    return with_validation(whole, request.number("validation"))


def _class_order(order: str, classes: int) -> list[int]:
    if order == "permuted":
        return [int(c) for c in np.random.RandomState(SUBSAMPLE_SEED).permutation(classes)]
    return list(range(classes)) if order == "label" else list(reversed(range(classes)))
