"""Does a private reader do what its ledger says? Questions on made-up records, whose answers are known.

The canaries of an audit see a recipe from outside, and one run of a few hundred of them cannot tell noise
of half the size from noise of the right size, or shuffled batches from independent coins. The reader itself
can be asked: it is opened on records that are nothing but numbers, with an objective whose signals say which
record they belong to. What comes back is compared with what the claim of this very opening states.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.defenses.privacy.selfcheck.coins import coin_tests
from ddaudit.defenses.privacy.selfcheck.questions import (
    ALARM,
    LOUD,
    NORMS,
    SILENT,
    Answers,
    ask,
    inverted,
    made_up,
)
from ddaudit.distillation import Recipe
from ddaudit.distillation.canvas import Start
from ddaudit.distillation.parts import Reader, TargetRule
from ddaudit.errors import DDAuditError
from ddaudit.findings import CLAIMED, Check

NOISE = "reader: noise is as large as the ledger says"
FRESH = "reader: every answer gets noise of its own"
CLIP = "reader: no record adds more than the clip"
SAMPLING = "reader: records are drawn by independent coins"
STORED = "reader: a question asked again gets the same answer"
WEIGHTS = "reader: rows weigh the same whatever the records"
LEDGER = "reader: the ledger counts every answer"
START = "start: the first images do not depend on the records"

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
    10 000 audits. It is expected to take the signals of sampled records only, to answer with sums up to a
    fixed factor per row, and to weigh rows by what is public or was noisily counted before the first answer.

    Args:
        reader: the reader of a recipe, as it is.
        rule: the recipe's target rule.
        train: its size, image shape, classes and groups are imitated; no record is read.
        subject: whose reader it is.
        seed: public seed of the opening.
        device: where signals live.

    Returns:
        Seven checks; one failed check when the reader does not take the questions at all.
    """
    records = made_up(train)
    try:
        seen = ask(reader, rule, records, seed=seed, device=torch.device(device))
    except DDAuditError as error:
        detail = f"It refused made-up records: {error}"
        return [_check("reader: it can be probed", False, "answers", detail, subject)]
    return [
        _noise(seen, subject),
        _fresh(seen, subject),
        _clip(seen, subject),
        _sampling(seen, records.labels, subject),
        _check(STORED, seen.stored, "equal, or in the ledger once more", "", subject),
        _check(WEIGHTS, seen.steady, "equal", "Weights carry no noise.", subject),
        _check(LEDGER, seen.counted >= seen.answered, f">= {seen.answered}", "", subject,
               value=float(seen.counted)),
    ]  # fmt: skip


def check_start(recipe: Recipe, data: Dataset, *, ipc: int, subject: str) -> list[Check]:
    """Start a recipe's images on the real records, on other ones and without one: nothing may change.

    Real images as a starting point are a release of their own, outside every ledger.

    Args:
        recipe: the recipe, as it is.
        data: the data; a sample of the training records that has every class is enough.
        ipc: images per class.
        subject: whose start it is.

    Returns:
        One check; none for recipes without free images.
    """
    if recipe.synthesis is None:
        return []
    mean, std = recipe.constants(data)
    train, started = data.train, []
    order = torch.arange(len(train)).roll(1)
    for records in (
        train,
        replace(train, images=inverted(train.images, train.space)),
        replace(train.subset(order), images=train.images),
        train.subset(order[1:]),
    ):
        everybody = torch.ones(1, len(records), dtype=torch.bool)
        given = Start(records, everybody, ipc, mean, std, torch.Generator().manual_seed(0))
        canvas = recipe.synthesis.start(given)
        with torch.no_grad():
            started.append((canvas.decode(), canvas.labels))
    first, *others = started
    same = all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    detail = (
        "The same start was made from the training records, from their negatives, with labels exchanged and "
        "without one record."
    )
    return [_check(START, same, "equal", detail, subject)]


def _noise(seen: Answers, subject: str) -> Check:
    if seen.entry is None:
        return _check(NOISE, False, "a ledger entry", "The claim lists no sums.", subject)
    sigma, spread = seen.entry.sigma, seen.spread
    unit, error = seen.response(0, loud=False)
    most = spread * (1 + _DEVIATIONS / math.sqrt(2 * seen.draws * SILENT))
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


def _fresh(seen: Answers, subject: str) -> Check:
    return _check(
        FRESH,
        seen.likeness <= seen.likeness_by_chance,
        f"<= {seen.likeness_by_chance:.3g}",
        "Largest squared correlation of the noise of two answers; 1 when noise is used twice, so "
        "that a difference of answers is free of it.",
        subject,
        value=seen.likeness,
    )


def _clip(seen: Answers, subject: str) -> Check:
    if seen.clip is None:
        return _check(CLIP, False, "a stated clip", "The source states no clip.", subject)
    unit, error = seen.response(0, loud=False)
    worst, passed = 0.0, True
    for direction in range(LOUD):
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
        f"A record's part in a sum, in clips, when its signal is up to {max(NORMS):g} clips long.",
        subject,
        value=worst,
    )


def _sampling(seen: Answers, labels: Tensor, subject: str) -> Check:
    q = seen.entry.q if seen.entry else 0.0
    tests = coin_tests(seen.included, labels, q)
    name, p = min(tests.items(), key=lambda kv: kv[1])
    return _check(
        SAMPLING,
        p > ALARM,
        f"> {ALARM:g}",
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
        affects=[CLAIMED],
        subject=subject,
    )
