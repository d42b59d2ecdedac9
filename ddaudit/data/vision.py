"""The usual benchmarks in torchvision's layout: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, SVHN.

Nothing is downloaded unless the caller asks; then torchvision fetches and verifies the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddaudit.containers import read_idx
from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.names import CIFAR10_CLASSES, DIGIT_CLASSES, FASHION_CLASSES
from ddaudit.data.registry import Request, dataset
from ddaudit.data.splits import VALIDATION, empty_like, with_validation
from ddaudit.errors import BadInput

_IDX = ("MNIST", "FashionMNIST")
"""Read here: torchvision verifies the other sets by their hash, and these not at all."""

FULL_DSA = "color_crop_cutout_flip_scale_rotate"
DIGIT_DSA = "color_crop_cutout_scale_rotate"
"""DSA strategy strings of the published evaluations; digits are not flipped."""


@dataclass(frozen=True)
class Benchmark:
    """A torchvision data set: where its files lie and the field's constants for it.

    Attributes:
        title: as people write it.
        loader: class name in ``torchvision.datasets``.
        files: a path below torchvision's root folder; its presence means "it is there".
        folders: where that folder may be, relative to the data root; the first takes a download.
        mean, std: normalisation constants of the dataset-condensation code.
        class_names: None: as torchvision gives them.
    """

    title: str
    loader: str
    files: str
    folders: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None
    augment: str = FULL_DSA


BENCHMARKS: dict[str, Benchmark] = {
    "mnist": Benchmark(
        "MNIST", "MNIST", "MNIST/raw", (".", "mnist"),
        (0.1307,), (0.3081,), DIGIT_CLASSES, DIGIT_DSA,
    ),
    "fashion-mnist": Benchmark(
        "Fashion-MNIST", "FashionMNIST", "FashionMNIST/raw", (".", "fashion-mnist"),
        (0.2861,), (0.3530,), FASHION_CLASSES,
    ),
    "cifar10": Benchmark(
        "CIFAR-10", "CIFAR10", "cifar-10-batches-py", (".", "CIFAR10", "cifar10"),
        (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), CIFAR10_CLASSES,
    ),
    "cifar100": Benchmark(
        "CIFAR-100", "CIFAR100", "cifar-100-python", (".", "CIFAR100", "cifar100"),
        (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762), None,
    ),
    "svhn": Benchmark(
        "SVHN", "SVHN", "train_32x32.mat", (".", "SVHN", "svhn"),
        (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), DIGIT_CLASSES, DIGIT_DSA,
    ),
}  # fmt: skip


def load_benchmark(request: Request, *, name: str) -> Dataset:
    """Read one of ``BENCHMARKS`` from the data root; download it first if the request says so."""
    what = BENCHMARKS[name]
    folder = _folder(request, what)
    train, test = (_read(request, what, folder, train=is_train) for is_train in (True, False))
    made = Dataset(
        name=request.name,
        train=train,
        validation=empty_like(train),
        test=test,
        mean=what.mean,
        std=what.std,
        augment=what.augment,
    )
    return with_validation(made, request.number("validation"))


for _name, _what in BENCHMARKS.items():
    dataset(_name, f"{_what.title} from the data root (torchvision layout)", options=(VALIDATION,))(
        partial(load_benchmark, name=_name)
    )


def _folder(request: Request, what: Benchmark) -> Path:
    """The folder to hand to torchvision as its root."""
    hint = f"pass --download, or put torchvision's {what.title} files at ROOT/{what.files}"
    if request.download and request.root is not None:
        for folder in what.folders:
            if (request.root / folder / what.files).exists():
                return request.root / folder
        return request.root / what.folders[0]
    return request.find(what.folders, marker=what.files, get=f"{hint}.")


def _read(request: Request, what: Benchmark, folder: Path, *, train: bool) -> ImageData:
    if what.loader in _IDX and not request.download:
        raw = folder / what.files
        name = "train" if train else "t10k"
        try:
            images = read_idx(raw / f"{name}-images-idx3-ubyte", axes=3)
            stored = read_idx(raw / f"{name}-labels-idx1-ubyte", axes=1)
        except BadInput as error:
            todo = (
                error.todo
                or f"Pass --download, or put torchvision's {what.title} files there again."
            )
            raise type(error)(
                error.where, f"{what.title} cannot be read: {error.what}", todo
            ) from None
        return _idx_data(images, stored, what, raw)
    from torchvision import datasets

    make: Callable[..., Any] = getattr(datasets, what.loader)
    split: dict[str, Any] = {"train": train}
    if what.loader == "SVHN":
        split = {"split": "train" if train else "test"}
    try:
        read = make(root=str(folder), download=request.download, **split)
    except Exception as error:  # files that others damaged fail in torchvision in a dozen ways
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        todo = (
            "Check the network and that the folder can be written."
            if request.download
            else f"Pass --download, or put torchvision's {what.title} files there again."
        )
        raise BadInput(
            folder / what.files, f"{what.title} cannot be read: {reason}".rstrip("."), todo
        ) from error
    labels = torch.as_tensor(np.asarray(read.labels if what.loader == "SVHN" else read.targets))
    return ImageData(
        images=_channels_first(np.asarray(read.data), already=what.loader == "SVHN"),
        labels=labels.long(),
        class_names=what.class_names or tuple(str(c) for c in read.classes),
    )


def _idx_data(
    images: torch.Tensor, labels: torch.Tensor, what: Benchmark, where: Path
) -> ImageData:
    assert what.class_names is not None
    if len(labels) != len(images) or int(labels.max()) >= len(what.class_names):
        found = f"{len(labels)} labels up to {int(labels.max())} for {len(images)} images"
        raise BadInput(where, f"{what.title} cannot be read: {found}", "Download it again.")
    return ImageData(images=images[:, None], labels=labels.long(), class_names=what.class_names)


def _channels_first(images: np.ndarray, *, already: bool) -> torch.Tensor:
    """(N, H, W), (N, H, W, C) or, ``already``, (N, C, H, W) uint8 -> contiguous (N, C, H, W)."""
    if images.ndim == 3:
        images = images[:, None]
    elif not already:
        images = images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images))
