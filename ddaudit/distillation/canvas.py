"""The synthetic set while it is optimised: free parameters, what they decode to, and what they cost to store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import ImageData


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Labels of K runs while they are optimised.

    Attributes:
        values: (K, m, num_classes), one of the canvas's parameters; m images without copies.
        lr: their step size; None: that of the images.
        decode: values -> labels of the decoded images (K, M, num_classes), differentiable: distributions, or any
            numbers where there is a ``release``.
        keep: values after a step -> values that are kept; None keeps them as they are.
        release: decoded labels -> the distributions that a set file holds; None: they are distributions.
        momentum: of their steps, in optimisers with momentum; None: that of the images.
    """

    values: Tensor
    lr: float | None
    decode: Callable[[Tensor], Tensor]
    keep: Callable[[Tensor], Tensor] | None = None
    release: Callable[[Tensor], Tensor] | None = None
    momentum: float | None = None


@dataclass(frozen=True, eq=False)
class FreeRate:
    """Learning rates of K runs while they are optimised.

    Attributes:
        values: (K,), one of the canvas's parameters.
        lr: their step size; None: that of the images.
        decode: values -> rates of the same shape, differentiable.
        least: values below this go back to it after every step; None: they do not.
    """

    values: Tensor
    lr: float | None
    decode: Callable[[Tensor], Tensor] = F.softplus
    least: float | None = None


@dataclass(frozen=True, eq=False)
class Outlying:
    """Images beside the set, for networks to be unsure of, while they are optimised.

    Attributes:
        values: (K, M2, C, H, W) normalised, one of the canvas's parameters.
        weight: of their cross-entropy to the uniform distribution where networks are trained on the set.
    """

    values: Tensor
    weight: float


@dataclass(frozen=True, eq=False)
class Canvas:
    """The synthetic images of K runs while they are optimised.

    Attributes:
        parameters: what the optimiser moves; each with K as first dimension, or all of one run's.
        labels: (M,) int64 class of each decoded image: which rows it is matched to, and its label unless labels
            are learned.
        decode: () -> (K, M, C, H, W) normalised images, differentiable in ``parameters``.
        soft: learned labels; None keeps the hard ones.
        free_rate: a learning rate that is learned for networks trained on the set; None: it has none.
        outlying: outliers that are optimised beside the images; None: there are none.
        copies: the decoded images are this many blocks of M / copies; those after the first follow from it (mirror
            images), are matched like the others, and are not released.
        penalty: () -> a scalar loss of the parameters alone; every :meth:`pull` adds its gradient.
        records: (K, M) positions of the real records that the images are, where they are records as they stand.
        image_bytes: what the images of one run take to store before they are decoded; None: what they show.
        decoder_bytes: what else one run needs to make them (a network's weights, a mask).
        confine: puts parameters that left their range back into it; None: they have none. Matching calls it before
            each new network.
    """

    parameters: list[Tensor]
    labels: Tensor
    decode: Callable[[], Tensor]
    soft: SoftLabels | None = None
    free_rate: FreeRate | None = None
    outlying: Outlying | None = None
    copies: int = 1
    penalty: Callable[[], Tensor] | None = None
    records: Tensor | None = None
    image_bytes: int | None = None
    decoder_bytes: int = 0
    confine: Callable[[], None] | None = None

    @property
    def size(self) -> int:
        """How many images are released."""
        return len(self.labels) // self.copies

    def rates(self) -> Tensor | None:
        """(K,) learned learning rates, differentiable; None where none is learned."""
        return None if self.free_rate is None else self.free_rate.decode(self.free_rate.values)

    def label_distributions(self) -> Tensor | None:
        """(K, M, num_classes) learned labels, differentiable; None where labels are hard."""
        return None if self.soft is None else self.soft.decode(self.soft.values)

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """The parameters for an optimiser, learned labels and rates with step sizes of their own."""
        beside = [part for part in (self.soft, self.free_rate) if part is not None]
        images = [p for p in self.parameters if all(p is not part.values for part in beside)]
        groups: list[dict[str, Any]] = [
            *([{"params": images, "lr": lr}] if images else []),
            *({"params": [part.values], "lr": part.lr or lr} for part in beside),
        ]
        if self.soft is not None and self.soft.momentum is not None:
            groups[1 if images else 0]["momentum"] = self.soft.momentum
        return groups

    def keep(self) -> None:
        """To be called after every step: learned labels that left the distributions go back, and rates to the least
        that is allowed."""
        if self.free_rate is not None and self.free_rate.least is not None:
            with torch.no_grad():
                self.free_rate.values.clamp_(min=self.free_rate.least)
        if self.soft is not None and self.soft.keep is not None:
            with torch.no_grad():
                self.soft.values.copy_(self.soft.keep(self.soft.values))

    def taught(self, run: int) -> tuple[Tensor, Tensor]:
        """What networks learn of a run: detached images (m, C, H, W) without copies, and labels (m,) or
        (m, num_classes)."""
        with torch.no_grad():
            soft = self.label_distributions()
            labels = self.labels if soft is None else soft[run].detach()
            return self.decode()[run][: self.size].detach(), labels[: self.size]

    def released(self, run: int) -> tuple[Tensor, Tensor]:
        """The same with labels as a set file holds them."""
        images, labels = self.taught(run)
        release = None if self.soft is None else self.soft.release
        return images, labels if release is None else release(labels)

    def pull(
        self, output: Tensor, gradient: Tensor | None = None, *, extra: Tensor | None = None
    ) -> None:
        """Set the parameters' ``grad`` to that of ``output`` (a scalar, or weighted by ``gradient``), plus that of
        the scalar ``extra`` and of the canvas's own penalty."""
        outputs, weights = [output], [gradient]
        own = None if self.penalty is None else self.penalty()
        for more in (extra, own):
            if more is not None and more.requires_grad:
                outputs, weights = [*outputs, more], [*weights, None]
        grads = torch.autograd.grad(outputs, self.parameters, weights)
        for p, g in zip(self.parameters, grads, strict=True):
            p.grad = g

    @property
    def finite(self) -> bool:
        """False when a parameter is NaN, infinite or farther out than any image, or a learned rate beyond what a card
        carries: the optimisation diverged."""
        rates = self.rates()
        if rates is not None and not bool(((rates > 0) & (rates <= 1000)).all()):
            return False
        return all(bool((p.abs() < _FARTHEST).all()) for p in self.parameters)  # NaN is not


_FARTHEST = 1e9
"""Normalised values are of order 1, and under the noise of a small epsilon they stay: 3e5 was seen at 1e-4. Where steps
lead farther out each time, they pass this soon."""


@dataclass(frozen=True)
class Start:
    """What a synthesis starts from.

    Attributes:
        data: the real records; under a private reader none.
        members: (K, N) bool, the records that each of K runs may look at.
        ipc: images per class that the budget of one run buys.
        mean, std: (C, 1, 1) constants of normalisation.
        generator: every random choice comes from it.
        device: where the parameters live.
    """

    data: ImageData
    members: Tensor
    ipc: int
    mean: Tensor
    std: Tensor
    generator: torch.Generator
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class Synthesis(Protocol):
    """The free parameters behind synthetic images; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def init(self) -> str:
        """ "real" when it starts from real records, which private recipes refuse."""

    @property
    def parallel(self) -> bool:
        """True when K runs can be optimised at once."""

    def from_noise(self) -> Synthesis:
        """This synthesis started without a look at any record, as private recipes need it.

        Raises:
            BadInput: its images are records.
        """

    def start(self, given: Start) -> Canvas:
        """Fresh parameters for K runs.

        Raises:
            BadInput: data it cannot start from.
        """
