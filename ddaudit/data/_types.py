"""Real data: one split (:class:`ImageData`) and a named set of splits (:class:`Dataset`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ddaudit.errors import BadInput

Space = Literal["pixels", "standard"]
"""What input values are: light between 0 and 1, or standardised numbers without a bound."""

Modality = Literal["image", "tabular", "series", "embedding"]


@dataclass(frozen=True, eq=False)
class ImageData:
    """One split of real records.

    Attributes:
        images: the inputs, (N, C, H, W): uint8 pixels, or float32 values in ``space``. A table of D columns is
            (N, 1, 1, D).
        labels: (N,) int64, class index in [0, num_classes).
        groups: (N,) int64 protected attribute, or None.
        class_names: one name per class.
        group_names: one name per group; empty without groups.
        space: "pixels": uint8, or float32 in [0, 1]; "standard": float32 standardised values, any finite number.
            What needs pixels (a stamped square, a radius in grey levels) refuses the rest.
        modality: what a record is.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    groups: Tensor | None = None
    group_names: tuple[str, ...] = ()
    space: Space = "pixels"
    modality: Modality = "image"

    def __post_init__(self) -> None:
        n = len(self.images)
        allowed = (torch.uint8, torch.float32) if self.space == "pixels" else (torch.float32,)
        if self.images.dtype not in allowed or self.images.ndim != 4:
            wanted = " or ".join(str(d).removeprefix("torch.") for d in allowed)
            raise ValueError(
                f"images in space '{self.space}' must be {wanted} (N, C, H, W), "
                f"got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.images.is_floating_point() and n:
            low, high = float(self.images.min()), float(self.images.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError("inputs contain NaN or infinity")
            if self.space == "pixels" and not (low >= 0 and high <= 1):
                raise ValueError(f"float pixels must lie in [0, 1], got {low:g} to {high:g}")
        if self.labels.dtype != torch.int64 or self.labels.shape != (n,):
            raise ValueError(
                f"labels must be int64 ({n},), got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if n and not (
            int(self.labels.min()) >= 0 and int(self.labels.max()) < len(self.class_names)
        ):
            low, high = int(self.labels.min()), int(self.labels.max())
            raise ValueError(
                f"labels run from {low} to {high}, but {len(self.class_names)} classes have names"
            )
        if len(set(self.class_names)) < len(self.class_names):
            twice = next(n for i, n in enumerate(self.class_names) if n in self.class_names[:i])
            raise ValueError(f"two classes are called '{twice}'")
        if self.groups is not None and (
            self.groups.dtype != torch.int64 or self.groups.shape != (n,)
        ):
            raise ValueError(
                f"groups must be int64 ({n},), got {self.groups.dtype} {tuple(self.groups.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        c, h, w = self.images.shape[1:]
        return int(c), int(h), int(w)

    def pixels(self, index: Tensor | slice | None = None) -> Tensor:
        """(n, C, H, W) float32 inputs of the records at ``index`` (all without it): pixels in [0, 1], or
        standardised values where ``space`` says so."""
        images = self.images if index is None else self.images[index]
        return images.float().div_(255.0) if images.dtype == torch.uint8 else images.clone()

    @property
    def bounds(self) -> tuple[float, float]:
        """(lowest, highest) value an input may have: 0 and 1 for pixels, no bound for standardised values."""
        return (0.0, 1.0) if self.space == "pixels" else (-math.inf, math.inf)

    def subset(self, index: Tensor) -> ImageData:
        """The records at ``index`` (int64 positions or a bool mask), in that order."""
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            groups=None if self.groups is None else self.groups[index],
        )

    def class_counts(self) -> Tensor:
        """(num_classes,) int64 number of records of each class."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over images, labels and groups: equal data, equal fingerprint."""
        named: tuple[object, ...] = (tuple(self.images.shape), self.class_names)
        if self.images.is_floating_point():
            named += (self.space, self.modality)
        digest = hashlib.sha256(repr(named).encode())
        for part in (self.images, self.labels, self.groups):
            if part is not None:
                digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named real data with fixed splits.

    ``mean`` and ``std`` are the normalisation constants of the field for this set (per channel, pixels in
    [0, 1]; 0 and 1 where values are standardised already). ``augment`` is the DSA strategy string that published
    evaluations use on it. ``extra`` holds further splits (``test_paired`` of the coloured sets: every image
    in every colour; ``train_true`` of noisy ones: train with its true labels). ``notes`` are sentences that a
    report must repeat (a documented defect of a published construction, say). ``root`` is the folder its files
    came from: where methods look for public auxiliary data.
    ``origin`` names the data set that its images were first part of: what was made from a data set (coloured,
    long-tailed, noisy) keeps it.
    ``whole_set`` says in which ways one record's role or content depends on the other records (a published
    construction that permutes all of them, say); differential privacy of one record does not hold through it, so
    private recipes refuse such data. ``assumed`` says what of the construction is taken as public knowledge (ranges
    of columns, say); claims list it. ``columns`` names the inputs of a table.
    """

    name: str
    train: ImageData
    validation: ImageData
    test: ImageData
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "color_crop_cutout_flip_scale_rotate"
    extra: Mapping[str, ImageData] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    root: Path | None = None
    origin: str = ""
    whole_set: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def check(self) -> Dataset:
        """Validate what readers of files see to; returns self.

        Raises:
            BadInput: no training or test records, splits of other shapes or classes, constants for other channels.
        """
        where = f"data set '{self.name}'"
        for name, split in (("train", self.train), ("test", self.test)):
            if not len(split):
                raise BadInput(where, f"has no {name} records")
        for name, split in (("validation", self.validation), ("test", self.test)):
            if len(split) and split.shape != self.shape:
                what = f"{name} images are {split.shape} (C, H, W), training images {self.shape}"
                raise BadInput(where, what)
            if len(split) and split.num_classes != self.num_classes:
                what = f"{split.num_classes} classes have names in {name}, {self.num_classes} in training"
                raise BadInput(where, what)
        channels = self.shape[0]
        if (
            len(self.mean) != channels
            or len(self.std) != channels
            or not all(s > 0 for s in self.std)
        ):
            what = f"mean {self.mean} and std {self.std} are no two numbers for each of {channels} channel(s)"
            raise BadInput(where, what, "The std is positive.")
        return self

    @property
    def num_classes(self) -> int:
        return self.train.num_classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.shape

    @property
    def space(self) -> Space:
        """What input values are, see :class:`ImageData`."""
        return self.train.space

    @property
    def modality(self) -> Modality:
        """What a record is."""
        return self.train.modality
