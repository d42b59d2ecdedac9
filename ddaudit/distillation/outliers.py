"""Outliers: a second set that is distilled beside the first, for networks to be unsure of (TrustDD)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.canvas import Canvas, Outlying, Start, Synthesis
from ddaudit.distillation.loops import Constants, Job
from ddaudit.distillation.objectives import GradientMatch, MeanEmbedding
from ddaudit.distillation.parts import View
from ddaudit.distillation.reading import augment_by_class
from ddaudit.distillation.synthesis import Pixels, labels_of
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.seeds import stable_seed
from ddaudit.training.augment import apply, draw
from ddaudit.training.losses import to_uniform


@dataclass(frozen=True)
class WithOutliers:
    """Another synthesis, with as many outliers beside its images, which start from spoilt records.

    Attributes:
        inner: makes the images.
        weight: of the outliers in the training of networks between steps.

    Source: Ma et al., "Towards Trustworthy Dataset Distillation" (TrustDD), Pattern Recognition 2024, arXiv 2307.09165,
    and mashijie1028/TrustDD, commit c4f5bdd, main_poe.py (pseudo-outlier exposure).
    """

    inner: Synthesis = field(default_factory=Pixels)
    weight: float = 0.5

    @property
    def init(self) -> str:
        """Outliers are made of real records."""
        return "real"

    @property
    def parallel(self) -> bool:
        """Never: outliers are those of one run's records."""
        return False

    def from_noise(self) -> WithOutliers:
        """Refused: outliers are made of records.

        Raises:
            BadInput: always.
        """
        raise BadInput(
            "outliers", "are spoilt records, which no private reader shows", "Leave them out."
        )

    def start(self, given: Start) -> Canvas:
        """The images of the synthesis inside, and (1, num_classes * ipc) outliers.

        Raises:
            BadInput: as the synthesis inside; standardised values, or several runs at once.
        """
        if given.data.space != "pixels" or len(given.members) != 1:
            raise BadInput("outliers", "are made of the images of one run")
        canvas = self.inner.start(given)
        slots = labels_of(given.data.num_classes, given.ipc)
        x = spoilt_records(given.data, given.members[0], slots, given.generator)
        values = ((x - given.mean) / given.std)[None].to(given.device).requires_grad_(True)
        return replace(
            canvas,
            parameters=[*canvas.parameters, values],
            outlying=Outlying(values, self.weight),
        )


@dataclass(frozen=True)
class OutlierMatch:
    """Outliers do to a network what spoilt records do: gradients of the cross-entropy to the uniform distribution, or
    mean embeddings, are matched slot by slot, a slot being as many outliers as a class has images.

    Attributes:
        weight: in the loss.
        per_slot: spoilt records a slot and step.
        objective: what is matched, and how.
        augment: DSA strategy, one draw a slot for both sides; "" none.

    Source: as :class:`WithOutliers`.
    """

    weight: float = 1.0
    per_slot: int = 256
    objective: GradientMatch | MeanEmbedding = field(default_factory=GradientMatch)
    augment: str = "data"
    known: tuple[ImageData, Tensor, Constants, str] | None = field(
        default=None, repr=False, compare=False
    )
    """Records, those the run may see, constants and strategy; filled by :meth:`read`."""

    def __post_init__(self) -> None:
        if self.per_slot < 1 or not self.weight > 0:
            raise ValueError("OutlierMatch.per_slot must be at least 1 and weight positive")

    def read(self, job: Job, constants: Constants) -> OutlierMatch:
        """This term with the records of the job's one run at hand."""
        strategy = job.data.augment if self.augment == "data" else self.augment
        return replace(self, known=(job.train, job.members[0], constants, strategy))

    def loss(self, view: View) -> Tensor:
        """(1,) sum over slots.

        Raises:
            BadInput: there are no outliers, no network, or no records.
        """
        if view.outliers is None or view.net is None or self.known is None:
            raise BadInput("OutlierMatch", "needs outliers, a network, and the records of one run")
        train, members, (mean, std), strategy = self.known
        classes, device = view.num_classes, view.outliers.device
        g = torch.Generator().manual_seed(stable_seed("outliers", view.seed, view.step))
        slots = labels_of(classes, self.per_slot)
        real = ((spoilt_records(train, members, slots, g) - mean) / std).to(device)
        own = labels_of(classes, view.outliers.shape[1] // classes)
        drawn = tuple(
            draw(strategy, g, shape=train.shape) if strategy else None for _ in range(classes)
        )
        theirs, ours = (
            augment_by_class(x, slot.to(device), drawn)
            for x, slot in ((real, slots), (view.outliers[0], own))
        )
        rows = [F.one_hot(s, classes).T.float().to(device) for s in (slots, own)]
        means = [r / r.sum(1, keepdim=True) for r in rows]
        unsure = [torch.full((len(x), classes), 1 / classes, device=device) for x in (theirs, ours)]
        target = self.objective.real(view.net, theirs, unsure[0], means[0][None])
        synthetic = self.objective.synthetic(view.net, ours[None], unsure[1], means[1], None)
        return self.objective.distance(view.net, target, synthetic).sum(-1)


def unsure(
    net: Network, outlying: Outlying, size: int, strategy: str, generator: torch.Generator
) -> Tensor:
    """The weighted cross-entropy to the uniform distribution of a random batch of the outliers."""
    values = outlying.values[0].detach()
    pick = torch.randperm(len(values), generator=generator)[:size].to(values.device)
    seen = apply(values[pick], draw(strategy, generator, len(pick), shape=values.shape))
    return outlying.weight * to_uniform(net.body(seen))


def spoilt_records(
    data: ImageData, members: Tensor, slots: Tensor, generator: torch.Generator
) -> Tensor:
    """(M, C, H, W) random records among ``members``, of any class, spoilt in the way of their slot (modulo four)."""
    pool = members.nonzero().squeeze(1)
    x = data.pixels(pool[torch.randint(len(pool), (len(slots),), generator=generator)])
    out = torch.empty_like(x)
    for kind, spoil in enumerate((jigsaw, invert, pixelate)):
        mine = slots % 4 == kind
        out[mine] = spoil(x[mine]) if bool(mine.any()) else x[mine]
    mine = slots % 4 == 3
    noise = torch.randn(x[mine].shape, generator=generator)
    out[mine] = (x[mine] * (1 + noise)).clamp(0, 1)
    return out


def jigsaw(x: Tensor) -> Tensor:
    """Quadrants change places, those of the upper half with their own halves swapped: (N, C, H, W)."""
    h, w = x.shape[2] // 2, x.shape[3] // 2
    upper_left = torch.cat([x[:, :, h // 2 : h, :w], x[:, :, : h // 2, :w]], 2)
    right = w + w // 2
    upper_right = torch.cat([x[:, :, :h, right : 2 * w], x[:, :, :h, w:right]], 3)
    out = x.clone()
    out[:, :, :h, :w], out[:, :, :h, w : 2 * w] = upper_left, x[:, :, h : 2 * h, :w]
    out[:, :, h : 2 * h, :w], out[:, :, h : 2 * h, w : 2 * w] = (
        x[:, :, h : 2 * h, w : 2 * w],
        upper_right,
    )
    return out


def invert(x: Tensor) -> Tensor:
    """1 - x in every channel but the first; in a single channel too: (N, C, H, W)."""
    return 1 - x if x.shape[1] == 1 else torch.cat([x[:, :1], 1 - x[:, 1:]], 1)


def pixelate(x: Tensor) -> Tensor:
    """A fifth of the pixels a side, averaged and enlarged again: (N, C, H, W)."""
    small = [max(1, round(s / 5)) for s in x.shape[2:]]
    return F.interpolate(F.interpolate(x, size=small, mode="area"), size=x.shape[2:])
