"""Scores of canaries from what is published: the set, networks trained on it, and every noisy release."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.attacks._common.releases import Release
from ddaudit.attacks._common.signals import logit_margin
from ddaudit.data import ImageData
from ddaudit.models import Network
from ddaudit.sets import DistilledSet
from ddaudit.training import features


def score_final_set(
    released: DistilledSet,
    canaries: ImageData,
    known: ImageData,
    *,
    networks: Sequence[Network],
    ridge: float | None = None,
) -> Tensor:
    """The class-mean attack on a released set, over random networks that anybody can draw.

    For canary (x, y) it weighs ``sum_t <psi_t(x), mean psi_t(S_y) - mean psi_t(R_y)>``: the direction
    in which x moves the mean of class y. Canaries are estimated jointly (see :class:`LinearEvidence`).

    Args:
        released: the set under attack.
        canaries: m records.
        known: records that are in the pool for certain (R).
        networks: untrained networks, pixels -> embedding; best from the family the recipe uses.
        ridge: see :meth:`LinearEvidence.scores`.

    Returns:
        (m,) float32; higher means "more likely in the pool".

    Source: Zheng & Li, NDSS workshop 2024 (the noisy class sums attacked); score derived as the
        Neyman-Pearson direction for a noisy sum.
    """
    classes = released.num_classes
    soft = released.labels if released.soft else F.one_hot(released.labels, classes)
    share = _normalised(soft.float().T)
    known_share = _normalised(F.one_hot(known.labels, classes).float().T)
    weights = F.one_hot(canaries.labels, classes).float().T
    evidence = LinearEvidence(len(canaries), classes)
    for net in networks:
        values = share @ features(net, released.images)
        mean = known_share @ features(net, known.pixels())
        evidence.add(
            features(net, canaries.pixels()), weights, values, mean * share.any(1)[:, None]
        )
    return evidence.scores(ridge=ridge)


def score_nearest_copy(released: DistilledSet, canaries: ImageData, known: ImageData) -> Tensor:
    """How much nearer the released set comes to a canary than the known records do.

    Args:
        released: the set under attack.
        canaries: m records.
        known: records of the same distribution.

    Returns:
        (m,) float32 ``log d(x, known) - log d(x, S)``, pixel distances within the canary's class (within
        the whole set where the class is empty); large for verbatim copies.
    """
    x = canaries.pixels().flatten(1)
    here = _nearest(x, canaries.labels, released.images.flatten(1), released.hard_labels)
    there = _nearest(x, canaries.labels, known.pixels().flatten(1), known.labels)
    return (there + 1e-3).log() - (here + 1e-3).log()


def score_victims(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Mean logit margin of the canaries' labels over networks trained on the set.

    Args:
        logits: one (m, K) tensor per network, on the canaries' images.
        labels: (m,) the canaries' labels.

    Returns:
        (m,) float32; higher means "more likely in the pool".

    Source: Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, eq. 6.
    """
    return torch.stack([logit_margin(z, labels) for z in logits]).mean(0).float()


class IntermediateEvidence:
    """An observer that scores canaries while the recipe runs, so that no network has to be stored.

    Args:
        canaries: the records in question.
        known: records that are certainly in the pool. A sample will do, but the mean of a small one
            errs by more than a single canary adds.
        most: stop after this many releases; None: use them all.
    """

    def __init__(self, canaries: ImageData, known: ImageData, *, most: int | None) -> None:
        self._canaries, self._known, self._most = canaries, known, most
        self._evidence: LinearEvidence | None = None
        self.seen = 0

    def __call__(self, release: Release) -> None:
        self.seen += 1
        if self._most is not None and self.seen > self._most:
            return
        weights = release.rows(self._known)
        base = release.signals(self._known).cpu()
        mean = (weights @ base) / weights.sum(1, keepdim=True).clamp_min(1e-12)
        if self._evidence is None:
            self._evidence = LinearEvidence(len(self._canaries), len(weights))
        self._evidence.add(
            release.signals(self._canaries), release.rows(self._canaries), release.values[0], mean
        )

    @property
    def used(self) -> int:
        """Releases that entered the scores."""
        return self._evidence.releases if self._evidence else 0

    def scores(self) -> Tensor | None:
        """(m,) scores, or None when nothing was released."""
        return self._evidence.scores() if self._evidence else None


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
        energy, along = energy.clamp_min(0.0), axes.T @ (right / unit)
        penalty = _most_likely_ridge(energy, along) if ridge is None else ridge
        shrunk = energy + penalty
        estimate = axes @ (along / shrunk)
        spread = (axes.square() @ (energy / shrunk.square())).clamp_min(1e-18).sqrt()
        scores: Tensor = (estimate - estimate.median()) / spread
        return scores.float()


def _nearest(x: Tensor, labels: Tensor, pool: Tensor, pool_labels: Tensor) -> Tensor:
    """(m,) distance from each x to the nearest of ``pool`` with its label."""
    distance = torch.cdist(x, pool)
    same = labels[:, None] == pool_labels[None]
    same |= ~same.any(1, keepdim=True)
    return distance.masked_fill(~same, torch.inf).amin(1)


def _normalised(rows: Tensor) -> Tensor:
    """Rows that sum to one, or stay zero."""
    return rows / rows.sum(1, keepdim=True).clamp_min(1e-12)


def _most_likely_ridge(energy: Tensor, along: Tensor) -> float:
    """The ratio of noise to inclusion variance under which the projections are most likely.

    Along axis k, ``along_k`` is normal with variance ``t^2 energy_k (energy_k + ratio)``; t is profiled
    out (marginal likelihood of a Gaussian linear model).
    """
    use = energy > 1e-6 * energy.max()
    g, z = energy[use], along[use].square() / energy[use]
    best, ratio = -torch.inf, 1.0
    for candidate in torch.logspace(-4, 3, 57, dtype=torch.float64).tolist():
        variance = g + candidate
        likelihood = float(-len(g) * (z / variance).mean().log() - variance.log().sum())
        if likelihood > best:
            best, ratio = likelihood, candidate
    return ratio
