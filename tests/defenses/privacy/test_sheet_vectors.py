"""Numbers of the method sheet privacy.md that no other test covers.

The rest stand in ``test_accounting.py`` (noise levels and epsilons of sections 0, 1, 2, 3, 5),
``test_dosser.py`` (section 4) and ``tests/stats/test_one_run.py`` (parts C and D: nine one-run vectors,
Clopper-Pearson ceilings, Gaussian counts), ``tests/stats/test_intervals.py`` (part C's interval).
"""

from __future__ import annotations

import math

import pytest

from ddaudit.defenses.privacy.accountants import _rdp
from ddaudit.defenses.privacy.accounting import calibrate, compose, epsilon
from ddaudit.sets import LedgerEntry, PrivacyClaim
from ddaudit.stats.gdp import epsilon_from_mu

DELTA = 1e-5
FMNIST, CIFAR = 50 / 6000, 50 / 5000


def ledger(sigma: float, q: float, count: int) -> list[LedgerEntry]:
    return [LedgerEntry(query="test", sigma=sigma, q=q, count=count)]


def test_dosser_readme_command_with_noise_redrawn_two_hundred_times() -> None:
    """Section 4: I1 = 1000 sums, each re-noised 200 times: "the bound is eps of about 76" (RDP)."""
    redrawn = ledger(4.2969 / math.sqrt(200), CIFAR, 1000)
    assert epsilon(redrawn, DELTA, accountant="rdp") == pytest.approx(76, abs=0.5)
    assert 60 < epsilon(redrawn, DELTA) < 76  # PLD is tighter, and no comfort


def test_noise_levels_of_the_reduced_cells() -> None:
    """Part F, cells 1 and 3, Fashion-MNIST: T = 1000 by RDP, I1 = 500 by PLD."""
    by_rdp = calibrate(epsilon=1, delta=DELTA, q=FMNIST, count=1000, accountant="rdp")
    assert by_rdp == pytest.approx(1.33, abs=6e-3)
    assert calibrate(epsilon=1, delta=DELTA, q=FMNIST, count=500) == pytest.approx(1.040, abs=6e-4)


def test_pld_saves_a_tenth_at_epsilon_ten() -> None:
    """Part E: "10.0 -> 9.15", NDPDC on Fashion-MNIST, T = 10 000."""
    sigma = calibrate(epsilon=10, delta=DELTA, q=FMNIST, count=10_000, accountant="rdp")
    assert epsilon(ledger(sigma, FMNIST, 10_000), DELTA) == pytest.approx(9.15, rel=2e-3)


@pytest.mark.parametrize("order", [2.0, 5.5, 32.0])
def test_unsubsampled_gaussian_has_the_closed_renyi_form(order: float) -> None:
    """Part E: alpha / (2 sigma^2) per query, and the conversion at a single order."""
    sigma, count = 3.0, 7
    renyi = count * order / (2 * sigma**2)
    by_hand = (
        renyi - (math.log(DELTA) + math.log(order)) / (order - 1) + math.log((order - 1) / order)
    )
    assert _rdp(((sigma, 1.0, count),), DELTA, (order,)) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("times", [4, 20])
def test_redrawing_noise_is_one_release_with_less_of_it(times: int) -> None:
    """Section 0, point 3: k draws around one clean sum are one release at sigma / sqrt(k)."""
    redrawn = epsilon(ledger(6.0, 1.0, times), DELTA)
    assert redrawn == pytest.approx(epsilon_from_mu(math.sqrt(times) / 6.0, DELTA), rel=1e-3)


def test_five_independent_runs_cost_mu_times_the_root_of_five() -> None:
    """Part E, several releases: claims of different releases compose, those of one release do not."""
    mu = 0.3
    claims = [
        PrivacyClaim(
            epsilon=epsilon_from_mu(mu, DELTA),
            delta=DELTA,
            ledger=ledger(1 / mu, 1.0, 1),
            release=f"run {i}",
        )
        for i in range(5)
    ]
    together = epsilon_from_mu(mu * math.sqrt(5), DELTA)
    assert compose(claims) == pytest.approx(together, rel=1e-3)
    same = [c.model_copy(update={"release": "run 0"}) for c in claims]
    assert compose(same) == pytest.approx(epsilon_from_mu(mu, DELTA), rel=1e-3)
    seeded = claims[0].model_copy(update={"noise_seed_published": True})
    assert compose([seeded, *claims[1:]]) == math.inf
