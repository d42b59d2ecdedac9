"""Wasserstein barycentres: a few points, equally heavy, that a cloud of features can be carried to most cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, sparse
from torch import Tensor

from ddaudit.distillation.loops import Constants, Job
from ddaudit.distillation.parts import View
from ddaudit.distillation.tracing import trace
from ddaudit.errors import BadInput
from ddaudit.models import Network

_AT_ONCE = 256  # records


@dataclass(frozen=True)
class BarycentreFeatures:
    """Image j of a class has the teacher's features at atom j of the class's Wasserstein barycentre.

    The loss is the Euclidean norm of all differences of a batch together, as in the authors' code.

    Attributes:
        weight: in the loss.
        records: features per class that the barycentre is computed from, at most (drawn at random).
        known: (num_classes * ipc, D) atoms, class-major; filled by :meth:`learn`.

    Source: Liu et al., "Dataset Distillation via the Wasserstein Metric" (WMDD), ICCV 2025, arXiv 2311.18531, section
    4; weights of atoms are uniform, as the authors' scripts run it.
    """

    weight: float = 1.0
    records: int = 2000
    known: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.records < 1:
            raise ValueError(
                "BarycentreFeatures.weight must be positive and BarycentreFeatures.records at least 1"
            )

    def learn(
        self, job: Job, teachers: Sequence[Network], constants: Constants
    ) -> BarycentreFeatures:
        """This term with the barycentres of the run's records.

        Raises:
            BadInput: several teachers, whose features have nothing in common; a class without records.
        """
        if len(teachers) != 1:
            raise BadInput(
                type(self).__name__, f"takes features of one teacher, and there are {len(teachers)}"
            )
        train = job.train.subset(job.members[0])
        g = torch.Generator().manual_seed(job.seed)
        atoms = []
        for c in range(train.num_classes):
            own = (train.labels == c).nonzero().squeeze(1)
            own = own[torch.randperm(len(own), generator=g)][: self.records]
            # As many as make equal shares, where there are more than shares: plans are far cheaper to find.
            own = own[: max(len(own) // job.ipc * job.ipc, min(len(own), job.ipc))]
            if len(own) == 0:
                raise BadInput(
                    f"class '{train.class_names[c]}'", "has no record to take features of"
                )
            x = (train.pixels(own) - constants[0]) / constants[1]
            with torch.no_grad():
                parts = x.to(job.device).split(_AT_ONCE)
                features = torch.cat([trace(teachers[0], part).features for part in parts])
            atoms.append(barycentre(features.cpu().double(), job.ipc, g))
        return replace(self, known=torch.cat(atoms).float().to(job.device))

    def loss(self, view: View) -> Tensor:
        """(1,)."""
        if self.known is None or len(view.images) != 1:
            raise BadInput(type(self).__name__, "follows atoms of one run, learned beforehand")
        atoms = self.known if view.index is None else self.known[view.index]
        norm: Tensor = torch.linalg.vector_norm(view.trace.features - atoms)
        return norm[None]


def barycentre(
    points: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    iterations: int = 100,
    tolerance: float = 1e-7,
) -> Tensor:
    """(count, D) atoms of equal mass whose 2-Wasserstein distance to the (N, D) points is locally least.

    From standard normal atoms, each goes to the mean of the mass that an optimal plan gives it, again and again.

    Source: Cuturi & Doucet, "Fast Computation of Wasserstein Barycenters", ICML 2014, algorithm 2.
    """
    atoms = torch.randn(count, points.shape[1], generator=generator, dtype=points.dtype)
    for _ in range(iterations):
        moved = count * transport(torch.cdist(atoms, points).square()) @ points
        done = float((moved - atoms).square().sum()) < tolerance
        atoms = moved
        if done:
            break
    return atoms


def transport(cost: Tensor) -> Tensor:
    """(K, N) cheapest plan that carries K equal masses to N equal masses, 1 in all.

    Args:
        cost: (K, N) of carrying a unit.
    """
    k, n = cost.shape
    if n % k == 0:
        # Equal shares: among the cheapest plans is one that carries whole points.
        owner = equal_shares(cost.double().numpy())
        plan = torch.zeros_like(cost)
        plan[torch.from_numpy(owner), torch.arange(n)] = 1 / n
        return plan
    cells = np.arange(k * n)
    ones = np.ones(k * n)
    out = sparse.csr_matrix((ones, (cells // n, cells)), shape=(k, k * n))
    into = sparse.csr_matrix((ones, (cells % n, cells)), shape=(n, k * n))
    # Masses are counted in 1 / (K N): whole numbers, so that the solver's tolerance is relative.
    masses = np.concatenate([np.full(k, n), np.full(n, k)])
    solved = optimize.linprog(
        cost.double().numpy().ravel() / max(float(cost.max()), 1e-30),
        A_eq=sparse.vstack([out, into]),
        b_eq=masses,
        method="highs",
    )
    assert solved.success, solved.message
    plan = torch.from_numpy(solved.x.reshape(k, n)).clamp_min(0).to(cost.dtype)
    return plan / plan.sum(1, keepdim=True) / k


def equal_shares(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N,) which of K atoms each point goes to, N / K to each, at the least cost in all.

    Points come one by one; each takes the cheapest chain of moves that ends at an atom with room (successive shortest
    paths, on the K atoms).

    Args:
        cost: (K, N), N a multiple of K.
    """
    k, n = cost.shape
    cost = cost / max(float(np.abs(cost).max()), 1e-300)
    every, owner, room = np.arange(k), np.full(n, -1), np.full(k, n // k)
    move = np.full((k, k), np.inf)  # the least that a point of one atom costs more at another
    mover = np.zeros((k, k), dtype=np.int64)
    for point in range(n):
        least, before = cost[:, point].copy(), np.full(k, -1)
        while True:
            through = least[:, None] + move
            best = through.argmin(0)
            better = through[best, every] < least - 1e-12
            if not better.any():
                break
            least = np.where(better, through[best, every], least)
            before = np.where(better, best, before)
        at = int(np.where(room > 0, least, np.inf).argmin())
        room[at] -= 1
        changed = [at]
        while before[at] >= 0:
            owner[mover[before[at], at]] = at
            at = int(before[at])
            changed.append(at)
        owner[point] = at
        for atom in changed:
            own = np.flatnonzero(owner == atom)
            more = cost[:, own] - cost[atom, own]
            mover[atom], move[atom] = own[more.argmin(1)], more.min(1)
            move[atom, atom] = np.inf
    return owner
