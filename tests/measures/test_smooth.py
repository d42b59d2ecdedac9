"""Smooth ECE against closed forms, the authors' package and a direct integral."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import norm

from ddaudit.measures.smooth import CELLS, drawn_cells, residual_cells, smooth_ece


def _sequence(n: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences in [0.5, 1) and answers that are right ``shift`` less often, without a generator."""
    i = torch.arange(n).double()
    confidence = 0.5 + 0.5 * ((i * 0.6180339887) % 1.0)
    return confidence, ((i * 0.7548776662) % 1.0 < confidence - shift).double()


def _value(confidence: torch.Tensor, correct: torch.Tensor) -> float:
    return float(smooth_ece(residual_cells(confidence, correct).mean(0)[None]))


@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.95, 1.0])
def test_a_constant_confidence_has_the_error_of_its_mean(confidence) -> None:
    """All residuals in one place: whatever the width, their mean is what is left."""
    correct = (torch.arange(100) % 10 < 6).double()
    assert _value(torch.full((100,), confidence), correct) == pytest.approx(abs(confidence - 0.6))


@pytest.mark.parametrize(
    ("n", "shift", "published"),
    [
        (200, 0.0, 0.0262663),
        (200, 0.15, 0.1546840),
        (1000, 0.0, 0.0115493),
        (1000, 0.15, 0.1510789),
    ],
)
def test_it_is_what_the_authors_package_reads(n, shift, published) -> None:
    """relplot 1.0.3, smECE with the reflected kernel; its search stops at a width of 2^-10."""
    assert _value(*_sequence(n, shift)) == pytest.approx(published, abs=1e-3)


def test_the_error_equals_the_width_of_a_directly_integrated_kernel() -> None:
    confidence, correct = _sequence(200, 0.0)
    value = _value(confidence, correct)
    t = np.linspace(0, 1, 4001)
    f, r = confidence.numpy(), (correct - confidence).numpy()
    smooth = sum(
        (norm.pdf(t[:, None], s * f[None] + k, value) * r).mean(1)
        for k in (-2, 0, 2)
        for s in (1, -1)
    )
    assert integrate.trapezoid(np.abs(smooth), t) == pytest.approx(value, rel=0.03)


def test_calibrated_answers_read_little_and_several_samples_are_read_at_once() -> None:
    g = torch.Generator().manual_seed(0)
    confidence = 0.2 + 0.8 * torch.rand(4000, generator=g).double()
    hits = torch.rand(5, 4000, generator=g) < confidence
    read = smooth_ece(drawn_cells(confidence, hits))
    assert read.tolist() == pytest.approx([_value(confidence, h.double()) for h in hits])
    # Mean residual: standard deviation sqrt(E p (1 - p) / n) = 0.0063; no reading is far above it.
    assert float(read.max()) < 4 * 0.0063
    assert residual_cells(confidence, hits[0]).shape == (4000, CELLS)
