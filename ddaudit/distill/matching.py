"""The matching loop: gradient and distribution matching, private or not, one set or K at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distill.parts import Query
from ddaudit.distill.reading import augment_by_class
from ddaudit.distill.synthesis import labels_of
from ddaudit.errors import DDAuditError
from ddaudit.models import Network
from ddaudit.sets import PrivacyClaim
from ddaudit.training.augment import apply, draw

if TYPE_CHECKING:
    from ddaudit.distill.recipe import Recipe

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Schedule:
    """``outer`` matching rounds per network, ``inner`` epochs of network training on S between rounds."""

    outer: int
    inner: int


# DC's table of loops by IPC (Zhao et al., ICLR 2021, appendix; authors' get_loops), also PSG's.
DC_LOOPS = {
    1: Schedule(1, 1),
    10: Schedule(10, 50),
    20: Schedule(20, 25),
    30: Schedule(30, 20),
    40: Schedule(40, 15),
    50: Schedule(50, 10),
}


@dataclass(frozen=True)
class Outcome:
    """What a loop hands back for one run: pixel-space images, labels and what the card must say."""

    images: Tensor
    labels: Tensor
    claim: PrivacyClaim | None = None
    member_indices: list[int] | None = None


@dataclass(frozen=True)
class Matching:
    """Move synthetic images until their aggregated signals match the targets.

    Attributes:
        iterations: networks drawn.
        lr, momentum: SGD on the synthetic images, in normalised space.
        outer, inner: matching rounds per network, and epochs of training the network on S between rounds;
            None: DC's table by IPC (nearest entry).
        repeats: matching steps per round (PSG's batch_loop), each one query.
        net_lr, net_batch: SGD for the inner training.
    """

    iterations: int
    lr: float = 1.0
    momentum: float = 0.5
    outer: int | None = 1
    inner: int | None = 0
    repeats: int = 1
    net_lr: float = 0.01
    net_batch: int = 256

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.lr <= 0 or self.repeats < 1:
            raise ValueError(
                "loop.iterations and loop.repeats must be at least 1 and loop.lr positive"
            )
        if (self.outer is not None and self.outer < 1) or (
            self.inner is not None and self.inner < 0
        ):
            raise ValueError("loop.outer must be at least 1 and loop.inner at least 0")

    def schedule(self, ipc: int) -> Schedule:
        """The (outer, inner) loops for this IPC."""
        nearest = DC_LOOPS[min(DC_LOOPS, key=lambda k: (abs(k - ipc), k))]
        return Schedule(
            nearest.outer if self.outer is None else self.outer,
            nearest.inner if self.inner is None else self.inner,
        )

    def queries(self, ipc: int) -> int:
        """How often the real data are asked: what a private reader must budget for."""
        return self.iterations * self.schedule(ipc).outer * self.repeats

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """True when K runs can share networks and real-data signals: neither depends on S or on other records."""
        return (
            bool(recipe.objective and recipe.objective.shareable)
            # One round per network never trains it.
            and (self.schedule(ipc).inner == 0 or self.schedule(ipc).outer == 1)
            and not (recipe.networks and recipe.networks.couples_records())
        )

    def run(
        self,
        recipe: Recipe,
        train: ImageData,
        members: Tensor,
        *,
        data: Dataset,
        ipc: int,
        seed: int,
        device: torch.device,
        progress: Progress | None = None,
    ) -> list[Outcome]:
        """Distil K sets, one per row of ``members`` (K, N) bool.

        Raises:
            DDAuditError: the optimisation diverged (NaN), or K > 1 for a recipe that cannot share.
        """
        objective, target, synthesis, networks, reader = recipe.matching_parts()
        if len(members) > 1 and not self.shareable(recipe, ipc):
            raise DDAuditError(
                f"{recipe.name}: several runs at once need signals that do not depend on the synthetic set"
            )
        mean, std = (torch.tensor(v)[:, None, None] for v in recipe.normalisation(data))
        generator = torch.Generator().manual_seed(seed)
        schedule, total = self.schedule(ipc), self.queries(ipc)
        source = reader.open(
            train,
            members,
            rule=target,
            mean=mean,
            std=std,
            queries=total,
            seed=seed + 1,
            device=device,
        )
        start = synthesis.start(train, members, ipc=ipc, mean=mean, std=std, generator=generator)
        x = start.to(device).requires_grad_(True)
        y = labels_of(train.num_classes, ipc).to(device)
        # Slots: one uniform row per class, then one over everything for rules that match the whole set (slot -1).
        rows = torch.cat(
            [F.one_hot(y, train.num_classes).T.float() / ipc, x.new_full((1, len(y)), 1 / len(y))]
        )
        used, slot_of_row = torch.unique(source.layout.slots % len(rows), return_inverse=True)
        rows, slot_of_row = rows[used.to(device)], slot_of_row.to(device)
        optimiser = torch.optim.SGD([x], lr=self.lr, momentum=self.momentum)
        strategy = recipe.augment_for(data)
        done = 0
        for iteration in range(self.iterations):
            net_seed = int(torch.randint(2**31, (), generator=generator))
            net = networks.make(
                shape=train.shape, num_classes=train.num_classes, seed=net_seed, device=device
            )
            for round_ in range(schedule.outer):
                for repeat in range(self.repeats):
                    augment = tuple(
                        draw(strategy, generator, shape=train.shape) if strategy else None
                        for _ in range(train.num_classes)
                    )
                    query = Query(f"{iteration}/{round_}/{repeat}", objective, net, augment)
                    targets = source.targets(query)
                    flat = augment_by_class(x.flatten(0, 1), y.repeat(len(x)), augment).view_as(x)
                    aggregate = objective.synthetic(net, flat, y, rows, source.clip)
                    distance = objective.distance(net, targets.values, aggregate[:, slot_of_row])
                    loss = (distance * targets.weights).sum()
                    optimiser.zero_grad(set_to_none=True)
                    x.grad = torch.autograd.grad(loss, x)[0]
                    optimiser.step()
                    done += 1
                    if progress:
                        progress(done, total)
                if round_ < schedule.outer - 1:
                    self._train(
                        net,
                        x.detach()[0],
                        y,
                        epochs=schedule.inner,
                        strategy=strategy,
                        generator=generator,
                    )
            if not bool(torch.isfinite(x).all()):
                raise DDAuditError(
                    f"{recipe.name}: diverged at iteration {iteration}. Lower --set loop.lr (now {self.lr})."
                )
        images = (x.detach().cpu() * std + mean).contiguous()
        return [Outcome(images[k], y.cpu(), claim) for k, claim in enumerate(source.claims())]

    def _train(
        self,
        net: Network,
        x: Tensor,
        y: Tensor,
        *,
        epochs: int,
        strategy: str,
        generator: torch.Generator,
    ) -> None:
        """Plain SGD on the current synthetic set (public: post-processing of past releases)."""
        optimiser = torch.optim.SGD(net.body.parameters(), lr=self.net_lr)
        for _ in range(epochs):
            for index in (
                torch.randperm(len(x), generator=generator).to(x.device).split(self.net_batch)
            ):
                batch = x[index]
                if strategy:
                    batch = apply(
                        batch, draw(strategy, generator, n=len(batch), shape=tuple(x.shape[1:]))
                    )
                loss = F.cross_entropy(net.body(batch), y[index])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
