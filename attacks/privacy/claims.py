"""Does a privacy claim follow from its own ledger? Independent accountants re-derive it."""

from __future__ import annotations

import math

from ddaudit.defenses.privacy.accounting import (
    RELATIONS,
    all_accountants,
    check_delta,
    covered,
    deciding,
)
from ddaudit.errors import BadInput
from ddaudit.findings import CLAIMED, Check, Metric
from ddaudit.sets import PrivacyClaim, empty_promise, given

AFFECTS = [CLAIMED]

_TOLERANCE = 0.01
"""Relative slack for the accountants' numerical error."""


def check_claim(claim: PrivacyClaim, *, subject: str, records: int) -> list[Check]:
    """Re-derive a claim from its ledger and look at its delta and its sampling.

    Args:
        claim: what a card says.
        subject: whose claim it is.
        records: size of the private set.

    Returns:
        Three checks; a failed one makes this subject's claim void, and refutes it where the ledger costs more.
    """
    return [
        _ledger(claim, subject),
        _delta(claim, subject, records),
        Check(
            name="claim: sampling is what the accountants assume",
            passed=covered(claim),
            expected="poisson, or full batch at rate 1",
            detail=f"The card says '{claim.sampling}'. Shuffled or fixed-size batches are not covered.",
            affects=AFFECTS,
            subject=subject,
        ),
    ]


def check_seen(seen: int, claim: PrivacyClaim, *, subject: str) -> Check:
    """Were there more noisy answers in the audited run than its ledger lists?"""
    listed = sum(e.count for e in claim.ledger)
    return Check(
        name="claim: the ledger lists every answer of the run",
        passed=seen <= listed,
        value=float(seen),
        expected=f"<= {listed}",
        detail="Different noisy answers that the run received, against queries in its ledger.",
        affects=AFFECTS,
        subject=subject,
    )


def claimed(claim: PrivacyClaim) -> Metric:
    """``privacy.epsilon_claimed``, as the card says it."""
    return Metric(
        name=CLAIMED,
        value=claim.epsilon,
        unit="epsilon",
        direction="lower",
        headline=True,
    )


def holds(
    best: float, top: float, claim: PrivacyClaim, subject: str, *, p_value: float, level: float
) -> Check:
    """Hold a claim against the best attack of one run.

    Args:
        best: the bound that counts every attack.
        top: the largest bound that this many canaries can prove.
        claim: of the set that was made with the canaries.
        subject: whose claim it is.
        p_value: of the claim, see :func:`~ddaudit.attacks.privacy.bound.refutation`.
        level: the p-value at which one run refutes.
    """
    detail = (
        "The best attack, at a confidence that counts every attack tried, against the claim of the "
        "set that was distilled with the canaries."
    )
    if top < claim.epsilon:
        detail += f" With so few canaries no attack could refute a claim above {top:.3g}."
    return Check(
        name="claim holds: lower bound <= claimed epsilon",
        passed=best <= claim.epsilon,
        value=best,
        expected=f"<= {claim.epsilon:.4g}",
        detail=detail,
        affects=AFFECTS,
        subject=subject,
        p_value=p_value,
        level=level,
        refutes=CLAIMED,
    )


def describe(claim: PrivacyClaim) -> str:
    """The claim as one sentence, with its neighbouring relation."""
    text = (
        f"Claimed: epsilon {claim.epsilon:.4g} at delta {claim.delta:g} for two sets that differ by one "
        f"record (relation '{claim.relation}'{given(claim)}), by the {claim.accountant} accountant."
    )
    if warning := empty_promise(claim.epsilon):
        text += f" Warning: {warning}."
    if claim.public:
        text += f" Treated as public: {', '.join(claim.public)}."
    if claim.noise_seed_published:
        text += " The noise was drawn from a known seed: for anyone who knows it the claim is void."
    return text


def _ledger(claim: PrivacyClaim, subject: str) -> Check:
    name = "claim: the ledger re-derives the claimed epsilon"
    expected = f"<= {claim.epsilon * (1 + _TOLERANCE):.4g}"

    def verdict(passed: bool, value: float | None, detail: str, *, refuted: bool = False) -> Check:
        return Check(
            name=name,
            passed=passed,
            value=value,
            expected=expected,
            detail=detail,
            affects=AFFECTS,
            subject=subject,
            refutes=CLAIMED if refuted else None,
        )

    if not claim.ledger:
        return verdict(False, None, "The card lists no queries, so nothing can be re-derived.")
    if claim.relation not in RELATIONS:
        return verdict(False, None, f"Unknown neighbouring relation '{claim.relation}'.")
    try:
        epsilons = all_accountants(claim.ledger, claim.delta)
    except BadInput as error:
        return verdict(False, None, str(error))
    asked = deciding(epsilons, claim.relation)
    worst = max(asked.values(), default=math.inf)
    detail = ", ".join(f"{k} {v:.4g}" for k, v in epsilons.items()) or "none holds this ledger"
    passed = worst <= claim.epsilon * (1 + _TOLERANCE)
    value = worst if math.isfinite(worst) else None
    # RDP is an upper bound: a claim below it has no proof, and is not refuted either.
    refuted = not passed and bool(asked.keys() - {"rdp"})
    return verdict(passed, value, f"By accountant: {detail}.", refuted=refuted)


def _delta(claim: PrivacyClaim, subject: str, records: int) -> Check:
    detail = ""
    if claim.delta > 0:  # 0 promises more than any other
        try:
            check_delta(claim.delta, records)
        except BadInput as error:
            detail = str(error)
    return Check(
        name="claim: delta is below 1 / n",
        passed=not detail,
        value=claim.delta,
        expected="below 1 / n",
        detail=detail,
        affects=AFFECTS,
        subject=subject,
    )
