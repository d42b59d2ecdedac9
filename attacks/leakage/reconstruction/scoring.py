"""How close reconstructions came, beside what can be guessed without any release."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks.leakage.reconstruction.inversion import Case, Prior
from ddaudit.attacks.membership.scores.nearest import neighbours

_EXACT = 1e-3
"""Smallest ratio reported: below it a reconstruction is the record."""


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
        """(J,) float64 distance over that of the class mean; below 1 the release told something."""
        return (self.rebuilt / self.blind.clamp_min(1e-12)).clamp(_EXACT, 1e3)


def score(found: Tensor, case: Case, prior: Prior) -> Score:
    """Score reconstructions (J, C, H, W) of the targets of a case."""
    truth = case.truth.double()
    nearest = []
    for j, label in enumerate(case.labels.tolist()):
        own = case.others(j) & (case.pool.labels == label)
        pixels = case.pool.pixels(own if bool(own.any()) else case.others(j))
        nearest.append(neighbours(truth[j : j + 1], pixels.double()).distance)
    return Score(_distance(found, truth), _distance(prior.means, truth), torch.cat(nearest))


def _distance(a: Tensor, truth: Tensor) -> Tensor:
    distance: Tensor = (a.double().cpu() - truth).flatten(1).norm(dim=1)
    return distance
