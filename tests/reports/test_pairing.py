"""Verdicts of subjects that answered the same test records."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ddaudit.findings import Finding, Metric
from ddaudit.reports import Report, Rule, apply, build_report
from ddaudit.reports.gate import Policy
from ddaudit.reports.schema import Comparison
from ddaudit.stats import Resamples, crossed_rate

N = 400
SHARED = Resamples("test", N)
EASY = 2 * torch.randn(N, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def _cell(
    subject: str, shift: float, seed: int, *, paired: bool = True, of: Resamples = SHARED
) -> Finding:
    """Two networks that answer the same images, each right with probability sigmoid(easiness + shift)."""
    g = torch.Generator().manual_seed(1000 * seed + len(subject) + round(97 * shift))
    hits = torch.rand(2, N, generator=g, dtype=torch.float64) < (EASY + shift).sigmoid()
    metric = Metric.of(
        "utility.accuracy", crossed_rate(hits.double()), direction="higher", headline=True, basis=True,
        chance=0.1, resampled=of.of_rate(hits) if paired else None,
    )  # fmt: skip
    return Finding(subject=subject, auditor="utility", seed=seed, metrics=[metric])


class _Run:
    info = {"data": "digits", "seeds": [0]}  # noqa: RUF012
    auditors = ({"name": "utility"},)
    checks: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, cells: list[Finding], *, drawn: bool = False) -> None:
        ids = dict.fromkeys(c.subject for c in cells)
        self.subjects = [
            {
                "id": i,
                "kind": "recipe",
                "baseline": i in ("full", "random"),
                "drawn": drawn or i != "full",
            }
            for i in ids
        ]
        self.cells = cells


def _random(**kwargs: Any) -> list[Finding]:
    """Five draws that differ by about 0.03 in accuracy."""
    return [_cell("random", s, k, **kwargs) for k, s in enumerate((0.6, 1.1, 0.8, 1.3, 0.9))]


def _row(report: Report, subject: str = "dm") -> Comparison:
    return next(c for c in report.comparisons if (c.subject, c.baseline) == (subject, "random"))


def test_pairs_on_the_same_records_are_narrower_and_say_so() -> None:
    cells = [_cell("dm", 2.0, k) for k in range(3)]
    paired = _row(build_report(_Run([*_random(), *cells])))
    apart = [_cell("dm", 2.0, k, paired=False) for k in range(3)]
    report = build_report(_Run([*_random(paired=False), *apart]))
    alone = _row(report)
    assert (paired.paired, alone.paired) == (True, False)
    assert paired.difference == alone.difference
    assert paired.low is not None
    assert alone.low is not None
    assert paired.low > alone.low
    assert (paired.p_value or 1) < (alone.p_value or 1)
    assert any("Not paired on the test records: accuracy" in s.text for s in report.summary)


@pytest.mark.parametrize("what", ["other records", "one subject", "one seed", "damaged"])
def test_what_does_not_fit_together_is_not_paired(what: str) -> None:
    cells = [_cell("dm", 2.0, k) for k in range(2)]
    if what == "other records":
        cells = [_cell("dm", 2.0, k, of=Resamples("another", N)) for k in range(2)]
    elif what == "one subject":
        cells = [_cell("dm", 2.0, k, paired=False) for k in range(2)]
    else:
        metric = cells[1].metrics[0]
        assert metric.resampled is not None
        bad = metric.resampled.model_copy(update={"replicates": "AAAA"})
        cells[1].metrics[0] = metric.model_copy(
            update={"resampled": None if what == "one seed" else bad}
        )
    report = build_report(_Run([*_random(), *cells]))
    assert not _row(report).paired
    assert any("Not paired" in s.text for s in report.summary)


def test_the_full_data_have_no_draw_and_do_not_borrow_one() -> None:
    """The same numbers of a recipe of one draw are held against the spread of random, and those of full are not."""
    cells = [*_random(), _cell("full", 3.0, 0)]
    sure, borrowed = (_row(build_report(_Run(cells, drawn=d)), "full") for d in (False, True))
    assert sure.low is not None
    assert borrowed.low is not None
    assert sure.low > borrowed.low + 0.02
    assert (sure.p_value or 1) < (borrowed.p_value or 1) / 10


def test_full_lends_no_spread() -> None:
    cells = [_cell("full", 3.0, k) for k in range(5)]
    report = build_report(_Run([*cells, _cell("random", 1.0, 0), _cell("dm", 2.0, 0)]))
    assert _row(report).outcome == "withheld"


def test_a_single_draw_varies_as_its_own_victims_do_at_least() -> None:
    """Draws of the reference are all alike (at a ceiling, say); two networks of the subject are not."""
    alike = [_cell("random", 9.0, k) for k in range(5)]
    for c in alike:
        c.metrics[0] = alike[0].metrics[0]
    subject = _cell("dm", 1.0, 0)
    a, b = 0.72, 0.68
    metric = subject.metrics[0]
    assert metric.resampled is not None
    far = metric.resampled.model_copy(update={"networks": [a, b]})
    subject.metrics[0] = metric.model_copy(update={"resampled": far, "value": (a + b) / 2})
    row = _row(build_report(_Run([*alike, subject])))
    assert row.low is not None
    half = (
        12.706 * (a - b) / 2
    )  # Student's t of one degree of freedom times |a - b| / sqrt(2) / sqrt(2)
    assert row.difference - row.low >= half * 0.999


def test_a_large_difference_is_decided_among_forty_verdicts_and_a_report_keeps_no_replicates() -> (
    None
):
    others = [_cell(f"m{i}", 0.9, i) for i in range(40)]
    report = build_report(_Run([*_random(), _cell("full", 3.8, 0), *others]))
    assert _row(report, "full").outcome == "better"
    assert {_row(report, f"m{i}").outcome for i in range(40)} == {"not distinguishable"}
    assert all(m.resampled is None for f in report.findings for m in f.metrics)


def test_a_relative_rule_judges_the_paired_difference() -> None:
    report = build_report(_Run([*_random(), *(_cell("dm", 2.0, k) for k in range(3))]))
    row = _row(report)
    assert row.low is not None
    bound = math.floor(row.low * 1e6) / 1e6
    rule = Rule(metric="utility.accuracy", min=bound, relative_to="random")
    (result,) = apply(Policy((rule,)), report)
    assert result.holds
