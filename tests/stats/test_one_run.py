"""Empirical epsilon bounds against closed forms, a second implementation and simulated mechanisms.

Constants tagged [jax-privacy] were printed by google-deepmind/jax_privacy ``auditing.py`` (commit
03a095e) on the same counts.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import get_sigma_gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.special import expit, logit

from ddaudit.errors import BadInput
from ddaudit.stats.gdp import (
    delta_at,
    epsilon_from_mu,
    mu_from_epsilon,
    tpr_ceiling,
    tpr_ceiling_gdp,
)
from ddaudit.stats.one_run import epsilon_one_run, epsilon_one_run_gdp, mu_one_run, p_value

# ---- Gaussian differential privacy ---------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 10.0, 50.0])
@pytest.mark.parametrize("delta", [1e-7, 1e-5, 1e-2])
def test_mu_is_the_inverse_noise_of_the_analytic_gaussian(epsilon: float, delta: float) -> None:
    """Against dp-accounting's own root finder."""
    mu = mu_from_epsilon(epsilon, delta)
    assert 1 / mu == pytest.approx(get_sigma_gaussian(epsilon, delta), rel=1e-6)
    assert epsilon_from_mu(mu, delta) == pytest.approx(epsilon, rel=1e-8)
    assert delta_at(epsilon, mu=mu) == pytest.approx(delta, rel=1e-6)


def test_printed_mu_values() -> None:
    """Method sheet privacy.md, end of part C."""
    assert mu_from_epsilon(1, 1e-5) == pytest.approx(0.268, abs=5e-4)
    assert mu_from_epsilon(10, 1e-5) == pytest.approx(2.0004, abs=1e-4)


def test_delta_matches_numerical_integration() -> None:
    """delta = integral of (p - e^eps q)+ over the line, for N(mu, 1) against N(0, 1)."""
    x = np.linspace(-12, 16, 400_001)
    for mu, epsilon in [(0.3, 0.5), (1.5, 2.0), (4.0, 6.0)]:
        p, q = (np.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (mu, 0.0))
        exact = integrate.trapezoid(np.maximum(p - math.exp(epsilon) * q, 0), x)
        assert delta_at(epsilon, mu=mu) == pytest.approx(exact, rel=1e-6)


def test_extreme_mu_and_epsilon_do_not_overflow() -> None:
    assert epsilon_from_mu(0.0, 1e-5) == 0.0
    assert epsilon_from_mu(1e-9, 1e-5) == 0.0
    assert epsilon_from_mu(math.inf, 1e-5) == math.inf == mu_from_epsilon(math.inf, 1e-5)
    large = epsilon_from_mu(100.0, 1e-5)
    assert large == pytest.approx(100**2 / 2 + 100 * 4.2649, rel=1e-3)
    assert mu_from_epsilon(large, 1e-5) == pytest.approx(100.0, rel=1e-9)


@pytest.mark.parametrize(
    ("epsilon", "at_permille", "at_percent"), [(1, 0.0024, 0.0198), (10, 0.138, 0.372)]
)
def test_gaussian_ceilings(epsilon: float, at_permille: float, at_percent: float) -> None:
    """Method sheet privacy.md, end of part C: no attack may do better."""
    mu = mu_from_epsilon(epsilon, 1e-5)
    assert tpr_ceiling_gdp(0.001, mu=mu) == pytest.approx(at_permille, rel=0.01)
    assert tpr_ceiling_gdp(0.01, mu=mu) == pytest.approx(at_percent, rel=0.01)


@given(
    epsilon=st.floats(0.05, 12), delta=st.floats(1e-9, 1e-2), fpr=st.floats(0, 1, width=32)
)  # fmt: skip
def test_gaussian_ceiling_is_below_the_general_one(
    epsilon: float, delta: float, fpr: float
) -> None:
    gaussian = tpr_ceiling_gdp(fpr, mu=mu_from_epsilon(epsilon, delta))
    assert fpr - 1e-12 <= gaussian <= tpr_ceiling(fpr, epsilon=epsilon, delta=delta) + 1e-9


def test_general_ceiling_touches_its_corner_cases() -> None:
    assert tpr_ceiling(0.0, epsilon=2.0, delta=0.01) == pytest.approx(0.01)
    assert tpr_ceiling(0.1, epsilon=1.0, delta=0.0) == pytest.approx(math.e * 0.1)
    assert tpr_ceiling(0.9, epsilon=1.0, delta=0.0) == pytest.approx(1 - 0.1 / math.e)
    assert tpr_ceiling(1.0, epsilon=1000.0, delta=0.0) == 1.0


# ---- one run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "bound"),
    [
        (100, 100, 100, 0, 3.493),
        (100, 100, 100, 1e-5, 3.4902),
        (1000, 1000, 1000, 0, 5.8091),
        (1000, 1000, 1000, 1e-5, 5.7823),
        (1000, 200, 180, 0, 1.7989),
        (1000, 200, 180, 1e-5, 1.7963),
        (500, 100, 80, 1e-5, 0.9569),
        (1000, 1000, 600, 1e-5, 0.2972),
        (1000, 1000, 520, 1e-5, 0.0),
    ],
)
def test_one_run_vectors(m: int, r: int, v: int, delta: float, bound: float) -> None:
    """The nine vectors of privacy.md part D."""
    assert epsilon_one_run(v, r, canaries=m, delta=delta) == pytest.approx(bound, abs=6e-5)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "plain", "gaussian"),
    [  # [jax-privacy] _epsilon_one_run and _epsilon_one_run_fdp
        (1000, 200, 180, 1e-5, 1.796285070718516, 2.9012429233094306),
        (500, 100, 80, 1e-5, 0.9568599242798269, 1.55642959432447),
        (1000, 1000, 600, 1e-5, 0.2972269575896597, 0.5835403679239116),
        (100, 100, 100, 1e-5, 3.4902158675692982, 8.216186103950786),
        (1000, 1000, 1000, 1e-5, 5.782283131572193, 12.334570155595598),
        (300, 60, 45, 1e-4, 0.568201716158065, 0.7708753001706021),
        (1000, 1000, 900, 1e-5, 2.020645594168416, 3.7793385785758598),
    ],
)
def test_one_run_bounds_match_jax_privacy(
    m: int, r: int, v: int, delta: float, plain: float, gaussian: float
) -> None:
    assert epsilon_one_run(v, r, canaries=m, delta=delta) == pytest.approx(plain, rel=1e-5)
    assert epsilon_one_run_gdp(v, r, canaries=m, delta=delta) == pytest.approx(gaussian, rel=1e-5)


@given(r=st.integers(1, 400), confidence=st.floats(0.5, 0.999))
def test_all_correct_has_a_closed_form(r: int, confidence: float) -> None:
    found = epsilon_one_run(r, r, canaries=400, delta=0.0, confidence=confidence)
    assert found == pytest.approx(max(0.0, logit((1 - confidence) ** (1 / r))), abs=1e-6)


def test_p_value_matches_the_formula_summed_by_hand() -> None:
    m, r, v, epsilon, delta = 50, 12, 9, 0.7, 1e-3
    q = expit(epsilon)
    pmf = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    tail = sum(pmf[v:])
    worst = max(sum(pmf[max(0, v - i) : v]) / i for i in range(1, v + 1))
    expected = tail + 2 * m * delta * worst
    found = p_value(v, r, canaries=m, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), m=st.integers(1, 300), delta=st.sampled_from([0.0, 1e-6, 1e-3]))
def test_one_run_bound_grows_with_evidence(data: st.DataObject, m: int, delta: float) -> None:
    r = data.draw(st.integers(1, m))
    v = data.draw(st.integers(0, r - 1))
    low = epsilon_one_run(v, r, canaries=m, delta=delta)
    high = epsilon_one_run(v + 1, r, canaries=m, delta=delta)
    assert 0 <= low <= high + 1e-9
    assert epsilon_one_run(v, r, canaries=m, delta=min(0.5, delta * 10)) <= low + 1e-9
    strict = epsilon_one_run(v, r, canaries=m, delta=delta, confidence=0.99)
    assert strict <= low + 1e-9
    if low > 0:  # the bound is the point where the p-value crosses 5 %
        assert p_value(v, r, canaries=m, epsilon=low, delta=delta) == pytest.approx(0.05, abs=1e-5)


def _gaussian_audits(mu: float, *, m: int, k: int, audits: int, seed: int) -> np.ndarray:
    """Correct guesses of the best attacker on m independent mu-GDP bits, k guessed each way."""
    rng = np.random.default_rng(seed)
    bits = rng.random((audits, m)) < 0.5
    order = np.argsort(mu * bits + rng.standard_normal((audits, m)), axis=1)
    ranked = np.take_along_axis(bits, order, axis=1)
    return ranked[:, -k:].sum(1) + (~ranked[:, :k]).sum(1)


@pytest.mark.parametrize(("epsilon", "k"), [(1.0, 100), (4.0, 25), (8.0, 100)])
def test_one_run_bounds_hold_for_a_gaussian_mechanism(epsilon: float, k: int) -> None:
    """True epsilon known; each bound may exceed it in at most 5 % of 400 audits (4 sd allowed).

    A planted bug, noise of a third of the claimed size, must be seen by the Gaussian bound.
    """
    delta, m, audits = 1e-5, 500, 400
    mu = mu_from_epsilon(epsilon, delta)
    allowed = 0.05 + 4 * math.sqrt(0.05 * 0.95 / audits)
    correct = _gaussian_audits(mu, m=m, k=k, audits=audits, seed=1)

    def bounds(counts: np.ndarray, f) -> np.ndarray:  # type: ignore[no-untyped-def]
        table = {int(c): f(int(c)) for c in np.unique(counts)}
        return np.array([table[int(c)] for c in counts])

    general = bounds(correct, lambda c: epsilon_one_run(c, 2 * k, canaries=m, delta=delta))
    assert (general > epsilon).mean() <= allowed
    tight = bounds(correct, lambda c: mu_one_run(c, 2 * k, canaries=m))
    assert (tight > mu).mean() <= allowed
    assert tight.mean() > 0.2 * mu
    buggy = _gaussian_audits(3 * mu, m=m, k=k, audits=audits, seed=2)
    caught = bounds(buggy, lambda c: mu_one_run(c, 2 * k, canaries=m)) > mu
    assert caught.mean() > 0.5


def test_general_bound_falls_short_of_the_gaussian_one_but_never_of_the_truth() -> None:
    """Randomised response of epsilon 2: the general bound is valid, and tight for many canaries."""
    rng = np.random.default_rng(3)
    m = 4000
    found = [
        epsilon_one_run(int(rng.binomial(m, expit(2.0))), m, canaries=m, delta=0.0)
        for _ in range(200)
    ]
    assert np.mean(np.array(found) > 2.0) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(found) > 1.9


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("v", "r", "m"), [(3, 2, 10), (-1, 2, 10), (2, 11, 10), (0, 0, 0)])
def test_impossible_counts_are_refused(v: int, r: int, m: int) -> None:
    with pytest.raises(BadInput, match="one-run audit"):
        epsilon_one_run(v, r, canaries=m, delta=0.0)
    with pytest.raises(BadInput, match="one-run audit"):
        mu_one_run(v, r, canaries=m)


def test_impossible_probabilities_are_refused() -> None:
    with pytest.raises(BadInput, match="confidence"):
        epsilon_one_run(1, 1, canaries=1, delta=0.0, confidence=0.0)
    for delta in (-0.1, 1.0, math.nan):
        with pytest.raises(BadInput, match="delta"):
            p_value(1, 1, canaries=1, epsilon=1.0, delta=delta)
    with pytest.raises(BadInput, match="epsilon"):
        p_value(1, 1, canaries=1, epsilon=-1.0, delta=0.0)
    for f in (epsilon_from_mu, mu_from_epsilon):
        with pytest.raises(BadInput, match="must be >= 0"):
            f(-1.0, 1e-5)
        with pytest.raises(BadInput, match="delta"):
            f(1.0, 0.0)
    with pytest.raises(BadInput, match="fpr"):
        tpr_ceiling(1.5, epsilon=1.0, delta=0.0)
    with pytest.raises(BadInput, match="mu"):
        delta_at(1.0, mu=0.0)
