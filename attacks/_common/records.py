"""Splits of records joined, and records under labels that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ddaudit.data import ImageData


def join(first: ImageData, second: ImageData) -> ImageData:
    """The records of both; groups only if both have them."""
    parts = (first, second)
    if any(part.groups is None for part in parts):
        parts = (replace(first, groups=None), replace(second, groups=None))
    return concatenate(parts)


def concatenate(parts: Sequence[ImageData]) -> ImageData:
    """One split holding the records of all parts, in order."""
    first = parts[0]
    groups = None if first.groups is None else torch.cat([_groups(p) for p in parts])
    return replace(
        first,
        images=torch.cat([p.images for p in parts]),
        labels=torch.cat([p.labels for p in parts]),
        groups=groups,
    )


def mislabel(records: ImageData, generator: torch.Generator) -> ImageData:
    """The records under labels drawn uniformly from the classes they do not belong to."""
    classes = records.num_classes
    shift = torch.randint(1, classes, (len(records),), generator=generator)
    return replace(records, labels=(records.labels + shift) % classes)


def _groups(part: ImageData) -> Tensor:
    if part.groups is None:
        raise ValueError("cannot join records with and without groups")
    return part.groups
