"""The artifact: a distilled set and its card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.sets._store import LabelStore

PROMISES_NOTHING = 100.0
"""An epsilon above it is an empty promise: one record may then change the odds of any output by e^100, about 10^43."""

_FAR, _FEW = 16.0, 0.01
"""More than a few values above this, and none below 0, are of another scale. Noise, which reaches as far, is on both
sides of 0."""
MOST_CHANNELS = 4
_MOST_CLASSES = 1_000_000  # a damaged count must not make readers allocate a table of that size


class _Model(BaseModel):
    # Infinity is a legal epsilon (no noise) but no JSON number: it travels as a string.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class LedgerEntry(_Model):
    """One kind of private query.

    ``count`` releases of a Gaussian sum with noise multiplier ``sigma``, each on a Poisson sample
    of rate ``q``.
    """

    query: str
    sigma: float = Field(ge=0)
    q: float = Field(ge=0, le=1)
    count: int = Field(ge=0)


class PrivacyClaim(_Model):
    """An (epsilon, delta) claim and everything needed to re-derive it."""

    epsilon: float = Field(ge=0)
    delta: float = Field(ge=0, le=1)
    relation: str = "add-or-remove-one"
    unit: str = ""
    """What one record of the relation is; empty on cards that do not say."""
    accountant: str = "pld"
    mechanism: str = ""
    sampling: str = "poisson"
    clip: float | None = None
    ledger: list[LedgerEntry] = Field(default_factory=list)
    cross_checks: dict[str, float] = Field(default_factory=dict)
    """epsilon by every other accountant and relation, by name."""
    public: list[str] = Field(default_factory=list)
    """What was treated as public knowledge (class counts, normalisation constants, ...)."""
    release: str | None = None
    """Names one spending of the budget. Sets of one release were made from the same noisy answers:
    publishing all of them costs the claim once. Sets of different releases compose."""
    noise_seed_published: bool = False
    """True when the noise generator was seeded (tests, reproducible demos): the claim is then void
    for outsiders."""


def given(claim: PrivacyClaim) -> str:
    """What the relation of a claim is conditional on, as words after it; empty: nothing.

    A record more or less changes the counts that are treated as public: the claim holds for who is told them.
    """
    counts = [p for p in claim.public if "counts" in p or p == "number of records"]
    return f" given the {' and the '.join(counts)}" if counts else ""


def empty_promise(epsilon: float) -> str | None:
    """What to warn of where an epsilon is above ``PROMISES_NOTHING``; None where it is not."""
    if epsilon <= PROMISES_NOTHING:
        return None
    if math.isinf(epsilon):
        return "the claimed epsilon is infinite: no privacy is claimed"
    return (
        f"epsilon {epsilon:.4g} promises nothing: above {PROMISES_NOTHING:g}, one record may change the odds of any "
        "output by e^100 and more; published claims are mostly at 10 or below"
    )


class StorageBytes(_Model):
    """What a set costs to store: the budget that comparisons at equal size must count.

    ``images`` counts stored images as float32 (of decoded sets: before decoding), ``labels`` labels
    and label store, ``decoder`` whatever else is needed to make the images (a network's weights).
    """

    images: int = Field(ge=0)
    labels: int = Field(ge=0)
    decoder: int = Field(default=0, ge=0)
    outliers: int = Field(default=0, ge=0)


class Poison(_Model):
    """A backdoor that was put into a set on purpose, for tests; its trigger is kept beside the images."""

    attack: str
    status: str
    """How the attack relates to its source: faithful, simplified, reconstruction."""
    threat_model: str
    target: int = Field(ge=0)
    """The class that the trigger leads to."""
    source_class: int | None = Field(default=None, ge=0)
    """The only class whose images the trigger was made for; None: all."""
    ratio: float | None = Field(default=None, ge=0, le=1)
    ratio_of: str = ""
    """What the ratio is a share of, and how."""
    records: int = Field(default=0, ge=0)
    """Training records that carry the trigger."""
    trigger: str
    """How the tensors of the trigger are put on an image: blend (x * keep + add) or generated."""
    settings: dict[str, Any] = Field(default_factory=dict)


class Card(_Model):
    """What a distilled set says of itself. Unknown to us = None, never a guess."""

    format_version: str = "1"
    method: str = "unknown"
    recipe: dict[str, Any] | None = None
    deviations: list[str] = Field(default_factory=list)
    ipc: int | None = None
    data: str | None = None
    source_fingerprint: str | None = None
    class_names: list[str] | None = None
    names_sorted: bool = False
    """True where classes are counted in the order of their names because the source states none: folders, texts."""
    modality: str = "image"
    """What a record is: image, tabular, series, embedding."""
    space: str = "pixels"
    """What values are: pixels, or standard (standardised numbers without a bound)."""
    seed: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    protocol: dict[str, Any] | None = None
    """The evaluation protocol the set was made for."""
    privacy: PrivacyClaim | None = None
    member_indices: list[int] | None = None
    """Training-set positions of records that are released verbatim (coreset methods); not for DP
    sets."""
    versions: dict[str, str] = Field(default_factory=dict)
    seconds: float | None = None
    notes: list[str] = Field(default_factory=list)
    contains_real_pixels: bool | None = None
    """True when images hold pixels of real records as they are (coresets, crops and patches)."""
    learned_lr: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    """The learning rate that was learned with the set; networks trained by the card use it."""
    bytes: StorageBytes | None = None
    poison: Poison | None = None

    @property
    def shows_records(self) -> bool:
        """True when real records, or pieces of them, can be read off the images."""
        return bool(self.contains_real_pixels) or bool(self.member_indices)


@dataclass(frozen=True, eq=False, repr=False)
class DistilledSet:
    """A distilled set.

    Attributes:
        images: (M, C, H, W) float32, pixel space ([0, 1] nominal; optimised images may overshoot), or
            standardised values where the card's ``space`` says so.
        labels: (M,) int64 hard labels or (M, K) float32 soft labels (probabilities).
        num_classes: K.
        card: what is known of its making.
        store: labels per epoch and view, kept beside the images, or None.
        outliers: (M2, C, H, W) float32 pixels that networks should be unsure of, or None.
        trigger: float32 tensors of the trigger that the card's ``poison`` names, or None.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    card: Card
    store: LabelStore | None = None
    outliers: Tensor | None = None
    trigger: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        """One line: pixels and card have views of their own."""
        claim = self.card.privacy
        return (
            f"DistilledSet({self.card.method!r}, {len(self)} of {'x'.join(map(str, self.shape))}, "
            f"{self.num_classes} classes, {'soft' if self.soft else 'hard'} labels, data={self.card.data!r}, "
            f"epsilon={'no claim' if claim is None else format(claim.epsilon, '.4g')})"
        )

    def _repr_html_(self) -> str:
        from ddaudit.sets._notebook import to_html

        return to_html(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.images.shape[1:]
        return int(c), int(h), int(w)

    @property
    def soft(self) -> bool:
        """True when labels are distributions."""
        return self.labels.ndim == 2

    @property
    def hard_labels(self) -> Tensor:
        """(M,) int64: the labels, or the argmax of soft ones."""
        return self.labels.argmax(1) if self.soft else self.labels

    def check(self, where: object = "distilled set") -> DistilledSet:
        """Validate shapes, types, values, labels and what the card says of them; returns self.

        Raises:
            BadInput: one line naming ``where`` and the first thing wrong.
        """
        if not 1 <= self.num_classes <= _MOST_CLASSES:
            what = f"claims {self.num_classes} classes, expected 1 to {_MOST_CLASSES}"
            raise BadInput(where, what)
        _check_images(self.images, where, pixels=self.card.space == "pixels")
        _check_labels(self.labels, len(self.images), self.num_classes, where)
        if self.store is not None:
            self.store.check(
                size=len(self), num_classes=self.num_classes, shape=self.shape, where=where
            )
        if self.outliers is not None:
            _check_outliers(self.outliers, self.shape, where)
        if (self.trigger is None) != (self.card.poison is None):
            raise BadInput(where, "has a poison on its card without its trigger, or the reverse")
        for name, part in (self.trigger or {}).items():
            if part.dtype != torch.float32 or not torch.isfinite(part).all():
                raise BadInput(where, f"trigger tensor '{name}' is not finite float32")
        _check_card(self.card, self.num_classes, self.shape[0], where)
        return self

    def check_against(
        self,
        *,
        shape: tuple[int, int, int],
        num_classes: int,
        data: str,
        where: object,
        space: str = "pixels",
    ) -> DistilledSet:
        """Validate that this set can stand in for real data of that shape and class count.

        Raises:
            BadInput: channel count, size or labels do not fit.
        """
        hint = "Was this set distilled from other data? Pass --data, or see 'ddaudit inspect'."
        if self.shape != tuple(shape):
            what = f"images are {self.shape} (C, H, W) but data '{data}' is {tuple(shape)}"
            raise BadInput(where, what, hint)
        if self.card.space != space:
            what = f"holds values in space '{self.card.space}' but data '{data}' is in '{space}'"
            raise BadInput(where, what, hint)
        top = max(int(self.hard_labels.max()), self.num_classes - 1)
        if top >= num_classes:
            what = f"labels reach {top} but data '{data}' has {num_classes} classes"
            raise BadInput(where, what, hint)
        return self

    def pixel_range(self) -> tuple[float, float]:
        """(smallest, largest) pixel value."""
        low, high = float(self.images.min()), float(self.images.max())
        return (low, high) if math.isfinite(low) and math.isfinite(high) else (math.nan, math.nan)


def _check_images(x: Tensor, where: object, *, pixels: bool) -> None:
    if x.ndim != 4:
        raise BadInput(where, f"images have shape {tuple(x.shape)}, expected (M, C, H, W)")
    if len(x) == 0:
        raise BadInput(where, "holds no images", "An empty set cannot be audited.")
    if x.dtype != torch.float32:
        raise BadInput(
            where,
            f"images are {_name(x.dtype)}, expected float32",
            "Convert them to float32 pixels in [0, 1] before saving.",
        )
    if pixels and not 1 <= x.shape[1] <= MOST_CHANNELS:
        raise BadInput(
            where,
            f"images have {x.shape[1]} channels, expected 1 to {MOST_CHANNELS}",
            "Is the layout NHWC? Images are stored as (M, C, H, W).",
        )
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise BadInput(where, f"images are {x.shape[2]} x {x.shape[3]} pixels")
    bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
    if bad:
        what = f"{bad} of {len(x)} images contain NaN or infinity"
        raise BadInput(where, what, "Distillation probably diverged; distill again.")
    low, high = float(x.min()), float(x.max())
    if pixels and low >= 0 and float((x > _FAR).double().mean()) > _FEW:
        what = f"holds values from {low:.4g} to {high:.4g}, and pixels lie in [0, 1]"
        todo = "Divide by 255 (16 bits: by 65535), or import the file with --set range=0-255."
        raise BadInput(where, what, todo)


def _check_outliers(x: Tensor, shape: tuple[int, int, int], where: object) -> None:
    if x.dtype != torch.float32 or x.ndim != 4 or len(x) == 0 or tuple(x.shape[1:]) != shape:
        what = f"outliers are {_name(x.dtype)} {tuple(x.shape)}, expected float32 (M2, *{shape})"
        raise BadInput(where, what, "They are images like the others, at least one.")
    if not torch.isfinite(x).all():
        raise BadInput(where, "outliers contain NaN or infinity", "Distill again.")


def _check_labels(y: Tensor, count: int, num_classes: int, where: object) -> None:
    if y.ndim not in (1, 2) or len(y) != count:
        raise BadInput(
            where,
            f"labels have shape {tuple(y.shape)} for {count} images",
            "Expected (M,) hard or (M, K) soft labels.",
        )
    if y.ndim == 1:
        if y.dtype != torch.int64:
            raise BadInput(
                where,
                f"hard labels are {_name(y.dtype)}, expected int64",
                "Store class indices as int64, or soft labels as float32 (M, K).",
            )
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= num_classes:
            bad_label = low if low < 0 else high
            raise BadInput(
                where,
                f"label {bad_label} is out of range for {num_classes} classes",
                "Labels are class indices from 0 on."
                + (
                    " Do these count from 1? Subtract 1." if (low, high) == (1, num_classes) else ""
                ),
            )
        return
    if y.shape[1] != num_classes or y.dtype != torch.float32:
        raise BadInput(
            where,
            f"soft labels are {_name(y.dtype)} {tuple(y.shape)}, "
            f"expected float32 ({count}, {num_classes})",
        )
    if not torch.isfinite(y).all():
        raise BadInput(where, "soft labels contain NaN or infinity", "Distill again.")
    sums = torch.ones(len(y), dtype=y.dtype, device=y.device)
    if float(y.min()) < -1e-6 or not torch.allclose(y.sum(1), sums, atol=1e-3):
        raise BadInput(
            where,
            "soft labels are not distributions",
            "Rows must be non-negative and sum to 1; take a softmax of logits first.",
        )


def _check_card(card: Card, num_classes: int, channels: int, where: object) -> None:
    if card.class_names is not None and len(card.class_names) != num_classes:
        names = len(card.class_names)
        raise BadInput(where, f"card names {names} classes but the set has {num_classes}")
    if card.class_names is not None and len(set(card.class_names)) < num_classes:
        raise BadInput(where, "card gives two classes one name")
    if card.ipc is not None and card.ipc < 1:
        raise BadInput(where, f"card says {card.ipc} images per class")
    if card.bytes is not None and card.bytes.images + card.bytes.decoder == 0:
        what = "card says that the images take 0 bytes to store"
        raise BadInput(where, what, "Leave 'bytes' out: the tensors are counted then.")
    if any(k < 0 for k in card.member_indices or ()):
        raise BadInput(where, "card gives negative positions of training records")
    for field, values in (("mean", card.mean), ("std", card.std)):
        if values is not None and len(values) != channels:
            what = f"card gives {len(values)} values of {field} for {channels} channels"
            raise BadInput(where, what)
        if not all(math.isfinite(v) and (v > 0 or field == "mean") for v in values or ()):
            raise BadInput(where, f"card gives {values} as {field} of its channels")
    if (
        card.poison is not None
        and max(card.poison.target, card.poison.source_class or 0) >= num_classes
    ):
        raise BadInput(where, f"card names a poisoned class beyond the {num_classes} of the set")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
