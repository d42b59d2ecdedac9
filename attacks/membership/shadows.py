"""What attacks look at: records, who of them was in which run, and what networks trained on each run answer.

A recipe is run on many random halves of a pool (shadows). A record enters each shadow independently with
probability one half. Independence is not a detail: it makes a member's and a non-member's references alike (see
``scores.lira.fit``), and it makes "in" and "out" differ by exactly one added record, which is the neighbouring
relation that privacy claims are stated for. A file or a checkpoint is one run, on all of the training data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks._common import signals
from ddaudit.attacks._common.nonmembers import (
    cells,
    held_out,
    matched_samples,
    pool_caveats,
)
from ddaudit.attacks._common.records import join
from ddaudit.attacks.membership.scores import label_only
from ddaudit.auditing import Context, Subject, stratified
from ddaudit.data import ImageData
from ddaudit.errors import NotEnoughData, Unsupported
from ddaudit.models import Network
from ddaudit.sets import DistilledSet


@dataclass(frozen=True, eq=False)
class Cohort:
    """Records under attack, who of them is in which run, and non-members that calibrate the attacks.

    Attributes:
        records: the N records under attack.
        members: (K, N) bool, which of them run k was made from.
        nonmembers: Z other records, in none of the runs.
        caveats: what a report must state about the non-members.
    """

    records: ImageData
    members: Tensor
    nonmembers: ImageData
    caveats: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Readings:
    """What the networks of K runs answer on records, non-members and test images.

    Attributes:
        phi: (K, N) float64 logit margins, averaged over a run's networks.
        log_p: (K, N) float64 log of the true label's probability, averaged (as a probability) over networks.
        nonmember_phi, nonmember_log_p: (K, Z) the same for non-members.
        scores: attack -> (K, N) float64, for attacks that look at one network at a time; averaged over networks.
        correct: (K, T) float64, share of a run's networks that are right on a test image: they share a set, and count
            once.
    """

    phi: Tensor
    log_p: Tensor
    nonmember_phi: Tensor
    nonmember_log_p: Tensor
    scores: dict[str, Tensor]
    correct: Tensor


@dataclass(frozen=True, eq=False)
class Trial:
    """K runs under attack: their sets, and what networks trained on those answer.

    Attributes:
        cohort: the records.
        readings: of the networks.
        sets: one of each run; none where only networks are known.
    """

    cohort: Cohort
    readings: Readings
    sets: list[DistilledSet]

    @property
    def members(self) -> Tensor:
        """(K, N) bool."""
        return self.cohort.members


def run_shadows(
    subject: Subject,
    ctx: Context,
    cohort: Cohort,
    *,
    victims: int,
    attacks: Collection[str] = ("loss",),
    noise_draws: int = 0,
    seed: int,
) -> Trial:
    """Re-distil on every half and train ``victims`` networks on each set.

    Args:
        subject: must have a recipe.
        cohort: from :func:`draw_halves`.
        victims: networks per shadow.
        attacks, noise_draws: see :func:`read_networks`.
        seed: of distillation and victims.

    Raises:
        Unsupported: no recipe.
    """
    distil_seed = ctx.seed_for("membership", "distil", seed)
    sets = ctx.redistill_many(subject, cohort.records, cohort.members, distil_seed)
    networks = train_victims(sets, ctx, victims=victims, seed=seed)
    readings = read_networks(
        networks, ctx, cohort, attacks=attacks, noise_draws=noise_draws, seed=seed
    )
    return Trial(cohort, readings, sets)


def draw_halves(ctx: Context, *, shadows: int, pool: int, population: int, seed: int) -> Cohort:
    """K random halves of the training records, the same for every subject of an audit.

    Args:
        shadows: K; the halves of a smaller K are the first ones of a larger.
        pool: records to draw from; raised to four times the size of a distilled set, so that a half
            holds twice as many records as are released.
        population: at most this many non-members.
        seed: of memberships.

    Raises:
        Unsupported: a class with fewer than two records in the pool.
    """
    least = 4 * ctx.ipc * ctx.data.num_classes
    records = stratified(ctx.data.train, max(pool, least), even=True)
    members = draw_members(
        records.labels,
        shadows,
        num_classes=ctx.data.num_classes,
        generator=ctx.generator("membership", "members", seed),
    )
    held = held_out(ctx)
    others = stratified(held.records, population, even=True)
    return Cohort(
        records, members, others, (*held.caveats(), *pool_caveats(ctx.data.train, records))
    )


def split(ctx: Context, *, members: int, nonmembers: int, ours: bool = True) -> Cohort:
    """Random training records, and held-out ones of exactly the same class and group composition.

    A third of the held-out records calibrates, non-members are drawn from the other two thirds.

    Args:
        members: at most this many training records.
        nonmembers: at most this many non-members, and half as many reference records.
        ours: see :func:`~ddaudit.attacks._common.nonmembers.held_out`.

    Raises:
        NotEnoughData: fewer than 20 records on a side.
    """
    train, held = ctx.data.train, held_out(ctx, ours=ours)
    order = torch.randperm(len(held.records), generator=ctx.generator("membership", "split"))
    cut = len(order) // 3
    reference = held.records.subset(torch.sort(order[:cut][: max(20, nonmembers // 2)]).values)
    outside = held.records.subset(torch.sort(order[cut:]).values)
    drawn = matched_samples(
        *cells(train, outside),
        most_inside=members,
        most_outside=nonmembers,
        generator=ctx.generator("membership", "sides"),
    )
    inside, outside = train.subset(drawn.inside), outside.subset(drawn.outside)
    if min(len(inside), len(reference), len(outside)) < 20:
        raise NotEnoughData(
            f"membership needs 20 members, non-members and reference records, there are "
            f"{len(inside)}, {len(outside)} and {len(reference)}"
        )
    records = join(inside, outside)
    caveats = held.caveats()
    if drawn.untested > 0:
        caveats.append(
            f"{drawn.untested:.1%} of the training records were not tested: they belong to classes or "
            "groups with too few held-out records to compare with."
        )
    sides = torch.arange(len(records)) < len(inside)
    return Cohort(records, sides[None], reference, tuple(caveats))


def train_victims(
    sets: Sequence[DistilledSet], ctx: Context, *, victims: int, seed: int
) -> list[list[Network]]:
    """``victims`` networks on each set.

    All sets use the same victim seeds: an attacker trains the victims himself, and equal
    initialisations take their noise out of the comparison.
    """
    seeds = [ctx.seed_for("membership", "victim", seed, i) for i in range(victims)]
    networks = ctx.train([s for s in sets for _ in seeds], seeds=seeds * len(sets))
    return [networks[k * victims : (k + 1) * victims] for k in range(len(sets))]


def read_networks(
    networks: Sequence[Sequence[Network]],
    ctx: Context,
    cohort: Cohort,
    *,
    attacks: Collection[str] = ("loss",),
    noise_draws: int = 0,
    seed: int,
) -> Readings:
    """What the networks of every run answer on records, non-members and test images.

    Args:
        networks: K runs of V networks each.
        cohort: the records and non-members.
        attacks: names of the attacks whose scores are wanted; those that do not look at single networks
            are passed over.
        noise_draws: noisy copies per level of the attack "label-only".
        seed: of that noise, the same for all networks.
    """
    test = ctx.test()
    records, nonmembers = cohort.records, cohort.nonmembers
    images = torch.cat([records.images, nonmembers.images, test.images])
    labels = torch.cat([records.labels, nonmembers.labels])
    n, known = len(records), len(labels)
    phi, log_p, correct = [], [], []
    scores: dict[str, list[Tensor]] = {}
    for own in networks:
        logits = [ctx.predict(net, images) for net in own]
        phi.append(mean_of([signals.logit_margin(z[:known], labels) for z in logits]))
        log_p.append(log_mean([signals.negative_loss(z[:known], labels) for z in logits]))
        correct.append(mean_of([(z[known:].argmax(1) == test.labels).double() for z in logits]))
        new = _network_scores([z[:n] for z in logits], records.labels, attacks=attacks)
        new |= _label_scores(own, ctx, records, attacks=attacks, noise_draws=noise_draws, seed=seed)
        for name, score in new.items():
            scores.setdefault(name, []).append(score)
    margins, logs = torch.stack(phi), torch.stack(log_p)
    return Readings(
        phi=margins[:, :n],
        log_p=logs[:, :n],
        nonmember_phi=margins[:, n:],
        nonmember_log_p=logs[:, n:],
        scores={name: torch.stack(rows) for name, rows in scores.items()},
        correct=torch.stack(correct),
    )


def _network_scores(
    logits: Sequence[Tensor], labels: Tensor, *, attacks: Collection[str]
) -> dict[str, Tensor]:
    """(N,) scores of the attacks that read a network's probabilities, averaged over networks."""
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "loss": lambda z: signals.negative_loss(z, labels),
        "confidence": lambda z: signals.confidence(z, labels),
        "entropy": signals.negative_entropy,
        "modified-entropy": lambda z: signals.negative_modified_entropy(z, labels),
    }
    return {
        name: mean_of([score(z) for z in logits])
        for name, score in known.items()
        if name in attacks
    }


def _label_scores(
    networks: Sequence[Network],
    ctx: Context,
    records: ImageData,
    *,
    attacks: Collection[str],
    noise_draws: int,
    seed: int,
) -> dict[str, Tensor]:
    """(N,) scores of the attacks that see only the class a network answers, averaged over networks."""
    out: dict[str, Tensor] = {}
    pixels, labels = records.pixels(), records.labels

    def classes(net: Network) -> label_only.Classify:
        return lambda x: ctx.predict(net, x).argmax(1)

    if "label-only" in attacks and noise_draws > 0:
        out["label-only"] = mean_of(
            [
                label_only.stability_under_noise(
                    classes(net),
                    pixels,
                    labels,
                    draws=noise_draws,
                    bounds=records.bounds,
                    generator=ctx.generator("membership", "noise", seed),
                )
                for net in networks
            ]
        )
    if "label-only-shifts" in attacks and records.modality == "image":
        out["label-only-shifts"] = mean_of(
            [label_only.stability_under_shifts(classes(net), pixels, labels) for net in networks]
        )
    return out


def draw_members(
    labels: Tensor, count: int, *, num_classes: int, generator: torch.Generator
) -> Tensor:
    """(count, N) bool: each record in each shadow with probability 1/2, independently.

    The coins of a class that would be left empty in a shadow are drawn again (for classes of 20 records that happens
    once in a million). Classes are independent, so this is the law of rows drawn again as a whole.

    Raises:
        Unsupported: a class has a single record, so that every shadow would have to hold it.
    """
    sizes = torch.bincount(labels, minlength=num_classes)
    if bool((sizes == 1).any()):
        name = int((sizes == 1).nonzero()[0])
        raise Unsupported(
            f"class {name} has a single training record in the pool, which cannot be halved"
        )
    rows: list[Tensor] = []
    for _ in range(count):
        row = torch.rand(len(labels), generator=generator) < 0.5
        while True:
            empty = (torch.bincount(labels[row], minlength=num_classes) == 0) & (sizes > 0)
            again = empty[labels]
            if not bool(again.any()):
                break
            row[again] = torch.rand(int(again.sum()), generator=generator) < 0.5
        rows.append(row)
    return torch.stack(rows)


def log_mean(log_p: list[Tensor]) -> Tensor:
    """Log of the mean of probabilities given as logs."""
    return torch.stack(log_p).logsumexp(0) - torch.tensor(float(len(log_p))).log()


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """Mean over a list of (N,) scores."""
    return torch.stack(list(values)).mean(0)
