"""Snapshots of experts: networks as they were after a random pass over the records, and later ones beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.loops import Job
from ddaudit.errors import DDAuditError
from ddaudit.models import Network
from ddaudit.seeds import stable_seed


@dataclass(frozen=True)
class Snapshots(ExpertPaths):
    """Every step takes a random expert as it was after a random pass; a later snapshot of it is its teacher.

    Attributes:
        window: the teacher is one of so many snapshots, from the one that is matched on.

    Source: Ran et al. (TGDD), AAAI 2026, arXiv 2512.02469, and FlyFinley/TGDD, commit fef31f5, TGDD.py.
    """

    window: int = 7
    blank: Callable[..., Network] | None = field(default=None, repr=False, compare=False)
    """Makes an untrained network of a seed; filled by :meth:`learn`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise ValueError("networks.window must be at least 1")

    def learn(self, job: Job, mean: Tensor, std: Tensor) -> Snapshots:
        """See :class:`ExpertPaths`."""
        learnt = super().learn(job, mean, std)
        assert isinstance(learnt, Snapshots)
        train = job.train
        blank = partial(
            super().make, shape=train.shape, num_classes=train.num_classes, device=job.device
        )
        return replace(learnt, blank=blank)

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """A fresh network while experts are trained; then the snapshot that a seed picks."""
        net = super().make(shape=shape, num_classes=num_classes, seed=seed, device=device)
        if self.paths is not None:
            expert, time, _ = self._pick(seed)
            net.body.load_state_dict(self.paths.at(expert, time), strict=False)
        return net

    def teacher(self, seed: int) -> Network:
        """The later snapshot that a seed picks, not to be changed.

        Raises:
            DDAuditError: there are no experts yet.
        """
        if self.paths is None or self.blank is None:
            raise DDAuditError("networks: experts have not been trained on any records")
        expert, _, later = self._pick(seed)
        net = self.blank(seed=seed)
        net.body.load_state_dict(self.paths.at(expert, later), strict=False)
        return net.requires_grad_(False)

    def _pick(self, seed: int) -> tuple[int, int, int]:
        """Expert, pass, and pass of the teacher."""
        time = stable_seed(seed, "time") % (self.epochs + 1)
        ahead = min(self.window - 1, self.epochs - time)
        later = time + stable_seed(seed, "teacher") % (ahead + 1)
        return stable_seed(seed, "expert") % self.count, time, later
