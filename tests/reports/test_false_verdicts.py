"""At most 5 % of reports on subjects that do not differ call any of them better or worse: simulated."""

from __future__ import annotations

import pytest

from benchmarks.coverage import false_verdicts, simulate

REPORTS = 60
CHEAP = ("accuracy", "AUC", "ASR gain")


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_subjects_are_not_called_different(seeds: int) -> None:
    """60 reports at a true rate of 5 % show more than 8 false ones once in 500. The rule before this one, on the
    same readings with one seed, does so in nearly all reports."""
    found = [
        false_verdicts([simulate(m, n=400, victims=2, seed=100 * r + i) for i, m in enumerate(CHEAP)], seeds)
        for r in range(REPORTS)
    ]  # fmt: skip
    assert sum(new for new, _ in found) <= 8
    if seeds == 1:
        assert sum(old for _, old in found) > 30
