"""Evaluation protocols: how a network is trained on a set before anything is measured on it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, replace

from ddaudit.errors import BadInput
from ddaudit.training.augment import operations


@dataclass(frozen=True)
class Schedule:
    """Steps of one training: ``steps`` in all; after ``decay_at`` the learning rate is cut."""

    steps: int
    decay_at: int
    per_epoch: int


@dataclass(frozen=True)
class EvaluationProtocol:
    """SGD from a fresh initialisation, one learning-rate cut at half time, the last epoch counts.

    Attributes:
        name: the protocol's name.
        epochs: E with augmentation; the published loop runs E + 1 passes and cuts after pass E // 2
            + 2.
        epochs_plain: E without augmentation.
        batch_size: images a step; the last batch of a pass may be smaller.
        augment: DSA strategy; None means "the data set's own" (see :meth:`for_data`), "" none.
        max_steps: cap for large sets, or None; the cut moves in proportion.
        decay: factor of the learning rate at the cut. The optimiser is made anew there, so its
            momentum is lost.
        deviations: how it differs from the published protocol, in sentences a report can print.
    """

    name: str
    epochs: int = 1000
    epochs_plain: int = 300
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay: float = 0.1
    augment: str | None = None
    max_steps: int | None = None
    deviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in ("epochs", "epochs_plain", "batch_size", "lr"):
            if getattr(self, part) <= 0:
                raise BadInput(
                    f"protocol '{self.name}'", f"{part} {getattr(self, part)} is not positive"
                )
        if self.max_steps is not None and self.max_steps < 1:
            raise BadInput(f"protocol '{self.name}'", f"max_steps {self.max_steps} is not positive")
        operations(self.augment or "")

    def for_data(self, strategy: str) -> EvaluationProtocol:
        """This protocol with open augmentation resolved to the data set's ``strategy``."""
        return replace(self, augment=strategy) if self.augment is None else self

    def schedule(self, size: int) -> Schedule:
        """The steps for a set of ``size`` images."""
        if self.augment is None:
            raise ValueError("the protocol's augmentation is open: call for_data(...) first")
        epochs = self.epochs if operations(self.augment) else self.epochs_plain
        per_epoch = math.ceil(size / self.batch_size)
        steps = (epochs + 1) * per_epoch
        decay_at = min(epochs // 2 + 2, epochs + 1) * per_epoch
        if self.max_steps is not None and steps > self.max_steps:
            decay_at = round(decay_at * self.max_steps / steps)
            steps = self.max_steps
        return Schedule(steps, decay_at, per_epoch)

    @property
    def key(self) -> str:
        """A short name for file names and caches: equal keys, equal training."""
        parts = {k: v for k, v in asdict(self).items() if k != "deviations"}
        return f"{self.name}-{hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()[:8]}"


PROTOCOLS: dict[str, EvaluationProtocol] = {
    "dc": EvaluationProtocol(
        name="dc",
        max_steps=20_000,
        deviations=("training stops after 20 000 steps, which only large (real) sets reach",),
    ),
    "quick": EvaluationProtocol(
        name="quick",
        epochs=300,
        lr=0.05,
        max_steps=500,
        deviations=(
            "300 instead of 1000 epochs with augmentation, and at most 500 steps",
            "learning rate 0.05 instead of 0.01, so that the shorter training still fits the set",
        ),
    ),
}
"""Protocols by name. "dc": Zhao et al., ICLR 2021, and its code; "quick": the same, shortened."""
