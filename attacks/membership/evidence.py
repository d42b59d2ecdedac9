"""From attack scores to metrics, curves and checks; nothing is picked after looking."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from scipy import special
from torch import Tensor

from ddaudit.errors import NotEnoughData
from ddaudit.findings import CLAIMED, Caveat, Check, Curve, Metric
from ddaudit.sets import DistilledSet, PrivacyClaim
from ddaudit.stats import Interval, auc, clopper_pearson
from ddaudit.stats.gdp import tpr_ceiling
from ddaudit.stats.one_run import TRIES
from ddaudit.stats.pooled import break_ties, mean_auc, pooled_roc, pooled_tpr
from ddaudit.stats.roc import null_tpr

FPRS = (0.001, 0.01)
FEW = 3
"""False alarms that a threshold has to rest on, so that its rate is not mostly luck."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """One attack's scores against K targets (K = 1 for a file or a checkpoint).

    Attributes:
        attack: its name in ``params.attack``.
        scores: (K, N) float64, higher means "more likely a member".
        members: (K, N) bool.
        references: the other targets served as the attack's references.
    """

    attack: str
    scores: Tensor
    members: Tensor
    references: bool = False


@dataclass(eq=False)
class Summary:
    """What :func:`summarise` makes of the evidence."""

    metrics: list[Metric] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)


def summarise(
    evidence: Sequence[Evidence],
    *,
    headlines: Collection[tuple[str, str]],
    released: Tensor | None = None,
    generator: torch.Generator,
) -> Summary:
    """AUC, TPR at low FPR and a ROC curve of every attack.

    Args:
        evidence: the attacks, in the order they are reported.
        headlines: (metric name, attack) pairs declared, before looking, to be the verdict; a rate
            stands for its value at 1 % FPR.
        released: (K, N) bool members that the set contains verbatim; they and the rest are then
            also reported apart.
        generator: breaks ties at low false-positive rates.

    Returns:
        Metrics that the data cannot resolve have value None and a caveat saying why.
    """
    out = Summary()
    groups = _groups(released)
    for item in evidence:
        ranked = break_ties(item.scores, generator=generator)
        main = ("membership.auc", item.attack) in headlines
        out.metrics.append(_auc_metric(item, None, {}, out.caveats, headline=main))
        for fpr in FPRS:
            main = fpr == 0.01 and ("membership.tpr_at_fpr", item.attack) in headlines
            out.metrics.append(_tpr_metric(item, ranked, fpr, out.caveats, headline=main))
        for name, keep in groups.items():
            keep = keep | ~item.members
            out.metrics.append(_auc_metric(item, keep, {"group": name}, out.caveats))
        out.curves += _curve(item, ranked)
    out.caveats = list(dict.fromkeys(out.caveats))
    return out


def direction_check(
    metrics: Sequence[Metric], *, headline: str, subject: str, family_error: float = 0.05
) -> Check:
    """No attack may read the wrong way round: its sign was fixed before looking.

    An AUC below 0.5 beyond chance is not safety. Either the two sides differ in something that is not
    membership, or the signal is there with its sign reversed, and an attacker may turn it around. The
    readings are greyed where this happens to the attack that carries the verdict; elsewhere it is a
    warning.

    Args:
        metrics: of :func:`summarise`; groups of records are not looked at (to leave some members out
            is a selection).
        headline: the attack that carries the verdict.
        subject: id of the audited subject.
        family_error: chance of a false alarm over all attacks together.
    """
    read = [
        (str(m.params["attack"]), m.value, m.value if m.high is None else m.high)
        for m in metrics
        if m.name == "membership.auc" and "group" not in m.params and m.value is not None
    ]
    p_values = {name: min(1.0, len(read) * _below(value, high)) for name, value, high in read}
    wrong = [name for name, p in p_values.items() if p <= family_error]
    lowest = min(read, key=lambda item: item[1], default=None)
    return Check(
        name="no attack reads the wrong way round",
        passed=not wrong,
        value=None if lowest is None else lowest[1],
        expected="no AUC below 0.5 beyond chance",
        detail=(
            f"below 0.5: {', '.join(wrong)}; the sides differ in something else than membership, or the "
            "signal is reversed and an attacker can use it all the same"
            if wrong
            else f"{len(read)} attacks, the lowest AUC is shown"
        ),
        affects=["membership.auc", "membership.tpr_at_fpr"] if headline in wrong else [],
        subject=subject,
        p_value=min(p_values.values(), default=1.0),
        level=family_error,
    )


def _below(value: float, high: float) -> float:
    """One-sided p-value of an AUC of at least 0.5, from the upper end of its 95 % interval."""
    gap = 0.5 - value
    if gap <= 0:
        return 1.0
    return (
        float(special.ndtr(-gap / (high - value) * special.ndtri(0.975))) if high > value else 0.0
    )


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


def _groups(released: Tensor | None) -> dict[str, Tensor]:
    """Members by whether the set contains them; non-members belong to both comparisons."""
    if released is None or not bool(released.any()):
        return {}
    return {"released": released, "other": ~released}


def _auc_metric(
    item: Evidence,
    keep: Tensor | None,
    group: dict[str, str],
    caveats: list[str],
    *,
    headline: bool = False,
) -> Metric:
    params = {"attack": item.attack, **group}
    metric = Metric(
        name="membership.auc",
        value=None,
        direction="lower",
        floor=0.5,
        two_sided=True,
        params=params,
        headline=headline,
    )
    try:
        value = _auc(item, keep)
    except NotEnoughData as error:
        records = f"records of the group '{group['group']}'" if group else "all records"
        caveats.append(Caveat(f"AUC over {records} not available: {error}.", "result"))
        return metric
    return metric.model_copy(
        update={"value": value.value, "low": value.low, "high": value.high, "n": value.n}
    )


def _auc(item: Evidence, keep: Tensor | None) -> Interval:
    if len(item.scores) > 1:
        return mean_auc(item.scores, item.members, keep=keep, references=item.references)
    used = torch.ones_like(item.members[0]) if keep is None else keep[0]
    return auc(item.scores[0][used], item.members[0][used])


def _tpr_metric(
    item: Evidence, ranked: Tensor, fpr: float, caveats: list[str], *, headline: bool
) -> Metric:
    outside = int((~item.members).sum())
    floor = null_tpr(fpr, outside)
    metric = Metric(
        name="membership.tpr_at_fpr",
        value=None,
        direction="lower",
        floor=floor,
        params={"attack": item.attack, "fpr": fpr},
        headline=headline,
    )
    try:
        value = pooled_tpr(ranked, item.members, fpr, references=item.references)
    except NotEnoughData as error:
        caveats.append(Caveat(f"TPR at {fpr:.1%} FPR not available: {error}.", "result"))
        return metric
    if outside < FEW / fpr:
        text = (
            f"The threshold of TPR at {fpr:.1%} FPR rests on few of {outside} non-members: luck alone reads "
            f"{floor:.4f} on average (the floor), and at least {round(FEW / fpr)} are wanted."
        )
        caveats.append(Caveat(text, "sample", 2))
    return metric.model_copy(
        update={"value": value.value, "low": value.low, "high": value.high,
                "n": item.scores.shape[1]}
    )  # fmt: skip


def _curve(item: Evidence, ranked: Tensor) -> list[Curve]:
    """The ROC on log-log axes; corners at rate 0 have no place there and are left out."""
    try:
        roc = pooled_roc(ranked, item.members).thinned()
    except NotEnoughData:
        return []
    shown = (roc.fpr > 0) & (roc.tpr > 0)
    return [
        Curve(
            plot="membership ROC",
            label=item.attack,
            x=roc.fpr[shown].tolist(),
            y=roc.tpr[shown].tolist(),
            kind="step",
            x_label="false-positive rate",
            y_label="true-positive rate",
            log_x=True,
            log_y=True,
            diagonal=True,
        )
    ]


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
