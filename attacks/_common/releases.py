"""Every answer of a recipe's reader, shown to an observer: what the proof of a private recipe lets an attacker see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.objectives import clip_factor
from ddaudit.distillation.parts import Layout, Opening, Query, Source, Targets
from ddaudit.distillation.reading import Around, load_batch
from ddaudit.sets import PrivacyClaim


@dataclass(frozen=True, eq=False)
class Release:
    """One answer, and how to compute any record's part in it.

    Attributes:
        query: what was asked; a release with an id that was seen before had its noise drawn again.
        values: (K, R, D) noisy sums of K runs, up to a public factor per row.
        source: who answered; two openings of a reader are two sources.
        opening: what the reader was opened for.
        data: the records behind it.
        members: (K, N) bool, the records each run may read.
    """

    query: Query
    values: Tensor
    source: Source
    opening: Opening
    data: ImageData
    members: Tensor

    def signals(self, records: ImageData) -> Tensor:
        """(N, D) clipped signals of records under the query's public network."""
        every = torch.arange(len(records))
        x, y = load_batch(records, every, self.opening, self.query.augment)
        out: Tensor = self.query.objective.signals(self.query.net, x, y).float()
        return out if self.source.clip is None else out * clip_factor(out, self.source.clip)

    def rows(self, records: ImageData) -> Tensor:
        """(R, N) weights of records in the sums: by the counts of the data that were summed."""
        rule = self.opening.rule.bind(self.data)
        return rule.rows(records, torch.arange(len(records)))


Observer = Callable[[Release], None]


@dataclass(frozen=True)
class Observed(Around):
    """A recipe's reader that shows each release to an observer and changes nothing."""

    observer: Observer = field(repr=False)

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> Source:
        """Open the reader inside, with every answer passing by the observer."""
        source = self.reader.open(data, members, opening)
        return _ObservedSource(source, self.observer, opening, data, members)


class _ObservedSource:
    def __init__(
        self,
        source: Source,
        observer: Observer,
        opening: Opening,
        data: ImageData,
        members: Tensor,
    ) -> None:
        self.layout: Layout = source.layout
        self.clip: float | None = source.clip
        self._source, self._observer = source, observer
        self._opening, self._data, self._members = opening, data, members
        self._shown: set[tuple[str, float]] = set()

    def targets(self, query: Query) -> Targets:
        answer = self._source.targets(query)
        # A stored release that is asked again shows nothing new; noise drawn again would.
        shown = (query.id, float(answer.values.double().sum()))
        if shown not in self._shown:
            self._shown.add(shown)
            self._observer(
                Release(
                    query, answer.values, self._source, self._opening, self._data, self._members
                )
            )
        return answer

    def claims(self) -> list[PrivacyClaim | None]:
        return self._source.claims()
