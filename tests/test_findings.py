"""The nouns of a finding."""

from __future__ import annotations

from ddaudit.findings import Finding, Metric
from ddaudit.stats import clopper_pearson


def test_a_metric_of_an_interval_carries_its_numbers() -> None:
    rate = clopper_pearson(30, 100)
    metric = Metric.of("mine.rate", rate, direction="lower", floor=0.1, params={"k": 1})
    assert (metric.value, metric.low, metric.high, metric.n) == (0.3, rate.low, rate.high, 100)
    assert (metric.direction, metric.floor, metric.params) == ("lower", 0.1, {"k": 1})


def test_cells_of_older_releases_are_read() -> None:
    old = '{"subject": "dm", "auditor": "utility", "metrics": [{"name": "utility.accuracy", "value": 0.5}]}'
    (metric,) = Finding.model_validate_json(old).metrics
    assert (metric.label, metric.basis, metric.value) == ("", False, 0.5)
