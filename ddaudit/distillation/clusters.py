"""Representative records: those nearest to k-means centres of their class, as batches and as a start (DREAM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Opening, Query
from ddaudit.distillation.reading import Minibatch, MinibatchSource, load_batch
from ddaudit.errors import BadInput
from ddaudit.models import Network


@dataclass(frozen=True)
class Representative(Minibatch):
    """Of each class, the records nearest to the centres of ``per_class`` clusters of its embeddings.

    Classes are clustered on the network of the question, and again for a new network or after ``interval`` questions;
    in between the batch stays the same. Which records are read depends on all the others.

    Source: Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023,
    arXiv 2302.14416, section 3.2, values of the authors' code.
    """

    per_class: int = 128
    interval: int = 10

    def couples_records(self) -> bool:
        """Always: a record moves the centres that others are picked by."""
        return True

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> RepresentativeSource:
        """Open ``data`` for any number of queries."""
        source = RepresentativeSource(
            data, members, opening, self.per_class, by_group=self.by_group
        )
        source.interval = self.interval
        return source


class RepresentativeSource(MinibatchSource):
    """Keeps its batch for ``interval`` questions on one network."""

    interval: int
    _net: Network | None = None
    _left: int = 0
    _index: Tensor

    def pick(self, query: Query) -> Tensor:
        """(B,) positions of the records that answer a query."""
        if query.net is not self._net or self._left == 0:
            self._net, self._left = query.net, self.interval
            self._index = torch.cat([self._central(p, n, query) for p, n in self._pools])
        self._left -= 1
        return self._index

    def _central(self, pool: Tensor, count: int, query: Query) -> Tensor:
        if len(pool) <= count:
            return pool
        assert query.net is not None
        with torch.no_grad():
            plain = (None,) * self._data.num_classes
            x = [load_batch(self._data, part, self._opening, plain)[0] for part in pool.split(512)]
            z = torch.cat([query.net.body.features(part) for part in x]).cpu()
        return pool[nearest(z, kmeans(z, count, self._generator))]


def records_of(data: ImageData, row: Tensor, label: int) -> Tensor:
    """(n,) positions of a class's records among those that a run may see; at least one.

    Raises:
        BadInput: there are none.
    """
    found = ((data.labels == label) & row).nonzero().squeeze(1)
    if len(found) == 0:
        raise BadInput(
            f"class '{data.class_names[label]}'",
            "has no training record to start from",
            "Use --set synthesis.init=noise.",
        )
    return found


def central_records(
    data: ImageData,
    members: Tensor,
    count: int,
    *,
    mean: Tensor,
    std: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """(K, num_classes * count) positions of the records of each class nearest to the centres of ``count`` clusters,
    on the embedding of a random ConvNet; repeated where a class has fewer.

    Raises:
        BadInput: a class without any record.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    net = Fresh().make(
        shape=data.shape, num_classes=data.num_classes, seed=seed, device=torch.device("cpu")
    )
    rows = []
    for row in members:
        for c in range(data.num_classes):
            pool = records_of(data, row, c)
            if len(pool) > count:
                with torch.no_grad():
                    x = [(data.pixels(part) - mean) / std for part in pool.split(512)]
                    z = torch.cat([net.body.features(part) for part in x])
                pool = pool[nearest(z, kmeans(z, count, generator))]
            rows.append(pool.repeat(-(-count // len(pool)))[:count])
    return torch.cat(rows).view(len(members), -1)


def kmeans(
    x: Tensor, k: int, generator: torch.Generator, *, rounds: int = 100, tolerance: float = 1e-4
) -> Tensor:
    """(k, D) centres of Lloyd's algorithm on points x (N, D), started from k random points.

    A centre that no point is nearest to stays where it is.

    Args:
        rounds: at most.
        tolerance: a summed squared move of the centres that is small enough to stop.
    """
    centres = x[torch.randperm(len(x), generator=generator)[:k].to(x.device)]
    for _ in range(rounds):
        mine = torch.cdist(x, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, mine, x)
        counts = torch.bincount(mine, minlength=k)[:, None].to(x.dtype)
        moved = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        done = float((moved - centres).square().sum()) <= tolerance
        centres = moved
        if done:
            break
    return centres


def nearest(x: Tensor, centres: Tensor) -> Tensor:
    """(k,) index of the point of x (N, D) nearest to each centre (k, D); a point may be nearest to several."""
    return torch.cdist(centres, x).argmin(1).cpu()
