"""The parts a recipe is made of, and what each kind of part must offer.

The heart of the design is one primitive, ``targets = W @ signals``: an objective turns real examples into
per-example signals, a target rule gives rows of weights over real examples, a reader is the only door through
which real records enter (and where clipping and noise live for private methods), and the loop moves the
synthetic images until their aggregate matches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation.canvas import Canvas, FreeRate, SoftLabels, Synthesis
from ddaudit.distillation.reductions import Reduction, Sum
from ddaudit.distillation.tracing import Trace, trace
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.sets import PrivacyClaim
from ddaudit.training.augment import AugmentParams


@dataclass(frozen=True, eq=False)
class Layout:
    """Which synthetic images each target row speaks to.

    Attributes:
        slots: (R,) int64; the class whose synthetic images row r is matched to, or -1 for all of them.
        names: one readable name per row.
        reduction: how the rows' distances become one loss.
        even: every class counts the same in the loss, however many rows it has and however many records they hold.
    """

    slots: Tensor
    names: tuple[str, ...]
    reduction: Reduction = field(default_factory=Sum)
    even: bool = False

    def __len__(self) -> int:
        return len(self.slots)

    def weigh(self, weights: Tensor) -> Tensor:
        """(K, R) weights of the rows in the loss from those of a reader, 0 where a row has no records.

        Where classes count alike, each that has records gets the same part of the total, and its rows share it in
        proportion to ``weights``: the step of the whole set keeps its size.
        """
        if not self.even:
            return weights
        mine = F.one_hot(self.slots + 1, int(self.slots.max()) + 2).to(weights)
        of_class = weights @ mine
        present = (of_class > 0).sum(1, keepdim=True).clamp_min(1)
        part = weights.sum(1, keepdim=True) / present
        return weights * ((part / of_class.clamp_min(1e-30)) @ mine.T)


@dataclass(frozen=True, eq=False)
class Targets:
    """Aggregated real-data signals for one step, for K independent distillations at once.

    Attributes:
        values: (K, R, D), weighted means of signals (noisy ones when private); (K, R, n, 1 + D) of an objective
            that compares sets of records.
        weights: (K, R) weight of each row in the loss; 0 where a row has no records.
    """

    values: Tensor
    weights: Tensor

    def mean(self) -> Tensor:
        """(K, D) mean over rows, those without records left out."""
        weights = self.weights[..., None]
        mean: Tensor = (weights * self.values).sum(1) / weights.sum(1).clamp_min(1e-12)
        return mean


@dataclass(frozen=True, eq=False)
class Query:
    """One question to the real data: the signals of this objective, on this network, under these augmentations.

    ``id`` names the query in the ledger; asking the same id again returns the stored release. Everything else
    in it is public: a reader may depend on the id alone.
    """

    id: str
    objective: Signal
    net: Network | None
    """None for objectives that need no network (pixels, kernels)."""
    augment: tuple[AugmentParams | None, ...]
    """One (siamese) parameter set per class."""
    taught: bool = False
    """The network has been trained on the synthetic set as it stands."""


@dataclass(frozen=True, eq=False)
class Opening:
    """What a reader is opened for.

    Attributes:
        rule: the rows that signals are summed by.
        mean, std: (C, 1, 1) normalisation that signals are taken under.
        queries: how many different queries will be asked at most.
        seed: public seed of whatever is not secret.
        device: where signals are computed.
        again: True when questions will be asked again, so that answers must be kept.
        assumed: what else a privacy claim takes as public, in words.
    """

    rule: TargetRule
    mean: Tensor
    std: Tensor
    queries: int
    seed: int
    device: torch.device
    again: bool = False
    assumed: tuple[str, ...] = ()


class Signal(Protocol):
    """Per-example signals of real data: all that a reader needs to know of an objective.

    An ``objective`` of a recipe also says whether it :meth:`Objective.couples_records`.
    """

    @property
    def shareable(self) -> bool:
        """True when signals do not depend on the synthetic set, so K distillations can share them."""

    def signals(self, net: Any, x: Tensor, y: Tensor) -> Tensor:
        """(B, D) detached per-example signals of normalised images x (B, C, H, W), labels y (B,)."""

    def real(self, net: Any, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, D) detached ``rows @ signals`` for rows (K, R, B), computed the cheapest way.

        An objective that couples records may give another aggregate: it is never read under noise.
        """


class Objective(Signal, Protocol):
    """Per-example signals and a distance between their aggregates."""

    @property
    def squared(self) -> bool:
        """True when the distance is a squared norm, so that matching several rows is matching their mean."""

    def couples_records(self) -> bool:
        """True when the signal of one record depends on the others of its batch (centred or whitened signals), or
        when the aggregate is no sum. An attribute ``coupling`` may say how, to go on after the objective's name."""

    def private_defaults(self) -> PrivateDefaults | None:
        """How its signals are read under noise; None where no clip is known, so that the user has to choose one."""

    def synthetic(
        self, net: Network, x: Tensor, y: Tensor, rows: Tensor, clip: float | None
    ) -> Tensor:
        """(K, S, D) aggregates of synthetic images, differentiable in x.

        x is (K, M, C, H, W) normalised, y (M,) int64, rows (S, M). ``clip`` bounds each per-example signal as
        the private side did (the factor is treated as a constant), where the objective supports it.
        """

    def distance(self, net: Network, target: Tensor, synthetic: Tensor) -> Tensor:
        """(K, R) distances between two (K, R, D) aggregates."""


@runtime_checkable
class Drawn(Protocol):
    """An objective with random or learned parts of its own, such as frequencies."""

    def bind(self, seed: int) -> Drawn:
        """This objective for one run: what it learns starts from a public seed, and is kept in what is returned."""

    def draw(self, seed: int) -> Objective:
        """This objective for one question: its random parts are those of a public seed."""


@dataclass(frozen=True)
class PrivateDefaults:
    """Published values for reading an objective's signals under noise.

    Attributes:
        clip: bound on a signal's L2 norm.
        scale: "sum" where noisy sums are matched, so that a row's loss grows with its mass; "mean" otherwise.
        lr: step of the images at that scale; None leaves the method's own.
        source: where the values stand.
        fresh: networks that the method trains on records give way to random ones, on which the objective says
            enough; False refuses such a method.
    """

    clip: float
    scale: Literal["sum", "mean"]
    lr: float | None
    source: str
    fresh: bool = False


class TargetRule(Protocol):
    """Rows of weights over real examples: which aggregate each synthetic class is matched to; a frozen dataclass.

    A private reader binds a rule to (class, group) counts alone and asks it, on blank records, for its layout and for
    one weight per row, class and group, so that no rule can let one record set another's weight. The rule says what it
    would do otherwise.
    """

    def layout(self, data: ImageData) -> Layout:
        """The fixed rows of this rule on this data, and how their distances become one loss.

        Raises:
            BadInput: the data lack what the rule needs (a protected attribute, say).
        """

    def bind(self, data: ImageData, drawn: Tensor | None = None) -> TargetRule:
        """This rule with whatever it needs to know of all the records at hand; itself when that is nothing.

        Args:
            data: the records. Under a private reader they have classes and groups, but blank images.
            drawn: (num_classes,) how many records of each class a question takes on average; None: in proportion
                to their number.
        """

    def rows(self, data: ImageData, index: Tensor) -> Tensor:
        """(R, B) unnormalised weights in [0, 1] of the records at ``index``; an unbound rule binds to ``data``.

        Every column has L2 norm <= 1: one record moves the stacked sums by at most its own signal's norm.
        """

    def couples_records(self) -> bool:
        """True when a record's weight depends on other records, apart from what :meth:`assumed` takes as public."""

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        """What the weights rest on that a privacy claim must list as public, in words ("(class, group) counts")."""

    def bounded(self) -> TargetRule:
        """The rule to use under noise: as few rows as possible (itself when nothing is gained).

        For squared distances it has the same optimum.
        """


class Weights(Protocol):
    """How much single records weigh within the rows of a rule (``Weighted(rule, weights)``); a frozen dataclass."""

    def bind(self, data: ImageData, layout: Layout, drawn: Tensor | None) -> Weights:
        """These weights with what they need at hand; ``layout`` is that of the rule, the rest as for a rule."""

    def weigh(self, data: ImageData, index: Tensor) -> Tensor:
        """(B,) weights in [0, 1] of the records at ``index``, bound before."""

    @property
    def even(self) -> bool:
        """True when classes shall count alike in the loss as well."""

    def couples_records(self) -> bool:
        """As for a rule."""

    def assumed(self, layout: Layout) -> tuple[str, ...]:
        """As for a rule."""


class Source(Protocol):
    """Real data, opened for one distillation (or K at once)."""

    layout: Layout
    clip: float | None

    def targets(self, query: Query) -> Targets:
        """The aggregated signals a query asks for."""

    def claims(self) -> list[PrivacyClaim | None]:
        """K privacy claims, or None for each where real data were read without a guarantee."""


@runtime_checkable
class Reader(Protocol):
    """The only door to real records. ``private`` readers clip, add noise and keep a ledger."""

    @property
    def private(self) -> bool: ...

    def check(self, data: ImageData) -> None:
        """Find out before any work whether these data can be read.

        Raises:
            BadInput: they cannot.
        """

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> Source:
        """Open ``data``; ``members`` is (K, N) bool, the records each run may see."""


@dataclass(frozen=True, eq=False)
class View:
    """What a term is shown of one step: the synthetic set and a network, and nothing that could read a record.

    Under a private reader the synthetic set is a function of past answers, and so is everything here: terms are
    post-processing.

    Attributes:
        images: (K, M, C, H, W) normalised synthetic images, differentiable.
        matched: the same as augmented for the match.
        labels: (M,) int64 class of each image.
        num_classes: how many classes there are.
        net: the network of this step; None for methods without networks.
        std: (C, 1, 1) of the normalisation: a pixel distance d is d / std here.
        step: counts from 0.
        soft: (K, M, num_classes) learned labels as they are, constants; None where labels are hard.
        index: (M,) positions of the images in the set that is made; None: they are all of it.
        teacher: the trained network that ``net`` was made from; None where there is none.
        outliers: (K, M2, C, H, W) normalised outliers that are optimised beside the images, differentiable.
        seed: of the distillation: what a term draws differs from one to the next.
    """

    images: Tensor
    matched: Tensor
    labels: Tensor
    num_classes: int
    net: Network | None
    std: Tensor
    step: int
    soft: Tensor | None = None
    index: Tensor | None = None
    teacher: Network | None = None
    outliers: Tensor | None = None
    seed: int = 0

    @cached_property
    def trace(self) -> Trace:
        """One pass of all K * M ``matched`` images, which every term of the step may read.

        Raises:
            BadInput: there is no network.
        """
        if self.net is None:
            raise BadInput("a term", "needs a network, and this method has none")
        return trace(self.net, self.matched.flatten(0, 1))

    def targets(self) -> Tensor:
        """(K, M, num_classes) label distributions."""
        if self.soft is not None:
            return self.soft
        one_hot = F.one_hot(self.labels, self.num_classes).to(self.images.dtype)
        return one_hot.expand(len(self.images), -1, -1)


class Term(Protocol):
    """A loss on the synthetic set, added to the match; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def weight(self) -> float:
        """What its loss is multiplied by, beside distances that are summed over target rows."""

    def loss(self, view: View) -> Tensor:
        """(K,) unweighted losses, each of one run's images alone; differentiable in the images.

        Raises:
            BadInput: the view lacks what the term needs (a network, say).
        """


class NetworkSource(Protocol):
    """Which networks signals are measured on; a frozen dataclass."""

    def bind(self, data: Dataset) -> NetworkSource:
        """This source with whatever public material it needs for ``data`` at hand.

        Raises:
            BadInput: the material is missing, or is not public with respect to ``data``.
        """

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """The network of this seed, on ``device``, in training mode, with identity normalisation."""

    def couples_records(self) -> bool:
        """True when the signal of one record depends on the rest of its batch (batch normalisation)."""

    def assumed(self, data: Dataset) -> tuple[str, ...]:
        """What the networks for ``data`` rest on that a privacy claim must list as public, in words."""

    def follows(self) -> bool:
        """True when networks depend on the synthetic set: then every question does, and no two runs share any."""

    def update(self, canvas: Canvas, step: int) -> None:
        """Learn of the synthetic set after optimisation step ``step`` (from 0); does nothing unless it ``follows``.

        A source that follows is bound once per run, and keeps what it learns in what ``bind`` returned. It is shown
        the synthetic set and never a record, so that under a private reader its networks are post-processing.
        """


@runtime_checkable
class LabelModel(Protocol):
    """Writes labels for images that are already made, by a teacher of its own; a frozen dataclass. One that reads no
    record says so by a class attribute ``reads_records = False``."""

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
        """(M, num_classes) float32 soft labels of pixel images (M, C, H, W), and notes for the card; may read ``train``
        freely."""


__all__ = [
    "Canvas",
    "FreeRate",
    "LabelModel",
    "Layout",
    "NetworkSource",
    "Objective",
    "Opening",
    "PrivateDefaults",
    "Query",
    "Reader",
    "Signal",
    "SoftLabels",
    "Source",
    "Synthesis",
    "TargetRule",
    "Targets",
    "Term",
    "View",
    "Weights",
]
