"""Whether a released set holds the very records that networks trained on it are then scored on."""

from __future__ import annotations

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.findings import Check
from ddaudit.sets import DistilledSet

CHECK = "no image of the set is a test record"
_NEAR = 0.02
"""Root mean square difference of pixels in [0, 1], 5 of 255 grey levels: a test record under noise nobody sees. Of 203
sets of this repository's methods and of random records (digits, Fashion-MNIST) none has an image within 0.05."""
_SAME = 0.5 / 255
"""Within half a grey level of a training record an image is that record."""
_SOME, _CLOSER = 200, 5.0
"""An image counts where it is so many times nearer to a test record than these test records are to training's."""
_BY_CHANCE = 0.01
"""Of many images some may come near a test record by chance: so large a share may not."""
_NEARER = 2.0
"""A test record counts where it is so many times nearer than all training records, whose twins a set holds by right."""


def check_overlap(released: DistilledSet, data: Dataset, *, subject: str) -> Check:
    """Fails where images of a set are test records, grey level by grey level or under a little noise (pixels alone);
    everything scored on those is void.

    Records that training holds too do not count: data sets come with such twins, and a set may hold them by right.
    A sound recipe sees training records alone, so that this is asked of files and of sets in memory.
    """
    ours = _rows(released.images)
    found = _among(set(ours), data.test)
    for known in _known(data) if found else ():
        found -= _among(found, known)
    same = torch.tensor([row in found for row in ours])
    if released.card.space == "pixels":
        beside = _beside(released.images, data)
        same = same | beside if int(beside.sum()) > _BY_CHANCE * len(released) else same
    count = int(same.sum())
    share = count / len(released)
    return Check(
        name=CHECK,
        passed=count == 0,
        value=share,
        expected="0 of its images",
        detail=f"{count} of {len(released)} images are test records" if count else "",
        subject=subject,
        from_records=True,
    )


def _beside(images: Tensor, data: Dataset) -> Tensor:
    """(M,) bool: images that nearly are test records, and are no such thing to any training record."""
    near = _distance(images, data.test)
    beside = near <= _NEAR
    if not bool(beside.any()):
        return beside
    # Where records of one law lie as close together as that, closeness says nothing.
    some = data.test.pixels(torch.arange(min(len(data.test), _SOME)))
    beside &= near <= _to_known(some, data).median() / _CLOSER
    if bool(beside.any()):
        known = _to_known(images[beside], data)
        beside[beside.clone()] = (known > _SAME) & (near[beside] < known / _NEARER)
    return beside


def _known(data: Dataset) -> list[ImageData]:
    """What a set may have been made from: others train on validation records, too."""
    return [part for part in (data.train, data.validation) if len(part)]


def _to_known(images: Tensor, data: Dataset) -> Tensor:
    nearest = [_distance(images, part) for part in _known(data)]
    return torch.stack(nearest).amin(0)


def _distance(images: Tensor, records: ImageData, *, at_once: int = 4096) -> Tensor:
    """(M,) root mean square pixel difference of each image to its nearest record."""
    rows = images.float().flatten(1)
    best = torch.full((len(rows),), torch.inf)
    for part in torch.arange(len(records)).split(at_once):
        best = best.minimum(torch.cdist(rows, records.pixels(part).flatten(1)).amin(1))
    scaled: Tensor = best / rows.shape[1] ** 0.5
    return scaled


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
