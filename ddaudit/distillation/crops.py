"""Crops of real images, chosen and labelled by a teacher (RDED): nothing is optimised, records are cut up.

What is released are pieces of real records, enlarged: as little private as a coreset, and the card says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddaudit.data import ImageData
from ddaudit.distillation.labels import TeacherLabels
from ddaudit.distillation.loops import Job, Outcome
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.sets import LabelStore
from ddaudit.training import predict
from ddaudit.training.views import crop_and_flip, draw_boxes, draw_views, paste

if TYPE_CHECKING:
    from ddaudit.distillation.recipe import Recipe

_LARGE = 64  # longest side, in pixels, of images that the source releases whole (factor 1)
_SMALLEST_TILE = 4  # pixels


@dataclass(frozen=True)
class RealCrops:
    """Per class: cut random squares out of real images, keep those the teacher is surest of, tile them.

    The labels are the teacher's, at temperature 1, once per image and once per stored view.

    Attributes:
        teacher: how the teacher is trained; its ``temperature`` and ``top_k`` apply to the labels per image.
        candidates: real images looked at per class; all of them where a class has fewer.
        crops: random squares per image, of which the one with the smallest cross-entropy stays.
        areas: (smallest, largest) area of a square, as a fraction of the image.
        factor: factor x factor crops make one image. None: 1 up to 64 pixels a side, else 2, as the source
            runs it. Tiny images (8 x 8 digits) are therefore single crops, enlarged; tiles below 4 x 4 pixels
            are refused.
        store_epochs: epochs of views and logits in the label store.

    Source: Sun et al., "On the Diversity and Realism of Distilled Dataset" (RDED), CVPR 2024, arXiv 2312.03526,
        sections 4.1 and 4.2; numbers of the authors' code.
    """

    teacher: TeacherLabels = field(default_factory=lambda: TeacherLabels(temperature=1.0))
    candidates: int = 300
    crops: int = 5
    areas: tuple[float, float] = (0.08, 1.0)
    factor: int | None = None
    store_epochs: int = 300

    def __post_init__(self) -> None:
        for name in ("candidates", "crops", "store_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} must be at least 1, not {getattr(self, name)}")
        if self.factor is not None and self.factor < 1:
            raise ValueError(f"loop.factor must be at least 1, not {self.factor}")
        if not 0 < self.areas[0] <= self.areas[1] <= 1:
            raise ValueError(f"loop.areas {self.areas} is no range within (0, 1]")

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """Every run has a teacher of its own."""
        return False

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        """Nothing is asked, and nothing private can be made this way."""
        return False

    def queries(self, ipc: int) -> int:
        """The teacher reads the records freely."""
        return 0

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Cut, choose, tile and label once per row of ``job.members``.

        Raises:
            BadInput: records that are no images, a class without records, tiles too small to show anything.
        """
        if job.data.modality != "image":
            raise BadInput(f"{recipe.name} on '{job.data.name}'", "cuts images, and these are none")
        factor = self.tiles(job.data.shape)
        outcomes = []
        for k, row in enumerate(job.members):
            train, seed = job.train.subset(row), job.seed + k
            teacher = self.teacher.teacher(train, data=job.data, seed=seed, device=job.device)
            g = torch.Generator().manual_seed(seed)
            images = torch.cat(
                [
                    self._class(train, c, teacher, factor, job.ipc, job.data.mean, g)
                    for c in range(train.num_classes)
                ]
            )
            labels = self.teacher.write(predict(teacher, images))
            batch = len(images) if recipe.protocol is None else recipe.protocol.batch_size
            views = {"crop": (1 / factor, 1.0), "flip": "flip" in job.data.augment, "cutmix": 1.0}
            store = label_views(images, teacher, self.store_epochs, batch, g, views)
            outcomes.append(Outcome(images, labels, store=store, real_pixels=True))
        return outcomes

    def tiles(self, shape: tuple[int, int, int]) -> int:
        """Tiles per side for images of ``shape`` (C, H, W).

        Raises:
            BadInput: tiles below 4 x 4 pixels.
        """
        factor = self.factor or (1 if max(shape[1:]) <= _LARGE else 2)
        if min(shape[1:]) // factor < _SMALLEST_TILE:
            raise BadInput(
                f"loop.factor={factor}",
                f"makes tiles of {shape[1] // factor} x {shape[2] // factor} pixels, which show nothing",
                "Use --set loop.factor=1.",
            )
        return factor

    def _class(
        self,
        train: ImageData,
        c: int,
        teacher: Network,
        factor: int,
        ipc: int,
        mean: tuple[float, ...],
        g: torch.Generator,
    ) -> Tensor:
        """(ipc, C, H, W) images of one class."""
        index = (train.labels == c).nonzero().squeeze(1)
        if len(index) == 0:
            raise BadInput(f"class '{train.class_names[c]}'", "has no training record to cut from")
        chosen = index[torch.randperm(len(index), generator=g)[: self.candidates]]
        pixels = train.pixels(chosen)
        h, w = pixels.shape[2:]
        tall, wide = h // factor, w // factor
        n, many = len(pixels), self.crops
        boxes = draw_boxes(self.areas, g, n * many, h, w, ratios=(1.0, 1.0))
        cut = torch.cat(
            [resize(pixels[i // many], boxes[i], (tall, wide)) for i in range(n * many)]
        )
        padded = torch.tensor(mean).view(1, -1, 1, 1).expand(n * many, -1, h, w).clone()
        top, left = (h - tall) // 2, (w - wide) // 2
        padded[..., top : top + tall, left : left + wide] = cut
        truth = torch.full((n * many,), c)
        surprise = F.cross_entropy(predict(teacher, padded), truth, reduction="none").view(n, many)
        best = surprise.min(1)
        ranked = torch.argsort(best.values, stable=True)
        wanted = ipc * factor**2
        ranked = ranked.repeat(-(-wanted // n))[:wanted]
        return tile(cut.view(n, many, *cut.shape[1:])[ranked, best.indices[ranked]], factor, h, w)


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


def label_views(
    images: Tensor,
    teacher: Network,
    epochs: int,
    batch: int,
    generator: torch.Generator,
    options: Mapping[str, Any],
) -> LabelStore:
    """What a teacher says of ``epochs`` views of every image.

    Args:
        images: (M, C, H, W) pixels.
        batch: images that share a rectangle of CutMix; partners are of the same batch.
        options: what :func:`ddaudit.training.views.draw_views` is to draw.

    Returns:
        A store of M images.
    """
    m = len(images)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    boxes, flips = whole.repeat(epochs, m, 1), torch.zeros(epochs, m, dtype=torch.bool)
    partners = torch.arange(m, dtype=torch.int32).repeat(epochs, 1)
    patches = torch.zeros(epochs, m, 4, dtype=torch.int16)
    logits = []
    for e in range(epochs):
        for at in torch.randperm(m, generator=generator).split(batch):
            views = draw_views(generator, len(at), shape=images.shape, **options)
            if views.boxes is not None:
                boxes[e, at] = views.boxes
            if views.flips is not None:
                flips[e, at] = views.flips
            if views.partners is not None and views.patches is not None:
                partners[e, at] = at[views.partners].int()
                patches[e, at] = views.patches.short()
        seen = crop_and_flip(images, boxes[e], flips[e])
        logits.append(predict(teacher, paste(seen, seen[partners[e].long()], patches[e])))
    return LabelStore(boxes, flips, torch.stack(logits).half(), partners, patches)


def _edges(size: int, parts: int) -> list[int]:
    """Where ``parts`` tiles of an axis begin and end; the first ones take the remainder."""
    short, more = divmod(size, parts)
    return [k * short + min(k, more) for k in range(parts + 1)]
