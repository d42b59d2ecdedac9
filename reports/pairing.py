"""What pairs the numbers of two subjects: both on the same resamples of the test records, out of their cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ddaudit.findings import Finding, Resampled
from ddaudit.reports.merge import finite
from ddaudit.reports.schema import MetricKey
from ddaudit.stats.resampling import unpack
from ddaudit.stats.verdicts import Spread, pooled


@dataclass(frozen=True, eq=False)
class Answers:
    """One subject's number on resamples of the test records that all subjects share.

    Attributes:
        name: of the resamples.
        draws: (S, B), a row per seed.
        networks: the value of each network, seed by seed.
        step: see ``Resampled.step``.
    """

    name: str
    draws: Tensor
    networks: tuple[tuple[float, ...], ...]
    step: float

    @classmethod
    def of(cls, seeds: Sequence[Resampled | None]) -> Answers | None:
        """From the cells of a number; None where one of them does not say, or they do not fit together."""
        kept = [r for r in seeds if r is not None]
        if not kept or len(kept) < len(seeds) or len({r.name for r in kept}) > 1:
            return None
        try:
            rows = [unpack(r.replicates) for r in kept]
            draws = torch.stack(rows)
        except (ValueError, RuntimeError):  # damaged, or of other lengths
            return None
        networks = tuple(tuple(r.networks) for r in kept)
        return cls(kept[0].name, draws, networks, max(r.step for r in kept))

    def pairs_with(self, other: Answers) -> bool:
        """Whether both are on the same resamples of the same records."""
        return self.name == other.name and self.draws.shape[1] == other.draws.shape[1]

    def within(self) -> Spread | None:
        """How far single networks of one draw lie apart; None with one network a draw."""
        known = [(s.variance, s.freedom) for seed in self.networks if (s := Spread.of(seed))]
        freedom = math.fsum(f for _, f in known)
        return Spread(math.fsum(v * f for v, f in known) / freedom, freedom) if known else None

    def victims(self, lent: Spread | None) -> Spread | None:
        """The spread of the mean of its networks, pooled with how far networks lie apart elsewhere."""
        of_one = pooled(self.within(), lent)
        count = sum(map(len, self.networks))
        return None if of_one is None else Spread(of_one.variance / count, of_one.freedom)


Paired: TypeAlias = Mapping[tuple[str, MetricKey], Mapping[str, Answers]]
"""(auditor, metric) -> subject -> its number on resamples of the test records."""


def pairing(cells: Sequence[Finding]) -> Paired:
    """What pairs the headline numbers of the cells, over all seeds that have a value."""
    seeds: dict[tuple[str, MetricKey], dict[str, list[Resampled | None]]] = {}
    for cell in sorted(cells, key=lambda c: c.seed or 0):
        if cell.status not in ("ok", "partial"):
            continue
        for m in cell.metrics:
            if m.headline and finite(m.value) is not None:
                of = seeds.setdefault((cell.auditor, m.key), {})
                of.setdefault(cell.subject, []).append(m.resampled)
    return {
        key: {name: a for name, found in of.items() if (a := Answers.of(found)) is not None}
        for key, of in seeds.items()
    }
