"""From attack scores to metrics, curves and caveats; nothing is picked after looking."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddaudit.attacks.membership.pooling import break_ties, mean_auc, pooled_roc, pooled_tpr
from ddaudit.errors import NotEnoughData
from ddaudit.findings import Curve, Metric
from ddaudit.stats import Interval, auc

FPRS = (0.001, 0.01)


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
    metric = Metric(
        name="membership.tpr_at_fpr",
        value=None,
        direction="lower",
        floor=fpr,
        params={"attack": item.attack, "fpr": fpr},
        headline=headline,
    )
    try:
        value = pooled_tpr(ranked, item.members, fpr)
    except NotEnoughData as error:
        caveats.append(f"TPR at {fpr:.1%} FPR not available: {error}.")
        return metric
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
