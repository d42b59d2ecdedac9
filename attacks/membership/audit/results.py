"""What the ``privacy`` auditor says: the claim, the bounds, and the check that holds one against the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ddaudit.attacks.membership.audit.bound import Bound
from ddaudit.attacks.membership.audit.claims import AFFECTS
from ddaudit.findings import CLAIMED, Check, Metric
from ddaudit.sets import PrivacyClaim

Adversary = Literal["final-set", "nearest-copy", "victims", "intermediate"]


def claimed(claim: PrivacyClaim) -> Metric:
    """``privacy.epsilon_claimed``, as the card says it."""
    return Metric(
        name=CLAIMED,
        value=claim.epsilon,
        unit="epsilon",
        direction="lower",
        headline=True,
    )


def metrics(
    bounds: Mapping[Adversary, Mapping[int, Bound]], best: Mapping[int, float]
) -> list[Metric]:
    """Bounds by adversary and by the number of seeds that they would be the best of.

    One of them may refute a claim: it assumes nothing, and counts every attack that was tried.
    """
    count = next(iter(bounds.values()))[1].canaries
    decisive = _lower("any", "one-run", best, count)
    found = [decisive.model_copy(update={"headline": True, "refutes": CLAIMED})]
    for adversary, by_tries in bounds.items():
        accuracy = by_tries[1].accuracy
        found += [
            _lower(adversary, "one-run", {k: b.epsilon for k, b in by_tries.items()}, count),
            _lower(
                adversary, "one-run-gdp", {k: b.epsilon_gdp for k, b in by_tries.items()}, count
            ),
            Metric(
                name="privacy.canary_accuracy",
                value=accuracy.value,
                low=accuracy.low,
                high=accuracy.high,
                n=accuracy.n,
                direction="lower",
                floor=0.5,
                two_sided=True,
                params={"adversary": adversary},
            ),
        ]
    return found


def _lower(adversary: str, method: str, by_tries: Mapping[int, float], count: int) -> Metric:
    """A lower bound is its own one-sided interval: the truth may be anything above."""
    return Metric(
        name="privacy.epsilon_lower_bound",
        value=by_tries[1],
        low=by_tries[1],
        n=count,
        unit="epsilon",
        direction="lower",
        floor=0.0,
        params={"adversary": adversary, "method": method},
        merge="bound",
        best_of=dict(by_tries),
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
        p_value: of the claim, see :func:`~ddaudit.attacks.membership.audit.bound.refutation`.
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
