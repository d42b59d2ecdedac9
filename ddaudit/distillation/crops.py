"""Crops of real images, chosen by a teacher (RDED): a start that pieces of records make.

What is released is as little private as a coreset, and the card says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.data import ImageData
from ddaudit.distillation.canvas import Canvas, Start
from ddaudit.distillation.synthesis import labels_of
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.training import predict
from ddaudit.training.views import draw_boxes

_LARGE = 64  # longest side, in pixels, of images that the source releases whole (factor 1)
_SMALLEST_TILE = 4  # pixels


@dataclass(frozen=True)
class RealCrops:
    """Per class: cut random squares out of real images, keep those a teacher is surest of, tile them.

    Attributes:
        candidates: real images looked at per class; all of them where a class has fewer.
        crops: random squares per image, of which the one with the smallest cross-entropy stays; where a class has
            fewer images than are wanted, every image gives its next best one in turn.
        smallest: area of the smallest square, as a fraction of the image.
        per_side: that many crops by as many make one image. None: 1 up to 64 pixels a side, else 2, as the source
            runs it. Tiny images (8 x 8 digits) are therefore single crops, enlarged; tiles below 4 x 4 pixels
            are refused.
        teacher: who is asked; set by :meth:`judged`.

    Source: Sun et al., "On the Diversity and Realism of Distilled Dataset" (RDED), CVPR 2024, arXiv 2312.03526,
        sections 4.1 and 4.2; numbers of the authors' code.
    """

    candidates: int = 300
    crops: int = 5
    smallest: float = 0.08
    per_side: int | None = None
    teacher: Network | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("candidates", "crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"synthesis.{name} must be at least 1, not {getattr(self, name)}")
        if self.per_side is not None and self.per_side < 1:
            raise ValueError(f"synthesis.per_side must be at least 1, not {self.per_side}")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"synthesis.smallest must lie in (0, 1], not {self.smallest:g}")

    @property
    def init(self) -> str:
        """Pieces of real records."""
        return "real"

    @property
    def parallel(self) -> bool:
        """Every run has a teacher of its own."""
        return False

    def from_noise(self) -> RealCrops:
        """Never.

        Raises:
            BadInput: crops are pieces of records.
        """
        raise BadInput(type(self).__name__, "starts from pieces of real records")

    def judged(self, teacher: Network) -> RealCrops:
        """See :class:`~ddaudit.distillation.recover.Judged`."""
        return replace(self, teacher=teacher)

    def start(self, given: Start) -> Canvas:
        """(1, num_classes * ipc) images in class-major order, normalised.

        Raises:
            BadInput: no teacher, a class without records, tiles too small to show anything.
        """
        data = given.data
        if self.teacher is None or len(given.members) != 1:
            raise BadInput(
                type(self).__name__, "asks one teacher, trained on the records of one run"
            )
        train, factor = data.subset(given.members[0]), self.tiles(data.shape)
        parts = [self._class(train, c, factor, given) for c in range(data.num_classes)]
        x = torch.cat(parts)[None].to(given.device).requires_grad_(True)
        return Canvas([x], labels_of(data.num_classes, given.ipc).to(given.device), lambda: x)

    def tiles(self, shape: tuple[int, int, int]) -> int:
        """Tiles per side for images of ``shape`` (C, H, W).

        Raises:
            BadInput: tiles below 4 x 4 pixels.
        """
        factor = self.per_side or default_tiles(shape)
        if min(shape[1:]) // factor < _SMALLEST_TILE:
            raise BadInput(
                f"synthesis.per_side={factor}",
                f"makes tiles of {shape[1] // factor} x {shape[2] // factor} pixels, which show nothing",
                "Use --set synthesis.per_side=1.",
            )
        return factor

    def _class(self, train: ImageData, c: int, factor: int, given: Start) -> Tensor:
        """(ipc, C, H, W) normalised images of one class."""
        g = given.generator
        index = (train.labels == c).nonzero().squeeze(1)
        if len(index) == 0:
            raise BadInput(f"class '{train.class_names[c]}'", "has no training record to cut from")
        chosen = index[torch.randperm(len(index), generator=g)[: self.candidates]]
        x = (train.pixels(chosen) - given.mean) / given.std
        h, w = x.shape[2:]
        tall, wide = h // factor, w // factor
        n, many = len(x), self.crops
        boxes = draw_boxes((self.smallest, 1.0), g, n * many, h, w, ratios=(1.0, 1.0))
        cut = torch.cat([resize(x[i // many], boxes[i], (tall, wide)) for i in range(n * many)])
        top, left = (h - tall) // 2, (w - wide) // 2
        # The mean image around a crop: 0 where images are normalised.
        padded = F.pad(cut, (left, w - wide - left, top, h - tall - top))
        truth = torch.full((n * many,), c)
        assert self.teacher is not None, "checked by start"
        logits = predict(self.teacher, padded)
        surprise = F.cross_entropy(logits, truth, reduction="none").view(n, many)
        sure = surprise.sort(1)
        wanted = given.ipc * factor**2
        rounds = [k % many for k in range(-(-wanted // n))]
        images = torch.cat([sure.values[:, k].argsort(stable=True) for k in rounds])[:wanted]
        crops = sure.indices[images, torch.tensor(rounds).repeat_interleave(n)[:wanted]]
        return tile(cut.view(n, many, *cut.shape[1:])[images, crops], factor, h, w)


def default_tiles(shape: tuple[int, int, int]) -> int:
    """Tiles per side that the source takes for images of ``shape`` (C, H, W)."""
    return 1 if max(shape[1:]) <= _LARGE else 2


def resize(image: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, C, *size): the box of a (C, H, W) image, to whole pixels, resized bilinearly with antialiasing."""
    h, w = image.shape[1:]
    tall, wide = (max(1, round(float(s) * n)) for s, n in zip(box[2:], (h, w), strict=True))
    top, left = min(round(float(box[0]) * h), h - tall), min(round(float(box[1]) * w), w - wide)
    piece = image[None, :, top : top + tall, left : left + wide]
    return F.interpolate(piece, size=size, mode="bilinear", align_corners=False, antialias=True)


def tile(pieces: Tensor, factor: int, h: int, w: int) -> Tensor:
    """Lay (M * factor^2, C, tall, wide) pieces out in M images of (C, h, w).

    Image i gets pieces i, i + M, i + 2 M, ..., row by row, so that every image has sure and less sure ones.
    Where the size is no multiple of the factor, the first tiles are a pixel larger.
    """
    count = len(pieces) // factor**2
    out = pieces.new_empty(count, pieces.shape[1], h, w)
    rows, cols = _edges(h, factor), _edges(w, factor)
    for k in range(factor**2):
        (i, j), part = divmod(k, factor), pieces[k * count : (k + 1) * count]
        where = out[..., rows[i] : rows[i + 1], cols[j] : cols[j + 1]]
        where.copy_(
            F.interpolate(part, size=where.shape[2:]) if where.shape != part.shape else part
        )
    return out


def _edges(size: int, parts: int) -> list[int]:
    """Where ``parts`` tiles of an axis begin and end; the first ones take the remainder."""
    short, more = divmod(size, parts)
    return [k * short + min(k, more) for k in range(parts + 1)]
