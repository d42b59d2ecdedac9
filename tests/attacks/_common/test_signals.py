"""Signals of one classifier against hand-written formulas and known limits."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import softmax

from ddaudit.attacks._common import signals


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 3


def test_signals_match_the_textbook_formulas(logits: torch.Tensor) -> None:
    y = torch.arange(50) % 6
    p = torch.from_numpy(softmax(logits.double().numpy(), axis=1))
    py = p[torch.arange(50), y]
    others = 1 - p
    modified = -(1 - py) * py.log() - (p * others.log()).sum(1) + py * (1 - py).log()
    torch.testing.assert_close(signals.negative_loss(logits, y), py.log())
    torch.testing.assert_close(signals.confidence(logits, y), py)
    torch.testing.assert_close(signals.negative_entropy(logits), (p * p.log()).sum(1))
    torch.testing.assert_close(signals.negative_modified_entropy(logits, y), -modified)
    torch.testing.assert_close(signals.logit_margin(logits, y), (py / (1 - py)).log())


def test_cross_entropy_of_torch_is_minus_the_loss_score(logits: torch.Tensor) -> None:
    y = torch.arange(50) % 6
    expected = torch.nn.functional.cross_entropy(logits, y, reduction="none").double()
    torch.testing.assert_close(-signals.negative_loss(logits, y), expected, atol=1e-5, rtol=1e-5)


def test_margin_and_modified_entropy_do_not_saturate() -> None:
    """A softmax rounds p to 1 from a margin of 37 on (17 in float32); the ranking must survive."""
    z = torch.tensor([[m, 0.0, 0.0] for m in (20.0, 40.0, 80.0, 800.0)])
    y = torch.zeros(4, dtype=torch.int64)
    margin = signals.logit_margin(z, y)
    torch.testing.assert_close(margin, z[:, 0].double() - math.log(2))
    wrong = signals.logit_margin(-z, y)
    assert torch.isfinite(wrong).all()
    assert (wrong.diff() < 0).all()
    entropy = signals.negative_modified_entropy(z[:3], y[:3])
    assert torch.isfinite(entropy).all()
    assert (entropy.diff() > 0).all()


def test_modified_entropy_punishes_confident_errors_and_entropy_does_not() -> None:
    z = torch.tensor([[8.0, 0.0], [0.0, 8.0]])
    y = torch.tensor([0, 0])
    assert signals.negative_entropy(z)[0] == pytest.approx(float(signals.negative_entropy(z)[1]))
    right, wrong = signals.negative_modified_entropy(z, y).tolist()
    assert right > -0.01
    assert wrong < -7
