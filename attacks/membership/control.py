"""The controls of every membership reading: DP-SGD, and real records at random, on the same halves, same attack.

A low reading says little by itself. What would the same attack have read on networks that were trained privately
(DP-SGD), or on a handful of real records (which protects nobody it holds)? Only beside those two, and at known
accuracy, does a reading speak for or against distillation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ddaudit.attacks.membership.battery import OWN_SPREAD, lira_scores
from ddaudit.attacks.membership.evidence import Evidence
from ddaudit.attacks.membership.known_answers import learn_by_heart
from ddaudit.attacks.membership.shadows import Answers, Halves, ask, train_victims
from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.defenses.privacy.accounting import calibrate_tight
from ddaudit.defenses.privacy.dpsgd import open_private, public_network, train_private
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import distill_many, resolve
from ddaudit.findings import Check
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


def read(answers: Answers, halves: Halves, params: dict[str, Any], *, runs: int) -> Reading:
    """The reading of the first ``runs`` runs, by the same attack with the same number of references for all."""
    members = halves.members[:runs]
    phi, log_p = answers.phi[:runs], answers.log_p[:runs]
    lira = lira_scores(phi, members, pooled=runs < OWN_SPREAD)
    networks = len(answers.correct) // len(answers.phi)
    return Reading(
        params=params,
        accuracy=crossed_rate(answers.correct[: runs * networks]),
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
    ctx: Context, halves: Halves, *, runs: int, steps: int, epsilon: float, delta: float, seed: int
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
    sizes = halves.members[:runs].sum(1)
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
            reader, halves.pool, members=halves.members[k], steps=steps, device=ctx.device
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
    return read(ask(networks, ctx, halves, seed=seed), halves, params, runs=runs)


def private_arch(arch: Arch) -> Arch:
    """The architecture, with group-wise instead of batch normalisation (which DP-SGD cannot have)."""
    return replace(arch, norm="instance") if arch.norm == "batch" else arch


def random_records(
    ctx: Context, halves: Halves, *, ipc: int, runs: int, victims: int, seed: int
) -> Reading:
    """Victims on ``ipc`` random real records per class of each half, and the attack on them."""
    part = replace(halves, members=halves.members[:runs])
    sets = distill_many(
        resolve("random", profile=ctx.preset.profile),
        part.pool,
        part.members,
        data=ctx.data,
        ipc=ipc,
        seed=ctx.seed_for("membership", "distil", seed),
        device=ctx.device,
    )
    networks = train_victims(sets, ctx, victims=victims, seed=seed)
    params = {"control": "random", "ipc": ipc}
    return read(ask(networks, ctx, part, seed=seed), part, params, runs=runs)


def sizes_tried(factors: Sequence[float], ctx: Context, halves: Halves) -> list[int]:
    """Records per class of the random controls: multiples of the audit's, as far as every half has so many."""
    held = torch.stack(
        [
            torch.bincount(halves.pool.labels[m], minlength=ctx.data.num_classes)
            for m in halves.members
        ]
    )
    present = held[:, held.sum(0) > 0]
    wanted = sorted({max(1, round(f * ctx.ipc)) for f in factors})
    return [n for n in wanted if n <= int(present.min())]


def overfitted(ctx: Context, halves: Halves, control: Reading, *, runs: int, seed: int) -> Check:
    """The attack must find what networks without any protection remember of the same halves.

    Every record of the pool gets a random label, so that nothing but memory helps, and small networks are
    fitted to each half without augmentation, noise or clipping. If the attack reads no more in them than in
    DP-SGD's, it is blind, and a low reading of the control means nothing.
    """
    generator = ctx.generator("membership", "check", "overfitted")
    labels = torch.randint(ctx.data.num_classes, halves.pool.labels.shape, generator=generator)
    odd = replace(halves, pool=replace(halves.pool, labels=labels))
    networks = [[_memorise(ctx, odd.pool.subset(odd.members[k]), seed=seed)] for k in range(runs)]
    found = read(ask(networks, ctx, odd, seed=seed), odd, {}, runs=runs)
    return Check(
        name="overfitted networks against the DP-SGD control",
        passed=found.auc.low > control.auc.high,
        value=found.auc.value,
        expected=f"AUC above the control's [{control.auc.low:.3f}, {control.auc.high:.3f}]",
        detail=f"[{found.auc.low:.3f}, {found.auc.high:.3f}] over {runs} runs on the same halves",
        affects=["membership.control"],
    )


def _memorise(ctx: Context, data: ImageData, *, seed: int, steps: int = 120) -> Network:
    """A small multilayer perceptron fitted to all records at once."""
    net = ctx.random_network("membership", "overfitted", seed, arch=Arch("mlp"))
    x, y = data.pixels().to(ctx.device), data.labels.to(ctx.device)
    learn_by_heart(net, x, y, steps=steps)
    return net
