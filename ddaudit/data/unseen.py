"""Data sets that leave classes out of every split, and keep their test images: what no network of them has seen."""

from __future__ import annotations

from dataclasses import replace

import torch

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.registry import Request, dataset
from ddaudit.data.spec import Option
from ddaudit.errors import BadInput

UNSEEN = "test_unseen"
"""Name in ``Dataset.extra`` of the test images of the classes that were left out, under the base's class names."""


def without_classes(base: Dataset, count: int, *, where: object) -> Dataset:
    """``base`` without its last ``count`` classes; their test images are in ``extra``.

    Whether a record stays depends on its own class alone.

    Raises:
        BadInput: fewer than two classes are left.
    """
    kept = base.num_classes - count
    if kept < 2:
        what = f"leaves {max(kept, 0)} of {base.num_classes} classes, and a network needs 2"
        raise BadInput(where, what, "Leave fewer classes out.")

    def cut(split: ImageData) -> ImageData:
        return replace(split.subset(split.labels < kept), class_names=split.class_names[:kept])

    gone = base.test.subset(base.test.labels >= kept)
    names = ", ".join(base.train.class_names[kept:])
    return replace(
        base,
        train=cut(base.train),
        validation=cut(base.validation),
        test=cut(base.test),
        extra={UNSEEN: gone},
        notes=(*base.notes, f"Classes left out of train, validation and test: {names}."),
    )


@dataset(
    "unseen",
    "any data set without its last classes, whose test images are kept as outliers",
    options=(
        Option("base", "digits", "data set to take classes from"),
        Option("classes", 2, "how many of the last classes are left out", low=1, high=1000),
    ),
)
def unseen(request: Request) -> Dataset:
    """A data set with fewer classes."""
    base = request.base(request.text("base"))
    return without_classes(base, request.whole("classes"), where=request.name)


def only_unseen(data: Dataset) -> ImageData | None:
    """The images of the classes that were left out, if any were."""
    found = data.extra.get(UNSEEN)
    return None if found is None or not torch.numel(found.labels) else found
