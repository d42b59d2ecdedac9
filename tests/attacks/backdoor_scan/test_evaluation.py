"""The benchmark of detectors on readings made up: what stands out is detected, what does not is at chance."""

from __future__ import annotations

import pytest
import torch

from benchmarks.detection import Reading, evaluate, table


def reading(seed: int, shift: float = 0.0) -> Reading:
    """Four classes of noise for two detectors; ``shift`` is added to class 1 of one of them."""
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))
    scores[0, 1] += shift
    return {
        "scan": {"scores": scores[0].tolist(), "flagged": float(shift > 0)},
        "patch_gap": {"scores": scores[1].tolist(), "flagged": None},
    }


def test_rows_tell_the_detector_that_sees_from_the_one_that_does_not():
    clean = [reading(s) for s in range(20)]
    rows = evaluate([reading(100 + s, 30.0) for s in range(10)], [1] * 10, clean)
    gap, scan, whole = rows
    assert (scan.detector, scan.auc.value, scan.detected.value) == ("SCAn", 1.0, 1.0)
    assert (scan.named.value, scan.flagged, scan.false_alarms) == (1.0, 1.0, 0.0)
    assert gap.auc.low < 0.5 < gap.auc.high
    assert gap.flagged is None
    assert (whole.detected.value, whole.named.value) == (1.0, 1.0)
    assert len(table({"made up": rows}, 20)) == 2 + 3


def test_clean_sets_posing_as_poisoned_are_at_chance():
    rows = evaluate(
        [reading(100 + s) for s in range(40)], [1] * 40, [reading(s) for s in range(19)]
    )
    assert rows[-1].auc.value == pytest.approx(0.5, abs=0.2)
    assert rows[-1].detected.value < 0.2
