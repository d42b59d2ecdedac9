"""The controls of every membership reading: DP-SGD, and real records at random, on the same halves, same attack.

A low reading says little by itself. What would the same attack have read on networks that were trained privately
(DP-SGD), or on a handful of real records (which protects nobody it holds)? Only beside those two, and at known
accuracy, does a reading speak for or against distillation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ddaudit.attacks.membership.attacks import OWN_SPREAD, attack, lira_scores
from ddaudit.attacks.membership.evidence import Evidence, summarise
from ddaudit.attacks.membership.known_answers import memorise
from ddaudit.attacks.membership.settings import MembershipSettings
from ddaudit.attacks.membership.shadows import (
    Cohort,
    Readings,
    Trial,
    read_networks,
    train_victims,
)
from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.defenses.privacy.accounting import calibrate_tight
from ddaudit.defenses.privacy.dpsgd import open_private, public_network, train_private
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import Recipe, distill, distill_many, resolve
from ddaudit.findings import Caveat, Check, Curve, Finding, Metric
from ddaudit.models import Arch, Network
from ddaudit.sets import PrivacyClaim
from ddaudit.stats import Interval, crossed_rate
from ddaudit.stats.pooled import mean_auc

# DP-SGD's numbers, the same for all data. The step size is the best of 0.125, 0.25, 0.5 and 1 over epsilon 1, 3
# and 10 together, on the validation records of digits (halves of 600).
RATE = 0.2
"""Expected share of a half in one step; on large halves MOST_RECORDS are the limit."""
MOST_RECORDS = 256
CLIP = 1.0
LEARNING_RATE = 0.25
MOMENTUM = 0.9
AVERAGE = 0.9

SAME_CLAIM = 0.02
"""Claims this close (relative) to the fixed epsilon are compared with the fixed one."""
LARGEST_EPSILON = 100.0
"""A larger claim promises next to nothing, and DP-SGD at such an epsilon is no control."""


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


@dataclass(frozen=True, eq=False)
class Reading:
    """How good networks are, and how much the attack finds in them.

    Attributes:
        params: tells readings apart in a report, {"control": "dp-sgd", "epsilon": 10.0}; empty for a subject.
        accuracy: on the test images, over all networks.
        auc: of online LiRA, each run attacked with the others as references.
        evidence: the scores of LiRA and of the loss attack.
    """

    params: dict[str, Any]
    accuracy: Interval
    auc: Interval
    evidence: tuple[Evidence, ...]


def read(readings: Readings, cohort: Cohort, params: dict[str, Any], *, runs: int) -> Reading:
    """The reading of the first ``runs`` runs, by the same attack with the same number of references for all."""
    members = cohort.members[:runs]
    phi, log_p = readings.phi[:runs], readings.log_p[:runs]
    lira = lira_scores(phi, members, pooled=runs < OWN_SPREAD)
    return Reading(
        params=params,
        accuracy=crossed_rate(readings.correct[:runs]),
        auc=mean_auc(lira, members, references=True),
        evidence=(
            Evidence("lira", lira, members, references=True),
            Evidence("loss", log_p, members),
        ),
    )


def target_of(claim: PrivacyClaim | None, *, epsilon: float, delta: float) -> tuple[float, float]:
    """(epsilon, delta) that DP-SGD is trained for: the subject's own claim, else the fixed one."""
    if claim is None or not 0 < claim.epsilon <= LARGEST_EPSILON or claim.delta <= 0:
        return epsilon, delta
    near = abs(claim.epsilon / epsilon - 1) <= SAME_CLAIM and claim.delta == delta
    return (epsilon, delta) if near else (float(f"{claim.epsilon:.3g}"), claim.delta)


def dp_sgd(
    ctx: Context, cohort: Cohort, *, runs: int, steps: int, epsilon: float, delta: float, seed: int
) -> Reading:
    """Train one network by DP-SGD on each of the first ``runs`` halves, and attack them.

    All runs start from the same weights, as the victims of shadows do. Noise is seeded, which would void a
    claim, but nothing here is released.

    Args:
        steps: of DP-SGD.
        epsilon, delta: of every run, under add-or-remove-one.
        seed: of weights, samples and noise.

    Raises:
        BadInput: delta is not below 1 / n for the smallest half, or an epsilon that cannot be reached.
    """
    sizes = cohort.members[:runs].sum(1)
    smallest = int(sizes.min())
    batch = max(1, min(MOST_RECORDS, round(RATE * smallest)))
    # One noise for all runs: larger halves are sampled at lower rates, which costs less.
    sigma = calibrate_tight(epsilon=epsilon, delta=delta, q=batch / smallest, count=steps)
    networks = []
    for k in range(runs):
        reader = PoissonGaussian(
            epsilon=epsilon, delta=delta, sigma=sigma, clip=CLIP, batch=batch,
            sampling="uniform", scale="mean",
            noise_seed=ctx.seed_for("membership", "dp-sgd noise", seed, k),
        )  # fmt: skip
        source = open_private(
            reader, cohort.records, members=cohort.members[k], steps=steps, device=ctx.device
        )
        net = public_network(
            private_arch(ctx.arch),
            shape=ctx.data.shape,
            num_classes=ctx.data.num_classes,
            seed=ctx.seed_for("membership", "dp-sgd weights", seed),
            device=ctx.device,
        )
        train_private(
            source, net, steps=steps, lr=LEARNING_RATE, momentum=MOMENTUM, average=AVERAGE
        )
        networks.append([net])
    params = {"control": "dp-sgd", "epsilon": epsilon}
    return read(read_networks(networks, ctx, cohort, seed=seed), cohort, params, runs=runs)


def private_arch(arch: Arch) -> Arch:
    """The architecture, with group-wise instead of batch normalisation (which DP-SGD cannot have)."""
    return replace(arch, norm="instance") if arch.norm == "batch" else arch


def random_recipe(ctx: Context) -> Recipe:
    """Random real records without any condition."""
    return resolve("random", profile=ctx.preset.profile)


def random_records(
    ctx: Context, cohort: Cohort, *, ipc: int, runs: int, victims: int, seed: int
) -> Reading:
    """Victims on ``ipc`` random real records per class of each half, and the attack on them."""
    part = replace(cohort, members=cohort.members[:runs])
    sets = distill_many(
        random_recipe(ctx),
        part.records,
        part.members,
        data=ctx.data,
        ipc=ipc,
        seed=ctx.seed_for("membership", "distil", seed),
        device=ctx.device,
    )
    networks = train_victims(sets, ctx, victims=victims, seed=seed)
    params = {"control": "random", "ipc": ipc}
    return read(read_networks(networks, ctx, part, seed=seed), part, params, runs=runs)


def random_file(
    ctx: Context,
    cohort: Cohort,
    settings: MembershipSettings,
    *,
    ipc: int,
    attacks: Collection[str],
    seed: int,
) -> list[Metric]:
    """What attacks on a file read in random real records of its size: (params: control, ipc, attack).

    Args:
        cohort: members and non-members of the file's own game.
        attacks: names; ties are broken as everywhere.
    """
    made = distill(
        random_recipe(ctx),
        ctx.data.train,
        data=ctx.data,
        ipc=ipc,
        seed=ctx.seed_for("membership", "random file", seed),
        device=ctx.device,
    )
    victims = range(ctx.preset.victims)
    seeds = [ctx.seed_for("membership", "random file", seed, i) for i in victims]
    networks = ctx.train([made] * len(seeds), seeds=seeds)
    readings = read_networks(
        [networks], ctx, cohort, attacks=attacks, noise_draws=settings.noise_draws, seed=seed
    )
    evidence, _ = attack(Trial(cohort, readings, [made]), ctx, settings, attacks=attacks, seed=seed)
    generator = ctx.generator("membership", "random file ties", seed)
    return _renamed(
        summarise(evidence, headlines=(), generator=generator).metrics,
        {"control": "random", "ipc": ipc},
    )


def sizes_tried(factors: Sequence[float], ctx: Context, cohort: Cohort) -> list[int]:
    """Records per class of the random controls: multiples of the audit's, as far as every half has so many."""
    held = torch.stack(
        [
            torch.bincount(cohort.records.labels[m], minlength=ctx.data.num_classes)
            for m in cohort.members
        ]
    )
    present = held[:, held.sum(0) > 0]
    wanted = sorted({max(1, round(f * ctx.ipc)) for f in factors})
    return [n for n in wanted if n <= int(present.min())]


def overfitted(ctx: Context, cohort: Cohort, control: Reading, *, runs: int, seed: int) -> Check:
    """The attack must see what networks without any protection remember of the same halves.

    Every record of the pool gets a random label, so that nothing but memory helps, and small networks are
    fitted to each half without augmentation, noise or clipping. If the attack reads no more in them than in
    DP-SGD's, it is blind, and a low reading of the control means nothing.
    """
    generator = ctx.generator("membership", "check", "overfitted")
    labels = torch.randint(ctx.data.num_classes, cohort.records.labels.shape, generator=generator)
    odd = replace(cohort, records=replace(cohort.records, labels=labels))
    networks = [
        [_memorise(ctx, odd.records.subset(odd.members[k]), seed=seed)] for k in range(runs)
    ]
    reading = read(read_networks(networks, ctx, odd, seed=seed), odd, {}, runs=runs)
    return Check(
        name="overfitted networks against the DP-SGD control",
        passed=reading.auc.low > control.auc.high,
        value=reading.auc.value,
        expected=f"AUC above the control's [{control.auc.low:.3f}, {control.auc.high:.3f}]",
        detail=f"[{reading.auc.low:.3f}, {reading.auc.high:.3f}] over {runs} runs on the same halves",
        affects=["membership.control"],
    )


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
    return Caveat(
        f"{name} and the DP-SGD control: networks trained directly on the same {runs} random halves with "
        f"differential privacy (epsilon {epsilon:g}, delta {_small(delta)}) reach accuracy {_of(control.accuracy)}, "
        f"and the same attack (LiRA) has an AUC of {_of(control.auc)} on them. Networks trained on {name}: accuracy "
        f"{_of(subject.accuracy)}, AUC {_of(subject.auc)}. So {verdict}. {proof}",
        kind="result",
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
    exposure = {
        "below": "the records behind it are harder to find",
        "alike": "the exposures cannot be told apart",
        "above": "the records behind it are easier to find",
    }[relation(subject.auc, nearest.auc)]
    return Caveat(
        f"{name} and the random control: networks trained on {size} drawn at random from the same {runs} halves{tried} "
        f"reach accuracy {_of(nearest.accuracy)}, and LiRA has an AUC of {_of(nearest.auc)} on them; {name}: "
        f"{_of(subject.accuracy)} and {_of(subject.auc)}. So {better}, and by way of networks {exposure}. That does "
        "not make the subset safe: everybody can see the records that it holds (attack 'nearest').",
        kind="result",
    )


def control_metrics(control: Reading, *, generator: torch.Generator) -> list[Metric]:
    """Accuracy, AUC and LiRA's TPR of a control; neither end is better, because nobody judges the control."""
    accuracy = control.accuracy
    out = [_metric("membership.control_accuracy", accuracy, control.params)]
    summary = summarise(control.evidence, headlines=(), generator=generator)
    kept = [
        m
        for m in summary.metrics
        if m.name != "membership.tpr_at_fpr" or m.params["attack"] == "lira"
    ]
    return out + _renamed(kept, control.params)


def _renamed(metrics: Sequence[Metric], params: Mapping[str, Any]) -> list[Metric]:
    """Numbers of a control: nobody is better or worse by them."""
    return [
        m.model_copy(
            update={
                "name": m.name.replace("membership.", "membership.control_"),
                "direction": "none",
                "params": {**params, **m.params},
            }
        )
        for m in metrics
    ]


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
    accuracy, area, reached, its_area = (f"{v:.2f}" for v in values)
    return (
        f"Networks trained on {finding.subject} reach accuracy {accuracy} at membership AUC {area}; "
        f"trained on the same records with DP-SGD (ε = {float(control.params['epsilon']):g}), which "
        f"proves a bound, {reached} at {its_area}."
    )


def _memorise(ctx: Context, data: ImageData, *, seed: int, steps: int = 120) -> Network:
    """A small multilayer perceptron fitted to all records at once."""
    net = ctx.random_network("membership", "overfitted", seed, arch=Arch("mlp"))
    x, y = data.pixels().to(ctx.device), data.labels.to(ctx.device)
    memorise(net, x, y, steps=steps)
    return net


def _of(x: Interval) -> str:
    return f"{x.value:.3f} [{x.low:.3f}, {x.high:.3f}]"


def _metric(name: str, x: Interval, params: dict[str, Any]) -> Metric:
    return Metric.of(name, x, params=params)


def _small(x: float) -> str:
    """1e-5, as people write it."""
    return f"{x:g}".replace("e-0", "e-")
