"""Dataset dictionaries: every domain is a Wasserstein barycentre of a few labelled atoms, the unlabelled one too.

Domains are the groups of the data. The set that is released is the barycentre of the target domain, whose labels are
never looked at: labels come from the atoms, which the other domains teach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ddaudit.distillation.loops import Job, Outcome, Unasked
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.targets import protected
from ddaudit.errors import BadInput
from ddaudit.sets.simplex import to_simplex


@dataclass(frozen=True, eq=False)
class Cloud:
    """Equally heavy points with labels.

    Attributes:
        x: (n, D) points.
        y: (n, C) label distributions; None: unknown.
    """

    x: Tensor
    y: Tensor | None


@dataclass(frozen=True)
class Dictionary(Unasked):
    """Learn atoms and each domain's mixture of them, and release the target's barycentre, ipc points a class.

    Attributes:
        target: group whose labels are not used; negative counts from the last.
        atoms: labelled clouds that domains are mixtures of.
        iterations: steps of Adam on points, labels and mixtures, each on a batch of every domain.
        lr: of points and labels, in standard deviations of the records' values and in logits.
        mix_lr: of the mixtures.
        sweeps: rounds of assignments per barycentre.

    Source: Montesuma, Mboula & Souloumiac, "Multi-Source Domain Adaptation through Dataset Dictionary Learning in
    Wasserstein Space", ECAI 2023, arXiv 2307.14953, algorithms 1 and 2, as used by arXiv 2309.07666.
    """

    target: int = -1
    atoms: int = 3
    iterations: int = 200
    lr: float = 0.1
    mix_lr: float = 0.05
    sweeps: int = 5
    by_group: ClassVar[bool] = True
    hides_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.atoms, self.iterations, self.sweeps) < 1:
            raise ValueError("loop.atoms, loop.iterations and loop.sweeps must be at least 1")

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Learn a dictionary once per row of ``job.members``.

        Raises:
            BadInput: the records a run may see lie in fewer than two domains, or none in the target.
        """
        return [
            self._one(replace(job, members=row[None], seed=job.seed + k))
            for k, row in enumerate(job.members)
        ]

    def _one(self, job: Job) -> Outcome:
        train = job.train.subset(job.members[0])
        groups, classes = protected(train), train.num_classes
        count = max(len(train.group_names), int(protected(job.train).max()) + 1)
        target = self.target % count
        name = train.group_names[target] if train.group_names else f"group {target}"
        present = torch.unique(groups).tolist()
        if target not in present or len(present) < 2:
            raise BadInput(
                f"loop.target {self.target}",
                f"there are no records of '{name}', or of no other domain",
                f"The groups are 0 to {count - 1}.",
            )
        pixels = train.pixels().flatten(1)
        scale = pixels.std().clamp_min(1e-6)
        one_hot = F.one_hot(train.labels, classes).float()
        domains = [
            Cloud(pixels[groups == g] / scale, None if g == target else one_hot[groups == g])
            for g in sorted(present, key=lambda g: g == target)  # the target comes last
        ]
        made = self.learn(domains, points=job.ipc * classes, seed=job.seed, progress=job.progress)
        assert made.y is not None
        return Outcome(
            (made.x * scale).view(-1, *train.images.shape[1:]), made.y, real_pixels=False
        )

    def learn(
        self,
        domains: Sequence[Cloud],
        *,
        points: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> Cloud:
        """The barycentre of the last domain, which has no labels, as (points, D) with labels from the others.

        Each step adds up the distance of every domain's batch to its barycentre: squared, of points and, where labels
        are known, of labels too, which weigh as much as the largest distance between points.
        """
        g = torch.Generator().manual_seed(seed)
        sources = [d for d in domains if d.y is not None]
        starts = [_batch(sources[k % len(sources)], points, g) for k in range(self.atoms)]
        x = torch.stack([s.x for s in starts]).requires_grad_()
        y = torch.stack([_known(s) for s in starts])
        logits = (y * 0.9 + 0.1 / y.shape[2]).log().requires_grad_()
        mix = torch.full((len(domains), self.atoms), 1 / self.atoms, requires_grad=True)
        label_cost = float(torch.cdist(starts[0].x, starts[0].x).square().max())
        optimizer = torch.optim.Adam(
            [{"params": [x, logits], "lr": self.lr}, {"params": [mix], "lr": self.mix_lr}]
        )
        for step in range(self.iterations):
            loss = torch.zeros(())
            for domain, weights in zip(domains, mix, strict=True):
                ours = barycentre(x, logits.softmax(2), weights, label_cost, sweeps=self.sweeps)
                loss = loss + distance(ours, _batch(domain, points, g), label_cost)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                mix.copy_(to_simplex(mix))
            if progress is not None:
                progress(step + 1, self.iterations)
        with torch.no_grad():
            return barycentre(x, logits.softmax(2), mix[-1], label_cost, sweeps=10 * self.sweeps)


def barycentre(x: Tensor, y: Tensor, weights: Tensor, label_cost: float, *, sweeps: int) -> Cloud:
    """The barycentre of K labelled clouds, as many points as one of them has.

    From the heaviest cloud, each point goes to the weighted mean of its partners in the cheapest assignments to all
    clouds, again and again. Differentiable in everything, the partners held fixed.

    Args:
        x, y: (K, n, D) points and (K, n, C) label distributions.
        weights: (K,) not negative, 1 in all.
        label_cost: what a squared distance of labels costs beside one of points.

    Source: Cuturi & Doucet, ICML 2014, algorithm 2, with equal masses.
    """
    first = int(weights.argmax())
    now = Cloud(x[first], y[first])
    for _ in range(sweeps):
        mine = [partners(now, Cloud(a, b), label_cost) for a, b in zip(x, y, strict=True)]
        moved = Cloud(
            sum_of(weights, [a[i] for a, i in zip(x, mine, strict=True)]),
            sum_of(weights, [b[i] for b, i in zip(y, mine, strict=True)]),
        )
        done = torch.equal(moved.x.detach(), now.x.detach())
        now = moved
        if done:
            break
    return now


def sum_of(weights: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """(n, D) weighted sum of (n, D) parts."""
    return torch.einsum("k,knd->nd", weights, torch.stack(list(parts)))


def partners(one: Cloud, other: Cloud, label_cost: float) -> Tensor:
    """(n,) for each point of one cloud the point of another, as large, that the cheapest assignment gives it."""
    with torch.no_grad():
        cost = torch.cdist(one.x, other.x).square()
        if one.y is not None and other.y is not None:
            cost = cost + label_cost * torch.cdist(one.y, other.y).square()
        return torch.from_numpy(linear_sum_assignment(cost.double().numpy())[1])


def distance(one: Cloud, other: Cloud, label_cost: float) -> Tensor:
    """Squared 2-Wasserstein distance of two clouds of one size; labels count where both have them. Differentiable."""
    at = partners(one, other, label_cost)
    total = (one.x - other.x[at]).square().sum(1)
    if one.y is not None and other.y is not None:
        total = total + label_cost * (one.y - other.y[at]).square().sum(1)
    return total.mean()


def _batch(domain: Cloud, count: int, generator: torch.Generator) -> Cloud:
    """Records drawn from a domain, as many of each class where classes are known."""
    n = len(domain.x)
    order = torch.randperm(n, generator=generator)
    if domain.y is None:
        at = order.repeat(-(-count // n))[:count]
        return Cloud(domain.x[at], None)
    of = domain.y[order].argmax(1)
    pools = [order[of == c] for c in torch.unique(of).tolist()]
    each = -(-count // len(pools))
    at = torch.cat([p.repeat(-(-each // len(p)))[:each] for p in pools])[:count]
    return Cloud(domain.x[at], domain.y[at])


def _known(cloud: Cloud) -> Tensor:
    assert cloud.y is not None
    return cloud.y
