"""Evaluation protocols: how a network is trained on a set before anything is measured on it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ddaudit.errors import BadInput
from ddaudit.later import later, unused
from ddaudit.training.augment import fitted, mirrors, operations
from ddaudit.training.robust import Robust

# A card comes from strangers' files: what it asks for stays within what an audit can do.
_BOUNDS: dict[str, tuple[float, float]] = {
    "epochs": (1, 10_000),
    "epochs_plain": (1, 10_000),
    "batch_size": (1, 1_000_000),
    "max_steps": (1, 10_000_000),
    "lr": (0, 1000),
    "decay": (0, 1),
    "momentum": (0, 1),
    "weight_decay": (0, 10),
    "temperature": (0, 1000),
    "cutmix": (0, 1),
    "mixup": (0, 100),
    "outlier_weight": (0, 1000),
    "hard_weight": (0, 1000),
    "sam": (0, 100),
    "sam_gap": (0, 100),
    "ema": (0, 1),
    "adjust": (0, 100),
}
_ABOVE_ZERO = ("lr", "temperature")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,39}")  # it becomes part of file names


@dataclass(frozen=True)
class Schedule:
    """Steps of one training: ``steps`` in all; after ``decay_at`` the learning rate is cut."""

    steps: int
    decay_at: int
    per_epoch: int


@dataclass(frozen=True)
class EvaluationProtocol:
    """Training from a fresh initialisation; the last epoch counts.

    The defaults are the DC family's: SGD, one learning-rate cut at half time, cross-entropy.

    Attributes:
        name: the protocol's name.
        epochs: E with augmentation. With the step schedule the published loop runs E + 1 passes and
            cuts after pass E // 2 + 2; with the other schedules it runs E.
        epochs_plain: E without augmentation.
        batch_size: images a step; the last batch of a pass may be smaller.
        lr: learning rate at the start; of a set with a learned rate, that rate.
        momentum: of SGD; AdamW has its usual betas (0.9, 0.999).
        augment: DSA strategy; None means "the data set's own" (see :meth:`for_data`), "" none.
        max_steps: cap for large sets, or None; the cut moves in proportion.
        decay: factor of the learning rate at the cut. The optimiser is made anew there, so its
            momentum is lost. With "thirds" the factor of each of two cuts, which keep momentum.
        deviations: how it differs from the published protocol, in sentences a report can print.
        optimiser: "sgd" or "adamw".
        lr_schedule: "step" (one cut), "thirds" (after 2/3 and 5/6 of the steps: IDC's), "cosine" from
            ``lr`` to 0, or "half-cosine", the first half of one, to ``lr`` / 2; both move at every step.
        loss: "ce" cross-entropy with the labels as they are, hard or soft; "hard-ce" with their
            most likely class; "soft-ce" like "ce", refusing hard labels; "kl" divergence at
            ``temperature`` from the labels, which count as distributions at temperature 1; "mse"
            between logits and labels (hard ones as one-hot vectors, a store's as logits), averaged
            over images and classes.
        temperature: T of "kl": both sides are softened by it, and the loss is not multiplied by T^2.
        crop: (smallest, largest) area of a RandomResizedCrop per image, fractions; None: none.
        flip: mirror each image with probability 1/2.
        cutmix: probability that a batch is mixed by CutMix (areas uniform, beta = 1).
        mixup: alpha of mixup, which then mixes every batch; 0: none.
        labels: "image", the set's own labels; "store", the set's label store: its crops, flips,
            mixtures and labels are replayed epoch by epoch, over again when it is exhausted.
        outlier_weight: weight of cross-entropy to the uniform distribution on the set's outliers.
        hard_weight: weight of cross-entropy with the images' most likely classes, beside the loss on
            a store's labels (with "mse": MSE-GT of G-VBSM and EDC).
        sam: radius of sharpness-aware steps (adaptive SAM), each of two gradients; 0: plain ones.
        sam_gap: weight of the surrogate gap in them (GSAM).
        robust: how steps are changed so that small changes of inputs are resisted; None: not at all.
        ema: decay of the moving average of the weights, step by step, that is kept; 0 keeps the last ones.
        adjust: tau of logit adjustment: tau times the log of the set's class shares is added to the logits while
            networks are trained, and not afterwards; 0: none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

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
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr_schedule: Literal["step", "thirds", "cosine", "half-cosine"] = "step"
    loss: Literal["ce", "hard-ce", "soft-ce", "kl", "mse"] = "ce"
    temperature: float = 1.0
    crop: tuple[float, float] | None = None
    flip: bool = False
    cutmix: float = 0.0
    mixup: float = 0.0
    labels: Literal["image", "store"] = "image"
    outlier_weight: float = 0.0
    hard_weight: float = 0.0
    sam: float = 0.0
    sam_gap: float = 0.0
    robust: Robust | None = None
    ema: float = 0.0
    adjust: float = later(0.0)

    def __post_init__(self) -> None:
        where = f"protocol '{self.name[:40]}'"
        if not _NAME.fullmatch(self.name):
            todo = "Use up to 40 letters, digits, spaces and _ . + -"
            raise BadInput(where, "has a name that no file can carry", todo)
        for part, (low, high) in _BOUNDS.items():
            value = getattr(self, part)
            if value is None:
                continue
            if value <= 0 and (low > 0 or part in _ABOVE_ZERO):
                raise BadInput(where, f"{part} {value} is not positive")
            if not low <= value <= high:
                raise BadInput(where, f"{part} {value:g} is not within {low:g} to {high:g}")
        for part, allowed in _CHOICES.items():
            if getattr(self, part) not in allowed:
                what = f"{part} '{getattr(self, part)}' is not one of {', '.join(allowed)}"
                raise BadInput(where, what)
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise BadInput(where, f"crop {list(self.crop)} is no range of areas within (0, 1]")
        operations(self.augment or "")
        if self.labels == "store" and (
            self.augment or self.crop or self.flip or self.cutmix or self.mixup
        ):
            what = "replays a label store and augments on top of it: the labels would not fit"
            raise BadInput(where, what, "Leave augment, crop, flip, cutmix and mixup out.")
        if self.cutmix and self.mixup:
            raise BadInput(
                where, "mixes batches by CutMix and by mixup", "Leave one of the two out."
            )
        if self.hard_weight and self.labels != "store":
            what = "weighs hard labels beside a store's, and trains on no store"
            raise BadInput(where, what, "Leave hard_weight out.")
        if self.adjust and (self.labels == "store" or self.loss == "mse"):
            what = "adjusts logits by class shares, which neither a label store nor MSE has"
            raise BadInput(where, what, "Leave adjust out.")
        if self.sam > 0 and self.outlier_weight > 0:
            raise BadInput(where, "draws outliers at both gradients of a sharpness-aware step")

    def for_data(self, strategy: str) -> EvaluationProtocol:
        """This protocol with open augmentation resolved to the data set's ``strategy``, and without mirror images
        where that has none (see :func:`~ddaudit.training.augment.mirrors`)."""
        if self.augment is not None:
            return replace(
                self, augment=fitted(self.augment, strategy), flip=self.flip and mirrors(strategy)
            )
        return replace(self, augment="" if self.labels == "store" else strategy)

    @property
    def augmented(self) -> bool:
        """True when images change from pass to pass."""
        own = (
            self.crop is not None
            or self.flip
            or self.cutmix > 0
            or self.mixup > 0
            or self.labels == "store"
        )
        return own or bool(operations(self.augment or ""))

    def schedule(self, size: int) -> Schedule:
        """The steps for a set of ``size`` images."""
        if self.augment is None:
            raise ValueError("the protocol's augmentation is open: call for_data(...) first")
        epochs = self.epochs if self.augmented else self.epochs_plain
        per_epoch = math.ceil(size / self.batch_size)
        cut = self.lr_schedule == "step"
        steps = (epochs + 1 if cut else epochs) * per_epoch
        decay_at = min(epochs // 2 + 2, epochs + 1) * per_epoch if cut else steps
        if self.max_steps is not None and steps > self.max_steps:
            decay_at = round(decay_at * self.max_steps / steps)
            steps = self.max_steps
        return Schedule(steps, decay_at, per_epoch)

    @property
    def key(self) -> str:
        """A short name for file names and caches: equal keys, equal training.

        Options added after the first release count only where they are used, so that what was
        cached before them is still found.
        """
        skip = {"deviations"} | unused(self)
        parts = {k: v for k, v in asdict(self).items() if k not in skip}
        parts = {k: v for k, v in parts.items() if k not in _LATER or v != _LATER[k]}
        return f"{self.name}-{hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()[:8]}"

    def to_card(self) -> dict[str, Any]:
        """Plain data for a set's card: every field that earlier versions know or that is used, tuples as lists."""
        skip = unused(self)
        return {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in asdict(self).items()
            if k not in skip
        }

    @classmethod
    def from_card(
        cls, card: Mapping[str, Any], *, where: object = "card.protocol"
    ) -> EvaluationProtocol:
        """The protocol a card states.

        Raises:
            BadInput: unknown fields, wrong types or values out of bounds; one line naming ``where``.
        """
        known = [f.name for f in fields(cls)]
        try:
            return _ADAPTER.validate_json(json.dumps(dict(card)))
        except BadInput as error:
            raise BadInput(where, f"{error.where}: {error.what}", error.todo) from None
        except (ValidationError, TypeError, ValueError) as error:
            unknown = [str(name)[:40] for name in card if name not in known]
            if unknown:
                what = f"states what this ddaudit does not know: {', '.join(sorted(unknown)[:5])}"
                raise BadInput(where, what, f"Known: {', '.join(known)}.") from None
            what = str(error)
            if isinstance(error, ValidationError):
                first = error.errors(include_url=False)[0]
                what = f"field '{'.'.join(map(str, first['loc']))}' is invalid ({first['msg']})"
            raise BadInput(where, what) from None


_ADAPTER = TypeAdapter(EvaluationProtocol)
_CHOICES: dict[str, tuple[str, ...]] = {
    "optimiser": ("sgd", "adamw"),
    "lr_schedule": ("step", "thirds", "cosine", "half-cosine"),
    "loss": ("ce", "hard-ce", "soft-ce", "kl", "mse"),
    "labels": ("image", "store"),
}
_LATER = {
    f.name: f.default
    for f in fields(EvaluationProtocol)
    if f.name
    in {
        *_CHOICES,
        "temperature",
        "crop",
        "flip",
        "cutmix",
        "mixup",
        "outlier_weight",
        "hard_weight",
        "sam",
        "sam_gap",
        "robust",
        "ema",
    }
}


def _shortened(name: str, *, epochs: int, steps: int, batch: int = 256) -> EvaluationProtocol:
    return EvaluationProtocol(
        name=name,
        epochs=epochs,
        batch_size=batch,
        lr=0.05,
        max_steps=steps,
        deviations=(
            f"{epochs} instead of 1000 epochs with augmentation, and at most {steps} steps",
            "learning rate 0.05 instead of 0.01, so that the shorter training still fits the set",
            *(() if batch == 256 else (f"batches of {batch}, not 256",)),
        ),
    )


PROTOCOLS: dict[str, EvaluationProtocol] = {
    "dc": EvaluationProtocol(
        name="dc",
        max_steps=20_000,
        deviations=("training stops after 20 000 steps, which only large (real) sets reach",),
    ),
    "quick": _shortened("quick", epochs=300, steps=500),
    "brief": _shortened("brief", epochs=200, steps=600, batch=128),
}
"""Protocols by name. "dc": Zhao et al., ICLR 2021, and its code; "quick" and "brief": the same, shortened."""
