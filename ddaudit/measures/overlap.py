"""Whether a released set holds the very records that networks trained on it are then scored on."""

from __future__ import annotations

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.findings import Check
from ddaudit.sets import DistilledSet

CHECK = "no image of the set is a test record"


def check_overlap(released: DistilledSet, data: Dataset, *, subject: str) -> Check:
    """Fails where images of a set are test records, grey level by grey level; everything scored on those is void.

    Records that training holds too do not count: data sets come with such twins, and a set may hold them by right.
    A sound recipe sees training records alone, so that this is asked of files and of sets in memory.
    """
    ours = _rows(released.images)
    found = _among(set(ours), data.test)
    if found:
        found -= _among(found, data.train)
    count = sum(row in found for row in ours)
    share = count / len(released)
    return Check(
        name=CHECK,
        passed=count == 0,
        value=share,
        expected="0 of its images",
        detail=f"{count} of {len(released)} images are test records" if count else "",
        subject=subject,
    )


def _rows(images: Tensor) -> list[bytes]:
    """The grey levels of every image, as bytes."""
    levels = (images.float() * 255).round().to(torch.int32).flatten(1).contiguous()
    return [row.tobytes() for row in levels.numpy()]


def _among(rows: set[bytes], records: ImageData, *, at_once: int = 4096) -> set[bytes]:
    """Those of ``rows`` that are records."""
    found: set[bytes] = set()
    for part in torch.arange(len(records)).split(at_once):
        found |= rows.intersection(_rows(records.pixels(part)))
    return found
