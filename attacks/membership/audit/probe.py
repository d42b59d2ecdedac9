"""Does a private reader do what its ledger says? Questions on made-up records, whose answers are known.

The canaries of an audit see a recipe from outside, and one run of a few hundred of them cannot tell noise
of half the size from noise of the right size, or shuffled batches from independent coins. The reader itself
can be asked: it is opened on records that are nothing but numbers, with an objective whose signals say which
record they belong to. What comes back is compared with what the claim of this very opening states.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from scipy import stats as scipy_stats
from scipy.linalg import hadamard
from torch import Tensor

from ddaudit.attacks.membership.audit.claims import AFFECTS
from ddaudit.attacks.membership.audit.coins import coin_tests
from ddaudit.auditing import stratified
from ddaudit.data import Dataset, ImageData
from ddaudit.distillation import Recipe
from ddaudit.distillation.parts import Opening, Query, Reader, Source, TargetRule
from ddaudit.errors import DDAuditError
from ddaudit.findings import Check
from ddaudit.sets import LedgerEntry, PrivacyClaim

NOISE = "reader: noise is as large as the ledger says"
FRESH = "reader: every answer gets noise of its own"
CLIP = "reader: no record adds more than the clip"
SAMPLING = "reader: records are drawn by independent coins"
STORED = "reader: a question asked again gets the same answer"
LEDGER = "reader: the ledger counts every answer"
START = "start: the first images do not depend on the records"

_QUESTIONS = 200
_RECORDS = 2000
_CLASSES = 4
"""Few classes: many records in each, and its sum stands out of the noise."""
_LOUD = 8
"""Directions that signals point in (a power of two); the other coordinates hold noise alone."""
_SILENT = 56
_NORMS = (1e6, 1e3, 10.0, 2.0, 1.0, 1.0, 1.0, 1.0)
"""Norms of loud signals in units of the clip, one per direction."""
_ALARM = 1e-6
"""False-alarm rate of every single comparison."""
_DEVIATIONS = 5.5
"""As standard deviations: one-sided 2e-8, because there is one comparison per row and direction."""
_SLACK = 0.02
"""Deviation that is too small to matter: 2 % of noise or clip move epsilon by 2 to 4 %."""


def check_reader(
    reader: Reader,
    rule: TargetRule,
    train: ImageData,
    *,
    subject: str,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Check]:
    """Ask a private reader questions about made-up records and compare with its own claim.

    Costs no privacy: no real record is touched. A correct reader fails one of the checks about once in
    10 000 audits. It is expected to take the signals of sampled records only, and to answer with sums up
    to a fixed factor per row.

    Args:
        reader: the reader of a recipe, as it is.
        rule: the recipe's target rule.
        train: its size, image shape, classes and groups are imitated; no record is read.
        subject: whose reader it is.
        seed: public seed of the opening.
        device: where signals live.

    Returns:
        Six checks; one failed check when the reader does not take the questions at all.
    """
    records = made_up(train)
    try:
        seen = _ask(reader, rule, records, seed=seed, device=torch.device(device))
    except DDAuditError as error:
        detail = f"It refused made-up records: {error}"
        return [_check("reader: it can be probed", False, "answers", detail, subject)]
    return [
        _noise(seen, subject),
        _fresh(seen, subject),
        _clip(seen, subject),
        _sampling(seen, records.labels, subject),
        _check(STORED, seen.stored, "equal, or in the ledger once more", "", subject),
        _check(LEDGER, seen.counted >= seen.answered, f">= {seen.answered}", "", subject,
               value=float(seen.counted)),
    ]  # fmt: skip


def check_start(recipe: Recipe, data: Dataset, *, ipc: int, subject: str) -> list[Check]:
    """Start a recipe's images on the real records and on other ones: nothing may change.

    Real images as a starting point are a release of their own, outside every ledger.

    Returns:
        One check; none for recipes without free images.
    """
    if recipe.synthesis is None:
        return []
    mean, std = recipe.constants(data)
    train = stratified(data.train, _RECORDS)
    started = []
    for images in (train.images, 255 - train.images):
        canvas = recipe.synthesis.start(
            replace(train, images=images),
            torch.ones(1, len(train), dtype=torch.bool),
            ipc=ipc,
            mean=mean,
            std=std,
            generator=torch.Generator().manual_seed(0),
            device=torch.device("cpu"),
        )
        with torch.no_grad():
            started.append((canvas.decode(), canvas.labels))
    same = all(torch.equal(a, b) for a, b in zip(*started, strict=True))
    detail = "The same start was made from the training records and from their negatives."
    return [_check(START, same, "equal", detail, subject)]


def check_seen(seen: int, claim: PrivacyClaim, *, subject: str) -> Check:
    """Were there more noisy answers in the audited run than its ledger lists?"""
    listed = sum(e.count for e in claim.ledger)
    return _check(
        "claim: the ledger lists every answer of the run",
        seen <= listed,
        f"<= {listed}",
        "Different noisy answers that the run received, against queries in its ledger.",
        subject,
        value=float(seen),
    )


def made_up(train: ImageData) -> ImageData:
    """At most 2000 records like those of ``train``: the first two pixels hold the record's number.

    Classes (four at most) and groups are of equal size.
    """
    classes = min(_CLASSES, train.num_classes)
    groups = len(train.group_names) if train.groups is not None else 1
    count = min(_RECORDS, len(train))
    number = torch.arange(count)
    images = torch.zeros(count, *train.shape, dtype=torch.uint8)
    flat = images.view(count, -1)
    flat[:, 0], flat[:, 1] = (number % 256).to(torch.uint8), (number // 256).to(torch.uint8)
    return replace(
        train,
        images=images,
        labels=number % classes,
        class_names=train.class_names[:classes],
        groups=None if train.groups is None else number // classes % groups,
    )


# ---- asking --------------------------------------------------------------------------------------


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
        direction = number % _LOUD if self._loud else torch.zeros_like(number)
        norm = torch.tensor(_NORMS)[direction] if self._loud else torch.ones(len(number))
        out = torch.zeros(len(number), _LOUD + _SILENT)
        out[:, :_LOUD] = _directions()[direction] * (self._clip * norm)[:, None]
        return out.to(x.device)

    def real(self, net: object, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, 64) ``rows @ signals``."""
        return rows @ self.signals(net, x, y)


def _directions() -> Tensor:
    """(8, 8) orthonormal rows, no coordinate of which is zero."""
    return torch.from_numpy(hadamard(_LOUD)).float() / math.sqrt(_LOUD)


@dataclass(frozen=True, eq=False)
class _Answers:
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

    @property
    def bound(self) -> float:
        return self.clip or 1.0

    @property
    def spread(self) -> Tensor:
        """(R,) standard deviation of an answer's noise, per coordinate."""
        return self.values[..., _LOUD:].square().mean((0, 2)).sqrt()

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
        return float(scipy_stats.beta.isf(_ALARM / pairs, 0.5, (size - 1) / 2))

    @property
    def draws(self) -> int:
        """Answers with noise that counts as independent."""
        return len(self.values) if self.likeness <= self.likeness_by_chance else 1

    def _silent(self) -> Tensor:
        """(answers, D) noise in standard deviations."""
        noise = torch.cat([self.values, self.again])[..., _LOUD:]
        return (noise / self.spread[:, None].clamp_min(1e-300)).flatten(1)

    def response(self, direction: int, *, loud: bool) -> tuple[Tensor, Tensor]:
        """(R,) change of an answer per unit of clipped sum, and its standard error, in one direction."""
        number = torch.arange(self.included.shape[1])
        mine = number % _LOUD == direction if loud else number >= 0
        part = slice(int(loud), None, 2)
        weights = (self.rows * mine).double().T
        sums = self.bound * self.included[part].double() @ weights
        found = self.values[part, :, :_LOUD] @ _directions()[direction].double()
        energy = sums.square().sum(0)
        slope = (found * sums).sum(0) / energy.clamp_min(1e-300)
        error = self.spread / energy.sqrt() * math.sqrt(len(self.values) / self.draws)
        return slope, torch.where(energy > 0, error, torch.inf)


def _ask(
    reader: Reader, rule: TargetRule, records: ImageData, *, seed: int, device: torch.device
) -> _Answers:
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
    again = []
    if claim is None or not claim.noise_seed_published:
        second = _Asker(reader.open(records, everyone, opening), clip or 1.0, records.num_classes)
        again = [second(i) for i in range(4)]
    answers = torch.stack(values)
    return _Answers(
        values=answers,
        again=torch.stack(again) if again else answers[:0],
        included=included,
        rows=rule.rows(records, torch.arange(len(records))).cpu(),
        clip=clip if clip is not None else claim.clip if claim else None,
        entry=max(ledger, key=lambda e: e.count, default=None),
        answered=answered,
        counted=counted,
        stored=stored,
    )


class _Asker:
    """Asks question ``i`` of an open source and returns (R, 64) float64."""

    def __init__(self, source: Source, clip: float, classes: int) -> None:
        self.taken: list[Tensor] = []
        self._source, self._clip, self._classes = source, clip, classes

    def __call__(self, number: int) -> Tensor:
        objective = _Objective(self._clip, loud=number % 2 == 1)
        query = Query(f"probe/{number}", objective, None, (None,) * self._classes)
        found = self._source.targets(query).values[0].double().cpu().clone()
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


# ---- judging -------------------------------------------------------------------------------------


def _noise(seen: _Answers, subject: str) -> Check:
    if seen.entry is None:
        return _check(NOISE, False, "a ledger entry", "The claim lists no sums.", subject)
    sigma, spread = seen.entry.sigma, seen.spread
    unit, error = seen.response(0, loud=False)
    most = spread * (1 + _DEVIATIONS / math.sqrt(2 * seen.draws * _SILENT))
    least = sigma * seen.bound * (unit - _DEVIATIONS * error) * (1 - _SLACK)
    total = float(seen.bound * unit.sum())
    return _check(
        NOISE,
        bool((most >= least).all()),
        f">= {sigma:.4g}",
        f"Noise multiplier from {len(seen.values)} answers, resolved to "
        f"{100 * _DEVIATIONS * float((error / unit.abs().clamp_min(1e-300)).max()):.2g} %.",
        subject,
        value=float(spread.sum()) / total if total > 0 else None,
    )


def _fresh(seen: _Answers, subject: str) -> Check:
    return _check(
        FRESH,
        seen.likeness <= seen.likeness_by_chance,
        f"<= {seen.likeness_by_chance:.3g}",
        "Largest squared correlation of the noise of two answers; 1 when noise is used twice, so "
        "that a difference of answers is free of it.",
        subject,
        value=seen.likeness,
    )


def _clip(seen: _Answers, subject: str) -> Check:
    if seen.clip is None:
        return _check(CLIP, False, "a stated clip", "The source states no clip.", subject)
    unit, error = seen.response(0, loud=False)
    worst, passed = 0.0, True
    for direction in range(_LOUD):
        moved, moved_error = seen.response(direction, loud=True)
        allowed = _DEVIATIONS * (error.square() + moved_error.square()).sqrt()
        use = moved_error.isfinite() & error.isfinite()
        passed &= bool((moved <= unit * (1 + _SLACK) + allowed)[use].all())
        ratio = float(moved[use].sum() / unit[use].sum()) if bool(use.any()) else 0.0
        worst = max(worst, ratio if math.isfinite(ratio) else 0.0)
    return _check(
        CLIP,
        passed,
        "<= 1",
        f"A record's part in a sum, in clips, when its signal is up to {max(_NORMS):g} clips long.",
        subject,
        value=worst,
    )


def _sampling(seen: _Answers, labels: Tensor, subject: str) -> Check:
    q = seen.entry.q if seen.entry else 0.0
    tests = coin_tests(seen.included, labels, q)
    name, p = min(tests.items(), key=lambda kv: kv[1])
    return _check(
        SAMPLING,
        p > _ALARM,
        f"> {_ALARM:g}",
        f"Smallest of {len(tests)} p-values, of: {name}. Tested against a coin for every record and question, "
        f"of a fixed rate that is at most {q:.4g}.",
        subject,
        value=p,
    )


def _check(
    name: str,
    passed: bool,
    expected: str,
    detail: str,
    subject: str,
    *,
    value: float | None = None,
) -> Check:
    return Check(
        name=name,
        passed=passed,
        value=value,
        expected=expected,
        detail=detail,
        affects=AFFECTS,
        subject=subject,
    )
