"""Wrong labels in train and validation, a clean test set.

Three models: symmetric (any other class), asymmetric (look-alikes, as the field defines them per
data set) and pair (every class becomes the next one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.coins import coins
from ddaudit.data.names import CIFAR10_CLASSES, DIGIT_CLASSES, FASHION_CLASSES
from ddaudit.data.registry import Request, dataset
from ddaudit.data.spec import Option, show
from ddaudit.data.splits import LazySplits
from ddaudit.errors import BadInput

TRUE_TRAIN, TRUE_VALIDATION = "train_true", "validation_true"
"""Names in ``Dataset.extra`` of the splits with their labels before the noise."""

KINDS = ("symmetric", "asymmetric", "pair")

RATE = Option("rate", 0.2, "probability that a label is wrong", low=0.0, high=1.0)
KIND = Option("kind", "symmetric", "which wrong label", choices=KINDS)
NOISE_SEED = Option("seed", 0, "seed of the noise", low=0, high=2**31 - 1)

LOOKALIKES: dict[tuple[str, ...], Mapping[int, int]] = {
    # Patrini et al., "Making Deep Neural Networks Robust to Label Noise", CVPR 2017.
    CIFAR10_CLASSES: {9: 1, 2: 0, 3: 5, 5: 3, 4: 7},
    DIGIT_CLASSES: {2: 7, 3: 8, 5: 6, 6: 5, 7: 1},
    # No published convention. Shirt, dress: T-shirt; coat: pullover; sandal, boot: sneaker.
    FASHION_CLASSES: {6: 0, 4: 2, 9: 7, 5: 7, 3: 0},
}
"""Asymmetric noise by class names: source class -> the class it is mistaken for."""


def corrupt_labels(
    labels: Tensor,
    *,
    num_classes: int,
    rate: float,
    kind: str,
    uniform: NDArray[np.float64],
    lookalikes: Mapping[int, int] | None = None,
) -> Tensor:
    """Flip labels independently with probability ``rate``.

    Args:
        labels: (N,) int64.
        num_classes: K >= 2.
        rate: in [0, 1]. Symmetric noise never keeps the label of a flipped record, so the rate is
            the true one (a paper that draws from all K classes has (K-1)/K of its rate).
            Asymmetric noise flips only the classes in ``lookalikes``.
        kind: "symmetric", "asymmetric" or "pair".
        uniform: (2, N) numbers in [0, 1): whether a label flips, and to which class.
        lookalikes: for "asymmetric".

    Returns:
        (N,) int64 new labels.
    """
    clean = labels.numpy()
    flip = uniform[0] < rate
    if kind == "symmetric":
        wrong = (clean + 1 + (uniform[1] * (num_classes - 1)).astype(np.int64)) % num_classes
    elif kind == "pair":
        wrong = (clean + 1) % num_classes
    elif kind == "asymmetric" and lookalikes is not None:
        table = np.arange(num_classes)
        table[list(lookalikes)] = list(lookalikes.values())
        wrong = table[clean]
    else:
        raise ValueError(
            f"noise kind '{kind}' is not one of {', '.join(KINDS)}, or has no look-alikes"
        )
    return torch.from_numpy(np.where(flip, wrong, clean).astype(np.int64))


def noisy_dataset(base: Dataset, *, rate: float, kind: str, seed: int, where: str) -> Dataset:
    """``base`` with noisy labels in train and validation; the true ones are the base's own.

    Whether a record's label is wrong depends on that record alone (see ``ddaudit.data.coins``).

    Raises:
        BadInput: asymmetric noise on a data set without a table of look-alikes.
    """
    lookalikes = LOOKALIKES.get(base.train.class_names)
    if kind == "asymmetric" and lookalikes is None:
        what = "asymmetric noise needs a table of look-alike classes and this base has none"
        raise BadInput(where, what, "Take kind=symmetric or kind=pair.")

    def corrupt(split: ImageData) -> ImageData:
        purposes = (f"wrong label {seed}", f"which wrong label {seed}")
        labels = corrupt_labels(
            split.labels,
            num_classes=base.num_classes,
            rate=rate,
            kind=kind,
            uniform=np.stack([coins(split.images, purpose) for purpose in purposes]),
            lookalikes=lookalikes,
        )
        return replace(split, labels=labels)

    train, validation = corrupt(base.train), corrupt(base.validation)
    wrong = int((train.labels != base.train.labels).sum())
    note = (
        f"Label noise ({kind}, rate {show(rate)}, seed {seed}) in train and validation: {wrong} of "
        f"{len(train)} training labels are wrong; test labels are clean."
    )
    true = {TRUE_TRAIN: base.train, TRUE_VALIDATION: base.validation}
    kept = {name: partial(_split, base.extra, name) for name in base.extra}
    kept |= {name: partial(_split, true, name) for name in true}
    return replace(
        base,
        train=train,
        validation=validation,
        extra=LazySplits(kept),
        notes=(*base.notes, note),
    )


def _split(extra: Mapping[str, ImageData], name: str) -> ImageData:
    """No closure, because data sets are sent to worker processes."""
    return extra[name]


@dataset(
    "noisy",
    "any data set with wrong training labels, clean test",
    options=(Option("base", "digits", "data set to corrupt"), RATE, KIND, NOISE_SEED),
)
def noisy(request: Request) -> Dataset:
    """A noisy-label version of any data set."""
    return noisy_dataset(
        request.base(request.text("base")),
        rate=request.number("rate"),
        kind=request.text("kind"),
        seed=request.whole("seed"),
        where=request.name,
    )
