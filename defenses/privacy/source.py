"""The gate to private records: noisy sums and counts, each in the ledger, each drawn once.

A :class:`PrivateSource` wraps the private training set. Whatever a private method learns of a record passes
through :meth:`PrivateSource.noisy_sum` or :meth:`PrivateSource.noisy_count`, so the ledger sees all of it.
Releases are stored: asking a query again returns the same noisy value instead of drawing new noise, because k
draws on one clean statistic are one release at sigma / sqrt(k).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.defenses.privacy.randomness import randomness
from ddaudit.distillation.objectives import clip_factor, row_norms
from ddaudit.errors import DDAuditError
from ddaudit.sets import LedgerEntry

Signals = Callable[[Tensor], Tensor]
Rows = Callable[[Tensor], Tensor]

KEEP_FLOATS = 2**28
"""Floats of stored releases kept in memory (1 GiB) of a plan that asks no question twice."""

_AT_ONCE = 4096
"""Records whose signals are held at the same time."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What the noise of a source's sums was calibrated for.

    Attributes:
        rates: (N,) inclusion probability of each record in a query, in (0, 1].
        clip: bound C on every signal's L2 norm.
        sigma: noise multiplier; the noise has standard deviation sigma * C per coordinate.
        count: how many different sums may be asked.
        q: what the noise was calibrated for and the ledger states: the largest rate that any record could have,
            also one of a class that has none. The largest of ``rates`` would tell which classes are empty.
        again: True when questions will be asked again, so that every answer must be kept.
    """

    rates: Tensor
    clip: float
    sigma: float
    count: int
    q: float
    again: bool = False


class BudgetSpent(DDAuditError):
    """More queries were asked than the noise was calibrated for; nothing was released."""


class PrivateSource:
    """Private records behind Poisson-subsampled, clipped, noisy sums, for K runs on K subsets at once.

    :meth:`noisy_count` and :meth:`noisy_sum` are the only ways out. Sums need a plan first: see :meth:`plan`.

    Args:
        data: the records.
        members: (K, N) bool, the records of each run. Runs have independent samples, noise and ledgers.
        noise_seed: None draws coins and noise from the operating system, as a real release must. A number
            makes runs repeatable for tests and voids the claim for whoever knows it.

    Neighbouring relation: add or remove one record. Every record enters one sum with weights of L2 norm <= 1, so
    the stacked sums of one query have L2 sensitivity C. Sampling is an independent coin per record and query;
    empty batches release noise alone.
    """

    def __init__(self, data: ImageData, members: Tensor, *, noise_seed: int | None = None) -> None:
        self._data, self._members = data, members
        self._plan: Plan | None = None
        # Sampling and noise are both secret: neither may be derived from the public seed.
        self._secret = randomness(noise_seed)
        self._releases: dict[str, Tensor | None] = {}
        self._stored = 0
        self._counts: list[LedgerEntry] = []
        self.count = 0
        self.origin = self._secret.origin
        # Drawn by the system, so that it says nothing of the data or of the seeds.
        self.release = secrets.token_hex(8) if noise_seed is None else f"seed {noise_seed}"

    def plan(self, plan: Plan) -> PrivateSource:
        """Fix sampling rates, clip, noise and number of the sums to come. Once only: the noise of a plan was
        calibrated for it, and a second one would spend the budget again.

        Raises:
            DDAuditError: there is a plan already, or a record's rate exceeds the plan's q.
        """
        if self._plan is not None:
            raise DDAuditError("the private source already has a plan, and its budget is one")
        if len(plan.rates) and float(plan.rates.max()) > plan.q:
            raise DDAuditError(f"a record's sampling rate exceeds the planned {plan.q:g}")
        self._plan = plan
        return self

    def noisy_count(self, query_id: str, rows: Rows, *, sigma: float) -> Tensor:
        """(K, R) sums of weights plus Gaussian noise of standard deviation ``sigma``; may be negative.

        Args:
            query_id: names the query. A known id returns its stored release and costs nothing.
            rows: (N,) record positions -> (R, N) weights, every column of L2 norm <= 1 (class indicators, say):
                the sensitivity is 1 when a record is added or removed.
            sigma: noise multiplier.

        Raises:
            DDAuditError: a row weight breaks the sensitivity bound.
        """
        stored = self._releases.get(query_id)
        if stored is not None:
            return stored
        weights = rows(torch.arange(len(self._data)))
        self._bounded(query_id, weights)
        sums = self._members.float() @ weights.T
        release = self._noisy(sums, sigma)
        self._counts.append(LedgerEntry(query=query_id, sigma=sigma, q=1.0, count=1))
        self._releases[query_id] = release
        return release

    def noisy_sum(self, query_id: str, signals: Signals, rows: Rows) -> Tensor:
        """(K, R, D) sums of clipped signals plus Gaussian noise.

        Args:
            query_id: names the query. A known id returns its stored release and costs nothing.
            signals: (B,) record positions -> (B, D) signals, any norm.
            rows: (B,) record positions -> (R, B) weights, every column of L2 norm <= 1.

        Raises:
            BudgetSpent: the calibrated number of queries is used up, or an unstored release is asked again.
            DDAuditError: a row weight breaks the sensitivity bound.
        """
        if query_id in self._releases:
            stored = self._releases[query_id]
            if stored is None:
                raise BudgetSpent(
                    f"query {query_id}: its release was too large to keep, and asking again would draw new noise"
                )
            return stored
        plan = self._planned()
        if self.count >= plan.count:
            raise BudgetSpent(
                f"query {query_id}: the privacy budget covers {plan.count} queries and all are spent"
            )
        sampled = (self._secret.uniform(*self._members.shape) < plan.rates) & self._members
        index = sampled.any(0).nonzero().squeeze(1)
        weights = rows(index)
        self._bounded(query_id, weights)
        masked = weights[None] * sampled[:, index][:, None].float()
        # A few thousand at a time: full batches of wide signals would not fit into memory.
        sums: Tensor | None = None
        for part, share in zip(index.split(_AT_ONCE), masked.split(_AT_ONCE, dim=2), strict=True):
            clipped = clip_rows(signals(part), plan.clip)
            device = clipped.device
            # In float64 between the parts: sums of 60 000 records round in float32 by 2e-4 of what one of them adds.
            added = (share.to(device) @ clipped).cpu().double()
            sums = added if sums is None else sums + added
        assert sums is not None  # an empty batch is one empty part
        release = self._noisy(sums, plan.sigma * plan.clip).to(device)
        self.count += 1
        keep = plan.again or self._stored + release.numel() <= KEEP_FLOATS
        self._stored += release.numel() if keep else 0
        self._releases[query_id] = release if keep else None
        return release

    def expected_mass(self, table: Tensor) -> Tensor:
        """(K, R) expected sum of weights per query: from counts and rates alone, which the claim lists as public.

        Args:
            table: (R, num_classes * groups) weight of a record of each class and group, class-major. Weights of
                single records are not taken: the mass of a row that holds one record would say whether it is there.

        Raises:
            DDAuditError: a table of another width, weights that break the sensitivity bound, or rates that differ
                within a class.
        """
        self._bounded("expected mass", table)
        data, rates = self._data, self._planned().rates
        groups, rest = divmod(table.shape[1], data.num_classes)
        if rest or (groups > 1 and data.groups is None):
            raise DDAuditError(f"no classes and groups make {table.shape[1]} weights")
        cell = data.labels * groups
        if groups > 1 and data.groups is not None:
            cell = cell + data.groups
        by_class = torch.zeros(data.num_classes).scatter_reduce(0, data.labels, rates, "amax")
        if not torch.equal(by_class[data.labels], rates):
            raise DDAuditError("sampling rates differ within a class, and no count gives the mass")
        counts = torch.stack(
            [torch.bincount(cell[m], minlength=table.shape[1]) for m in self._members]
        )
        return (counts * by_class.repeat_interleave(groups)) @ table.T

    def ledger(self, name: str) -> list[LedgerEntry]:
        """What has been released so far; ``name`` is what the sums are called."""
        if self._plan is None:
            return [*self._counts]
        plan = self._plan
        sums = LedgerEntry(query=name, sigma=plan.sigma, q=plan.q, count=self.count)
        return [*self._counts, sums]

    @property
    def step(self) -> float:
        """What sums are rounded to multiples of."""
        plan = self._planned()
        return grid(plan.sigma * plan.clip)

    def releases(self) -> dict[str, Tensor]:
        """The stored releases by query id: what the intermediate-release adversary sees."""
        return {k: v for k, v in self._releases.items() if v is not None}

    def _noisy(self, sums: Tensor, deviation: float) -> Tensor:
        """Sums plus noise, added in float64 and rounded to the multiples of :func:`grid`; float32 on their device.

        Floating-point numbers are finer near zero than elsewhere, and which of them a sum plus noise can reach
        depends on the sum: their last bits would tell records apart (Mironov, On Significance of the Least
        Significant Bits for Differential Privacy, CCS 2012). The multiples of one step are the same everywhere.
        """
        answers = sums.cpu().double() + deviation * self._secret.normal(*sums.shape)
        step = grid(deviation)
        if step:
            answers = (answers / step).round() * step
        return answers.float().to(sums.device)

    def _planned(self) -> Plan:
        if self._plan is None:
            raise DDAuditError("a noisy sum was asked before the noise was planned")
        return self._plan

    @staticmethod
    def _bounded(query_id: str, weights: Tensor) -> None:
        # Written so that NaN fails.
        if weights.shape[1] and not float(weights.norm(dim=0).max()) <= 1 + 1e-5:
            raise DDAuditError(
                f"query {query_id}: a record's weights exceed L2 norm 1 or are no numbers, so its sensitivity is not "
                "bounded by the clip"
            )


def grid(deviation: float) -> float:
    """The step that answers with noise of this standard deviation are rounded to; 0 without noise.

    A power of two, 1/2048 to 1/1024 of the deviation: far above the spacing of the float64 numbers that sum and noise
    are added in, and far too small to matter beside the noise (its variance grows by less than 1e-7).
    """
    return 2.0 ** (math.floor(math.log2(deviation)) - 10) if deviation > 0 else 0.0


def clip_rows(signals: Tensor, clip: float) -> Tensor:
    """Rows with L2 norm at most ``clip``, in float32 whatever the signals' type.

    A signal that holds NaN or infinity becomes zero. To stop there instead would tell everybody that a record with such
    a signal is in the data, outside the ledger.
    """
    signals = signals.float()
    clipped = signals * clip_factor(signals, clip)
    return torch.where((row_norms(clipped) <= clip * (1 + 1e-5))[:, None], clipped, 0.0)
