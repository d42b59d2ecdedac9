"""A subject beside its controls: the metrics, and in words what the two numbers and their intervals allow to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from ddaudit.attacks.membership.control import SAME_CLAIM, Reading
from ddaudit.attacks.membership.evidence import summarise
from ddaudit.findings import Curve, Finding, Metric
from ddaudit.sets import PrivacyClaim
from ddaudit.stats import Interval

Relation = Literal["below", "alike", "above"]

# (accuracy of the set's networks, what the attack finds in them), each against DP-SGD's
_VERDICTS: dict[tuple[Relation, Relation], str] = {
    ("below", "above"): "DP-SGD is both more accurate and less exposed: distillation bought no privacy here, and "
    "cost accuracy",
    ("below", "alike"): "DP-SGD is more accurate, and this attack cannot tell the exposures apart: distillation "
    "bought no privacy here that the attack could see, and cost accuracy",
    ("below", "below"): "the set is less exposed than DP-SGD and less accurate: what it hides from this attack is "
    "paid for with accuracy",
    ("alike", "above"): "at accuracies that cannot be told apart, the set is more exposed than DP-SGD: "
    "distillation bought no privacy here",
    ("alike", "alike"): "neither the accuracies nor the exposures can be told apart: nothing here speaks for the "
    "set being more private than DP-SGD",
    ("alike", "below"): "at accuracies that cannot be told apart, the set is less exposed to this attack than "
    "DP-SGD",
    ("above", "above"): "the set is more accurate than DP-SGD and more exposed: the accuracy is paid for with "
    "privacy",
    ("above", "alike"): "the set is more accurate than DP-SGD, and this attack cannot tell the exposures apart",
    ("above", "below"): "the set is both more accurate and less exposed to this attack than DP-SGD",
}  # fmt: skip


def relation(a: Interval, b: Interval) -> Relation:
    """Where ``a`` lies against ``b``; "alike" whenever the intervals overlap: then nothing is claimed."""
    if a.high < b.low:
        return "below"
    return "above" if a.low > b.high else "alike"


def against_dp_sgd(
    name: str,
    subject: Reading,
    control: Reading,
    *,
    delta: float,
    runs: int,
    claim: PrivacyClaim | None,
) -> str:
    """The sentence that compares a subject with DP-SGD.

    Args:
        name: of the subject; a report lists the sentences of all subjects together.
        subject, control: readings over the same runs.
        delta: of DP-SGD.
        runs: how many halves both were read on.
        claim: the subject's own privacy claim, if it makes one.
    """
    epsilon = control.params["epsilon"]
    verdict = _VERDICTS[
        relation(subject.accuracy, control.accuracy), relation(subject.auc, control.auc)
    ]
    if claim is None:
        proof = (
            "Only DP-SGD comes with a proof of what no attack can exceed; the set's reading is what one attack "
            "happened to find."
        )
    elif abs(claim.epsilon / epsilon - 1) <= SAME_CLAIM:
        proof = "Both claim the same bound on what any attack can find."
    else:
        proof = f"The set's own claim is epsilon {claim.epsilon:.4g}; DP-SGD was trained for {epsilon:g}."
    return (
        f"{name} and the DP-SGD control: networks trained directly on the same {runs} random halves with "
        f"differential privacy (epsilon {epsilon:g}, delta {_small(delta)}) reach accuracy {_of(control.accuracy)}, "
        f"and the same attack (LiRA) has an AUC of {_of(control.auc)} on them. Networks trained on {name}: accuracy "
        f"{_of(subject.accuracy)}, AUC {_of(subject.auc)}. So {verdict}. {proof}"
    )


def against_random(name: str, subject: Reading, controls: Sequence[Reading], *, runs: int) -> str:
    """The sentence that compares a subject with real records at random, as near to its accuracy as was tried."""
    nearest = min(controls, key=lambda c: abs(c.accuracy.value - subject.accuracy.value))
    matched = relation(subject.accuracy, nearest.accuracy) == "alike"
    size = f"{nearest.params['ipc']} real records per class"
    tried = "" if matched else " (the nearest in accuracy that was tried)"
    better = {
        "below": "the set is less accurate",
        "alike": "the accuracies cannot be told apart",
        "above": "the set is more accurate",
    }[relation(subject.accuracy, nearest.accuracy)]
    found = {
        "below": "the records behind it are harder to find",
        "alike": "the exposures cannot be told apart",
        "above": "the records behind it are easier to find",
    }[relation(subject.auc, nearest.auc)]
    return (
        f"{name} and the random control: networks trained on {size} drawn at random from the same {runs} halves{tried} "
        f"reach accuracy {_of(nearest.accuracy)}, and LiRA has an AUC of {_of(nearest.auc)} on them; {name}: "
        f"{_of(subject.accuracy)} and {_of(subject.auc)}. So {better}, and by way of networks {found}. That does "
        "not make the subset safe: everybody can see the records that it holds (attack 'nearest')."
    )


def control_metrics(control: Reading, *, generator: torch.Generator) -> list[Metric]:
    """Accuracy, AUC and LiRA's TPR of a control; neither end is better, because nobody judges the control."""
    accuracy = control.accuracy
    out = [_metric("membership.control_accuracy", accuracy, control.params)]
    summary = summarise(control.evidence, headlines=(), generator=generator)
    for metric in summary.metrics:
        if metric.name == "membership.tpr_at_fpr" and metric.params["attack"] != "lira":
            continue
        name = metric.name.replace("membership.", "membership.control_")
        params = {**control.params, **metric.params}
        out.append(metric.model_copy(update={"name": name, "direction": "none", "params": params}))
    return out


def victim_accuracy(accuracy: Interval) -> Metric:
    """How good the attacked networks are: a reading at unknown accuracy cannot be compared."""
    metric = _metric("membership.victim_accuracy", accuracy, {})
    return metric.model_copy(update={"direction": "higher"})


def control_curve(control: Reading, *, generator: torch.Generator) -> list[Curve]:
    """The ROC of LiRA on DP-SGD's networks, to be drawn beside the subject's."""
    summary = summarise(control.evidence[:1], headlines=(), generator=generator)
    label = f"lira on DP-SGD (epsilon {control.params['epsilon']:g})"
    return [curve.model_copy(update={"label": label}) for curve in summary.curves]


def beside_dp_sgd(finding: Finding) -> str:
    """A finding's accuracy and AUC beside those of DP-SGD's networks; empty where it has no such control."""
    try:
        control = finding.metric("membership.control_accuracy", control="dp-sgd")
        theirs = finding.metric("membership.control_auc", **control.params, attack="lira")
        own = finding.metric("membership.victim_accuracy")
        exposed = finding.metric("membership.auc", attack="lira")
    except KeyError:
        return ""
    values = [m.value for m in (own, exposed, control, theirs)]
    if None in values:
        return ""
    accuracy, area, reached, found = (f"{v:.2f}" for v in values)
    return (
        f"Networks trained on {finding.subject} reach accuracy {accuracy} at membership AUC {area}; "
        f"trained on the same records with DP-SGD (ε = {float(control.params['epsilon']):g}), which "
        f"proves a bound, {reached} at {found}."
    )


def _of(x: Interval) -> str:
    return f"{x.value:.3f} [{x.low:.3f}, {x.high:.3f}]"


def _metric(name: str, x: Interval, params: dict[str, Any]) -> Metric:
    return Metric.of(name, x, params=params)


def _small(x: float) -> str:
    """1e-5, as people write it."""
    return f"{x:g}".replace("e-0", "e-")
