"""Claims are re-derived from their ledger; wishful ones are marked."""

from __future__ import annotations

from typing import Any

import pytest

from ddaudit.attacks.privacy.claims import check_claim, describe
from ddaudit.sets import Card, LedgerEntry, PrivacyClaim


def _claim(**change: Any) -> PrivacyClaim:
    """NDPDC on Fashion-MNIST: sigma 3.463 costs 0.914 by PLD (method sheet privacy.md section 0)."""
    entry = LedgerEntry(query="embedding sums", sigma=3.463, q=50 / 6000, count=10_000)
    values = {"epsilon": 1.0, "delta": 1e-5, "ledger": [entry], **change}
    return PrivacyClaim(**values)


def _failed(claim: PrivacyClaim, records: int = 60_000) -> list[str]:
    checks = check_claim(Card(privacy=claim), subject="x", records=records)
    assert all(c.subject == "x" and c.affects == ["privacy.epsilon_claimed"] for c in checks)
    return [c.name for c in checks if not c.passed]


def test_an_honest_claim_passes_and_its_value_is_the_independent_one() -> None:
    assert _failed(_claim()) == []
    ledger = check_claim(Card(privacy=_claim()), subject="x", records=60_000)[0]
    assert ledger.value == pytest.approx(0.915, abs=5e-3)
    assert "rdp 1" in ledger.detail
    assert "replace-one 1.91" in ledger.detail


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.8},
        {"relation": "replace-one"},
        {"relation": "neighbours"},
        {"ledger": []},
        {"ledger": [LedgerEntry(query="leak", sigma=0.0, q=0.1, count=1)]},
        {"delta": 0.0},
    ],
)
def test_claims_that_the_ledger_does_not_support_fail(change: dict[str, Any]) -> None:
    assert "claim: the ledger re-derives the claimed epsilon" in _failed(_claim(**change))


@pytest.mark.parametrize(("change", "refuted"), [({"epsilon": 0.8}, True), ({"ledger": []}, False)])
def test_a_ledger_that_costs_more_refutes_and_one_that_says_nothing_does_not(
    change: dict[str, Any], refuted: bool
) -> None:
    ledger = check_claim(Card(privacy=_claim(**change)), subject="x", records=60_000)[0]
    assert not ledger.passed
    assert (ledger.refutes == "privacy.epsilon_claimed") is refuted


@pytest.mark.parametrize(("epsilon", "passed"), [(0.01, False), (10.0, True)])
def test_beyond_the_tight_accountants_rdp_decides_and_refutes_nothing(
    epsilon: float, passed: bool
) -> None:
    claim = _claim(
        epsilon=epsilon, delta=1e-13, ledger=[LedgerEntry(query="s", sigma=1.0, q=1.0, count=1)]
    )
    ledger = check_claim(Card(privacy=claim), subject="x", records=100)[0]
    assert ledger.passed is passed
    assert ledger.refutes is None
    # One Gaussian sum at sigma 1: the RDP bound 1 / 2 s^2 + sqrt(2 log(1 / delta)) / s, up to what it improves on.
    assert ledger.value == pytest.approx(0.5 + (2 * 29.93) ** 0.5, rel=0.06)


def test_a_replace_one_claim_that_no_accountant_holds_is_not_supported() -> None:
    claim = _claim(relation="replace-one", epsilon=1e6, delta=1e-13)
    ledger = check_claim(Card(privacy=claim), subject="x", records=100)[0]
    assert not ledger.passed
    assert ledger.value is None


def test_replace_one_claims_are_held_against_replace_one_accounting() -> None:
    assert _failed(_claim(relation="replace-one", epsilon=1.92)) == []


def test_large_delta_and_shuffled_batches_fail() -> None:
    assert _failed(_claim(), records=200_000) == ["claim: delta is below 1 / n"]
    assert _failed(_claim(sampling="shuffled epochs")) == [
        "claim: sampling is what the accountants assume"
    ]


def test_sentence_names_relation_public_facts_and_published_noise() -> None:
    text = describe(_claim(public=["class counts"], noise_seed_published=True))
    for part in ("epsilon 1 ", "1e-05", "add-or-remove-one", "class counts", "void"):
        assert part in text
    assert "void" not in describe(_claim())


def test_a_delta_of_nothing_is_below_every_other() -> None:
    failed = _failed(_claim(delta=0.0))
    assert "claim: delta is below 1 / n" not in failed
