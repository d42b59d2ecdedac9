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


def difference(a: Metric, b: Metric) -> Difference | None:
    """``a - b`` with a square-and-add interval; None when either has no value.

    Each side of the interval adds, in squares, the two half-widths that push the difference that
    way (their variances add). The two numbers are taken as independent. Subjects are measured on
    the same test records, which usually makes the true interval narrower: a difference called
    real here is, one called not distinguishable may still be.

    Source: Newcombe, "Interval estimation for the difference between independent proportions:
    comparison of eleven methods", Statistics in Medicine 1998, method 10 (square-and-add).
    """
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
    good side.
    """
    if metric.floor is None or metric.value is None or metric.direction == "none":
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
