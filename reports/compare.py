"""Two numbers side by side: the difference, its interval, and what it means."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ddaudit.findings import Direction, Finding, Metric
from ddaudit.reports.schema import Outcome


@dataclass(frozen=True)
class Difference:
    """``value`` = a - b with a 95% interval, or None bounds when either number has no interval."""

    value: float
    low: float | None
    high: float | None

    @property
    def distinguishable(self) -> bool | None:
        """Whether the interval excludes 0; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0


def mirrored(metric: Metric) -> Metric:
    """The number as an attacker can use it: a two-sided one, mirrored to the bad side of its floor.

    An attack with an AUC of 0.1 is an attack with an AUC of 0.9 that answers the wrong way round. An
    interval across the floor starts at the floor. Every other metric passes through unchanged.
    """
    floor, value, low, high = metric.floor, metric.value, metric.low, metric.high
    if not metric.two_sided or floor is None or value is None or metric.direction == "none":
        return metric
    turned = {
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


def difference(a: Metric, b: Metric) -> Difference | None:
    """``a - b`` with a square-and-add interval; None when either has no value. Two-sided numbers
    are compared by their distance from the floor, see :func:`mirrored`.

    Each side of the interval adds, in squares, the two half-widths that push the difference that
    way (their variances add). The two numbers are taken as independent. Subjects are measured on
    the same test records, which usually makes the true interval narrower: a difference called
    real here is, one called not distinguishable may still be.

    Source: Newcombe, "Interval estimation for the difference between independent proportions:
    comparison of eleven methods", Statistics in Medicine 1998, method 10 (square-and-add).
    """
    a, b = mirrored(a), mirrored(b)
    if a.value is None or b.value is None:
        return None
    value = a.value - b.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Difference(value, None, None)
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Difference(value, low, high)


def outcome(diff: Difference, direction: Direction) -> Outcome:
    """The difference in a word, seen from the first number."""
    if diff.distinguishable is None:
        return "no interval"
    if not diff.distinguishable:
        return "not distinguishable"
    if direction == "none":
        return "higher" if diff.value > 0 else "lower"
    return "better" if (diff.value > 0) == (direction == "higher") else "worse"


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
    """Names of the finding's failing checks that affect a metric.

    A check affects every metric of the finding, or those whose name starts with one of
    ``Check.affects``. A check about another subject (``Check.subject``) affects nothing here.
    """
    return [
        check.name
        for check in finding.checks
        if not check.passed
        and check.subject in (None, finding.subject)
        and (
            check.affects is None or any(metric.name.startswith(prefix) for prefix in check.affects)
        )
    ]
