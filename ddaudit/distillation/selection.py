"""Selection: coresets of real records. The baselines every report needs, and the least private sets there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation.loops import Job, Outcome
from ddaudit.distillation.networks import fit
from ddaudit.distillation.recipe import Recipe
from ddaudit.errors import BadInput
from ddaudit.models import Arch
from ddaudit.training import PROTOCOLS, train_many

Strategy = Callable[[Tensor, int, torch.Generator], Tensor]


def random_choice(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) positions drawn without replacement (repeating when there are fewer)."""
    order = torch.randperm(len(features), generator=generator)
    return order.repeat(-(-count // len(order)))[:count]


def herding(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Greedily add the record that brings the mean of the selection nearest to the class mean.

    Source: Welling, "Herding Dynamical Weights to Learn", ICML 2009; Rebuffi et al., iCaRL, CVPR 2017, algorithm 4.
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool)
    chosen: list[int] = []
    for i in range(count):
        if not bool(free.any()):
            free[:] = True
        distance = (mean - (total + features) / (i + 1)).square().sum(1)
        best = int(distance.masked_fill(~free, torch.inf).argmin())
        chosen.append(best)
        free[best] = False
        total = total + features[best]
    return torch.tensor(chosen)


def k_center(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Greedy farthest point, starting from the record nearest to the class mean.

    Source: Sener & Savarese, "Active Learning for CNNs: A Core-Set Approach", ICLR 2018, algorithm 1; class-mean
    start as in the DC code family.
    """
    first = int((features - features.mean(0)).square().sum(1).argmin())
    chosen = [first]
    distance = (features - features[first]).square().sum(1)
    while len(chosen) < count:
        best = int(distance.argmax())
        chosen.append(best)
        distance = torch.minimum(distance, (features - features[best]).square().sum(1))
    return torch.tensor(chosen)


STRATEGIES: dict[str, Strategy | None] = {
    "full": None,
    "random": random_choice,
    "herding": herding,
    "k-center": k_center,
}


@dataclass(frozen=True)
class Selection:
    """Release ``ipc`` real records per class (``full``: all of them).

    ``herding`` and ``k-center`` work on the embedding of a network trained on the real data for
    ``feature_epochs`` epochs. ``by_group`` spreads each class's picks evenly over protected groups ("balanced
    random", the control that group-fair distillation must beat).
    """

    strategy: str
    by_group: bool = False
    feature_epochs: int = 5
    arch: str = "ConvNet"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"loop.strategy is one of {', '.join(STRATEGIES)}, not '{self.strategy}'"
            )

    @property
    def random(self) -> bool:
        """Whether a draw costs nothing but its victims: no network selects."""
        return self.strategy == "random"

    @property
    def whole(self) -> bool:
        """Whether it selects everything: every seed gives the same set, so that there are no draws to differ."""
        return self.strategy == "full"

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """Selections that look at no feature can serve K runs in one call."""
        return self.strategy in ("full", "random")

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        """Nothing is asked, and nothing private can be made this way."""
        return False

    def queries(self, ipc: int) -> int:
        """Selections ask no questions."""
        return 0

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Select once per row of ``job.members``."""
        return [
            self._one(
                job.train, row, data=job.data, ipc=job.ipc, seed=job.seed + k, device=job.device
            )
            for k, row in enumerate(job.members)
        ]

    def _one(
        self,
        train: ImageData,
        allowed: Tensor,
        *,
        data: Dataset,
        ipc: int,
        seed: int,
        device: torch.device,
    ) -> Outcome:
        generator = torch.Generator().manual_seed(seed)
        strategy = STRATEGIES[self.strategy]
        if strategy is None:
            index = allowed.nonzero().squeeze(1)
        else:
            features = self._features(train, allowed, data=data, seed=seed, device=device)
            index = torch.cat(
                [
                    self._pick(strategy, train, allowed, features, c, ipc, generator)
                    for c in range(train.num_classes)
                ]
            )
        return Outcome(
            train.pixels(index),
            train.labels[index],
            member_indices=index.tolist(),
            real_pixels=True,
        )

    def _pick(
        self,
        strategy: Strategy,
        train: ImageData,
        allowed: Tensor,
        features: Tensor | None,
        c: int,
        ipc: int,
        generator: torch.Generator,
    ) -> Tensor:
        pools = [((train.labels == c) & allowed).nonzero().squeeze(1)]
        if self.by_group:
            if train.groups is None:
                raise BadInput(
                    "fair",
                    "needs a protected attribute, and these data have none",
                    "Try --data digits-colored.",
                )
            group = train.groups[pools[0]]
            pools = [pools[0][group == g] for g in torch.unique(group)]
        if sum(map(len, pools)) == 0:
            raise BadInput(f"class '{train.class_names[c]}'", "has no training record to select")
        # Quotas differ by at most one; which groups get the extra record is drawn.
        quota = torch.full((len(pools),), ipc // len(pools))
        quota[torch.randperm(len(pools), generator=generator)[: ipc % len(pools)]] += 1
        picks = []
        for pool, count in zip(pools, quota.tolist(), strict=True):
            if count:
                z = features[pool] if features is not None else torch.zeros(len(pool), 1)
                picks.append(pool[strategy(z, count, generator)])
        return torch.cat(picks)

    def _features(
        self, train: ImageData, allowed: Tensor, *, data: Dataset, seed: int, device: torch.device
    ) -> Tensor | None:
        if self.strategy == "random":
            return None
        index = allowed.nonzero().squeeze(1)
        protocol = replace(
            PROTOCOLS["quick"],
            name="features",
            epochs=self.feature_epochs,
            epochs_plain=self.feature_epochs,
            augment="",
        )
        (net,) = train_many(
            [(train.images[index], train.labels[index])],
            arch=fit(Arch.parse(self.arch), train.shape),
            num_classes=train.num_classes,
            mean=data.mean,
            std=data.std,
            protocol=protocol,
            seeds=[seed],
            device=device,
        )
        with torch.inference_mode():
            z = torch.cat(
                [
                    net.embed(train.pixels(i).to(device)).cpu()
                    for i in torch.arange(len(train)).split(512)
                ]
            )
        return z.clone()
