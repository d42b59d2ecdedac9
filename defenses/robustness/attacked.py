"""A reader whose records are attacked before their signals are taken."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.parts import Opening, Query, Signal, Source, Targets
from ddaudit.distillation.reading import Around
from ddaudit.errors import BadInput
from ddaudit.models import Network
from ddaudit.seeds import stable_seed
from ddaudit.sets import PrivacyClaim
from ddaudit.training import Ascent
from ddaudit.training.robust import asked


@runtime_checkable
class Predicts(Protocol):
    """A question that predicts by itself and can be attacked without a network."""

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,) losses of normalised records x (B, C, H, W) with labels y, differentiable in x."""


@dataclass(frozen=True)
class HardestFirst:
    """Of each row the records of the largest robust hinge max(0, 1 - margin at x') count, more of them with time.

    The margin is the logit of a record's class minus the largest other one. What counts grows evenly over the
    questions of a run from ``start`` to all, and a row keeps its weight.

    Attributes:
        start: share that counts at first.

    Source: the attack-aware curriculum of C2R, ICML 2026, arXiv 2605.20606, of which no code is public.
    """

    start: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise ValueError(f"curriculum.start must lie in (0, 1], got {self.start:g}")

    def share(self, done: float) -> float:
        """What counts when a fraction ``done`` of the questions is asked."""
        return self.start + (1 - self.start) * min(done, 1.0)


@dataclass(frozen=True)
class AttackedRecords(Around):
    """A reader around another whose records are attacked on the network of the question, or on its own predictor.

    Attributes:
        reader: the reader inside, without privacy.
        attack: how.
        curriculum: which of the attacked records count; None: all.
    """

    attack: Ascent = field(default_factory=Ascent)
    curriculum: HardestFirst | None = None

    def couples_records(self) -> bool:
        """True under a curriculum: records are ranked among each other."""
        return self.curriculum is not None

    @property
    def single(self) -> bool:
        """Attacks depend on the synthetic set or its networks: runs come one after the other."""
        return True

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> Source:
        """The source of the reader inside, whose questions are asked of attacked records.

        Raises:
            BadInput: the reader inside is private.
        """
        if self.private:
            raise BadInput(
                "adversarial",
                "attacks records before they are read, which no private reader does",
                "Leave it or the privacy out.",
            )
        return _Source(self.reader.open(data, members, opening), self, opening)


class _Source:
    def __init__(self, inner: Source, how: AttackedRecords, opening: Opening) -> None:
        self._inner, self._how, self._opening = inner, how, opening
        self.layout, self.clip = inner.layout, inner.clip
        self._asked = 0

    def targets(self, query: Query) -> Targets:
        done, opening = self._asked / max(1, self._opening.queries - 1), self._opening
        self._asked += 1
        generator = torch.Generator().manual_seed(stable_seed(opening.seed, "attack", query.id))
        signal = _OfAttacked(query.objective, self._how, opening, generator, done)
        return self._inner.targets(replace(query, objective=signal))

    def claims(self) -> list[PrivacyClaim | None]:
        return self._inner.claims()


class _OfAttacked:
    """The signals of attacked records."""

    shareable = False

    def __init__(
        self,
        signal: Signal,
        how: AttackedRecords,
        opening: Opening,
        generator: torch.Generator,
        done: float,
    ) -> None:
        self._signal, self._how, self._generator, self._done = signal, how, generator, done
        self._mean, self._std = (c.to(opening.device) for c in (opening.mean, opening.std))

    def signals(self, net: Any, x: Tensor, y: Tensor) -> Tensor:
        return self._signal.signals(net, self._attacked(net, x, y), y)

    def real(self, net: Any, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        x = self._attacked(net, x, y)
        if self._how.curriculum is not None:
            with torch.no_grad(), asked(net.body):
                hinge = robust_hinge(net.body(x), y)
            rows = hardest(rows, hinge, share=self._how.curriculum.share(self._done))
        return self._signal.real(net, x, y, rows)

    def _attacked(self, net: Network | None, x: Tensor, y: Tensor) -> Tensor:
        attack, constants = self._how.attack, {"mean": self._mean, "std": self._std}
        if isinstance(self._signal, Predicts):
            own = self._signal.losses
            return attack.on(x, lambda z: own(z, y), **constants, generator=self._generator)
        if net is None:
            raise BadInput("adversarial", "needs a network or a predictor to attack records on")
        body = net.body
        with asked(body):
            return attack.on(
                x, lambda z: attack.aim(body(z), y), **constants, generator=self._generator
            )


def robust_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) max(0, 1 - margin), the margin being the label's logit minus the largest other one of (B, K)."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return (1 - (own.squeeze(1) - others)).clamp_min(0)


def hardest(rows: Tensor, hardness: Tensor, *, share: float) -> Tensor:
    """Rows (K, R, B) in which only the hardest ``share`` of their records count, at least one; sums stay.

    Args:
        hardness: (B,).
    """
    there = rows > 0
    order = hardness.expand_as(rows).masked_fill(~there, -torch.inf).argsort(-1, descending=True)
    rank = order.argsort(-1)
    keep = there & (rank < (share * there.sum(-1, keepdim=True)).ceil())
    kept = rows * keep
    scale = rows.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp_min(1e-30)
    return kept * scale
