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
from ddaudit.sets import Card, PrivacyClaim, claim_problems, empty_promise, given

AFFECTS = [CLAIMED]
ON_CARD = "claim: nothing else on its card speaks against it"
"""Of the checks that need no more than a card, the name of the last one."""

_FEWEST = 100
"""Records that a private set has at least, where nobody says how many."""
_TOLERANCE = 0.01
"""Relative slack for the accountants' numerical error."""


def check_claim(card: Card, *, subject: str, records: int | None = None) -> list[Check]:
    """All that a card alone says against its privacy claim: re-derived from its ledger, its delta, its sampling.

    Args:
        card: of a set.
        subject: whose claim it is.
        records: size of the private set; None: not known.

    Returns:
        Four checks; a failed one makes this subject's claim void, and refutes it where the ledger costs more. Empty for
        a card without a claim.
    """
    claim = card.privacy
    if claim is None:
        return []
    against = claim_problems(card)
    return [
        _ledger(claim, subject),
        _delta(claim, subject, records or _FEWEST),
        Check(
            name="claim: sampling is what the accountants assume",
            passed=covered(claim),
            expected="poisson, or full batch at rate 1",
            detail=f"The card says '{claim.sampling}'. Shuffled or fixed-size batches are not covered.",
            affects=AFFECTS,
            subject=subject,
        ),
        Check(
            name=ON_CARD,
            passed=not against,
            expected="no problem",
            detail="; ".join(against),
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
        detail=f"The run received {seen} different noisy answers, and its ledger lists {listed}.",
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


def rederived(claim: PrivacyClaim) -> dict[str, float]:
    """epsilon by every accountant that holds the claim's ledger; empty without a ledger.

    Raises:
        BadInput: no accountant can read the ledger or the delta.
    """
    return all_accountants(claim.ledger, claim.delta) if claim.ledger else {}


def _ledger(claim: PrivacyClaim, subject: str) -> Check:
    def verdict(detail: str, *costs: float, passed: bool = False, refuted: bool = False) -> Check:
        return Check(
            name="claim: the ledger re-derives the claimed epsilon",
            passed=passed,
            value=next((c for c in costs if math.isfinite(c)), None),
            expected=f"<= {claim.epsilon * (1 + _TOLERANCE):.4g}",
            detail=detail,
            affects=AFFECTS,
            subject=subject,
            refutes=CLAIMED if refuted else None,
        )

    if not claim.ledger:
        return verdict("the claim comes without a ledger: it cannot be re-derived.")
    if claim.relation not in RELATIONS:
        return verdict(f"unknown neighbouring relation '{claim.relation}'.")
    try:
        epsilons = rederived(claim)
    except BadInput as error:
        return verdict(str(error))
    asked = deciding(epsilons, claim.relation)
    by = ", ".join(f"{k} {v:.4g}" for k, v in epsilons.items()) or "none holds this ledger"
    worst = max(asked.values(), default=math.inf)
    if worst <= claim.epsilon * (1 + _TOLERANCE):
        return verdict(f"By accountant: {by}.", worst, passed=True)
    wrong = f"the ledger costs more than the {claim.epsilon:.4g} claimed: {by}."
    # RDP is an upper bound: a claim below it has no proof, and is not refuted either.
    return verdict(wrong, worst, refuted=bool(asked.keys() - {"rdp"}))


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
