"""Relabelling: what teachers say of every image, once for all and for each of many stored views of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ddaudit.data import Dataset
from ddaudit.distillation.crops import default_tiles
from ddaudit.distillation.imbalance import Adjustment
from ddaudit.distillation.loops import Constants, Job, LabelWriter, Outcome, trained_networks
from ddaudit.distillation.store import Store
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.sets import DistilledSet, LabelStore, StorageBytes
from ddaudit.training import predict
from ddaudit.training.views import crop_and_flip, draw_views, paste

if TYPE_CHECKING:
    from ddaudit.distillation.recipe import Recipe


@dataclass(frozen=True)
class ViewLabels:
    """The mean of the teachers' logits: softened, one label per image; as they are, one per stored view.

    Views are crops, mirrored where the data set's own augmentation mirrors, and mixed by CutMix. They are drawn once:
    networks that are trained on the set see them over and over, as the label store keeps them.

    Attributes:
        epochs: of views in the store; each takes 29 + 2 * classes bytes per image.
        smallest: area of the smallest crop, as a fraction of the image; 1 keeps images whole. None: that of a tile
            of RDED's, 1 up to 64 pixels a side and a half above.
        cutmix: probability that a batch is mixed.
        temperature: of the labels per image.
        image: "soft", or "hard" to leave the labels per image as they are.
        adjust: takes the imbalance of the run's records off the logits; None: as they are.

    Source: Shen & Xing, "A Fast Knowledge Distillation Framework" (FKD), ECCV 2022, section 3, as SRe2L (NeurIPS 2023)
    relabels; the mean of several teachers' logits as in G-VBSM (CVPR 2024).
    """

    epochs: int = 300
    smallest: float | None = 0.08
    cutmix: float = 1.0
    temperature: float = 1.0
    image: Literal["soft", "hard"] = "soft"
    adjust: Adjustment | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"labels.epochs must be at least 1, not {self.epochs}")
        if not (0 < (self.smallest or 1) <= 1 and 0 <= self.cutmix <= 1):
            raise ValueError("labels.smallest must lie in (0, 1] and labels.cutmix in [0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"labels.temperature must be positive, not {self.temperature:g}")
        if self.image not in ("soft", "hard"):
            raise ValueError(f"labels.image is 'soft' or 'hard', not '{self.image}'")

    def annotate(
        self,
        made: Outcome,
        teachers: Sequence[Network],
        job: Job,
        *,
        batch: int,
        constants: Constants,
    ) -> Outcome:
        """See :class:`~ddaudit.distillation.loops.LabelWriter`."""
        mean, std = constants
        x = (made.images - mean) / std
        smallest = self.smallest or 1 / default_tiles(job.train.shape)
        labels, notes = made.labels, made.notes
        logits, shift = mean_logits(teachers, x), None
        if self.adjust is not None:
            shift, note = self.adjust.shift(logits, labels, job.train.labels[job.members[0]])
            logits, notes = logits - shift, (*notes, note)
        if self.image == "soft":
            labels = torch.softmax(logits / self.temperature, 1)
        store = label_views(
            x,
            teachers,
            self.epochs,
            batch,
            torch.Generator().manual_seed(job.seed),
            crop=smallest,
            flip="flip" in job.data.augment,
            cutmix=self.cutmix,
            shift=shift,
        )
        ratio = store.num_bytes / (4 * made.images.nelement())
        names = ", ".join(str(net.arch) for net in teachers)
        note = f"labels by {names}: their store takes {store.num_bytes} bytes, {ratio:.1f} times those of the images"
        return replace(made, labels=labels, store=store, notes=(*notes, note))


def label_as(
    recipe: Recipe,
    given: DistilledSet,
    *,
    data: Dataset,
    seed: int,
    device: torch.device | str = "cpu",
    store: Store | None = None,
) -> DistilledSet:
    """A set that others made, such as the folder of images that SRe2L or RDED release, with a method's labels.

    Args:
        recipe: whose teachers, trained on the records of ``data``, label the images, and whose protocol the card
            then states.
        given: images in pixel space; their hard labels are kept where the recipe keeps those.
        data: the real data that the set was made from.
        seed: of the views.
        device: where teachers are trained.
        store: keeps teachers.

    Raises:
        BadInput: the method writes no labels of this kind, or the set does not fit the data.
    """
    writer = recipe.labels
    if not isinstance(writer, LabelWriter):
        raise BadInput(
            recipe.name,
            "writes no labels for images that are there already",
            "Use sre2l, cda, rded, wmdd, g-vbsm, edc or random+fkd.",
        )
    given.check_against(
        shape=data.shape,
        num_classes=data.num_classes,
        data=data.name,
        where="set",
        space=data.space,
    )
    everyone = torch.ones(1, len(data.train), dtype=torch.bool)
    job = Job(data.train, everyone, data, 1, seed, torch.device(device), store=store)
    teachers = trained_networks(recipe.networks_for(job), recipe.name)
    batch = len(given) if recipe.protocol is None else recipe.protocol.batch_size
    made = Outcome(given.images, given.hard_labels)
    made = writer.annotate(made, teachers, job, batch=batch, constants=recipe.constants(data))
    assert made.store is not None, "annotate writes one"
    size = StorageBytes(
        images=4 * given.images.nelement(),
        labels=made.labels.nelement() * made.labels.element_size() + made.store.num_bytes,
    )
    changes = {
        "protocol": None if recipe.protocol is None else recipe.protocol.to_card(),
        "bytes": size,
        "notes": [*given.card.notes, f"labelled here as {recipe.name} does", *made.notes],
    }
    card = given.card.model_copy(update=changes)
    return replace(given, labels=made.labels, store=made.store, card=card).check(recipe.name)


def mean_logits(teachers: Sequence[Network], x: Tensor) -> Tensor:
    """(N, K) mean of the teachers' logits of images (N, C, H, W), normalised as they are used to."""
    return torch.stack([predict(net, x) for net in teachers]).mean(0)


def label_views(
    x: Tensor,
    teachers: Sequence[Network],
    epochs: int,
    batch: int,
    generator: torch.Generator,
    *,
    crop: float,
    flip: bool,
    cutmix: float,
    shift: Tensor | None = None,
) -> LabelStore:
    """What teachers say of ``epochs`` views of every image.

    Args:
        x: (M, C, H, W) normalised images.
        batch: images that share a rectangle of CutMix; partners are of the same batch.
        crop, flip, cutmix: area of the smallest crop, whether views are mirrored, and how often batches are mixed.
        shift: (K,) taken off the logits.

    Returns:
        A store of M images.
    """
    m = len(x)
    boxes, flips = (
        torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(epochs, m, 1),
        torch.zeros(epochs, m, dtype=torch.bool),
    )
    partners = torch.arange(m, dtype=torch.int32).repeat(epochs, 1)
    patches = torch.zeros(epochs, m, 4, dtype=torch.int16)
    logits = []
    for e in range(epochs):
        for at in torch.randperm(m, generator=generator).split(batch):
            views = draw_views(
                generator,
                len(at),
                shape=x.shape,
                crop=(crop, 1.0) if crop < 1 else None,
                flip=flip,
                cutmix=cutmix,
            )
            if views.boxes is not None:
                boxes[e, at] = views.boxes
            if views.flips is not None:
                flips[e, at] = views.flips
            if views.partners is not None and views.patches is not None:
                partners[e, at] = at[views.partners].int()
                patches[e, at] = views.patches.short()
        seen = crop_and_flip(x, boxes[e], flips[e])
        told = mean_logits(teachers, paste(seen, seen[partners[e].long()], patches[e]))
        logits.append(told if shift is None else told - shift)
    return LabelStore(boxes, flips, torch.stack(logits).half(), partners, patches)
