"""Accounting against published noise levels, closed forms and a second accountant."""

from __future__ import annotations

import math

import pytest
from dp_accounting import get_sigma_gaussian
from hypothesis import given, settings
from hypothesis import strategies as st

from ddaudit.defenses.privacy.accounting import (
    all_accountants,
    best_accountant,
    calibrate,
    calibrate_tight,
    check_delta,
    cross_check,
    epsilon,
)
from ddaudit.errors import BadInput
from ddaudit.sets import LedgerEntry

DELTA = 1e-5
MNIST, FMNIST, CIFAR = 50 / 5421, 50 / 6000, 50 / 5000  # NDPDC: 50 of the smallest class
PSG = 256 / 60_000
KIP_LARGE, KIP_SMALL = 2000 / 60_000, 50 / 60_000


def ledger(sigma: float, q: float, count: int) -> list[LedgerEntry]:
    return [LedgerEntry(query="test", sigma=sigma, q=q, count=count)]


# ---- noise levels of the method sheets: the tolerance is the rounding of the printed digits -----


@pytest.mark.parametrize(
    ("target", "q", "count", "sigma"),
    [
        # NDPDC, T = 10 000, calibrated by RDP (method sheet privacy.md section 3)
        (1, MNIST, 10_000, 3.817),
        (1, FMNIST, 10_000, 3.463),
        (1, CIFAR, 10_000, 4.126),
        (10, MNIST, 10_000, 0.799),
        (10, FMNIST, 10_000, 0.763),
        (10, CIFAR, 10_000, 0.830),
        # PSG on 60 000 images, IPC 1, 10, 20, 50 (section 1)
        (1, PSG, 10_000, 1.879),
        (10, PSG, 10_000, 0.604),
        (1, PSG, 100_000, 5.51),
        (10, PSG, 100_000, 0.966),
        (1, PSG, 200_000, 7.756),
        (10, PSG, 200_000, 1.214),
        (1, PSG, 500_000, 12.23),
        (10, PSG, 500_000, 1.741),
        # DP-KIP (section 2)
        (1, KIP_LARGE, 300, 2.546),
        (10, KIP_LARGE, 300, 0.696),
        (1, KIP_SMALL, 12_000, 0.888),
        (10, KIP_SMALL, 12_000, 0.439),
    ],
)
def test_rdp_calibration_reproduces_published_noise(
    target: float, q: float, count: int, sigma: float
) -> None:
    found = calibrate(epsilon=target, delta=DELTA, q=q, count=count, accountant="rdp")
    assert found == pytest.approx(sigma, abs=max(6e-4, 6e-4 * sigma))


@pytest.mark.parametrize(
    ("target", "count", "sigma"),
    [
        (1, 500, 1.096),
        (1, 1000, 1.335),
        (1, 2000, 1.723),
        (10, 500, 0.495),
        (10, 1000, 0.536),
        (10, 2000, 0.585),
    ],
)
def test_pld_calibration_reproduces_ndpdc_mnist_with_fewer_queries(
    target: float, count: int, sigma: float
) -> None:
    found = calibrate(epsilon=target, delta=DELTA, q=MNIST, count=count)
    assert found == pytest.approx(sigma, abs=1.1e-3)


@pytest.mark.parametrize(
    ("sigma", "q", "count", "rdp", "pld"),
    [
        (3.463, FMNIST, 10_000, 1.000, 0.914),
        (1.3, FMNIST, 1000, 1.045, 0.933),
        (0.8, FMNIST, 1000, 3.16, 2.62),
        (2.546, KIP_LARGE, 300, 1.000, 0.908),
        (0.696, KIP_LARGE, 300, 10.0, 8.76),
        (4.2969 / math.sqrt(20), CIFAR, 10_000, 7.26, 6.69),  # Dosser, noise re-drawn 20 times
        (0.966, PSG, 100_000, 9.99, 9.29),
    ],
)
def test_epsilon_matches_the_method_sheet(
    sigma: float, q: float, count: int, rdp: float, pld: float
) -> None:
    entries = ledger(sigma, q, count)
    assert epsilon(entries, DELTA, accountant="rdp") == pytest.approx(rdp, rel=2.5e-3)
    assert epsilon(entries, DELTA) == pytest.approx(pld, rel=2.5e-3)


@pytest.mark.parametrize(("q", "value"), [(MNIST, 6.11), (FMNIST, 5.44), (CIFAR, 6.71)])
def test_ndpdc_default_noise_of_one_costs_what_the_sheet_says(q: float, value: float) -> None:
    assert epsilon(ledger(1.0, q, 10_000), DELTA, accountant="rdp") == pytest.approx(
        value, abs=6e-3
    )


@pytest.mark.parametrize(("q", "value"), [(MNIST, 1.10), (FMNIST, 1.06), (CIFAR, 1.14)])
def test_ldpdc_ipc_50(q: float, value: float) -> None:
    assert epsilon(ledger(1.0, q, 50), DELTA, accountant="rdp") == pytest.approx(value, abs=6e-3)


def test_replace_one_costs_about_double() -> None:
    entries = ledger(3.463, FMNIST, 10_000)
    assert epsilon(entries, DELTA, relation="replace-one") == pytest.approx(1.911, abs=1e-3)


# ---- closed forms and second libraries -----------------------------------------------------------


@pytest.mark.parametrize(("target", "printed"), [(1.0, 3.731), (10.0, 0.4999)])
def test_one_full_batch_release_is_the_analytic_gaussian(target: float, printed: float) -> None:
    """DP-MERF: sigma from Balle & Wang, by dp-accounting's own closed form and as printed."""
    exact = get_sigma_gaussian(target, DELTA)
    assert exact == pytest.approx(printed, rel=2e-4)
    for accountant in ("pld", "prv"):
        found = calibrate(epsilon=target, delta=DELTA, q=1, count=1, accountant=accountant)
        assert exact * (1 - 1e-9) <= found <= exact * 1.006


@pytest.mark.parametrize("count", [4, 25, 400])
def test_full_batch_gaussians_compose_like_one_with_less_noise(count: int) -> None:
    sigma = get_sigma_gaussian(3.0, DELTA) * math.sqrt(count)
    assert epsilon(ledger(sigma, 1.0, count), DELTA) == pytest.approx(3.0, rel=1e-3)


def test_full_batch_replace_one_doubles_the_sensitivity() -> None:
    single = epsilon(ledger(4.0, 1.0, 10), DELTA, relation="replace-one")
    assert single == pytest.approx(epsilon(ledger(2.0, 1.0, 10), DELTA), rel=1e-3)


def test_rdp_agrees_with_the_integer_order_formula() -> None:
    """Mironov, Talwar & Zhang: RDP of the sampled Gaussian at integer order, summed by hand."""
    q, sigma, count = FMNIST, 1.3, 1000

    def renyi(order: int) -> float:
        terms = [
            math.comb(order, k)
            * (1 - q) ** (order - k)
            * q**k
            * math.exp((k * k - k) / 2 / sigma**2)
            for k in range(order + 1)
        ]
        return count * math.log(math.fsum(terms)) / (order - 1)

    by_hand = min(
        renyi(a) - (math.log(DELTA) + math.log(a)) / (a - 1) + math.log((a - 1) / a)
        for a in range(2, 40)
    )
    found = epsilon(ledger(sigma, q, count), DELTA, accountant="rdp")
    assert by_hand * 0.99 <= found <= by_hand * (1 + 1e-6)  # fractional orders only help


@pytest.mark.parametrize(
    ("sigma", "q", "count"),
    [
        (3.463, FMNIST, 10_000),
        (1.335, MNIST, 1000),
        (0.7, 0.004, 2000),
        (2.0, 0.4, 200),
        (3.7, 1, 1),
    ],
)
def test_pld_and_prv_agree_within_one_percent_and_rdp_is_above(
    sigma: float, q: float, count: int
) -> None:
    found = all_accountants(ledger(sigma, q, count), DELTA)
    assert found["prv"] == pytest.approx(found["pld"], rel=0.01)
    assert found["pld"] < found["rdp"] < 1.3 * found["pld"]
    assert found["pld"] < found["pld replace-one"]


def test_pld_grid_is_fine_enough() -> None:
    """Against a grid much finer than the one chosen here."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    for sigma, q, count in [(3.463, FMNIST, 2000), (2.0, 0.4, 20)]:
        fine = PLDAccountant(value_discretization_interval=4e-5)
        fine.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), count)
        exact = fine.get_epsilon(DELTA)
        assert exact * 0.9999 <= epsilon(ledger(sigma, q, count), DELTA) <= exact * 1.001


# ---- properties ----------------------------------------------------------------------------------


def test_ledger_entries_compose_whatever_their_order_or_split() -> None:
    a = LedgerEntry(query="embedding", sigma=1.5, q=0.01, count=600)
    b = LedgerEntry(query="count", sigma=8.0, q=1.0, count=1)
    split = [a.model_copy(update={"count": 200}), b, a.model_copy(update={"count": 400})]
    whole = epsilon([a, b], DELTA)
    assert epsilon(split, DELTA) == whole == epsilon([b, a], DELTA)
    assert whole > max(epsilon([a], DELTA), epsilon([b], DELTA))


@settings(max_examples=7, deadline=None)
@given(
    sigma=st.floats(0.6, 6), q=st.floats(1e-3, 0.3), count=st.integers(1, 500),
    delta=st.sampled_from([1e-6, 1e-5, 1e-3]),
)  # fmt: skip
def test_less_noise_more_queries_higher_rate_all_cost_more(
    sigma: float, q: float, count: int, delta: float
) -> None:
    base = epsilon(ledger(sigma, q, count), delta)
    slack = 1 + 2e-3
    assert base <= epsilon(ledger(sigma / 1.5, q, count), delta) * slack
    assert base <= epsilon(ledger(sigma, q, 2 * count), delta) * slack
    assert base <= epsilon(ledger(sigma, min(1, 2 * q), count), delta) * slack
    assert base <= epsilon(ledger(sigma, q, count), delta / 10) * slack


@settings(max_examples=7, deadline=None)
@given(
    target=st.floats(0.1, 30), q=st.floats(1e-3, 1), count=st.integers(1, 2000),
    accountant=st.sampled_from(["pld", "rdp"]),
)  # fmt: skip
def test_calibration_is_safe_and_tight(
    target: float, q: float, count: int, accountant: str
) -> None:
    sigma = calibrate(epsilon=target, delta=DELTA, q=q, count=count, accountant=accountant)  # type: ignore[arg-type]
    spent = epsilon(ledger(sigma, q, count), DELTA, accountant=accountant)  # type: ignore[arg-type]
    less = epsilon(ledger(sigma * (1 - 2e-4), q, count), DELTA, accountant=accountant)  # type: ignore[arg-type]
    assert spent <= target < less * (1 + 1e-4)


def test_calibration_below_what_renyi_orders_reach() -> None:
    sigma = calibrate(epsilon=0.01, delta=DELTA, q=0.01, count=1000)
    assert 0.0099 < epsilon(ledger(sigma, 0.01, 1000), DELTA) <= 0.01
    with pytest.raises(BadInput, match="too small for the rdp accountant"):
        calibrate(epsilon=0.001, delta=DELTA, q=0.01, count=1000, accountant="rdp")


def test_nothing_asked_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon([], DELTA) == 0.0
    assert epsilon(ledger(1.0, 0.0, 5), DELTA) == epsilon(ledger(1.0, 0.5, 0), DELTA) == 0.0
    for accountant in ("pld", "prv", "rdp"):
        assert epsilon(ledger(0.0, 0.1, 1), DELTA, accountant=accountant) == math.inf


# ---- claims and bad input ------------------------------------------------------------------------


def test_cross_check_accepts_an_honest_claim_and_refuses_a_wishful_one() -> None:
    entries = ledger(3.463, FMNIST, 10_000)
    found = cross_check(0.915, entries, DELTA)
    assert set(found) == {"pld", "prv", "rdp", "pld replace-one"}
    cross_check(1.0, entries, DELTA)  # a loose accountant's claim is fine
    with pytest.raises(BadInput, match=r"0\.85: the ledger costs 0\.91"):
        cross_check(0.85, entries, DELTA)
    with pytest.raises(BadInput, match=r"1\.91"):
        cross_check(1.0, entries, DELTA, relation="replace-one")
    with pytest.raises(BadInput, match="costs inf"):
        cross_check(1.0, ledger(0.0, 0.1, 1), DELTA)


def test_cross_check_refuses_a_claim_that_no_tight_accountant_can_hold() -> None:
    """Below delta 1e-12 RDP alone is left: it decides, and where nothing is left nothing passes."""
    entries = ledger(1.0, 1.0, 1000)
    assert set(all_accountants(entries, 1e-13)) == {"rdp"}
    cross_check(750.0, entries, 1e-13)
    with pytest.raises(BadInput, match="costs 747 at delta 1e-13 by the rdp"):
        cross_check(0.01, entries, 1e-13)
    with pytest.raises(BadInput, match="no accountant of 'replace-one' holds"):
        cross_check(1e9, entries, 1e-13, relation="replace-one")


def test_delta_must_be_below_one_over_n() -> None:
    check_delta(1e-5, 60_000)
    for delta, n in [(1e-3, 1000), (1e-5, 200_000)]:
        with pytest.raises(BadInput, match="below 1 / n") as refused:
            check_delta(delta, n)
        # Where counts are noisy, n is what the recipe pays not to tell.
        with pytest.raises(BadInput) as other:
            check_delta(delta, n + 7)
        assert str(refused.value) == str(other.value)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"epsilon": 0}, "epsilon"),
        ({"epsilon": -1}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"delta": 0}, "delta"),
        ({"delta": 1}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"q": 0}, "q"),
        ({"q": 1.01}, "q"),
        ({"count": 0}, "count"),
        ({"count": 1.5}, "count"),
        ({"accountant": "rdp", "relation": "replace-one"}, "rdp"),
        ({"accountant": "gdp"}, "gdp"),
    ],
)
def test_calibrate_refuses_bad_values(change: dict[str, object], where: str) -> None:
    good: dict[str, object] = {"epsilon": 1.0, "delta": DELTA, "q": 0.01, "count": 100}
    with pytest.raises(BadInput) as caught:
        calibrate(**{**good, **change})  # type: ignore[arg-type]
    assert caught.value.where == where


@pytest.mark.parametrize(
    "entry", [{"sigma": -1.0}, {"sigma": math.nan}, {"q": 1.5}, {"q": math.nan}, {"count": -1}]
)
def test_ledger_entries_out_of_range_are_refused(entry: dict[str, float]) -> None:
    values = {"query": "embedding", "sigma": 1.0, "q": 0.1, "count": 1, **entry}
    bad = LedgerEntry.model_construct(**values)  # as if pydantic had not looked
    with pytest.raises(BadInput, match="ledger entry 'embedding'"):
        epsilon([bad], DELTA)


def test_unknown_relation_and_accountant_are_refused() -> None:
    with pytest.raises(BadInput, match="unknown neighbouring relation"):
        epsilon(ledger(1, 0.1, 1), DELTA, relation="swap")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="unknown accountant"):
        epsilon(ledger(1, 0.1, 1), DELTA, accountant="gdp")  # type: ignore[arg-type]


@pytest.mark.slow
def test_accountants_agree_on_half_a_million_queries() -> None:
    """PSG at IPC 50: the longest ledger of the field (PRV takes about 5 seconds)."""
    found = all_accountants(ledger(12.23, PSG, 500_000), DELTA)
    assert found["rdp"] == pytest.approx(1.0, rel=1e-3)
    assert found["prv"] == pytest.approx(found["pld"], rel=0.01)


# ---- where an accountant's numbers end -----------------------------------------------------------


@pytest.mark.parametrize("delta", [1e-13, 1e-16, 1e-30, 1e-90])
def test_a_delta_that_grids_do_not_resolve_is_accounted_by_rdp_and_needs_no_absurd_noise(
    delta: float,
) -> None:
    sigma = calibrate_tight(epsilon=1.0, delta=delta, q=1.0, count=1)
    made = ledger(sigma, 1.0, 1)
    assert best_accountant(made, delta) == "rdp"
    assert 0.99 < epsilon(made, delta) <= 1.0
    # The exact Gaussian needs less noise than RDP asks for, and not much less.
    exact = get_sigma_gaussian(1.0, max(delta, 1e-300))
    assert exact <= sigma < 1.1 * exact
    assert set(all_accountants(made, delta)) == {"rdp"}
    with pytest.raises(BadInput, match="delta"):
        calibrate(epsilon=1.0, delta=delta, q=1.0, count=1, accountant="pld")


def test_many_sums_of_every_record_are_one_with_less_noise() -> None:
    # k Gaussian sums at sigma are one at sigma / sqrt(k), for any k: no grid of k losses is needed.
    one = epsilon(ledger(2.0, 1.0, 1), DELTA)
    assert epsilon(ledger(2e6, 1.0, 10**12), DELTA) == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize(
    ("sigma", "q", "count"),
    [(5.0, 1e-3, 10**12), (0.5, 1e-12, 10**15), (1.0, 1e-9, 10**9), (0.5, 1e-8, 10**8)],
)
def test_a_ledger_beyond_every_grid_is_left_to_rdp(sigma: float, q: float, count: int) -> None:
    made = ledger(sigma, q, count)
    assert set(all_accountants(made, DELTA)) == {"rdp"}
    assert best_accountant(made, DELTA) == "rdp"
    with pytest.raises(BadInput, match="grid"):
        epsilon(made, DELTA, accountant="pld")


def test_a_billion_queries_at_tiny_rates_fit_into_memory() -> None:
    found = all_accountants(ledger(1.0, 1e-8, 10**9), DELTA)
    assert "prv" not in found, "its grid would take gigabytes"
    assert 0 < found["pld"] < found["rdp"] < 0.2


def test_noise_too_small_to_square_is_no_noise() -> None:
    assert epsilon(ledger(1e-300, 0.5, 3), DELTA) == math.inf


def test_a_ledger_of_very_many_kinds_is_refused() -> None:
    rows = [LedgerEntry(query="q", sigma=1 + k / 1000, q=0.1, count=1) for k in range(300)]
    with pytest.raises(BadInput, match="300 different queries"):
        epsilon(rows, DELTA)


@pytest.mark.parametrize("target", [1e-4, 1e-3, 5e-3, 0.014, 0.021, 0.05])
def test_the_smallest_claims_that_are_released_stand_up_to_their_own_cross_check(
    target: float,
) -> None:
    """PRV's epsilon contains its error of 1e-4: below 0.015 that decides, and PRV says nothing."""
    sigma = calibrate_tight(epsilon=target, delta=DELTA, q=1.0, count=1)
    found = cross_check(target, ledger(sigma, 1.0, 1), DELTA)
    assert ("prv" in found) == (target > 0.02)
    # Never less noise than the exact Gaussian needs (Balle & Wang 2018).
    assert sigma > 0.999 * get_sigma_gaussian(target, DELTA)


@pytest.mark.parametrize("sigma", [60, 120, 190, 300, 380, 420])
def test_a_true_claim_by_pld_is_not_contradicted_by_prvs_error(sigma: float) -> None:
    made = ledger(sigma, 1.0, 1)
    claimed = epsilon(made, DELTA, accountant="pld")
    assert cross_check(claimed, made, DELTA)["pld"] == claimed
