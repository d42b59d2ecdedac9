"""The plain reader: class-balanced minibatches of real records, without any privacy guarantee."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.parts import Layout, Opening, Query, Reader, Source, Targets
from ddaudit.seeds import stable_seed
from ddaudit.sets import PrivacyClaim
from ddaudit.training.augment import AugmentParams, apply, draw


@dataclass(frozen=True)
class Minibatch:
    """Draws ``per_class`` records of each class per query (all of them where a class has fewer).

    ``by_group`` spreads the records of a class evenly over its protected groups, all of a group that has fewer.
    """

    per_class: int = 256
    by_group: bool = False

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"reader.per_class must be at least 1, got {self.per_class}")

    @property
    def private(self) -> bool:
        """Never: raw aggregates leave."""
        return False

    def couples_records(self) -> bool:
        """Never: records are drawn at random."""
        return False

    def check(self, data: ImageData) -> None:
        """Any data will do."""

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> MinibatchSource:
        """Open ``data`` for any number of queries."""
        return MinibatchSource(data, members, opening, self.per_class, by_group=self.by_group)


class MinibatchSource:
    """One batch per query serves all K runs: a run's rows see only the batch records it may use.

    With K runs on random half subsets each batch is drawn twice as large, so a run sees ``per_class`` records
    on average, as it would alone.
    """

    clip: float | None = None

    def __init__(
        self,
        data: ImageData,
        members: Tensor,
        opening: Opening,
        per_class: int,
        *,
        by_group: bool = False,
    ) -> None:
        self._data, self._opening = data, opening
        self._generator = torch.Generator().manual_seed(opening.seed)
        self._members = members
        reachable = members.any(0)
        share = float(members[:, reachable].float().mean()) if bool(reachable.any()) else 1.0
        draw = max(1, round(per_class / max(share, 1e-6)))
        self._pools: list[tuple[Tensor, int]] = []
        drawn = torch.zeros(data.num_classes)
        for c in range(data.num_classes):
            pools = [((data.labels == c) & reachable).nonzero().squeeze(1)]
            if by_group and data.groups is not None:
                group = data.groups[pools[0]]
                pools = [pools[0][group == g] for g in torch.unique(group)] or pools
            each = -(-draw // len(pools))
            self._pools += [(pool, each) for pool in pools]
            drawn[c] = sum(min(len(pool), each) for pool in pools)
        # What a rule learns of all the records, it learns of those that the runs may see.
        seen = data if bool(reachable.all()) else data.subset(reachable)
        self._rule = opening.rule.bind(seen, drawn)
        self.layout: Layout = self._rule.layout(data)

    def targets(self, query: Query) -> Targets:
        """Weighted means of the query's signals: one row layout per run."""
        index = self.pick(query)
        opening = self._opening
        x, y = load_batch(self._data, index, opening, query.augment)
        rows = self._rule.rows(self._data, index)[None] * self._members[:, index][:, None].float()
        mass = rows.sum(-1)
        rows = rows / mass.clamp_min(1e-12)[..., None]
        values = query.objective.real(query.net, x, y, rows.to(opening.device))
        present = self.layout.weigh((mass > 0).float())
        return Targets(values, present.to(opening.device))

    def pick(self, query: Query) -> Tensor:
        """(B,) positions of the records that answer a query."""
        picks = []
        for pool, count in self._pools:
            if len(pool) <= count:
                picks.append(pool)
            else:
                picks.append(pool[torch.randperm(len(pool), generator=self._generator)[:count]])
        return torch.cat(picks)

    def claims(self) -> list[PrivacyClaim | None]:
        """No guarantee for any run."""
        return [None] * len(self._members)


@dataclass(frozen=True)
class Around:
    """A reader around another: what is not overridden is done by the reader inside.

    Attributes:
        reader: the reader inside.
    """

    reader: Reader

    @property
    def private(self) -> bool:
        """As the reader inside."""
        return self.reader.private

    @property
    def single(self) -> bool:
        """True where what is read depends on the synthetic set, so that runs come one after the other."""
        return False

    def check(self, data: ImageData) -> None:
        """As the reader inside."""
        self.reader.check(data)

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> Source:
        """As the reader inside."""
        return self.reader.open(data, members, opening)


@dataclass(frozen=True)
class OpenedOnce(Around):
    """A reader whose source is opened once and serves every later opening: one budget, several sets.

    Attributes:
        queries: how many different questions all the openings together will ask.
        opened: the source, once there is one.
    """

    queries: int
    opened: list[Source] = field(default_factory=list, repr=False)

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> Source:
        """The source of the first opening; later ones must be for the same data."""
        if not self.opened:
            shared = replace(opening, queries=self.queries, again=True)
            self.opened.append(self.reader.open(data, members, shared))
        return self.opened[0]

    def claims(self) -> list[PrivacyClaim | None]:
        """What everything asked so far costs."""
        return self.opened[0].claims() if self.opened else []


def couples_records(reader: Reader | None) -> bool:
    """True when which records a reader reads depends on the others, and not on chance and counts alone."""
    says = getattr(reader, "couples_records", None)
    if says and says():
        return True
    return isinstance(reader, Around) and couples_records(reader.reader)


def load_batch(
    data: ImageData, index: Tensor, opening: Opening, augment: tuple[AugmentParams | None, ...]
) -> tuple[Tensor, Tensor]:
    """Normalised, augmented images (B, C, H, W) and labels (B,) of the records at ``index``, on the device."""
    device = opening.device
    x = (data.pixels(index).to(device) - opening.mean.to(device)) / opening.std.to(device)
    y = data.labels[index].to(device)
    return augment_by_class(x, y, augment), y


def draw_by_class(
    strategy: str, data: ImageData, *seed: object
) -> tuple[AugmentParams | None, ...]:
    """One siamese augmentation per class, from a public seed; None for each where there is no strategy."""
    if not strategy:
        return (None,) * data.num_classes
    generator = torch.Generator().manual_seed(stable_seed(*seed))
    return tuple(draw(strategy, generator, shape=data.shape) for _ in range(data.num_classes))


def augment_by_class(x: Tensor, y: Tensor, augment: tuple[AugmentParams | None, ...]) -> Tensor:
    """Apply to each image the siamese augmentation of its class (the DC family draws one per class and step)."""
    if all(a is None for a in augment):
        return x
    out = torch.empty_like(x)
    for c, params in enumerate(augment):
        mask = y == c
        if params is None:
            out = torch.where(mask[:, None, None, None], x, out)
        elif bool(mask.any()):
            out = out.index_put((mask.nonzero().squeeze(1),), apply(x[mask], params))
    return out
