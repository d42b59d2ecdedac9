"""Joint least squares against the closed-form power of the best attack on a noisy sum."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from ddaudit.attacks.privacy.adversaries import LinearEvidence
from ddaudit.attacks.privacy.known_answers import simulate_sums
from ddaudit.stats import auc


@pytest.mark.parametrize("mu", [0.5, 1.5])
def test_orthogonal_canaries_reach_the_neyman_pearson_auc(mu: float) -> None:
    """AUC of N(mu, 1) against N(0, 1) is Phi(mu / sqrt 2); 4 x 300 canaries, 4 sd allowed."""
    found = []
    for seed in range(4):
        scores, included = simulate_sums(
            300, sigma=4 / mu, seed=seed
        )  # 16 releases: mu = 4 / sigma
        found.append(auc(scores, included).value)
    expected = norm.cdf(mu / math.sqrt(2))
    assert sum(found) / 4 == pytest.approx(expected, abs=4 * 0.033 / 2)


def test_without_noise_every_coin_is_read() -> None:
    scores, included = simulate_sums(200, sigma=0.0, seed=1)
    assert auc(scores, included).value == 1.0


def test_drowned_in_noise_nothing_is_read() -> None:
    scores, included = simulate_sums(300, sigma=1e4, seed=2)
    assert abs(auc(scores, included).value - 0.5) < 4 * 0.033


def _correlated(ridge: float) -> float:
    """Signals that share most of their energy, as embeddings of images do."""
    g = torch.Generator().manual_seed(3)
    m, width = 120, 600
    included = torch.rand(m, generator=g) < 0.5
    evidence = LinearEvidence(m, 1)
    for _ in range(8):
        common = 4 * torch.randn(width, generator=g)
        size = 0.5 + torch.rand(m, 1, generator=g)
        signals = size * (common + torch.randn(m, width, generator=g))
        known = common[None]
        values = 100 * known + signals[included].sum(0)[None]
        values = values + 8 * torch.randn(1, width, generator=g)
        evidence.add(signals, torch.ones(1, m), values, known)
    return auc(evidence.scores(ridge=ridge), included).value


def test_joint_estimate_beats_the_plain_inner_product_when_signals_overlap() -> None:
    assert _correlated(0.1) > 0.95
    assert _correlated(1e6) < 0.8


def test_rows_keep_classes_apart() -> None:
    """A canary is only looked for in the sum of its own class."""
    g = torch.Generator().manual_seed(4)
    signals = torch.randn(4, 50, generator=g)
    weights = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    evidence = LinearEvidence(4, 2)
    values = torch.stack([signals[0] + signals[2], signals[3]])  # canary 2 sits in the wrong class
    evidence.add(signals, weights, values, torch.zeros(2, 50))
    assert set(evidence.scores().topk(2).indices.tolist()) == {0, 3}


def test_no_release_gives_no_opinion() -> None:
    assert torch.equal(LinearEvidence(5, 2).scores(), torch.zeros(5))


def test_ridge_follows_the_noise_by_itself() -> None:
    """The automatic ridge is nearly as good as the best of a grid, at every noise level."""
    for sigma in (0.5, 4.0):
        g = torch.Generator().manual_seed(5)
        m, width = 120, 200
        included = torch.rand(m, generator=g) < 0.5
        evidence = LinearEvidence(m, 1)
        for _ in range(6):
            common = 2 * torch.randn(width, generator=g)
            signals = common + torch.randn(m, width, generator=g)
            values = 60 * common[None] + signals[included].sum(0)[None]
            values = values + sigma * 3 * torch.randn(1, width, generator=g)
            evidence.add(signals, torch.ones(1, m), values, common[None])
        grid = [auc(evidence.scores(ridge=r), included).value for r in (1e-3, 0.03, 1, 30)]
        automatic = auc(evidence.scores(), included).value
        assert automatic >= max(grid) - 0.03
        assert min(grid) < max(grid) - 0.02 or min(grid) > 0.98
