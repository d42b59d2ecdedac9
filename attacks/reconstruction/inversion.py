"""The informed adversary: all records but one are known, and the one is fitted to what was released.

Everything that a release says about an unknown record x is a *clue*: how surprising the release would be
if the record were x. The attack starts from what is known without any release, a normal distribution around
the mean of the known records of the class, and moves x by gradient descent to where the release and that
prior together are least surprised.

Source: Balle, Cherubin & Hayes, "Reconstructing Training Data with Informed Adversaries", S&P 2022 (the
adversary, and the nearest known record as the bar to beat); linear inversion of released sums as in
Loo et al., ICLR 2024, arXiv 2302.01428.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddaudit.attacks._common.features import neighbours
from ddaudit.data import ImageData

_SHRINK = 0.1
"""Share of the prior's variance that is spread evenly over all pixels."""
_PRIOR_RECORDS = 1000
_SAME = 1e-3
"""Smallest ratio reported: below it a reconstruction is the record."""
_SMALLEST_AXIS = 1e-6
"""Axes whose variance is below this share of the floor change nothing."""


class Clue(Protocol):
    """One released aggregate, as evidence about each unknown record."""

    def surprise(self, images: Tensor, which: Tensor) -> Tensor:
        """(B,) negative log-likelihood, up to a constant, of candidates; differentiable in them.

        Args:
            images: (B, C, H, W) pixels in [0, 1].
            which: (B,) int64, the unknown record that each candidate stands for.
        """


@dataclass(frozen=True, eq=False)
class Case:
    """Who is in the data that something was released from, and who is unknown.

    Each unknown record has its own attacker, who knows every other member. A target outside ``members`` is the
    control: its attacker believes that it is in, and is wrong.

    Attributes:
        pool: N records.
        members: (N,) bool, the records that the release was made from.
        targets: (J,) int64 positions of the unknown records in ``pool``.
    """

    pool: ImageData
    members: Tensor
    targets: Tensor

    @property
    def labels(self) -> Tensor:
        """(J,) classes of the targets, which attackers know."""
        return self.pool.labels[self.targets]

    @property
    def truth(self) -> Tensor:
        """(J, C, H, W) pixels of the targets, which they do not."""
        return self.pool.pixels(self.targets)

    @property
    def known(self) -> Tensor:
        """(N,) bool, members that are nobody's target."""
        known = self.members.clone()
        known[self.targets] = False
        return known

    def others(self, target: int) -> Tensor:
        """(N,) bool, what the attacker of target number ``target`` knows."""
        others = self.members.clone()
        others[self.targets[target]] = False
        return others


@dataclass(frozen=True, eq=False)
class Prior:
    """What an attacker expects before seeing a release.

    Attributes:
        means: (J, C, H, W) mean of the known records of each target's class, the best blind guess.
        spread: how records scatter around their class mean, flattened pixels.
        bounds: lowest and highest value a record may have.
    """

    means: Tensor
    spread: LowRankNormal
    bounds: tuple[float, float] = (0.0, 1.0)

    def surprise(self, images: Tensor, which: Tensor) -> Tensor:
        """(B,) negative log-density of candidates, up to a constant."""
        return 0.5 * self.spread.squared((images - self.means[which]).flatten(1))


def class_prior(case: Case, *, device: torch.device) -> Prior:
    """The prior of each target's attacker, from the records it knows."""
    pixels, labels = case.pool.pixels(), case.pool.labels
    means = []
    for j, label in enumerate(case.labels.tolist()):
        others = case.others(j)
        own = others & (labels == label)
        means.append(pixels[own if bool(own.any()) else others].mean(0))
    known = case.known.nonzero().squeeze(1)[:_PRIOR_RECORDS]
    off = pixels[known].flatten(1)
    for label in torch.unique(labels[known]).tolist():
        own = labels[known] == label
        off[own] -= off[own].mean(0)
    variance = float(off.square().mean()) if len(off) else 1.0 / 12.0
    variance = max(variance, 1e-6)
    rows = off * ((1 - _SHRINK) / max(len(off), 1)) ** 0.5
    spread = low_rank_normal(rows.to(device), floor=_SHRINK * variance)
    return Prior(torch.stack(means).to(device), spread, case.pool.bounds)


def invert(
    clues: Sequence[Clue],
    prior: Prior,
    *,
    independent: bool,
    steps: int,
    batch: int,
    starts: int,
    lr: float = 0.05,
    generator: torch.Generator,
) -> Tensor:
    """The most plausible unknown records, given the clues.

    Args:
        clues: at least one.
        prior: of the J unknown records.
        independent: True when each clue has its own noise, so that their surprises add up; False when all see the
            same disturbance (one released set through many networks) and together count as one.
        steps: Adam steps, step size falling linearly to zero.
        batch: clues a step, drawn at random.
        starts: the first from the prior's mean, the others drawn from the prior; the least surprised is kept.
        lr: first step size, in pixels.
        generator: of starts and batches, on the CPU.

    Returns:
        (J, C, H, W) pixels in [0, 1].
    """
    count, shape = len(prior.means), prior.means.shape[1:]
    which = torch.arange(count, device=prior.means.device).repeat(starts)
    scatter = prior.spread.sample(count * (starts - 1), generator).view(-1, *shape)
    x = prior.means[which].clone()
    x[count:] += scatter
    x = x.clamp_(*prior.bounds).requires_grad_(True)
    together = float(len(clues)) if independent else 1.0
    optimiser = torch.optim.Adam([x], lr=lr)
    for step in range(steps):
        picks = torch.randperm(len(clues), generator=generator)[:batch].tolist()
        surprise = torch.stack([clues[i].surprise(x, which) for i in picks]).mean(0)
        loss = (together * surprise + prior.surprise(x, which)).sum()
        x.grad = torch.autograd.grad(loss, x)[0]
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimiser.step()
        with torch.no_grad():
            x.clamp_(*prior.bounds)
    rebuilt = x.detach()
    if starts == 1:
        return rebuilt
    with torch.no_grad():
        final = prior.surprise(rebuilt, which)
        for clue in clues:
            final = final + together / len(clues) * clue.surprise(rebuilt, which)
    best = final.view(starts, count).argmin(0)
    return rebuilt.view(starts, count, *shape)[best, torch.arange(count, device=best.device)]


@dataclass(frozen=True, eq=False)
class Score:
    """Reconstructions of J records against their truth; distances are Euclidean in pixels.

    Attributes:
        rebuilt: (J,) float64 distance of the reconstruction.
        blind: (J,) float64 distance of the mean of the known records of the class.
        nearest: (J,) float64 distance of the nearest known record of the class: what somebody who
            could pick the best of the known records would have.
    """

    rebuilt: Tensor
    blind: Tensor
    nearest: Tensor

    @property
    def success(self) -> Tensor:
        """(J,) bool: closer than both guesses."""
        return self.rebuilt < torch.minimum(self.blind, self.nearest)

    @property
    def ratio(self) -> Tensor:
        """(J,) float64 distance over that of the class mean; below 1 the release helped."""
        return (self.rebuilt / self.blind.clamp_min(1e-12)).clamp(_SAME, 1e3)


def score(rebuilt: Tensor, case: Case, prior: Prior) -> Score:
    """Score reconstructions (J, C, H, W) of the targets of a case."""
    truth = case.truth.double()
    nearest = []
    for j, label in enumerate(case.labels.tolist()):
        own = case.others(j) & (case.pool.labels == label)
        pixels = case.pool.pixels(own if bool(own.any()) else case.others(j))
        nearest.append(neighbours(truth[j : j + 1], pixels.double()).distance)
    return Score(_distance(rebuilt, truth), _distance(prior.means, truth), torch.cat(nearest))


def _distance(a: Tensor, truth: Tensor) -> Tensor:
    distance: Tensor = (a.double().cpu() - truth).flatten(1).norm(dim=1)
    return distance


@dataclass(frozen=True, eq=False)
class LowRankNormal:
    """Zero-mean normal with covariance ``floor * I + axes diag(energy) axes^T``.

    Attributes:
        floor: variance along every direction, positive.
        axes: (D, r) orthonormal columns; r may be 0. Or (B, D, r), one distribution for each of B vectors.
        energy: (r,) or (B, r) variance along each axis on top of the floor.
    """

    floor: float
    axes: Tensor
    energy: Tensor

    def squared(self, e: Tensor) -> Tensor:
        """(B,) squared Mahalanobis lengths of vectors (B, D)."""
        along = (e[:, None] @ self.axes).squeeze(1)
        across = e - (along[:, None] @ self.axes.mT).squeeze(1)
        inside: Tensor = (along.square() / (self.energy + self.floor)).sum(-1)
        outside: Tensor = across.square().sum(-1) / self.floor
        return inside + outside

    def pick(self, which: Tensor) -> LowRankNormal:
        """Of J stacked distributions, one for each entry of ``which`` (B,)."""
        return LowRankNormal(self.floor, self.axes[which], self.energy[which])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, D) draws of a single distribution; ``generator`` lives on the CPU."""
        device, width = self.axes.device, self.axes.shape[0]
        round_ = torch.randn(count, width, generator=generator).to(device) * self.floor**0.5
        long = torch.randn(count, len(self.energy), generator=generator).to(device)
        drawn: Tensor = round_ + (long * self.energy.sqrt()) @ self.axes.T
        return drawn


def low_rank_normal(rows: Tensor, *, floor: float) -> LowRankNormal:
    """The normal with covariance ``floor * I + rows^T rows``.

    Args:
        rows: (n, D), n may be 0.
        floor: positive.
    """
    if len(rows) == 0:
        return LowRankNormal(floor, rows.new_zeros(rows.shape[1], 0), rows.new_zeros(0))
    _, length, axes = torch.linalg.svd(rows, full_matrices=False)
    energy = length.square()
    keep = energy > _SMALLEST_AXIS * floor
    return LowRankNormal(floor, axes[keep].T.contiguous(), energy[keep])


def stack(normals: Sequence[LowRankNormal]) -> LowRankNormal:
    """J distributions of one floor, to :meth:`LowRankNormal.pick` from; missing axes are filled with zeros."""
    most = max(len(n.energy) for n in normals)
    axes = [torch.nn.functional.pad(n.axes, (0, most - len(n.energy))) for n in normals]
    energy = [torch.nn.functional.pad(n.energy, (0, most - len(n.energy))) for n in normals]
    return LowRankNormal(normals[0].floor, torch.stack(axes), torch.stack(energy))
