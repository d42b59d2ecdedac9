"""The gate to private records: noisy sums, each in the ledger, each drawn once.

A :class:`PrivateSource` wraps the private training set. Whatever a private method learns of a record passes
through :meth:`PrivateSource.noisy_sum`, so the ledger sees all of it. Releases are stored: asking a query again
returns the same noisy value instead of drawing new noise, because k draws on one clean statistic are one release
at sigma / sqrt(k).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distill.objectives import clip_factor
from ddaudit.errors import DDAuditError
from ddaudit.sets import LedgerEntry

Signals = Callable[[Tensor], Tensor]
Rows = Callable[[Tensor], Tensor]

# Floats of stored releases kept in memory (256 MiB); beyond it a query can be asked once only.
KEEP_FLOATS = 64 * 2**20


class BudgetSpent(DDAuditError):
    """More queries were asked than the noise was calibrated for; nothing was released."""


class PrivateSource:
    """Private records behind Poisson-subsampled, clipped, noisy sums, for K runs on K subsets at once.

    Args:
        data: the records.
        members: (K, N) bool, the records of each run. Runs have independent samples, noise and ledgers.
        rates: (N,) inclusion probability of each record in a query, in (0, 1].
        clip: bound C on every signal's L2 norm.
        sigma: noise multiplier; the noise has standard deviation sigma * C per coordinate.
        budget: how many queries sigma was calibrated for.
        noise_seed: None draws the noise from an operating-system seed, as a real release must. A number makes
            runs repeatable for tests and voids the claim for whoever knows it.

    Neighbouring relation: add or remove one record. Every record enters one sum with weights of L2 norm <= 1, so
    the stacked sums of one query have L2 sensitivity C. Sampling is an independent coin per record and query;
    empty batches release noise alone.
    """

    def __init__(
        self,
        data: ImageData,
        members: Tensor,
        *,
        rates: Tensor,
        clip: float,
        sigma: float,
        budget: int,
        noise_seed: int | None = None,
    ) -> None:
        self._data, self._members, self._rates = data, members, rates
        self.clip, self.sigma, self.budget = clip, sigma, budget
        # Sampling and noise are both secret: neither may be derived from the public seed.
        self._secret = torch.Generator().manual_seed(
            secrets.randbits(63) if noise_seed is None else noise_seed
        )
        self._releases: dict[str, Tensor | None] = {}
        self._stored = 0
        self.count = 0

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
        if self.count >= self.budget:
            raise BudgetSpent(
                f"query {query_id}: the privacy budget covers {self.budget} queries and all are spent"
            )
        sampled = (
            torch.rand(self._members.shape, generator=self._secret) < self._rates
        ) & self._members
        index = sampled.any(0).nonzero().squeeze(1)
        clipped = self._clipped(signals(index))
        weights = rows(index)
        if len(index) and float(weights.norm(dim=0).max()) > 1 + 1e-5:
            raise DDAuditError(
                f"query {query_id}: a record's weights exceed L2 norm 1, so its sensitivity is not bounded by the clip"
            )
        masked = weights[None] * sampled[:, index][:, None].float()
        sums = masked.to(clipped.device) @ clipped
        noise = torch.randn(sums.shape, generator=self._secret).to(sums.device)
        release = sums + self.sigma * self.clip * noise
        self.count += 1
        keep = self._stored + release.numel() <= KEEP_FLOATS
        self._stored += release.numel() if keep else 0
        self._releases[query_id] = release if keep else None
        return release

    def expected_mass(self, rows: Rows) -> Tensor:
        """(K, R) expected sum of weights per query: from counts and rates alone, which the claim lists as public."""
        everyone = torch.arange(len(self._data))
        return torch.stack(
            [(rows(everyone) * (self._rates * m.float())).sum(1) for m in self._members]
        )

    def ledger(self, name: str) -> list[LedgerEntry]:
        """What has been released so far. The rate is the largest of any record: an upper bound for the others."""
        return [
            LedgerEntry(query=name, sigma=self.sigma, q=float(self._rates.max()), count=self.count)
        ]

    def releases(self) -> dict[str, Tensor]:
        """The stored releases by query id: what the intermediate-release adversary sees."""
        return {k: v for k, v in self._releases.items() if v is not None}

    def _clipped(self, signals: Tensor) -> Tensor:
        """Rows with L2 norm at most C, in float32 whatever the signals' type."""
        signals = signals.float()
        clipped = signals * clip_factor(signals, self.clip)
        if len(clipped) and not float(clipped.norm(dim=1).max()) <= self.clip * (1 + 1e-4):
            raise DDAuditError(
                "a clipped signal exceeds its bound: the signals contain NaN or infinity"
            )
        return clipped
