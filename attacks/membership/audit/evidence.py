"""Which canaries are in a sum: least squares over everything that a sum of signals reveals."""

from __future__ import annotations

import torch
from torch import Tensor


class LinearEvidence:
    """Collects releases that are (nearly) weighted sums of per-record signals and scores each canary.

    Release t is modelled as ``values = base + sum_i b_i weights_i signals_i + noise`` with unknown
    inclusion b_i. The inner product of a canary's signal with the release, the Neyman-Pearson
    statistic for one unknown record, is the right-hand side of the normal equations; solving them
    takes out what the canaries have in common, which for non-negative features is most of it. The
    mean signal of the known records enters with a free coefficient per row.

    Args:
        canaries: m.
        rows: R, sums per release.
    """

    def __init__(self, canaries: int, rows: int) -> None:
        size = canaries + rows
        self._m = canaries
        self._gram = torch.zeros(size, size, dtype=torch.float64)
        self._right = torch.zeros(size, dtype=torch.float64)
        self.releases = 0

    def add(self, signals: Tensor, weights: Tensor, values: Tensor, known: Tensor) -> None:
        """Take in one release.

        Args:
            signals: (m, D) what each canary would add.
            weights: (R, m) to which sums, with which weight.
            values: (R, D) the released sums or means; rows without content must be zero.
            known: (R, D) mean signal of the records that are certainly in each sum.
        """
        s, w = signals.double().cpu(), weights.double().cpu()
        v, k = values.double().cpu(), known.double().cpu()
        cross = w.T * (s @ k.T)
        gram = torch.cat(
            [
                torch.cat([(w.T @ w) * (s @ s.T), cross], 1),
                torch.cat([cross.T, torch.diag(k.square().sum(1))], 1),
            ]
        )
        right = torch.cat([(w.T * (s @ v.T)).sum(1), (k * v).sum(1)])
        scale = gram.diagonal()[: self._m].mean().clamp_min(1e-300)
        self._gram += gram / scale  # every network counts the same, whatever its scale
        self._right += right / scale
        self.releases += 1

    def scores(self, *, ridge: float | None = None) -> Tensor:
        """(m,) float32 standardised inclusion estimates; higher means "more likely in the pool".

        Args:
            ridge: regularisation, as a fraction of a canary's mean signal energy; large values give
                the plain inner product back. None picks the most likely ratio of noise to inclusion
                variance from the releases themselves, coins unseen.
        """
        m = self._m
        if self.releases == 0:
            return torch.zeros(m)
        among, cross = self._gram[:m, :m], self._gram[:m, m:]
        base = self._gram[m:, m:].diagonal().clamp_min(1e-12)
        among = among - (cross / base) @ cross.T
        right = self._right[:m] - (cross / base) @ self._right[m:]
        unit = among.diagonal().mean().clamp_min(1e-12)
        energy, axes = torch.linalg.eigh(among / unit)
        energy, found = energy.clamp_min(0.0), axes.T @ (right / unit)
        penalty = _most_likely_ridge(energy, found) if ridge is None else ridge
        shrunk = energy + penalty
        estimate = axes @ (found / shrunk)
        spread = (axes.square() @ (energy / shrunk.square())).clamp_min(1e-18).sqrt()
        scores: Tensor = (estimate - estimate.median()) / spread
        return scores.float()


def _most_likely_ridge(energy: Tensor, found: Tensor) -> float:
    """The ratio of noise to inclusion variance under which the projections are most likely.

    Along axis k, ``found_k`` is normal with variance ``t^2 energy_k (energy_k + ratio)``; t is profiled
    out (marginal likelihood of a Gaussian linear model).
    """
    use = energy > 1e-6 * energy.max()
    g, z = energy[use], found[use].square() / energy[use]
    best, ratio = -torch.inf, 1.0
    for candidate in torch.logspace(-4, 3, 57, dtype=torch.float64).tolist():
        variance = g + candidate
        likelihood = float(-len(g) * (z / variance).mean().log() - variance.log().sum())
        if likelihood > best:
            best, ratio = likelihood, candidate
    return ratio
