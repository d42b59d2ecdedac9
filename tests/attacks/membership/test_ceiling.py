"""The DP ceiling check against mechanisms of known epsilon."""

from __future__ import annotations

import math

import pytest
import torch

from ddaudit.attacks.membership.evidence import (
    Evidence,
    ceiling_check,
    ceiling_curve,
    weakest_claim,
)
from ddaudit.sets import Card, DistilledSet, PrivacyClaim
from ddaudit.stats.gdp import mu_from_epsilon


def gaussian_mechanism(epsilon: float, *, seed: int) -> Evidence:
    """The best attack on a Gaussian mechanism that is exactly (epsilon, 1e-5)-DP: N(0,1) or
    N(mu,1).
    """
    g = torch.Generator().manual_seed(seed)
    members = torch.rand(8, 1500, generator=g) < 0.5
    mu = mu_from_epsilon(epsilon, 1e-5)
    return Evidence(
        "best", torch.randn(8, 1500, generator=g, dtype=torch.float64) + mu * members, members
    )


def randomised_response(epsilon: float, *, seed: int) -> Evidence:
    """A bit that tells the truth with probability e^eps / (1 + e^eps): on the pure-DP ceiling."""
    g = torch.Generator().manual_seed(seed)
    members = torch.rand(8, 1500, generator=g) < 0.5
    honest = torch.rand(8, 1500, generator=g) < math.exp(epsilon) / (1 + math.exp(epsilon))
    return Evidence("bit", (members == honest).double(), members)


def check(evidence: Evidence, epsilon: float, delta: float = 1e-5, seed: int = 0) -> bool:
    return ceiling_check(
        [evidence], PrivacyClaim(epsilon=epsilon, delta=delta), subject="s",
        generator=torch.Generator().manual_seed(seed),
    ).passed  # fmt: skip


@pytest.mark.parametrize("mechanism", [gaussian_mechanism, randomised_response])
def test_true_claims_hold(mechanism) -> None:  # type: ignore[no-untyped-def]
    """20 honest mechanisms at the ceiling; each may fail with probability at most 5 %."""
    failed = sum(not check(mechanism(1.0, seed=s), 1.0, seed=s) for s in range(20))
    assert failed <= 3  # more happen once in 60


def test_broken_claims_are_falsified() -> None:
    """Noise four times smaller than claimed: mu is four times larger."""
    assert not check(gaussian_mechanism(6.0, seed=0), 1.0)
    assert not check(randomised_response(3.0, seed=0), 0.5)


def test_a_failing_check_refutes_the_claim_and_says_how_surely() -> None:
    got = ceiling_check(
        [gaussian_mechanism(6.0, seed=0)], PrivacyClaim(epsilon=1.0, delta=1e-5), subject="dm+dp",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert (got.name, got.subject) == ("TPR below the DP ceiling", "dm+dp")
    assert got.affects == ["privacy.epsilon_claimed"]
    assert got.refutes == "privacy.epsilon_claimed"
    assert got.p_value == pytest.approx(0.05 / 100)  # of a hundred seeds one such would still count
    assert got.value is not None
    assert got.value > 0
    assert "best at" in got.detail


def test_a_vacuous_ceiling_is_called_so() -> None:
    got = ceiling_check(
        [gaussian_mechanism(1.0, seed=0)], PrivacyClaim(epsilon=10.0, delta=1e-5), subject="s",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert got.passed
    assert "can hardly fail" in got.detail


def _set(claim: PrivacyClaim | None) -> DistilledSet:
    return DistilledSet(
        torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64), 1, Card(privacy=claim)
    )


def test_weakest_claim_needs_all_sets_to_claim() -> None:
    one, two = PrivacyClaim(epsilon=1, delta=1e-5), PrivacyClaim(epsilon=2, delta=1e-5)
    assert weakest_claim([_set(one), _set(two)]) == two
    assert weakest_claim([_set(one), _set(None)]) is None
    assert weakest_claim([_set(None)]) is None


def test_ceiling_curve_is_monotone_and_above_the_diagonal() -> None:
    curve = ceiling_curve(PrivacyClaim(epsilon=1.0, delta=1e-5))
    assert all(b >= a for a, b in zip(curve.y, curve.y[1:], strict=False))
    assert all(y >= x for x, y in zip(curve.x, curve.y, strict=True))
    assert curve.y[-1] == 1.0
