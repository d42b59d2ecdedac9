"""Selection: coresets of real records. The baselines every report needs, and the least private sets there are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.lessons import Even
from ddaudit.distillation.loops import Job, Outcome
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.record_scores import Study, early_errors, embeddings, forgetting_counts
from ddaudit.distillation.targets import protected
from ddaudit.errors import BadInput
from ddaudit.later import later

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
    start as in the DC code family. All, again, where there are fewer.
    """
    first = int((features - features.mean(0)).square().sum(1).argmin())
    chosen = [first]
    distance = (features - features[first]).square().sum(1)
    while len(chosen) < min(count, len(features)):
        best = int(distance.argmax())
        chosen.append(best)
        distance = torch.minimum(distance, (features - features[best]).square().sum(1))
        distance[chosen] = -1.0  # a copy of a record is taken before the record itself again
    return torch.tensor(chosen).repeat(-(-count // len(chosen)))[:count]


def k_means(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The records nearest to the centres of ``count`` clusters, each taken once; all, again, where there are fewer.

    Source: MacQueen, 1967; the coreset "k-means on embeddings" of Cui et al., "DC-BENCH", NeurIPS 2022, arXiv
    2207.09639.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clusters = min(count, len(features))
    seed = int(torch.randint(2**31, (), generator=generator))
    with warnings.catch_warnings():
        # Fewer distinct records than clusters: some centres coincide, and take different records below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(clusters, n_init=10, random_state=seed).fit(features.numpy())
    centres = fitted.cluster_centers_
    distance = torch.cdist(torch.from_numpy(centres).to(features), features)
    chosen: list[int] = []
    for row in distance:
        row[chosen] = torch.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen).repeat(-(-count // clusters))[:count]


def highest(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) positions of the highest of scores (n, 1), ties in random order; all, again, where there are fewer."""
    order = torch.randperm(len(scores), generator=generator)
    order = order[scores[order, 0].argsort(descending=True, stable=True)]
    return order.repeat(-(-count // len(order)))[:count]


STRATEGIES: dict[str, Strategy | None] = {
    "full": None,
    "random": random_choice,
    "herding": herding,
    "k-center": k_center,
    "k-means": k_means,
    "forgetting": highest,
    "el2n": highest,
}


@dataclass(frozen=True)
class Selection:
    """Release ``ipc`` real records per class (``full``: all of them).

    What networks trained on the records say of them is kept in the job's store, by records and seed: methods and
    sizes share it.

    Attributes:
        strategy: "full", "random"; "herding", "k-center" and "k-means" on embeddings; "forgetting" and "el2n" by how
            hard a record is.
        by_group: spread each class's picks evenly over protected groups ("balanced random", the control that
            group-fair distillation must beat).
        even: with "full", records of smaller classes repeat until every class has as many as the largest.
        feature_epochs: training of the network that embeds, in epochs and one more at a tenth of the step, as
            evaluations count them.
        arch: of the networks.
        keep: "hard", what is forgotten most or has the largest error, or "easy".
        score_epochs: passes of "forgetting" that are watched, and of "el2n" before it looks (and one more).
        score_networks: networks that "el2n" averages over.
        feature_steps: steps of the network that embeds, at most; from some 21 000 records on they are fewer than its
            epochs have. None: no bound.
    """

    strategy: str
    by_group: bool = False
    even: bool = later(False)
    feature_epochs: int = 5
    arch: str = "ConvNet"
    keep: Literal["hard", "easy"] = "hard"
    score_epochs: int = 20
    score_networks: int = 10
    feature_steps: int | None = later(500)

    def __post_init__(self) -> None:
        if self.keep not in ("hard", "easy"):
            raise ValueError(f"loop.keep is 'hard' or 'easy', not '{self.keep}'")
        if min(self.feature_epochs, self.score_epochs, self.score_networks) < 1:
            raise ValueError(
                "loop.feature_epochs, loop.score_epochs and loop.score_networks must be at least 1"
            )
        if self.feature_steps is not None and self.feature_steps < 1:
            raise ValueError("loop.feature_steps must be at least 1, or none")
        if self.even and self.strategy != "full":
            raise ValueError(
                "loop.even is of loop.strategy=full: others take as many of each class"
            )
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"loop.strategy is one of {', '.join(STRATEGIES)}, not '{self.strategy}'"
            )

    @property
    def random(self) -> bool:
        """Whether a draw costs nothing but its victims: no network selects."""
        return self.strategy == "random"

    @property
    def takes_all(self) -> bool:
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
            self._one(replace(job, members=row[None], seed=job.seed + k))
            for k, row in enumerate(job.members)
        ]

    def _one(self, job: Job) -> Outcome:
        train, (allowed,) = job.train, job.members
        generator = torch.Generator().manual_seed(job.seed)
        strategy = STRATEGIES[self.strategy]
        if strategy is None:
            index = allowed.nonzero().squeeze(1)
            if self.even:
                index = index[Even().records(train.subset(index))]
        else:
            features = self._features(job, allowed)
            index = torch.cat(
                [
                    self._pick(strategy, train, allowed, features, c, job.ipc, generator)
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
            group = protected(train)[pools[0]]
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

    def _features(self, job: Job, allowed: Tensor) -> Tensor | None:
        """(N, D) what the strategy goes by, of the records it may see; None where it goes by nothing."""
        if self.strategy == "random":
            return None
        seen = job.train if bool(allowed.all()) else job.train.subset(allowed)
        study = Study(seen, job.data, self.arch, job.seed, job.device, job.store)
        if self.strategy not in ("forgetting", "el2n"):
            return embeddings(
                study, job.train, epochs=self.feature_epochs, max_steps=self.feature_steps
            )
        scores = (
            forgetting_counts(study, epochs=self.score_epochs)
            if self.strategy == "forgetting"
            else early_errors(study, epochs=self.score_epochs, networks=self.score_networks)
        )
        of_all = torch.zeros(len(job.train), 1)
        of_all[allowed, 0] = scores if self.keep == "hard" else -scores
        return of_all
