"""From attack scores to metrics, curves and caveats; nothing is picked after looking."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from scipy import special
from torch import Tensor

from ddaudit.errors import NotEnoughData
from ddaudit.findings import Check, Curve, Metric
from ddaudit.stats import Interval, auc
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
    """What :func:`summarise` says."""

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
    # from a 95 % interval to a one-sided bound that holds for all attacks at once
    scale = float(special.ndtri(1 - family_error / max(1, len(read))) / special.ndtri(0.975))
    bounds = {name: value + scale * (high - value) for name, value, high in read}
    wrong = [name for name, bound in bounds.items() if bound < 0.5]
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
        caveats.append(f"AUC over {records} not available: {error}.")
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
        caveats.append(f"TPR at {fpr:.1%} FPR not available: {error}.")
        return metric
    if outside < FEW / fpr:
        caveats.append(
            f"The threshold of TPR at {fpr:.1%} FPR rests on few of {outside} non-members: luck alone reads "
            f"{floor:.4f} on average (the floor), and at least {round(FEW / fpr)} are wanted."
        )
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
