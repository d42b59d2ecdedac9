"""Readings of the ``soft-labels`` auditor as metrics and curves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import stats as scipy_stats
from torch import Tensor

from ddaudit.attacks._common.rates import rate, rate_metric
from ddaudit.attacks.soft_labels.canaries import chance
from ddaudit.attacks.soft_labels.students import RELEASED
from ddaudit.findings import Curve, Metric
from ddaudit.stats import Interval, auc, clopper_pearson, wilson


@dataclass(frozen=True, eq=False)
class StudentReading:
    """What the students of one version of the labels know.

    Attributes:
        name: the version.
        temperature: see :class:`~ddaudit.attacks.soft_labels.students.Version`.
        tested: (m,) bool, planted labels recalled of canaries that the method has read.
        unseen: (u,) bool, the same of canaries that no network saw.
        correct: (V, N) bool, test images that each student classifies rightly.
    """

    name: str
    temperature: float | None
    tested: Tensor
    unseen: Tensor
    correct: Tensor

    @property
    def leak(self) -> Interval:
        """How much more often planted labels are recalled than without any trace of them."""
        return difference(self.tested, self.unseen)


def leak_metric(reading: StudentReading) -> Metric:
    """``soft_labels.leakage`` of one version; the labels as released are the headline."""
    return rate_metric(
        "soft_labels.leakage",
        reading.leak,
        direction="lower",
        headline=reading.name == RELEASED,
        floor=0.0,
        labels=reading.name,
    )


def accuracy_metric(reading: StudentReading) -> Metric:
    """``soft_labels.student_accuracy`` on test images: what the labels are worth to an honest user."""
    return rate_metric(
        "soft_labels.student_accuracy",
        rate(reading.correct),
        direction="higher",
        labels=reading.name,
    )


def group_metrics(reading: StudentReading, shown: Tensor | None, classes: int) -> list[Metric]:
    """``soft_labels.canary_accuracy`` of every kind of canary; ``shown`` only where kinds can be told apart."""
    groups = {
        "read by the method" if shown is None else "teacher only": reading.tested,
        "teacher and images": shown,
        "never seen": reading.unseen,
    }
    return [
        rate_metric(
            "soft_labels.canary_accuracy",
            clopper_pearson(int(hits.sum()), len(hits)),
            direction="none" if group == "never seen" else "lower",
            floor=chance(classes),
            canaries=group,
        )
        for group, hits in groups.items()
        if hits is not None
    ]


def p_values(reading: StudentReading, classes: int) -> list[Metric]:
    """``soft_labels.p_value``: exactly against chance, and against the canaries that nobody saw."""
    values = {
        "binomial": binomial_p(reading.tested, chance(classes)),
        "fisher": fisher_p(reading.tested, reading.unseen),
    }
    return [
        Metric(
            name="soft_labels.p_value",
            value=value,
            n=len(reading.tested),
            unit="probability",
            direction="higher",
            params={"test": test},
        )
        for test, value in values.items()
    ]


def memory_metric(memory: Tensor, classes: int) -> Metric:
    """``soft_labels.teacher_memory``: planted labels that the teacher itself recalls, read off its soft labels."""
    return rate_metric(
        "soft_labels.teacher_memory",
        clopper_pearson(int(memory.sum()), len(memory)),
        direction="none",
        floor=chance(classes),
    )


def membership_metric(inside: Tensor, outside: Tensor, *, records: str, labels: str) -> Metric:
    """``soft_labels.membership_auc``: chance that a record the method has read scores above one it has not."""
    members = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).bool()
    metric = rate_metric(
        "soft_labels.membership_auc",
        auc(torch.cat([inside, outside]), members),
        direction="lower",
        floor=0.5,
        records=records,
        labels=labels,
    )
    return metric.model_copy(update={"two_sided": True})


def curves(readings: list[StudentReading]) -> list[Curve]:
    """Leakage against student accuracy over all versions, and against temperature."""
    points = [(rate(r.correct).value, r.leak) for r in readings]
    out = [
        Curve(
            plot="Leak against accuracy",
            label="versions of the labels",
            x=[accuracy for accuracy, _ in points],
            y=[leak.value for _, leak in points],
            low=[leak.low for _, leak in points],
            high=[leak.high for _, leak in points],
            kind="points",
            x_label="accuracy of a student on test images",
            y_label="leakage (0 = none)",
        )
    ]
    hot = sorted(
        (r for r in readings if r.temperature is not None), key=lambda r: r.temperature or 0.0
    )
    if len(hot) > 2:
        leaks = [r.leak for r in hot]
        out.append(
            Curve(
                plot="Leak by temperature",
                label="labels",
                x=[r.temperature or 0.0 for r in hot],
                y=[leak.value for leak in leaks],
                low=[leak.low for leak in leaks],
                high=[leak.high for leak in leaks],
                x_label="temperature of the labels (0 = hard)",
                y_label="leakage (0 = none)",
            )
        )
    return out


def difference(a: Tensor, b: Tensor, confidence: float = 0.95) -> Interval:
    """Interval of the difference of two independent rates, ``mean(a) - mean(b)``.

    Args:
        a, b: (N,) and (M,) bool.

    Returns:
        The difference in [-1, 1]; ``n`` is the number of entries in ``a``.

    Source: Newcombe, Statistics in Medicine 17 (1998), method 10.
    """
    p, q = (wilson(int(x.sum()), len(x), confidence) for x in (a, b))
    value = p.value - q.value
    low = value - math.hypot(p.value - p.low, q.high - q.value)
    high = value + math.hypot(p.high - p.value, q.value - q.low)
    return Interval(value, low, high, p.n).clamp(-1.0, 1.0)


def binomial_p(hits: Tensor, rate: float) -> float:
    """Chance of at least that many hits at this rate: small where the rate cannot explain them."""
    test = scipy_stats.binomtest(int(hits.sum()), len(hits), rate, alternative="greater")
    return float(test.pvalue)


def fisher_p(a: Tensor, b: Tensor) -> float:
    """Fisher's exact test of equal rates against a higher one in ``a`` (both bool)."""
    table = [[int(x.sum()), int((~x).sum())] for x in (a, b)]
    return float(scipy_stats.fisher_exact(table, alternative="greater").pvalue)
