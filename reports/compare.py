"""Two numbers side by side: the difference, its interval, and what it means."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ddaudit.findings import Direction, Finding, Metric
from ddaudit.reports.pairing import Answers
from ddaudit.reports.schema import Outcome, Report, SubjectInfo
from ddaudit.stats.verdicts import (
    Reading,
    Records,
    Spread,
    half_widths,
    p_value,
    records_within,
)

LEVEL = 0.05
"""The chance that a report on subjects that do not differ calls any of them better or worse."""


@dataclass(frozen=True)
class Difference:
    """``value`` = a - b with a 95% interval, or None bounds when either number has no interval."""

    value: float
    low: float | None
    high: float | None
    p_value: float | None = None
    """Not corrected; None where nothing is known of the spread between draws of either number."""
    paired: bool = False
    """Whether the two numbers were paired on the test records, or taken as independent."""


def mirrored(metric: Metric) -> Metric:
    """The number as an attacker can use it: a two-sided one, mirrored to the bad side of its floor.

    An attack with an AUC of 0.1 is an attack with an AUC of 0.9 that answers the wrong way round. An
    interval across the floor starts at the floor. Every other metric passes through unchanged.
    """
    floor, value, low, high = metric.floor, metric.value, metric.low, metric.high
    if not metric.two_sided or floor is None or value is None or metric.direction == "none":
        return metric
    turned = {
        "within": None if metric.within is None else metric.within[::-1],
        "value": 2 * floor - value,
        "low": None if high is None else 2 * floor - high,
        "high": None if low is None else 2 * floor - low,
    }
    update = turned if _on_good_side(value, metric) else {}
    if low is not None and high is not None and low < floor < high:
        reach = max(high - floor, floor - low)
        update |= (
            {"low": floor, "high": floor + reach}
            if metric.direction == "lower"
            else {"low": floor - reach, "high": floor}
        )
    return metric.model_copy(update=update)


def inverted(metric: Metric) -> bool:
    """Whether a two-sided number lies beyond its floor with its whole interval: "better" than
    knowing nothing, which nothing can be."""
    if not metric.two_sided or metric.value is None or metric.direction == "none":
        return False
    ends = (metric.value, metric.low, metric.high)
    return all(_on_good_side(end, metric) for end in ends if end is not None)


def _on_good_side(value: float, metric: Metric) -> bool:
    if metric.floor is None:
        return False
    return value < metric.floor if metric.direction == "lower" else value > metric.floor


def difference(
    a: Metric,
    b: Metric,
    spread: Spread | None = None,
    pair: tuple[Answers | None, Answers | None] = (None, None),
) -> Difference | None:
    """``a - b``; None when either has no value. Two-sided numbers are compared by their distance from
    the floor, see :func:`mirrored`.

    The interval covers draws, victims and test records (``ddaudit.stats.verdicts``). Numbers that are not paired on
    the test records are taken as independent: a difference called real is, one called not distinguishable may still
    be.

    Args:
        spread: between the draws of the report's reference; stands in for that of a number with one draw.
        pair: the two numbers on resamples of the test records, where they are known.
    """
    one, other = pair
    if one is not None and other is not None and one.pairs_with(other) and not a.two_sided:
        return _paired(a, b, spread, one, other)
    a, b = mirrored(a), mirrored(b)
    if a.value is None or b.value is None:
        return None
    value = a.value - b.value
    mine, theirs = _reading(a, spread), _reading(b, spread)
    if mine is None or theirs is None:
        return Difference(value, None, None)
    low, high = half_widths(mine, theirs)
    known = mine.spread is not None and theirs.spread is not None
    p = p_value(mine, theirs) if known else None
    return Difference(value, value - low, value + high, p)


def _paired(
    a: Metric, b: Metric, spread: Spread | None, one: Answers, other: Answers
) -> Difference | None:
    if a.value is None or b.value is None:
        return None
    mine, theirs = (
        Reading(m.value or 0.0, draws, own, 0.0, 0.0)
        for m, answers in ((a, one), (b, other))
        for own, draws in [_spread(m, spread, answers)]
    )
    n = min(m.n or 0 for m in (a, b))
    records = Records.of(one.draws, other.draws, n=n, step=max(one.step, other.step))
    low, high = half_widths(mine, theirs, records=records)
    # Victims alone, where nothing is known of draws: an interval, and no verdict.
    known = all(spread_of(m) or m.covers_draws or spread for m in (a, b))
    p = p_value(mine, theirs, records=records) if known else None
    value = a.value - b.value
    ends = value - low, value + high
    if all(m.unit == "fraction" and (m.low or 0.0) >= 0 for m in (a, b)):
        ends = max(ends[0], -1.0), min(ends[1], 1.0)
    return Difference(value, *ends, p, paired=True)


def _spread(metric: Metric, borrowed: Spread | None, answers: Answers) -> tuple[Spread | None, int]:
    """Of a paired number: between its own draws, and their number; of a single draw what it borrows, and its own
    victims at least; where there is nothing to draw, of the mean of all its victims."""
    victims = answers.victims(None if borrowed is None else borrowed.networks)
    own = spread_of(metric, answers)
    if metric.covers_draws:
        return victims or _of_mean(own, metric.draws), 1
    if own is not None:
        return own, metric.draws
    known = [s for s in (borrowed, victims) if s is not None]
    return max(known, key=lambda s: s.variance, default=None), metric.draws


def _of_mean(spread: Spread | None, count: int) -> Spread:
    """Of the mean of so many values, as one value that nobody else shares; none where nothing is known."""
    return Spread(0.0, 1.0) if spread is None else Spread(spread.variance / count, spread.freedom)


def spread_of(metric: Metric, answers: Answers | None = None) -> Spread | None:
    """Between the draws of a number; None for a single draw."""
    values = [v for v in metric.per_seed or () if v is not None]
    spread = Spread.of(values) if metric.draws > 1 and metric.merge == "mean" else None
    if spread is None or answers is None:
        return spread
    return replace(spread, records=records_within(answers.draws), networks=answers.within())


def between_draws(
    report: Report,
    subject: str,
    auditor: str,
    metric: Metric,
    answers: Mapping[str, Answers] | None = None,
) -> Spread | None:
    """Between draws of a subject's reference, or of another baseline that was drawn several times.

    Args:
        answers: this number on resamples of the test records, by subject.
    """
    reference = report.reference_of(subject)
    for name in sorted(report.baselines, key=lambda b: b != reference):
        finding = report.finding(name, auditor) if report.subject(name).drawn else None
        for found in finding.metrics if finding else ():
            of = (answers or {}).get(name)
            if found.key != metric.key:
                continue
            spread = spread_of(found, of)
            # Draws at an end of the scale (accuracies of 0, rates of 1) all read the same: nothing follows for others.
            if spread is not None and spread.variance > 0:
                return spread
    return None


def _reading(metric: Metric, spread: Spread | None) -> Reading | None:
    if metric.value is None or metric.low is None or metric.high is None:
        return None
    down, up = metric.value - metric.low, metric.high - metric.value
    own = spread_of(metric)
    if metric.within is not None and metric.draws > 1:
        down, up = metric.within
    if metric.covers_draws:
        return Reading(metric.value, 1, _of_mean(own, metric.draws), down, up)
    return Reading(metric.value, metric.draws, own or spread, down, up)


def outcome(diff: Difference, direction: Direction, adjusted: float | None) -> Outcome:
    """The difference in a word, seen from the first number.

    Args:
        adjusted: its p-value, corrected for the number of verdicts; None where the spread between draws is unknown.
    """
    if diff.low is None or diff.high is None:
        return "no interval"
    if adjusted is None:
        return "withheld"
    if adjusted > LEVEL:
        return "not distinguishable"
    if direction == "none":
        return "higher" if diff.value > 0 else "lower"
    return "better" if (diff.value > 0) == (direction == "higher") else "worse"


def own_base(report: Report, subject: SubjectInfo) -> str | None:
    """The audited subject of the same size that a candidate is built on."""
    if subject.baseline:
        return None
    same = {s.id for s in report.subjects if s.as_large_as(subject)}
    return base_of(subject.id, same)


def base_of(subject_id: str, ids: Collection[str]) -> str | None:
    """The audited subject a recipe is built on: ``dm+fair+dp`` -> ``dm+fair``, else ``dm``.

    What tells apart subjects of several runs stays: ``dm+fair (IPC 50)`` -> ``dm (IPC 50)``, else ``dm``.
    """
    recipe, space, run = subject_id.partition(" (")
    parts = recipe.split("+")
    for size in range(len(parts) - 1, 0, -1):
        name = "+".join(parts[:size])
        for base in (f"{name}{space}{run}", name):
            if base in ids:
                return base
    return None


def at_floor(metric: Metric) -> bool:
    """Whether the number cannot be told from its noise floor.

    True when the interval (without one, the value) reaches the floor or lies beyond it on the
    good side. A two-sided floor has no good side: the interval must hold it.
    """
    if metric.floor is None or metric.value is None or metric.direction == "none":
        return False
    if inverted(metric):
        return False
    if metric.direction == "lower":
        return (metric.value if metric.low is None else metric.low) <= metric.floor
    return (metric.value if metric.high is None else metric.high) >= metric.floor


def failing_checks(finding: Finding, metric: Metric) -> list[str]:
    """Names of the finding's failing checks that affect a metric (see ``Finding.failing_checks``)."""
    return finding.failing_checks(metric)
