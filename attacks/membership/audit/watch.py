"""The attacker of the proof: sees every noisy release of a private recipe, not only the final set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddaudit.attacks.membership.audit.evidence import LinearEvidence
from ddaudit.data import ImageData
from ddaudit.distillation.objectives import clip_factor
from ddaudit.distillation.parts import Layout, Opening, Query, Source, Targets
from ddaudit.distillation.reading import Around, load_batch
from ddaudit.sets import PrivacyClaim


@dataclass(frozen=True)
class Release:
    """What one private query made public, and how to compute any record's part in it.

    Attributes:
        question: the query's id; a release shown twice under one id had its noise drawn again.
        values: (R, D) noisy sums, up to a public factor per row.
        signals: records -> (N, D) their clipped signals under the query's public network.
        rows: records -> (R, N) their weights in the sums.
    """

    question: str
    values: Tensor
    signals: Callable[[ImageData], Tensor]
    rows: Callable[[ImageData], Tensor]


Observer = Callable[[Release], None]


@dataclass(frozen=True)
class Watched(Around):
    """A recipe's reader that shows each release to an observer and changes nothing."""

    observer: Observer = field(repr=False)

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> Source:
        """Open the reader inside, with every answer passing by the observer."""
        return _WatchedSource(self.reader.open(data, members, opening), self.observer, opening)


class _WatchedSource:
    def __init__(self, source: Source, observer: Observer, opening: Opening) -> None:
        self.layout: Layout = source.layout
        self.clip: float | None = source.clip
        self._source, self._observer, self._opening = source, observer, opening
        self._shown: set[tuple[str, float]] = set()

    def targets(self, query: Query) -> Targets:
        found = self._source.targets(query)
        # A stored release that is asked again shows nothing new; noise drawn again would.
        shown = (query.id, float(found.values.double().sum()))
        if shown in self._shown:
            return found
        self._shown.add(shown)

        def signals(records: ImageData) -> Tensor:
            every = torch.arange(len(records))
            x, y = load_batch(records, every, self._opening, query.augment)
            out = query.objective.signals(query.net, x, y).float()
            return out if self.clip is None else out * clip_factor(out, self.clip)

        def rows(records: ImageData) -> Tensor:
            return self._opening.rule.rows(records, torch.arange(len(records)))

        self._observer(Release(query.id, found.values[0], signals, rows))
        return found

    def claims(self) -> list[PrivacyClaim | None]:
        return self._source.claims()


class IntermediateEvidence:
    """An observer that scores canaries while the recipe runs, so that no network has to be stored.

    Args:
        canaries: the records in question.
        known: records that are certainly in the pool. A sample will do, but the mean of a small one
            errs by more than a single canary adds.
        most: stop after this many releases; None: use them all.
    """

    def __init__(self, canaries: ImageData, known: ImageData, *, most: int | None) -> None:
        self._canaries, self._known, self._most = canaries, known, most
        self._evidence: LinearEvidence | None = None
        self.seen = 0

    def __call__(self, release: Release) -> None:
        self.seen += 1
        if self._most is not None and self.seen > self._most:
            return
        weights = release.rows(self._known)
        base = release.signals(self._known).cpu()
        mean = (weights @ base) / weights.sum(1, keepdim=True).clamp_min(1e-12)
        if self._evidence is None:
            self._evidence = LinearEvidence(len(self._canaries), len(weights))
        self._evidence.add(
            release.signals(self._canaries), release.rows(self._canaries), release.values, mean
        )

    @property
    def used(self) -> int:
        """Releases that entered the scores."""
        return self._evidence.releases if self._evidence else 0

    def scores(self) -> Tensor | None:
        """(m,) scores, or None when nothing was released."""
        return self._evidence.scores() if self._evidence else None
