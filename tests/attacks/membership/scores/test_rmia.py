"""RMIA: against the definition written as a double loop, its invariances, and its corner cases."""

from __future__ import annotations

import math

import pytest
import torch

from ddaudit.attacks.membership.scores import rmia
from ddaudit.stats import auc


@pytest.fixture
def parts() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.rand(n, generator=g, dtype=torch.float64).log() for n in (40, 40, 25, 25))


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_score_is_the_counted_share_of_dominated_non_members(
    parts: tuple[torch.Tensor, ...], gamma: float
) -> None:
    x, rx, z, rz = (p.exp() for p in parts)
    counted = [
        sum(float((a / b) / (c / d) >= gamma) for c, d in zip(z, rz, strict=True)) / len(z)
        for a, b in zip(x, rx, strict=True)
    ]
    assert rmia.score(*parts, gamma=gamma).tolist() == pytest.approx(counted)


def test_scaling_every_probability_of_the_victim_changes_nothing(
    parts: tuple[torch.Tensor, ...],
) -> None:
    x, rx, z, rz = parts
    torch.testing.assert_close(rmia.score(*parts), rmia.score(x - 3, rx, z - 3, rz))


def test_order_within_a_victim_is_that_of_the_likelihood_ratio(
    parts: tuple[torch.Tensor, ...],
) -> None:
    score = rmia.score(*parts)
    order = torch.argsort(parts[0] - parts[1])
    assert (score[order].diff() >= 0).all()


def test_offline_formula_and_its_two_ends() -> None:
    p = torch.tensor([[0.2, 0.9], [0.4, 0.5]], dtype=torch.float64)
    mean = p.mean(0)
    expected = 0.5 * (1.3 * mean + 0.7)
    torch.testing.assert_close(rmia.offline_reference(p.log(), a=0.3).exp(), expected)
    torch.testing.assert_close(rmia.offline_reference(p.log(), a=1.0).exp(), mean)
    torch.testing.assert_close(rmia.offline_reference(p.log(), a=0.0).exp(), (mean + 1) / 2)


def test_online_reference_averages_the_two_sides_and_falls_back() -> None:
    p = torch.tensor([[0.8, 0.6, 0.3], [0.2, 0.6, 0.5]], dtype=torch.float64)
    members = torch.tensor([[True, False, True], [False, False, True]])
    expected = torch.tensor([0.5, 0.5 * (1.3 * 0.6 + 0.7), 0.4], dtype=torch.float64)
    torch.testing.assert_close(rmia.online_reference(p.log(), members).exp(), expected)


def test_tiny_probabilities_keep_their_order() -> None:
    """exp(-800) is 0 in float64: a clipped implementation would tie these."""
    x = torch.tensor([-900.0, -800.0, -700.0], dtype=torch.float64)
    z = torch.tensor([-850.0, -750.0], dtype=torch.float64)
    score = rmia.score(x, torch.zeros(3), z, torch.zeros(2))
    assert score.tolist() == [0.0, 0.5, 1.0]


def test_population_makes_two_victims_comparable() -> None:
    """Victim B is more confident about everything; only the population takes that out."""
    g = torch.Generator().manual_seed(1)
    raw, score, truth = [], [], []
    for level in (-2.0, -0.2):
        members = torch.rand(3000, generator=g) < 0.5
        ratio = 0.5 * torch.randn(3000, generator=g, dtype=torch.float64) + 0.5 * members
        strangers = 0.5 * torch.randn(1000, generator=g, dtype=torch.float64)
        zero = torch.zeros_like(ratio)
        raw.append(ratio + level)
        score.append(rmia.score(ratio + level, zero, strangers + level, zero[:1000]))
        truth.append(members)
    expected = 0.5 * (1 + math.erf(0.5))  # Phi(1 / sqrt 2)
    assert auc(torch.cat(score), torch.cat(truth)).value == pytest.approx(expected, abs=0.02)
    assert auc(torch.cat(raw), torch.cat(truth)).value < 0.65
