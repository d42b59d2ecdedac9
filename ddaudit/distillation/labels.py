"""Soft labels: a teacher trained on the real records says how sure it is of every released image.

A teacher that has memorised a record writes a trace of it into the labels of other images (see the auditor
``soft-labels``), so this part reads real records freely and private recipes refuse it
(:meth:`ddaudit.distillation.recipe.Recipe.check_private`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation.imbalance import Adjustment
from ddaudit.distillation.lessons import Lesson, teach
from ddaudit.distillation.networks import fit
from ddaudit.later import later
from ddaudit.models import Arch, Network
from ddaudit.seeds import stable_seed
from ddaudit.training import PROTOCOLS, EvaluationProtocol, Robust, predict, train_many
from ddaudit.training.augment import operations


@dataclass(frozen=True)
class TeacherLabels:
    """One soft label per image: the softmax of a teacher's logits, divided by a temperature.

    The teacher is trained on the hard labels of the records that the run may see. A network trained on the
    result minimises the cross-entropy against these distributions at temperature 1, so its logits approach
    those of the teacher divided by ``temperature``.

    Attributes:
        arch: architecture of the teacher, depth fitted to small images; ``width`` overrides its width.
        epochs: passes of the teacher over the records; many passes memorise odd records.
        augment: of the teacher's training: "data" (the data set's DSA string), "" (none), or a DSA strategy.
        temperature: above 0; 1 is the teacher's own confidence, large values flatten it.
        top_k: keep only the k most likely classes of each label and share the rest among them; None keeps all.
        adjust: takes the imbalance of the records off the logits; None: as they are.
        lesson: which records the teacher sees how often, and how its loss counts classes; None: every record once.
        robust: how its steps are changed so that it resists small changes; None: not at all.

    Source: Hinton, Vinyals & Dean, arXiv 1503.02531, section 2 (temperature); Yin, Xing & Shen, SRe2L, NeurIPS
        2023, arXiv 2306.13092, section 3 (relabelling a distilled set; they write labels per crop, here one per
        image).
    """

    arch: str = "ConvNet"
    width: int | None = None
    epochs: int = 100
    augment: str = "data"
    temperature: float = 4.0
    top_k: int | None = None
    adjust: Adjustment | None = None
    lesson: Lesson | None = later(None)
    robust: Robust | None = later(None)

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"labels.temperature must be positive, not {self.temperature:g}")
        if self.epochs < 1:
            raise ValueError(f"labels.epochs must be at least 1, not {self.epochs}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"labels.top_k must be at least 1, not {self.top_k}")
        if self.augment != "data":
            operations(self.augment)

    def relabel(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        train: ImageData,
        data: Dataset,
        seed: int,
        device: torch.device,
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Soft labels of images that are already made, by a teacher trained on ``train``.

        Args:
            images: (M, C, H, W) pixels.
            labels: (M,) their hard labels, which only ``adjust`` reads.
            train: the real records that this run may see.
            data: constants and augmentation of the data set ``train`` belongs to.
            seed: of the run; the teacher's own seed is derived from it.
            device: where the teacher is trained.

        Returns:
            (M, num_classes) float32 distributions, on the device of ``images``; what the card notes of them.

        Raises:
            BadInput: unknown architecture, or records that cannot be trained on.
        """
        teacher = self.teacher(train, data=data, seed=seed, device=device)
        logits = predict(teacher, images)
        notes: tuple[str, ...] = ()
        if self.adjust is not None:
            shift, note = self.adjust.shift(logits, labels.cpu(), train.labels)
            logits, notes = logits - shift, (note,)
        return self.soften(logits).to(images.device), notes

    def teacher(
        self, train: ImageData, *, data: Dataset, seed: int, device: torch.device
    ) -> Network:
        """The teacher: one network trained on the hard labels of ``train``."""
        arch = Arch.parse(self.arch)
        if self.width is not None:
            arch = replace(arch, width=self.width)
        shown, extra = teach(self.lesson, train)
        (network,) = train_many(
            [(shown.images, shown.labels)],
            arch=fit(arch, train.shape),
            num_classes=train.num_classes,
            mean=data.mean,
            std=data.std,
            protocol=self._protocol(data),
            seeds=[_teacher_seed(seed)],
            extras=[extra],
            device=device,
        )
        return network

    def soften(self, logits: Tensor) -> Tensor:
        """(M, K) labels from the teacher's (M, K) logits."""
        labels = torch.softmax(logits / self.temperature, dim=1)
        return labels if self.top_k is None else keep_top(labels, self.top_k)

    def _protocol(self, data: Dataset) -> EvaluationProtocol:
        augment = data.augment if self.augment == "data" else self.augment
        return replace(
            PROTOCOLS["quick"],
            name="teacher",
            epochs=self.epochs,
            epochs_plain=self.epochs,
            augment=augment,
            max_steps=None,
            deviations=(),
            robust=self.robust,
        )


def temper(labels: Tensor, factor: float) -> Tensor:
    """Labels at ``factor`` times their temperature, from the labels alone.

    ``softmax(z / t) ** (1 / f)``, normalised, is ``softmax(z / (f t))``: whoever holds soft labels can undo their
    temperature. Classes of probability 0 stay there.

    Args:
        labels: (M, K) distributions.
        factor: above 0; above 1 flattens, below 1 sharpens.

    Returns:
        (M, K) distributions of the same type.
    """
    if factor <= 0:
        raise ValueError(f"a temperature is multiplied by a positive factor, not {factor:g}")
    return torch.softmax(labels.double().log() / factor, dim=1).to(labels.dtype)


def keep_top(labels: Tensor, k: int) -> Tensor:
    """Labels cut to their ``k`` most likely classes and normalised; all of them if there are no more than k.

    Args:
        labels: (M, K) distributions.
    """
    if k >= labels.shape[1]:
        return labels
    top = labels.topk(k, dim=1)
    kept = torch.zeros_like(labels).scatter(1, top.indices, top.values)
    return kept / kept.sum(1, keepdim=True)


def harden(labels: Tensor) -> Tensor:
    """(M, K) one-hot labels of the most likely class: what is left at temperature 0."""
    return torch.nn.functional.one_hot(labels.argmax(1), labels.shape[1]).to(labels.dtype)


def _teacher_seed(seed: int) -> int:
    """A seed of its own, so that the teacher does not start as the networks of the distillation do."""
    return stable_seed("teacher", seed)
