"""Experts: networks trained on the real records of a run, kept in the job's store and matched on afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation.layer_statistics import recalibrate
from ddaudit.distillation.lessons import Lesson, teach
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh, fit
from ddaudit.distillation.store import content_key
from ddaudit.errors import DDAuditError
from ddaudit.models import Arch, Network
from ddaudit.seeds import stable_seed
from ddaudit.training import PROTOCOLS, EvaluationProtocol, Robust, train_many

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel."""


@dataclass(frozen=True)
class Experts(Fresh):
    """Every step takes one of a few networks that were trained on the real records beforehand.

    An expert depends on the records, its number and the numbers here, and on no seed of the distillation: runs on
    the same records, of any size and seed, share them through the job's store. A private reader refuses them.

    Attributes:
        arch, width: as in :class:`Fresh`; several architectures are joined by commas ("ConvNetBN,ResNet18BN").
        count: how many experts of each architecture.
        epochs: passes over the records.
        augment: of the training: "data" (the data set's DSA string), "" (none), or a DSA strategy.
        lr, batch_size, weight_decay, lr_schedule: of the training (SGD with momentum 0.9), see
            :class:`~ddaudit.training.EvaluationProtocol`.
        lesson: which records a pass takes, and how the loss counts classes; None: every record once, classes alike.
        recalibrated: batch normalisations take the mean over classes of every class's statistics, where running ones
            are those of the frequent classes.
        robust: how steps are changed so that the networks resist small changes; None: not at all.
        interpolate: a step takes a random point of the straight line from an expert's start to its end, uniformly,
            as NCFM does (Wang et al., CVPR 2025, section 3.3), instead of the end.

    Source: networks trained on real records are those of IDC (Kim et al., ICML 2022), IDM (CVPR 2023) and NCFM (CVPR
    2025), each with a schedule of its own; here they are trained beforehand, by the engine's quick protocol.
    "Squeezed" networks of SRe2L (NeurIPS 2023) are the same thing, with batch normalisation.
    """

    count: int = 10
    epochs: int = 20
    augment: str = "data"
    lr: float = 0.05
    batch_size: int = 256
    weight_decay: float = 5e-4
    lr_schedule: Literal["step", "cosine"] = "step"
    lesson: Lesson | None = None
    recalibrated: bool = False
    robust: Robust | None = None
    interpolate: bool = False
    trained: tuple[Network, ...] = field(default=(), repr=False, compare=False)
    """Filled by :meth:`learn`: in the order of architectures, in training mode, with identity normalisation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1 or self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                "networks.count, networks.epochs and networks.batch_size must be at least 1"
            )
        if not self.lr > 0:
            raise ValueError(f"networks.lr must be positive, got {self.lr:g}")

    def bind(self, data: Dataset) -> Experts:
        """Needs records, which :meth:`learn` is given.

        Raises:
            BadInput: unknown architecture, or data that lack what the lesson needs.
        """
        self.archs()
        if self.lesson is not None:
            self.lesson.records(data.train)
        return self

    def archs(self) -> tuple[Arch, ...]:
        """The architectures with the width override applied.

        Raises:
            BadInput: unknown architecture.
        """
        return tuple(Fresh(name.strip(), self.width).resolve() for name in self.arch.split(","))

    def couples_records(self) -> bool:
        """True when one of them has batch normalisation."""
        return any(Fresh(str(arch)).couples_records() for arch in self.archs())

    def learn(self, job: Job, mean: Tensor, std: Tensor) -> Experts:
        """This source with its networks trained on the records of the job's one run, or taken from its store.

        An expert is stored as soon as it is trained, so that a killed run goes on where it was.

        Args:
            job: its ``members`` are (1, N).
            mean, std: (C, 1, 1) normalisation that the networks will be used under.
        """
        train = job.train.subset(job.members[0])
        constants = (tuple(mean.flatten().tolist()), tuple(std.flatten().tolist()))
        experts = [
            self._expert(job, train, arch, number, constants)
            for arch in self.archs()
            for number in range(self.count)
        ]
        return replace(self, trained=tuple(experts))

    def _expert(
        self, job: Job, train: ImageData, arch: Arch, number: int, constants: Constants
    ) -> Network:
        arch, seed = fit(arch, train.shape), stable_seed("expert", number)
        protocol = self._protocol(job.data)
        parts = ("expert", train.fingerprint, str(arch), constants, protocol.key, number)
        later = [repr(part) for part in (self.lesson, self.recalibrated) if part]
        key = content_key(*parts, *later)
        net = Fresh(str(arch)).make(
            shape=train.shape, num_classes=train.num_classes, seed=seed, device=job.device
        )
        known = job.store.get(key) if job.store else None
        if known is None:
            taught, extra = teach(self.lesson, train)
            (made,) = train_many(
                [(taught.images, taught.labels)],
                arch=arch,
                num_classes=train.num_classes,
                mean=constants[0],
                std=constants[1],
                protocol=protocol,
                seeds=[seed],
                device=job.device,
                extras=[extra],
            )
            if self.recalibrated:
                x = (train.pixels() - torch.tensor(constants[0])[:, None, None]) / torch.tensor(
                    constants[1]
                )[:, None, None]
                recalibrate(made, x, train.labels, train.num_classes)
            known = made.body.state_dict()
            if job.store:
                job.store.put(key, known)
        net.body.load_state_dict(known)
        return net.requires_grad_(False)

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """A copy of the expert that this seed picks, so that training it further leaves the expert as it is; or a
        point between its start and its end.

        Raises:
            DDAuditError: there are no experts yet.
        """
        end = self.teacher(seed)
        start = Fresh(str(end.arch)).make(
            shape=shape,
            num_classes=num_classes,
            seed=stable_seed("expert", self._pick(seed) % self.count),
            device=device,
        )
        share = stable_seed(seed, "share") / 2**31 if self.interpolate else 1.0
        with torch.no_grad():
            for p, last in zip(start.parameters(), end.parameters(), strict=True):
                p.lerp_(last, share)
            for buffer, there in zip(start.buffers(), end.buffers(), strict=True):
                buffer.copy_(there)
        return start

    def teacher(self, seed: int) -> Network:
        """The expert that this seed picks, trained to its end; not to be changed.

        Raises:
            DDAuditError: there are no experts yet.
        """
        if not self.trained:
            raise DDAuditError("networks: experts have not been trained on any records")
        return self.trained[self._pick(seed)]

    def _pick(self, seed: int) -> int:
        return stable_seed(seed, "expert") % len(self.trained)

    def _protocol(self, data: Dataset) -> EvaluationProtocol:
        augment = data.augment if self.augment == "data" else self.augment
        return replace(
            PROTOCOLS["quick"],
            name="expert",
            epochs=self.epochs,
            epochs_plain=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            lr_schedule=self.lr_schedule,
            augment=augment,
            max_steps=None,
            deviations=(),
            robust=self.robust,
        )
