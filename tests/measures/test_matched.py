"""Calibration at matched accuracy: a reference reads 0, planted over-confidence its size; the auditor asks once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS
from ddaudit.measures import matched
from ddaudit.measures.matched import matched_ece, references
from ddaudit.models import Arch
from ddaudit.stats import Resamples


def _network(labels: torch.Tensor, accuracy: float, confidence: float, seed: int) -> torch.Tensor:
    """(1, N, 2) logits of constant confidence, right on exactly this share."""
    n = len(labels)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    hits = torch.zeros(n, dtype=torch.bool)
    hits[order[: round(accuracy * n)]] = True
    top = torch.where(hits, labels, 1 - labels)
    size = torch.logit(torch.tensor(confidence, dtype=torch.float64))
    return (size * torch.nn.functional.one_hot(top, 2))[None]


LABELS = torch.arange(400) % 2
BY = [_network(LABELS, a, 0.9, k) for k, a in enumerate((0.5, 0.7, 0.8))]
"""ECE 0.4, 0.2, 0.1: on a line with accuracy."""


def _read(logits: torch.Tensor):
    return matched_ece(logits, BY, LABELS, bins=15, resamples=Resamples("x", 400, 100), stage="raw")


def test_a_reference_beside_itself_reads_nothing() -> None:
    got = _read(BY[1])
    assert got.value == pytest.approx(0, abs=1e-9)
    assert got.low <= 0 <= got.high


def test_what_accuracy_does_not_explain_is_read() -> None:
    """Accuracy 0.75, where references have an ECE of 0.15: confidence 0.9 reads 0, confidence 0.99 reads 0.09."""
    assert _read(_network(LABELS, 0.75, 0.9, 7)).value == pytest.approx(0, abs=1e-6)
    worse = _read(_network(LABELS, 0.75, 0.99, 7))
    assert worse.value == pytest.approx(0.09, abs=1e-6)
    assert worse.low < 0.09 < worse.high


def test_nothing_is_extrapolated() -> None:
    assert _read(_network(LABELS, 0.9, 0.9, 3)) is None
    assert matched_ece(
        BY[0], [], LABELS, bins=15, resamples=Resamples("x", 400, 10), stage="raw"
    ) is None  # fmt: skip


def test_the_auditor_matches_both_stages_and_trains_references_once(
    audit, random_subset, monkeypatch
) -> None:
    held = audit.data.validation
    wrong = torch.where(torch.arange(len(held)) % 4 == 0, (held.labels + 1) % 4, held.labels)
    preset = audit.preset.model_copy(update={"victims": 1})
    ctx = replace(
        audit, data=replace(audit.data, validation=replace(held, labels=wrong)), preset=preset,
        arch=Arch.parse("ConvNetD1W8"), ipc=1, _victims={},
    )  # fmt: skip
    asked = []
    honest = matched.victim_logits
    monkeypatch.setattr(
        matched, "victim_logits", lambda c, *rest: (asked.append(c.ipc), honest(c, *rest))[1]
    )
    auditor = AUDITORS.get("calibration")
    settings = auditor.configure("quick", {"matched": (1, 2, 500), "bootstrap": 40})
    for _ in range(2):
        finding = auditor.run(random_subset, ctx, settings, 0)
    # On test and on validation images, not once a subject; there are no 500 images of a class.
    assert sorted(asked) == [1, 1, 2, 2]
    # A random subset of one image a class is its own reference; the rest is rounding in training.
    assert finding.metric("calibration.matched_ece", stage="raw").value == pytest.approx(
        0, abs=1e-4
    )
    assert finding.metric("calibration.shifted_ece", stage="temperature").n == 150
    assert len(references(ctx, 0, (1, 2, 500), ctx.test())) == 2
