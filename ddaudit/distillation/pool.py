"""A pool of networks that are trained on the synthetic set while it is distilled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import Dataset
from ddaudit.distillation.kernels import centred_targets
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Canvas
from ddaudit.errors import DDAuditError
from ddaudit.models import Network
from ddaudit.seeds import stable_seed
from ddaudit.training.augment import apply, draw


@dataclass(frozen=True)
class Pool(Fresh):
    """Every step takes a random network of a pool, and trains it on the synthetic set afterwards.

    Attributes:
        arch, width: as in :class:`Fresh`.
        size: networks in the pool.
        age: by the rule "age", updates after which a network makes room for a new one; the first generation leaves
            at staggered ages, so that later ones are of all ages. By the rule "queue", steps between the arrivals
            of new networks; the pool starts with one, and once it is full the oldest leaves.
        rule: "age" (FRePo, RCIG) or "queue" (IDM).
        updates: training steps of the network that was used, each on one batch of the synthetic set.
        lr: of Adam, whose state a network keeps.
        batch: images per update; all where there are fewer.
        loss: "ce" (cross-entropy) or "mse" (mean squared error to labels minus 1 / classes).
        augment: of the training: "data" (the data set's DSA string), "" (none), or a DSA strategy.

    Source: Zhou, Nezhadarya & Ba, "Dataset Distillation using Neural Feature Regression" (FRePo), NeurIPS 2022,
    arXiv 2206.00719, section 3.2 and algorithm 1, values of its code (10 networks, 100 updates, Adam 3e-4).
    Queue: IDM, CVPR 2023, arXiv 2307.09742, whose networks are trained on real records; these are not.
    """

    size: int = 10
    age: int = 100
    rule: Literal["age", "queue"] = "age"
    updates: int = 1
    lr: float = 3e-4
    batch: int = 256
    loss: Literal["ce", "mse"] = "ce"
    augment: str = "data"
    live: _Live | None = field(default=None, repr=False, compare=False)
    """The networks of a run; filled by :meth:`bind`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.size, self.age, self.updates, self.batch) < 1 or not self.lr > 0:
            raise ValueError(
                "networks.size, age, updates and batch must be at least 1 and networks.lr positive"
            )
        for name, options in (("rule", ("age", "queue")), ("loss", ("ce", "mse"))):
            if getattr(self, name) not in options:
                raise ValueError(f"networks.{name} is '{options[0]}' or '{options[1]}'")

    def bind(self, data: Dataset) -> Pool:
        """A new, empty pool for one run."""
        self.resolve()
        strategy = data.augment if self.augment == "data" else self.augment
        return replace(self, live=_Live(self, strategy))

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """The network of the pool that this seed picks, as old as it is; new where its place is empty.

        Raises:
            DDAuditError: the pool was not bound.
        """
        live = self._opened()
        place = live.pick(seed)
        if live.members[place] is None:
            net = super().make(shape=shape, num_classes=num_classes, seed=seed, device=device)
            live.members[place] = _Member(net, torch.optim.Adam(net.body.parameters(), lr=self.lr))
        member = live.members[place]
        assert member is not None
        return member.net

    def follows(self) -> bool:
        """Always: networks are trained on the synthetic set."""
        return True

    def update(self, canvas: Canvas, step: int) -> None:
        """Train the network that was used last, and renew the pool.

        Raises:
            DDAuditError: the pool was not bound.
        """
        live = self._opened()
        live.train(*canvas.taught(0))
        live.renew(step)

    def assumed(self, data: Dataset) -> tuple[str, ...]:
        """That the networks are made from what is published."""
        return ("networks trained on the synthetic set, which follows from past answers",)

    def _opened(self) -> _Live:
        if self.live is None:
            raise DDAuditError("networks: the pool was not bound to data")
        return self.live


@dataclass(frozen=True)
class Warm(Fresh):
    """A new network each time, trained on the synthetic set before it is matched on; the first is left as it is.

    Attributes:
        arch, width: as in :class:`Fresh`.
        epochs: passes over the set.
        lr, batch: of plain SGD on cross-entropy.
        augment: of the training: "data" (the data set's DSA string), "" (none), or a DSA strategy.

    Source: COBRA, ICML 2026, arXiv 2605.00185, and mhmoslemi/COBRA, commit aa567ff, train_dm.py.
    """

    epochs: int = 10
    lr: float = 0.01
    batch: int = 256
    augment: str = "data"
    strategy: str = ""
    shown: list[Canvas] = field(default_factory=list, repr=False, compare=False)
    """The synthetic set of a run; filled by :meth:`update`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.epochs, self.batch) < 1 or not self.lr > 0:
            raise ValueError(
                "networks.epochs and batch must be at least 1 and networks.lr positive"
            )

    def bind(self, data: Dataset) -> Warm:
        """For one run, which has shown nothing yet."""
        self.resolve()
        strategy = data.augment if self.augment == "data" else self.augment
        return replace(self, strategy=strategy, shown=[])

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """The network of a seed, trained on the synthetic set as it is."""
        net = super().make(shape=shape, num_classes=num_classes, seed=seed, device=device)
        if not self.shown:
            return net
        x, y = self.shown[0].taught(0)
        optimiser = torch.optim.SGD(net.body.parameters(), lr=self.lr)
        generator = torch.Generator().manual_seed(stable_seed(seed, "train"))
        for _ in range(self.epochs):
            for index in torch.randperm(len(x), generator=generator).to(x.device).split(self.batch):
                seen = apply(x[index], draw(self.strategy, generator, len(index), shape=x.shape))
                optimiser.zero_grad(set_to_none=True)
                F.cross_entropy(net.body(seen), y[index]).backward()
                optimiser.step()
        return net

    def follows(self) -> bool:
        """Always: networks are trained on the synthetic set."""
        return True

    def update(self, canvas: Canvas, step: int) -> None:
        """Keep the set at hand."""
        self.shown[:] = [canvas]

    def assumed(self, data: Dataset) -> tuple[str, ...]:
        """That the networks are made from what is published."""
        return Pool().assumed(data)


@dataclass(eq=False)
class _Member:
    """A network of the pool, its optimiser, and how many updates it has had."""

    net: Network
    optimiser: torch.optim.Optimizer
    updates: int = 0


class _Live:
    """The networks of one run. Empty places are filled when they are picked."""

    def __init__(self, config: Pool, strategy: str) -> None:
        self._config, self._strategy = config, strategy
        first = config.size if config.rule == "age" else 1
        self.members: list[_Member | None] = [None] * first
        # Updates after which whoever holds a place leaves it.
        self._limits = [
            max(1, config.age * (place + 1) // config.size) for place in range(config.size)
        ]
        self._used = 0
        self._generator = torch.Generator()

    def pick(self, seed: int) -> int:
        """The place that a seed picks; the training that follows draws from the same seed."""
        self._used = stable_seed(seed, "place") % len(self.members)
        self._generator.manual_seed(stable_seed(seed, "train"))
        return self._used

    def train(self, x: Tensor, y: Tensor) -> None:
        """Update the network used last on normalised images (M, C, H, W) with labels (M,) or (M, classes)."""
        member, config = self.members[self._used], self._config
        assert member is not None
        for _ in range(config.updates):
            order = torch.randperm(len(x), generator=self._generator)[: config.batch].to(x.device)
            seen = x[order]
            if self._strategy:
                drawn = draw(self._strategy, self._generator, n=len(seen), shape=tuple(x.shape[1:]))
                seen = apply(seen, drawn)
            logits = member.net.body(seen)
            if config.loss == "ce":
                loss = F.cross_entropy(logits, y[order])
            else:
                loss = F.mse_loss(logits, centred_targets(y[order], logits.shape[1]))
            member.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            member.optimiser.step()
            member.updates += 1

    def renew(self, step: int) -> None:
        """Empty the place of a network that is too old, or let the next one into the queue."""
        config, member = self._config, self.members[self._used]
        if config.rule == "queue":
            if (step + 1) % config.age == 0:
                self.members = [*self.members, None][-config.size :]
        elif member is not None and member.updates >= self._limits[self._used]:
            self.members[self._used] = None
            self._limits[self._used] = config.age
