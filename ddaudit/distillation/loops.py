"""What passes between a recipe and its loop: the job, the outcome, and the steps that loops share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation.parts import Canvas, NetworkSource, Source, Term, View
from ddaudit.distillation.store import Store
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.seeds import stable_seed
from ddaudit.sets import LabelStore, PrivacyClaim

Progress = Callable[[int, int], None]
Constants = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Job:
    """What a loop is asked to distil.

    Attributes:
        train: the real records.
        members: (K, N) bool, the records that each of K runs may see.
        data: names, constants and augmentation of the data set ``train`` belongs to.
        ipc: images per class.
        seed: seeds everything but privacy noise.
        device: where to compute.
        progress: called with (steps done, steps in all).
        store: keeps work that other jobs can use (experts); None keeps none.
    """

    train: ImageData
    members: Tensor
    data: Dataset
    ipc: int
    seed: int
    device: torch.device
    progress: Progress | None = None
    store: Store | None = None


@runtime_checkable
class LearnsRecords(Protocol):
    """A network source whose networks are trained on real records: no private reader's ledger covers that, and no two
    runs share them unless their records are the same."""

    def learn(self, job: Job, mean: Tensor, std: Tensor) -> NetworkSource:
        """This source with its networks trained on the records of the job's one run, normalised by mean and std."""


@runtime_checkable
class AsksSource(Protocol):
    """A network source whose networks are trained on the answers of a reader's source alone: what is private about the
    answers holds for whatever is made of the networks."""

    def questions(self) -> int:
        """How many answers the training takes."""

    def ask(self, source: Source, job: Job) -> NetworkSource:
        """This source with its networks trained for the job's one run."""


@dataclass(frozen=True)
class Outcome:
    """What a loop hands back for one run: pixel-space images, labels and what the card must say.

    Attributes:
        images, labels, store, outliers: as in :class:`ddaudit.sets.DistilledSet`.
        claim: the privacy claim of a private reader.
        member_indices: records released whole, by position in ``job.train``.
        real_pixels: True when images hold pixels of real records as they are; None: the loop does not say.
        learned_lr: the learning rate learned with the images.
        image_bytes: what the images take to store before they are decoded; None: what they show.
        decoder_bytes: what a decoder of the images takes to store.
        teachers: networks trained on the run's records, for those who write labels afterwards.
        notes: what else the card says of how the set was made.
    """

    images: Tensor
    labels: Tensor
    claim: PrivacyClaim | None = None
    member_indices: list[int] | None = None
    store: LabelStore | None = None
    outliers: Tensor | None = None
    real_pixels: bool | None = None
    learned_lr: float | None = None
    image_bytes: int | None = None
    decoder_bytes: int = 0
    notes: tuple[str, ...] = ()
    teachers: tuple[Network, ...] = ()


class Unasked:
    """A loop that reads its records freely: runs share nothing, and nothing private can be made this way."""

    def shareable(self, recipe: object, ipc: int) -> bool:
        """Never: what is learned is learned of one run's records."""
        return False

    def reusable(self, recipe: object, ipc: int) -> bool:
        """Nothing is asked that could be answered again."""
        return False

    def queries(self, ipc: int) -> int:
        """None."""
        return 0


@runtime_checkable
class Screen(Protocol):
    """Which of the records a method sees, and under which labels; a frozen dataclass."""

    def screen(self, job: Job) -> Job:
        """The one run of a job with fewer ``members``, or other labels; records keep their positions."""


@runtime_checkable
class ReadsRecords(Protocol):
    """A term that is shown real records before the first step; private recipes refuse it."""

    def read(self, job: Job, constants: Constants) -> Term:
        """This term for the one run of a job, under the (C, 1, 1) mean and standard deviation of ``constants``."""


@runtime_checkable
class LabelWriter(Protocol):
    """Writes labels for images that are already made, by the networks of the recipe, which are trained on the records
    of the run; a frozen dataclass."""

    def annotate(
        self,
        made: Outcome,
        teachers: Sequence[Network],
        job: Job,
        *,
        batch: int,
        constants: Constants,
    ) -> Outcome:
        """The outcome with its labels, and its label store.

        Args:
            made: images in pixel space, with hard labels.
            teachers: as :class:`LearnsRecords` gives them, on normalised images.
            job: of the one run.
            batch: images a step of the recipe's protocol.
            constants: (C, 1, 1) mean and standard deviation that teachers work under.
        """


def network_for(job: Job, networks: NetworkSource, number: int) -> Network:
    """Network ``number`` of a job, on its device: a function of the job's seed and the number alone."""
    return networks.make(
        shape=job.train.shape,
        num_classes=job.train.num_classes,
        seed=_seed_of(job, number),
        device=job.device,
    )


def trained_networks(networks: NetworkSource | None, name: str) -> tuple[Network, ...]:
    """The networks that :meth:`LearnsRecords.learn` trained, ready to be asked: constants, in evaluation mode.

    Raises:
        BadInput: networks that have learned nothing of the records.
    """
    trained: tuple[Network, ...] = getattr(networks, "trained", ())
    if not trained:
        raise BadInput(
            name,
            "asks networks that are trained on the records, and these are not",
            "Give it networks=Experts(...).",
        )
    return tuple(net.eval().requires_grad_(False) for net in trained)


def teacher_for(job: Job, networks: NetworkSource, number: int) -> Network | None:
    """The trained network that network ``number`` of a job was made from; None where the source has none."""
    teacher = getattr(networks, "teacher", None)
    return teacher(_seed_of(job, number)) if teacher else None


def _seed_of(job: Job, number: int) -> int:
    return stable_seed(job.seed, "network", number)


def view_of(
    job: Job,
    canvas: Canvas,
    images: Tensor,
    net: Network | None,
    *,
    std: Tensor,
    step: int,
    matched: Tensor | None = None,
    soft: Tensor | None = None,
    teacher: Network | None = None,
) -> View:
    """What terms are shown of a step on the whole canvas.

    Args:
        images: (K, M, C, H, W), decoded from ``canvas``.
        matched: the same as augmented for the match; None: as they are.
        soft: learned labels, shown as constants.
        net, std, step, teacher: as in :class:`~ddaudit.distillation.parts.View`.
    """
    return View(
        images,
        images if matched is None else matched,
        canvas.labels,
        job.train.num_classes,
        net,
        std.to(job.device),
        step,
        None if soft is None else soft.detach(),
        teacher=teacher,
        outliers=None if canvas.outlying is None else canvas.outlying.values,
        seed=job.seed,
    )


def finish(
    canvas: Canvas,
    average: list[Tensor] | None,
    claims: list[PrivacyClaim | None],
    mean: Tensor,
    std: Tensor,
) -> list[Outcome]:
    """The canvas (or its moving average) as pixel-space images with their labels and learned rates, one outcome per
    run."""
    with torch.no_grad():
        if average is not None:
            for p, kept in zip(canvas.parameters, average, strict=True):
                p.copy_(kept)
        made = [canvas.released(k) for k in range(len(claims))]
        rates = canvas.rates()
    records, beside = canvas.records, canvas.outlying
    return [
        Outcome(
            (images.cpu() * std + mean).contiguous(),
            labels.cpu().contiguous(),
            claim,
            outliers=None
            if beside is None
            else (beside.values[k].detach().cpu() * std + mean).contiguous(),
            learned_lr=None if rates is None else float(rates[k].detach()),
            member_indices=None if records is None else records[k].tolist(),
            real_pixels=None if records is None else True,
            image_bytes=canvas.image_bytes,
            decoder_bytes=canvas.decoder_bytes,
        )
        for k, ((images, labels), claim) in enumerate(zip(made, claims, strict=True))
    ]
