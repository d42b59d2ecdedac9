"""Broken private gates, for tests only: each states an honest plan in its ledger and does something else.

Sampling and noise come from fixed seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.defenses.privacy.source import Plan, PrivateSource
from ddaudit.distillation.canvas import Canvas, Start
from ddaudit.distillation.synthesis import Pixels
from ddaudit.sets import LedgerEntry

DELTA = 1e-4
FULL: dict[str, Any] = {"epsilon": 4.0, "delta": DELTA, "noise_seed": 3, "sampling": "full"}


class Lying(PrivateSource):
    """Follows ``real(plan)`` and keeps the ledger of ``plan``."""

    stated: Plan

    def plan(self, plan: Plan) -> PrivateSource:
        self.stated = plan
        return super().plan(self.real(plan))

    def real(self, plan: Plan) -> Plan:
        return plan

    def ledger(self, name: str) -> list[LedgerEntry]:
        found = super().ledger(name)
        if self._plan is None:
            return found
        q = float(self.stated.rates.max())
        return [*found[:-1], found[-1].model_copy(update={"sigma": self.stated.sigma, "q": q})]


class HalfNoise(Lying):
    def real(self, plan: Plan) -> Plan:
        return replace(plan, sigma=plan.sigma / 2)


class NoClip(Lying):
    """The right noise on unclipped signals."""

    def real(self, plan: Plan) -> Plan:
        return replace(plan, clip=1e12, sigma=plan.sigma * plan.clip / 1e12)


class Redrawn(Lying):
    """Keeps the clean sum and draws noise around it at every use: the defect of Dosser's released script."""

    def real(self, plan: Plan) -> Plan:
        return replace(plan, sigma=0.0)

    def noisy_sum(self, query_id: str, signals: Any, rows: Any) -> Tensor:
        clean = super().noisy_sum(query_id, signals, rows)
        noise = self._secret.normal(*clean.shape).float()
        return clean + self.stated.sigma * self.stated.clip * noise


class SameNoise(Redrawn):
    """Noise from a generator that is seeded anew for every question."""

    def noisy_sum(self, query_id: str, signals: Any, rows: Any) -> Tensor:
        clean = PrivateSource.noisy_sum(self, query_id, signals, rows)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        return clean + self.stated.sigma * self.stated.clip * noise


class FixedSize(Lying):
    """Batches of a fixed size from every class (K = 1)."""

    def noisy_sum(self, query_id: str, signals: Any, rows: Any) -> Tensor:
        chosen = self.chosen().float()
        self._plan = replace(self.stated, rates=chosen)
        return super().noisy_sum(query_id, signals, rows)

    def chosen(self) -> Tensor:
        chosen = torch.zeros(len(self._data), dtype=torch.bool)
        for c in range(self._data.num_classes):
            mine = (self._data.labels == c).nonzero().squeeze(1)
            count = round(float(self.stated.rates[mine[0]]) * len(mine))
            chosen[mine[self._secret.uniform(len(mine)).argsort()[:count]]] = True
        return chosen


class FixedTotal(FixedSize):
    """``random.sample`` from all records: classes vary, the total does not."""

    def chosen(self) -> Tensor:
        rates = self.stated.rates
        order = self._secret.uniform(len(rates)).argsort()
        return torch.zeros(len(rates), dtype=torch.bool).index_fill(
            0, order[: round(float(rates.sum()))], True
        )


class Epochs(FixedSize):
    """Shuffled epochs, cut into batches whose sizes vary as if they were Poisson's."""

    queue: list[int] | None = None

    def chosen(self) -> Tensor:
        rates, taken = self.stated.rates, torch.zeros(len(self._data), dtype=torch.bool)
        for _ in range(int((self._secret.uniform(len(rates)) < rates).sum())):
            if not self.queue:
                self.queue = self._secret.uniform(len(rates)).argsort().tolist()
            taken[self.queue.pop()] = True
        return taken


class Stale(FixedSize):
    """Draws a new batch for every other question only."""

    last: Tensor | None = None

    def chosen(self) -> Tensor:
        if self.last is not None and self.count % 2:
            return self.last
        rates = self.stated.rates
        self.last = self._secret.uniform(len(rates)) < rates
        return self.last


class Everybody(FixedSize):
    """Full batches under the noise of subsampled ones."""

    def chosen(self) -> Tensor:
        return torch.ones(len(self._data), dtype=torch.bool)


class Forgetful(PrivateSource):
    """A ledger that lists every other question."""

    def ledger(self, name: str) -> list[LedgerEntry]:
        found = super().ledger(name)
        half = found[-1].model_copy(update={"count": found[-1].count // 2}) if found else None
        return [*found[:-1], half] if half and self._plan else found


@dataclass(frozen=True)
class Broken(PoissonGaussian):
    """The reader with another gate behind it."""

    behind: type[PrivateSource] = PrivateSource

    def gate(self, data: ImageData, members: Tensor) -> PrivateSource:
        return self.behind(data, members, noise_seed=self.noise_seed)


@dataclass(frozen=True)
class Sneaky(Pixels):
    """Says that it starts from noise, and starts from real records: those that it is given, or had from elsewhere."""

    init: Any = "noise"
    smuggled: list[tuple[ImageData, Tensor]] = field(
        default_factory=list, repr=False, compare=False
    )

    def start(self, given: Start) -> Canvas:
        if self.smuggled:
            data, members = self.smuggled[-1]
            given = replace(given, data=data, members=members)
        return Pixels(init="real").start(given)


@dataclass(frozen=True)
class Smuggler(Broken):
    """A reader that hands the records of the last run on, past the gate."""

    to: list[tuple[ImageData, Tensor]] = field(default_factory=list, repr=False, compare=False)

    def gate(self, data: ImageData, members: Tensor) -> PrivateSource:
        self.to.append((data, members))
        return super().gate(data, members)
