"""Clues from a finished distilled set, without any view of how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.attacks.leakage.copies import exact_copies
from ddaudit.attacks.leakage.reconstruction.inversion import Case
from ddaudit.attacks.membership.released import embed
from ddaudit.attacks.membership.scores.nearest import neighbours
from ddaudit.distillation.parts import TargetRule
from ddaudit.models import Network
from ddaudit.sets import DistilledSet

_SHARPEST = 1e-3
"""Smallest disturbance assumed, as a share of how much embeddings of one class vary."""
_CORESET = 0.5
"""A set with at least this share of verbatim known records is taken for a collection of real records."""


@dataclass(frozen=True, eq=False)
class SetClue:
    """The class means of a set's embeddings under one network, as sums that the real records nearly have.

    Attributes:
        network: pixels -> embedding.
        rest: (J, D) what is left for the embedding of each unknown record.
        sharpness: (J,) half the inverse variance of a coordinate of ``rest``; 0 where the set has no such class.
    """

    network: Network
    rest: Tensor
    sharpness: Tensor

    def surprise(self, images: Tensor, which: Tensor) -> Tensor:
        """(B,) negative log-likelihood of candidates."""
        off = self.rest[which] - self.network.embed(images)
        return self.sharpness[which] * off.square().sum(1)


def set_clues(
    released: DistilledSet, case: Case, rule: TargetRule, networks: Sequence[Network]
) -> list[SetClue]:
    """One clue per random network: n times the set's class mean, less the known records of the class.

    How far a set's means are off is read from the classes that the attacker knows completely: the same
    difference with no record unknown. Networks share that disturbance, so their clues are not independent.

    Args:
        released: the set under attack.
        case: its records and targets.
        rule: one row of weights per class over real records: what the recipe matched.
        networks: untrained networks that anybody can draw, in eval mode; best of the family that the recipe uses.
    """
    pool, members = case.pool, case.members.float()
    soft = released.labels if released.soft else F.one_hot(released.labels, released.num_classes)
    share = soft.float().T
    share = share / share.sum(1, keepdim=True).clamp_min(1e-12)
    weights = rule.rows(pool, torch.arange(len(pool)))
    row = weights[:, case.targets].argmax(0)
    own = weights[row, case.targets]
    inside = weights * members
    mass = inside.sum(1)
    complete = (mass > 0) & (share.sum(1) > 0)
    left_out = own * members[case.targets]
    target_mass = mass[row] - left_out + own
    clues = []
    for network in networks:
        z, s = embed(network, pool.pixels()), share @ embed(network, released.images)
        total = inside @ z
        rest = target_mass[:, None] * s[row] - total[row] + left_out[:, None] * z[case.targets]
        # Squared relative to the number of records, so that classes of other sizes can be compared.
        off = (s - total / mass.clamp_min(1e-12)[:, None]).square().sum(1)
        least = _SHARPEST * _within(z, pool.labels, case.known)
        spread = torch.stack(
            [
                _elsewhere(off, complete, int(r)) * m**2
                for r, m in zip(row, target_mass, strict=True)
            ]
        )
        spread = (spread / own**2).clamp_min(least)
        sharpness = 0.5 * z.shape[1] / spread * complete[row]
        network.requires_grad_(False)
        clues.append(
            SetClue(
                network,
                (rest / own[:, None]).to(network.device),
                sharpness.to(network.device),
            )
        )
    return clues


def unexplained(released: DistilledSet, case: Case) -> list[Tensor | None]:
    """For each target, the released image of its class that no known record explains, where that gives it away.

    Only a set that mostly consists of verbatim real records (a coreset) is read this way: in any other set no
    image is explained, and being unexplained says nothing.

    Returns:
        J entries, (C, H, W) or None.
    """
    images, labels, size = released.images, released.hard_labels, released.images[0].numel()
    always = neighbours(images, case.pool.pixels(case.known)).distance
    inside = case.members[case.targets]
    to_target = torch.cdist(images.flatten(1).double(), case.truth.flatten(1).double())
    found: list[Tensor | None] = []
    for j, label in enumerate(case.labels.tolist()):
        # The other targets are known to this one's attacker, if they are in.
        also = inside & (torch.arange(len(inside)) != j)
        nearest = torch.cat([always[:, None], to_target[:, also]], 1).amin(1)
        copies = exact_copies(nearest, pixels=size)
        odd = (~copies & (labels == label)).nonzero().squeeze(1)
        coreset = float(copies.double().mean()) >= _CORESET
        found.append(images[odd[0]].clamp(0, 1) if coreset and len(odd) else None)
    return found


def _within(z: Tensor, labels: Tensor, known: Tensor) -> float:
    """Mean squared distance of known embeddings to their class mean."""
    total, count = 0.0, 0
    for label in torch.unique(labels[known]).tolist():
        own = z[known & (labels == label)]
        total += float((own - own.mean(0)).square().sum())
        count += len(own)
    return max(total / max(count, 1), 1e-12)


def _elsewhere(off: Tensor, complete: Tensor, row: int) -> Tensor:
    """Mean of ``off`` over the complete classes other than ``row``."""
    others = complete.clone()
    others[row] = False
    return off[others].mean() if bool(others.any()) else off.mean()
