"""Noisy counts set the noise of what follows: what a ledger composes to is then no bound, and what is claimed is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy.stats import norm

from ddaudit.attacks.privacy.claims import describe
from ddaudit.defenses.privacy.accounting import (
    ADDED,
    calibrate,
    compose,
    cross_check,
    epsilon,
    joint_delta,
)
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import distill, resolve
from ddaudit.errors import BadInput
from ddaudit.sets import LedgerEntry, PrivacyClaim, given
from ddaudit.sets.inspection import statement

DELTA = 1e-5


def test_composing_what_was_chosen_from_an_answer_as_if_it_were_fixed_is_no_bound() -> None:
    """Why: counts within half of epsilon 4, then 20 sums at one of five rates, the noise of each so chosen that counts
    and sums compose to (4, 1e-5). Whoever picks the rate by what the counts read spends 1.5 times that delta."""
    target = 4.0
    sigma = calibrate(epsilon=target / 2, delta=DELTA, q=1.0, count=1)
    mu = 1 / sigma
    losses = np.linspace(mu**2 / 2 - 8 * mu, mu**2 / 2 + 8 * mu, 401)
    density = norm.pdf(losses, mu**2 / 2, mu)
    density /= density.sum()
    spent = [LedgerEntry(query="counts", sigma=sigma, q=1.0, count=1)]
    tails = []
    for q in (1.0, 0.3, 0.1, 0.03, 0.01):
        noise = calibrate(epsilon=target, delta=DELTA, q=q, count=20, spent=spent)
        sums = privacy_loss_distribution.from_gaussian_mechanism(
            noise, sampling_prob=q, value_discretization_interval=1e-3
        ).self_compose(20)
        tails.append(np.array(sums.get_delta_for_epsilon(list((target - losses)[::-1])))[::-1])
        assert float(density @ tails[-1]) == pytest.approx(
            DELTA, rel=0.01
        )  # fixed beforehand: as claimed
    assert float(density @ np.max(tails, axis=0)) > 1.4 * DELTA


def _gaussian_delta(e: float, sigma: float) -> float:
    """Closed form: Balle and Wang, ICML 2018, theorem 8."""
    a, b = 1 / (2 * sigma), e * sigma
    return float(norm.cdf(a - b) - math.exp(e) * norm.cdf(-a - b))


@pytest.mark.parametrize("loop", ["ndpdc", "dm+dp"])
def test_each_part_stays_within_its_share_whatever_the_counts_read(tiny, loop: str) -> None:
    options = {"reader.counts": "noisy", "loop.iterations": 2, "networks.arch": "ConvNetD2W8"}
    made = distill(resolve(loop, profile="small", options=options), tiny.train, data=tiny, ipc=1, seed=0)  # fmt: skip
    claim = made.card.privacy
    assert claim is not None
    assert (claim.epsilon, claim.accountant) == (10.0, ADDED)
    counts, sums = claim.ledger
    assert _gaussian_delta(1.0, counts.sigma) <= 0.1 * claim.delta * (1 + 1e-6)
    assert epsilon([sums], 0.9 * claim.delta, accountant="prv") <= 9.0 * 1.01
    # The ledger alone composes to less, and that is not what is claimed.
    assert epsilon(claim.ledger, claim.delta) < 9.9
    cross_check(claim.epsilon, claim.ledger, claim.delta)
    assert given(claim) == ""


def test_full_batches_are_fixed_beforehand_and_compose() -> None:
    assert not PoissonGaussian(counts="noisy", sampling="full").adaptive
    assert not PoissonGaussian(counts="public").adaptive
    assert PoissonGaussian(counts="noisy", sampling="uniform").adaptive


def test_a_noise_of_ones_own_fixes_no_claim_under_noisy_counts(tiny) -> None:
    reader = PoissonGaussian(counts="noisy", sigma=5.0, delta=1e-4)
    with pytest.raises(BadInput, match="epsilon would depend on the answer"):
        reader.check(tiny.train)
    PoissonGaussian(counts="noisy", sigma=5.0, delta=1e-4, sampling="full").check(tiny.train)


def _claim(release: str, accountant: str = "pld", e: float = 2.0) -> PrivacyClaim:
    entry = LedgerEntry(query="sums", sigma=5.0, q=1.0, count=10)
    return PrivacyClaim(
        epsilon=e, delta=DELTA, accountant=accountant, ledger=[entry], release=release
    )


def test_added_claims_are_added_and_others_composed() -> None:
    fixed = [_claim("a"), _claim("b")]
    assert compose(fixed) == pytest.approx(
        epsilon([e for c in fixed for e in c.ledger], DELTA), rel=1e-9
    )
    one, two = _claim("c", ADDED), _claim("d", ADDED, 3.0)
    assert compose([one]) == 2.0
    assert joint_delta([one, two]) == pytest.approx(2 * DELTA)
    assert compose([one, two]) == 5.0
    assert compose([one, two], DELTA) == math.inf  # deltas add up to more
    assert compose([one, one]) == 2.0  # one release
    both = compose([one, *fixed])
    assert joint_delta([one, *fixed]) == pytest.approx(2 * DELTA)
    assert both == pytest.approx(2.0 + compose(fixed), rel=1e-9)


def test_public_counts_stand_beside_the_relation(tiny) -> None:
    options = {"loop.iterations": 1, "networks.arch": "ConvNetD2W8"}
    recipe = resolve("dm+dp", profile="small", options=options)
    claim = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0).card.privacy
    assert claim is not None
    assert given(claim) == " given the class counts"
    for text in (statement(claim), describe(claim)):
        assert "add-or-remove-one" in text
        assert "given the class counts" in text


def test_what_no_accountant_covers_composes_to_nothing_finite() -> None:
    shuffled = _claim("a").model_copy(update={"sampling": "shuffled epochs"})
    assert compose([shuffled]) == compose([_claim("b"), shuffled]) == math.inf


def test_a_claim_above_its_ledger_counts_in_full() -> None:
    """Its ledger lists some of what was spent: composed by it, the sum was below the single claim."""
    partly = _claim("a", e=9.0)
    assert compose([partly]) == 9.0
    both = [partly, _claim("b")]
    assert joint_delta(both) == pytest.approx(2 * DELTA)
    assert compose(both) == pytest.approx(9.0 + compose([_claim("b")]))
