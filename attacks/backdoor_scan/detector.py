"""What a backdoor detector sees, what it answers, and what detectors share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ddaudit.models import Network
from ddaudit.training import features

Flags = Literal["sets", "images", ""]

CONSISTENT = 1.4826
"""A median absolute deviation times this estimates the standard deviation of normal numbers."""
AT_ONCE = 2000
"""Trusted images times classes in one step of an optimisation, about."""
FEWEST_ROWS = 20
"""Images that every class must have before one class alone can be looked at."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A set under suspicion beside real images that are trusted.

    Attributes:
        clean: (N, C, H, W) float32 trusted pixels in [0, 1]; ``labels`` (N,) int64.
        num_classes: K.
        rows: (M, C, H, W) float32 images of the set; None for a network that came without its set.
        row_labels: (M,) int64, soft labels rounded to their top class.
        seed: of every random choice: one for the suspect and all clean sets, so that they differ in the set alone.
    """

    clean: Tensor
    labels: Tensor
    num_classes: int
    rows: Tensor | None
    row_labels: Tensor
    seed: int = 0
    _kept: dict[tuple[int, str], Tensor] = field(default_factory=dict, repr=False)

    def least(self) -> int:
        """Images in the smallest class of the set."""
        return int(torch.bincount(self.row_labels, minlength=self.num_classes).min())

    def sample(self, most: int) -> tuple[Tensor, Tensor]:
        """The first ``most`` trusted images and labels, fewer where many classes are optimised at once."""
        count = min(most, max(FEWEST_ROWS, AT_ONCE // self.num_classes))
        return self.clean[:count], self.labels[:count]

    def generator(self) -> torch.Generator:
        """A CPU generator seeded by ``seed``."""
        return torch.Generator().manual_seed(self.seed)

    def features(self, network: Network, of: Literal["rows", "clean"]) -> Tensor:
        """(M or N, D) float64 penultimate features, computed once."""
        key = (id(network), of)
        if key not in self._kept:
            pixels = self.clean if of == "clean" else self.rows
            assert pixels is not None
            self._kept[key] = features(network, pixels).double()
        return self._kept[key]


@dataclass(frozen=True, eq=False)
class DetectorReading:
    """What a detector says of one network and its set.

    Attributes:
        scores: (K,) float64, a class each, larger = more suspicious.
        flagged: what the published rule does with it: the share of images it flags, or 1 where it flags a class and
            0 where it flags none; None: there is no published rule.
        missed: classes for which an optimisation did not reach its goal, so that their score is a bound.
        triggers: (K, C, H, W) a mark that leads to each class, where the detector looks for one.
    """

    scores: Tensor
    flagged: float | None = None
    missed: int = 0
    triggers: Tensor | None = None


class Detector(Protocol):
    """One way to look for a backdoor. Its numbers mean something only beside those of clean sets."""

    name: ClassVar[str]
    """As it stands in names of metrics."""
    title: ClassVar[str]
    source: ClassVar[str]
    flags: ClassVar[Flags]
    """What the published rule flags; "": there is none."""

    def missing(self, network: Network, seen: Exhibit) -> str:
        """Why it can say nothing about this exhibit, in a clause; "" where it can be asked."""

    def read(self, network: Network, seen: Exhibit) -> DetectorReading:
        """Its answer for one network."""


def needs_rows(seen: Exhibit, least: int) -> str:
    """Why a detector that looks at ``least`` images of every class cannot be asked; "" where it can."""
    if seen.rows is None:
        return "a network came without the set it was trained on"
    if seen.least() < least:
        return f"the smallest class has {seen.least()} images, and {least} are needed"
    return ""


def average(readings: list[DetectorReading]) -> DetectorReading:
    """The mean over the networks of a set; the first one's marks."""
    flagged = [r.flagged for r in readings if r.flagged is not None]
    return DetectorReading(
        torch.stack([r.scores for r in readings]).mean(0),
        sum(flagged) / len(flagged) if flagged else None,
        round(sum(r.missed for r in readings) / len(readings)),
        readings[0].triggers,
    )


def anomaly_index(values: Tensor) -> Tensor:
    """Distance from the median in units of the (scaled) median absolute deviation, of (K,) values.

    Source: Wang et al., "Neural Cleanse", S&P 2019, section IV-C; SCAn and Beatrix use it too.
    """
    middle = values.quantile(0.5)
    spread = CONSISTENT * (values - middle).abs().quantile(0.5)
    return (values - middle).abs() / spread.clamp_min(1e-12)


def above_median(values: Tensor) -> Tensor:
    """(K,) values less their median: what sets one class apart from the others of its own network."""
    return values - values.quantile(0.5)


def by_class(seen: Exhibit, value: Callable[[Tensor], float]) -> Tensor:
    """(K,) float64 of a function of the (n,) positions of each class's rows."""
    positions = [(seen.row_labels == k).nonzero()[:, 0] for k in range(seen.num_classes)]
    return torch.tensor([value(p) for p in positions], dtype=torch.float64)
