"""Headline numbers of test records say how they move with the records, so that reports can pair subjects."""

from __future__ import annotations

import pytest
import torch

from ddaudit.auditing import Auditor
from ddaudit.data import load_data
from ddaudit.findings import Metric
from ddaudit.measures.bias import Bias
from ddaudit.measures.calibration import Calibration
from ddaudit.measures.utility import Utility
from ddaudit.stats.resampling import unpack

SMALL = {"bootstrap": 60}


@pytest.mark.parametrize(
    ("auditor", "settings"),
    [
        (Utility(), SMALL),
        (Calibration(), {**SMALL, "simulations": 20}),
        (Bias(), {**SMALL, "simulations": 20, "paired_limit": 20}),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_headline_numbers_can_be_paired_with_those_of_other_victims(
    auditor: Auditor, settings: dict[str, int], known, answering, subject
) -> None:
    """Two victims, then one other: the same resamples; the spread of the replicates is that of the interval."""
    data = load_data("digits-colored")
    data = type(data)(**{**data.__dict__, "extra": {}}) if not isinstance(auditor, Bias) else data
    g = torch.Generator().manual_seed(0)
    test = data.test
    right = 3 * torch.nn.functional.one_hot(test.labels, 10).float()
    tables = [right + 2 * torch.randn(len(test), 10, generator=g) for _ in range(3)]
    answers = [answering(t, test.images) for t in tables]
    chosen = auditor.configure("quick", settings)
    headlines: list[list[Metric]] = []
    for victims in (answers[:2], answers[2:]):
        finding = auditor.run(subject, known(data, victims), chosen, 0)
        headlines.append([m for m in finding.metrics if m.headline])
    assert headlines[0]
    for mine, theirs in zip(*headlines, strict=True):
        a, b = mine.resampled, theirs.resampled
        assert a is not None
        assert b is not None
        assert a.name == b.name
        assert sum(a.networks) / 2 == pytest.approx(mine.value)
        assert [b.networks[0]] == pytest.approx([theirs.value])
        x, y = unpack(a.replicates), unpack(b.replicates)
        assert len(x) == len(y) == (400 if mine.name == "utility.accuracy" else 60)
        if theirs.name == "utility.accuracy":  # one network: images alone make its interval
            assert float(y.std()) == pytest.approx((theirs.high - theirs.low) / 3.92, rel=0.15)
