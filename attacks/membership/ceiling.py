"""A privacy claim bounds every attack: an attack above the ceiling falsifies the claim."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ddaudit.attacks.membership.evidence import FPRS, Evidence
from ddaudit.errors import NotEnoughData
from ddaudit.findings import CLAIMED, Check, Curve
from ddaudit.sets import DistilledSet, PrivacyClaim
from ddaudit.stats import clopper_pearson
from ddaudit.stats.gdp import tpr_ceiling
from ddaudit.stats.one_run import TRIES
from ddaudit.stats.pooled import break_ties, pooled_tpr


def weakest_claim(sets: Sequence[DistilledSet]) -> PrivacyClaim | None:
    """The claim with the largest epsilon, if every set carries one; else None."""
    claims = [s.card.privacy for s in sets if s.card.privacy is not None]
    if not claims or len(claims) < len(sets):
        return None
    return max(claims, key=lambda c: (c.epsilon, c.delta))


def ceiling_check(
    evidence: Sequence[Evidence],
    claim: PrivacyClaim,
    *,
    subject: str,
    generator: torch.Generator,
    fprs: tuple[float, ...] = (*FPRS, 0.1),
    family_error: float = 0.05,
) -> Check:
    """Compare every attack's TPR with the largest that an (epsilon, delta) claim allows.

    The claim fails only where the TPR's lower bound lies above the ceiling at the FPR's upper
    bound. Bounds are at a confidence that keeps the chance of a false alarm over all attacks and
    rates below ``family_error``.

    Args:
        evidence: attacks on sets that carry the claim; members must differ from non-members by one
            added record (independent memberships).
        claim: the (epsilon, delta) claim.
        subject: id of the audited subject.
        generator: breaks ties.
        fprs: rates to compare at; unresolved ones are left out.
        family_error: chance that a true claim fails.

    Source: Kairouz, Oh and Viswanath, "The Composition Theorem for Differential Privacy", ICML
    2015.
    """
    ranked = [(e, break_ties(e.scores, generator=generator)) for e in evidence]
    worst, detail = _closest(ranked, claim, fprs=fprs, family_error=family_error)
    passed = worst is None or worst <= 0
    slack = tpr_ceiling(min(fprs), epsilon=claim.epsilon, delta=claim.delta)
    if slack > 0.9:
        detail += f"; epsilon {claim.epsilon:g} allows almost any attack, so this can hardly fail"
    return Check(
        name="TPR below the DP ceiling",
        passed=passed,
        value=worst,
        expected=f"TPR bound minus ceiling of ({claim.epsilon:g}, {claim.delta:g})-DP <= 0",
        detail=detail,
        affects=[CLAIMED],
        subject=subject,
        p_value=1.0 if passed else _p_value(ranked, claim, fprs=fprs, family_error=family_error),
        level=family_error,
        refutes=CLAIMED,
    )


def _closest(
    ranked: Sequence[tuple[Evidence, Tensor]],
    claim: PrivacyClaim,
    *,
    fprs: tuple[float, ...],
    family_error: float,
) -> tuple[float | None, str]:
    """The largest excess of a TPR's lower bound over its ceiling, and where; None: nothing to compare."""
    confidence = 1 - family_error / (len(ranked) * len(fprs))
    worst, detail = -math.inf, "no rate could be resolved"
    for item, ranks in ranked:
        outside = int((~item.members).sum())
        for fpr in fprs:
            try:
                rate = pooled_tpr(
                    ranks, item.members, fpr, confidence=confidence, references=item.references
                )
            except NotEnoughData:
                continue
            false_alarms = clopper_pearson(math.floor(fpr * outside), outside, confidence)
            ceiling = tpr_ceiling(false_alarms.high, epsilon=claim.epsilon, delta=claim.delta)
            if rate.low - ceiling > worst:
                worst = rate.low - ceiling
                detail = (
                    f"closest: {item.attack} at {fpr:.1%} FPR, TPR {rate.value:.4f} "
                    f"(at least {rate.low:.4f}) against a ceiling of {ceiling:.4f}"
                )
    return (worst if math.isfinite(worst) else None), detail


def _p_value(
    ranked: Sequence[tuple[Evidence, Tensor]],
    claim: PrivacyClaim,
    *,
    fprs: tuple[float, ...],
    family_error: float,
) -> float:
    """An upper bound on the p-value of a claim that failed: the smallest error tried at which it still fails."""
    for tries in reversed(TRIES):
        worst, _ = _closest(ranked, claim, fprs=fprs, family_error=family_error / tries)
        if worst is not None and worst > 0:
            return family_error / tries
    return family_error


def ceiling_curve(claim: PrivacyClaim) -> Curve:
    """The claim's ceiling, to be drawn over the ROC curves."""
    x: Tensor = torch.logspace(-4, 0, 60, dtype=torch.float64).clamp(max=1.0)
    y = [tpr_ceiling(float(v), epsilon=claim.epsilon, delta=claim.delta) for v in x]
    return Curve(
        plot="membership ROC",
        label=f"ceiling of the claim (epsilon {claim.epsilon:g})",
        x=x.tolist(),
        y=y,
        x_label="false-positive rate",
        y_label="true-positive rate",
        log_x=True,
        log_y=True,
        diagonal=True,
    )
