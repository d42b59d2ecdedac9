"""Experts: networks trained on the real records of a run, kept in the job's store and matched on afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ddaudit.data import Dataset
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh, fit
from ddaudit.distillation.store import content_key
from ddaudit.errors import DDAuditError
from ddaudit.models import Network
from ddaudit.seeds import stable_seed
from ddaudit.training import PROTOCOLS, EvaluationProtocol, train_many


@dataclass(frozen=True)
class Experts(Fresh):
    """Every step takes one of a few networks that were trained on the real records beforehand.

    An expert depends on the records, its number and the numbers here, and on no seed of the distillation: runs on
    the same records, of any size and seed, share them through the job's store. A private reader refuses them.

    Attributes:
        arch, width: as in :class:`Fresh`.
        count: how many experts.
        epochs: passes over the records.
        augment: of the training: "data" (the data set's DSA string), "" (none), or a DSA strategy.

    Source: networks trained on real records are those of IDC (Kim et al., ICML 2022), IDM (CVPR 2023) and NCFM (CVPR
    2025), each with a schedule of its own; here they are trained beforehand, by the engine's quick protocol.
    """

    count: int = 10
    epochs: int = 20
    augment: str = "data"
    trained: tuple[Network, ...] = field(default=(), repr=False, compare=False)
    """Filled by :meth:`learn`."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.epochs < 1:
            raise ValueError("networks.count and networks.epochs must be at least 1")

    def bind(self, data: Dataset) -> Experts:
        """Needs records, which :meth:`learn` is given."""
        self.resolve()
        return self

    def learn(self, job: Job, mean: Tensor, std: Tensor) -> Experts:
        """This source with its networks trained on the records of the job's one run, or taken from its store.

        An expert is stored as soon as it is trained, so that a killed run goes on where it was.

        Args:
            job: its ``members`` are (1, N).
            mean, std: (C, 1, 1) normalisation that the networks will be used under.
        """
        train = job.train.subset(job.members[0])
        arch = fit(self.resolve(), train.shape)
        constants = (tuple(mean.flatten().tolist()), tuple(std.flatten().tolist()))
        protocol = self._protocol(job.data)
        experts = []
        for number in range(self.count):
            key = content_key(
                "expert", train.fingerprint, str(arch), constants, protocol.key, number
            )
            net = super().make(
                shape=train.shape,
                num_classes=train.num_classes,
                seed=stable_seed("expert", number),
                device=job.device,
            )
            known = job.store.get(key) if job.store else None
            if known is None:
                (made,) = train_many(
                    [(train.images, train.labels)],
                    arch=arch,
                    num_classes=train.num_classes,
                    mean=constants[0],
                    std=constants[1],
                    protocol=protocol,
                    seeds=[stable_seed("expert", number)],
                    device=job.device,
                )
                known = made.body.state_dict()
                if job.store:
                    job.store.put(key, known)
            net.body.load_state_dict(known)
            experts.append(net.requires_grad_(False))
        return replace(self, trained=tuple(experts))

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """A copy of the expert that this seed picks, so that training it further leaves the expert as it is.

        Raises:
            DDAuditError: there are no experts yet.
        """
        if not self.trained:
            raise DDAuditError("networks: experts have not been trained on any records")
        copy = super().make(shape=shape, num_classes=num_classes, seed=seed, device=device)
        copy.load_state_dict(self.trained[stable_seed(seed, "expert") % self.count].state_dict())
        return copy

    def _protocol(self, data: Dataset) -> EvaluationProtocol:
        augment = data.augment if self.augment == "data" else self.augment
        return replace(
            PROTOCOLS["quick"],
            name="expert",
            epochs=self.epochs,
            epochs_plain=self.epochs,
            augment=augment,
            max_steps=None,
            deviations=(),
        )
