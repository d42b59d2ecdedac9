"""The nouns of a finding."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ddaudit.findings import Curve, Finding, Metric
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


@pytest.mark.parametrize("name", ["y", "low", "high", "counts"])
def test_a_curve_has_as_many_values_of_everything(name: str) -> None:
    values = {"x": [0.0, 1.0], "y": [0.0, 1.0]}
    assert Curve(plot="p", label="a", **values, counts=[1, 2]).low is None
    with pytest.raises(ValidationError, match=f"2 values of x and 1 of {name}"):
        Curve(plot="p", label="a", **{**values, name: [0]})
