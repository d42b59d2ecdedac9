"""Questions to a private reader about made-up records, whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from scipy import stats as scipy_stats
from scipy.linalg import hadamard
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.distillation.parts import Opening, Query, Reader, Source, TargetRule
from ddaudit.errors import DDAuditError
from ddaudit.sets import LedgerEntry

ALARM = 1e-6
"""False-alarm rate of every single comparison."""
NORMS = (1e6, 1e3, 10.0, 2.0, 1.0, 1.0, 1.0, 1.0)
"""Norms of loud signals in units of the clip, one per direction."""
LOUD = 8
"""Directions that signals point in (a power of two); the other coordinates hold noise alone."""
SILENT = 56

_QUESTIONS = 200
_RECORDS = 2000
_CLASSES = 4
"""Few classes: many records in each, and its sum stands out of the noise."""


def made_up(train: ImageData) -> ImageData:
    """At most 2000 records like those of ``train``: the first two pixels hold the record's number.

    Classes (four at most) and groups are of equal size.
    """
    classes = min(_CLASSES, train.num_classes)
    groups = len(train.group_names) if train.groups is not None else 1
    count = min(_RECORDS, len(train))
    number = torch.arange(count)
    # Two values hold the number, so a table of one column gets another.
    shape = train.shape if math.prod(train.shape) > 1 else (1, 1, 2)
    images = torch.zeros(count, *shape, dtype=torch.uint8)
    flat = images.view(count, -1)
    flat[:, 0], flat[:, 1] = (number % 256).to(torch.uint8), (number // 256).to(torch.uint8)
    return replace(
        train,
        images=images,
        space="pixels",
        modality="image",
        labels=number % classes,
        class_names=train.class_names[:classes],
        groups=None if train.groups is None else number // classes % groups,
    )


def inverted(images: Tensor, space: Literal["pixels", "standard"]) -> Tensor:
    """Other inputs of the same kind: pixels as their negative, standardised values with their sign turned."""
    if images.dtype == torch.uint8:
        return 255 - images
    return 1 - images if space == "pixels" else -images


def ask(
    reader: Reader, rule: TargetRule, records: ImageData, *, seed: int, device: torch.device
) -> Answers:
    """Open ``reader`` on ``records`` and ask it :data:`_QUESTIONS` questions, some of them twice, and one too many."""
    channels = records.shape[0]
    opening = Opening(
        rule, torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1), _QUESTIONS, seed, device
    )
    everyone = torch.ones(1, len(records), dtype=torch.bool)
    source = reader.open(records, everyone, opening)
    clip = source.clip
    asker = _Asker(source, clip or 1.0, records.num_classes)
    values = [asker(i) for i in range(_QUESTIONS)]
    included = torch.zeros(_QUESTIONS, len(records), dtype=torch.bool)
    for i, taken in enumerate(asker.taken):
        included[i, taken] = True
    claim = source.claims()[0]
    ledger = claim.ledger if claim else []
    stored = _same_again(source, asker, values, ledger)
    answered, counted = _beyond(source, asker, ledger)
    # Other pixels, the same counts: what comes back without noise may not differ.
    others = replace(records, images=inverted(records.images, records.space))
    second = _Asker(reader.open(others, everyone, opening), clip or 1.0, records.num_classes)
    again = [second(i) for i in range(4)]
    counted_noisily = len(ledger) > 1
    weights = asker.weights if counted_noisily else [*asker.weights, *second.weights]
    if claim is not None and claim.noise_seed_published:
        again = []
    answers = torch.stack(values)
    return Answers(
        values=answers,
        again=torch.stack(again) if again else answers[:0],
        included=included,
        rows=rule.bind(records).rows(records, torch.arange(len(records))).cpu(),
        clip=clip if clip is not None else claim.clip if claim else None,
        entry=max(ledger, key=lambda e: e.count, default=None),
        answered=answered,
        counted=counted,
        stored=stored,
        steady=all(torch.equal(w, weights[0]) for w in weights),
    )


@dataclass(frozen=True, eq=False)
class Answers:
    """What came back.

    Attributes:
        values: (T, R, 64) float64 answers; odd questions are loud.
        again: (A, R, 64) the first answers of a second opening; empty where the noise seed is public.
        included: (T, n) bool, whose signals each question took.
        rows: (R, n) weights of the records in the sums.
        clip: stated bound; None: none is stated.
        entry: the ledger's entry for sums; None: it has none.
        answered, counted: different answers given, and counted by the ledger.
        stored: questions that were asked again got the answers they had got.
        steady: rows weighed the same in every answer, and where counts are public for other records as well.
    """

    values: Tensor
    again: Tensor
    included: Tensor
    rows: Tensor
    clip: float | None
    entry: LedgerEntry | None
    answered: int
    counted: int
    stored: bool
    steady: bool

    @property
    def bound(self) -> float:
        return self.clip or 1.0

    @property
    def spread(self) -> Tensor:
        """(R,) standard deviation of an answer's noise, per coordinate."""
        return self.values[..., LOUD:].square().mean((0, 2)).sqrt()

    @cached_property
    def likeness(self) -> float:
        """Largest squared correlation of the noise of two answers."""
        flat = self._silent()
        unit = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return float((unit @ unit.T).triu(1).square().max())

    @property
    def likeness_by_chance(self) -> float:
        """What independent noise stays below: squared cosines of Gaussian vectors are Beta(1/2, (D - 1) / 2)."""
        count, size = self._silent().shape
        pairs = count * (count - 1) / 2
        return float(scipy_stats.beta.isf(ALARM / pairs, 0.5, (size - 1) / 2))

    @property
    def draws(self) -> int:
        """Answers with noise that counts as independent."""
        return len(self.values) if self.likeness <= self.likeness_by_chance else 1

    def _silent(self) -> Tensor:
        """(answers, D) noise in standard deviations."""
        noise = torch.cat([self.values, self.again])[..., LOUD:]
        return (noise / self.spread[:, None].clamp_min(1e-300)).flatten(1)

    def response(self, direction: int, *, loud: bool) -> tuple[Tensor, Tensor]:
        """(R,) change of an answer per unit of clipped sum, and its standard error, in one direction."""
        number = torch.arange(self.included.shape[1])
        mine = number % LOUD == direction if loud else number >= 0
        part = slice(int(loud), None, 2)
        weights = (self.rows * mine).double().T
        sums = self.bound * self.included[part].double() @ weights
        found = self.values[part, :, :LOUD] @ _directions()[direction].double()
        energy = sums.square().sum(0)
        slope = (found * sums).sum(0) / energy.clamp_min(1e-300)
        error = self.spread / energy.sqrt() * math.sqrt(len(self.values) / self.draws)
        return slope, torch.where(energy > 0, error, torch.inf)


class _Objective:
    """Signals of known direction and norm; remembers whose signals were taken."""

    shareable = True

    def __init__(self, clip: float, *, loud: bool) -> None:
        self.taken: list[Tensor] = []
        self._clip, self._loud = clip, loud

    def signals(self, net: object, x: Tensor, y: Tensor) -> Tensor:
        """(B, 64): every record in one direction at the clip, or in eight with norms far above it."""
        pixels = (x.flatten(1)[:, :2] * 255).round().long().cpu()
        number = pixels[:, 0] + 256 * pixels[:, 1]
        self.taken.append(number)
        direction = number % LOUD if self._loud else torch.zeros_like(number)
        norm = torch.tensor(NORMS)[direction] if self._loud else torch.ones(len(number))
        out = torch.zeros(len(number), LOUD + SILENT)
        out[:, :LOUD] = _directions()[direction] * (self._clip * norm)[:, None]
        return out.to(x.device)

    def real(self, net: object, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, 64) ``rows @ signals``."""
        return rows @ self.signals(net, x, y)


def _directions() -> Tensor:
    """(8, 8) orthonormal rows, no coordinate of which is zero."""
    return torch.from_numpy(hadamard(LOUD)).float() / math.sqrt(LOUD)


class _Asker:
    """Asks question ``i`` of an open source and returns (R, 64) float64."""

    def __init__(self, source: Source, clip: float, classes: int) -> None:
        self.taken: list[Tensor] = []
        self.weights: list[Tensor] = []
        self._source, self._clip, self._classes = source, clip, classes

    def __call__(self, number: int) -> Tensor:
        objective = _Objective(self._clip, loud=number % 2 == 1)
        query = Query(f"probe/{number}", objective, None, (None,) * self._classes)
        targets = self._source.targets(query)
        found = targets.values[0].double().cpu().clone()
        self.weights.append(targets.weights[0].double().cpu().clone())
        self.taken.append(torch.cat(objective.taken or [torch.zeros(0, dtype=torch.int64)]))
        return found


def _same_again(
    source: Source, asker: _Asker, values: list[Tensor], before: list[LedgerEntry]
) -> bool:
    """Old questions get old answers, are refused, or cost once more."""
    changed = 0
    for number in (0, 1, 2, 3) * 3:
        try:
            changed += not torch.equal(asker(number), values[number])
        except DDAuditError:
            continue
    if not changed:
        return True
    claim = source.claims()[0]
    return claim is not None and _total(claim.ledger) >= _total(before) + changed


def _beyond(source: Source, asker: _Asker, ledger: list[LedgerEntry]) -> tuple[int, int]:
    """(answers, counted answers) after one question more than the reader was opened for."""
    try:
        asker(_QUESTIONS)
        claim = source.claims()[0]
    except DDAuditError:
        return _QUESTIONS, _total(ledger)
    return _QUESTIONS + 1, _total(claim.ledger) if claim else 0


def _total(ledger: Iterable[LedgerEntry]) -> int:
    return sum(e.count for e in ledger)
