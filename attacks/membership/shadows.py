"""Shadow re-distillations: the recipe run on many random halves of a pool, victims trained on each.

A record enters each shadow independently with probability one half. Independence is not a detail:
it makes a member's and a non-member's references alike (see ``scores.lira.fit``), and it makes "in"
and "out" differ by exactly one added record, which is the neighbouring relation that privacy claims
are stated for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks._common import signals
from ddaudit.attacks._common.nonmembers import held_out
from ddaudit.attacks.membership.scores import label_only
from ddaudit.auditing import Context, Subject, stratified
from ddaudit.data import ImageData
from ddaudit.errors import Unsupported
from ddaudit.models import Network
from ddaudit.sets import DistilledSet


@dataclass(frozen=True, eq=False)
class Halves:
    """K random halves of a pool, and records that none of them holds.

    Attributes:
        pool: the N records that halves are drawn from.
        strangers: Z records outside (validation and test, composed like training).
        members: (K, N) bool.
        caveats: what a report must say about the strangers.
    """

    pool: ImageData
    strangers: ImageData
    members: Tensor
    caveats: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Answers:
    """What the networks of K runs say of pool, strangers and test images.

    Attributes:
        phi: (K, N) float64 logit margins, averaged over a run's networks.
        log_p: (K, N) float64 log of the true label's probability, averaged (as a probability) over networks.
        stranger_phi, stranger_log_p: (K, Z) the same for strangers.
        scores: attack -> (K, N) float64, for attacks that look at one network at a time; averaged over networks.
        correct: (K * V, T) float64, 1 where a network is right on a test image.
    """

    phi: Tensor
    log_p: Tensor
    stranger_phi: Tensor
    stranger_log_p: Tensor
    scores: dict[str, Tensor]
    correct: Tensor


@dataclass(frozen=True, eq=False)
class Shadows:
    """K shadow runs: the sets they made, and what networks trained on those say."""

    halves: Halves
    sets: list[DistilledSet]
    answers: Answers

    @property
    def members(self) -> Tensor:
        """(K, N) bool."""
        return self.halves.members


def run_shadows(
    subject: Subject,
    ctx: Context,
    halves: Halves,
    *,
    victims: int,
    attacks: Collection[str] = ("loss",),
    noise_draws: int = 0,
    seed: int,
) -> Shadows:
    """Re-distil on every half and train ``victims`` networks on each set.

    Args:
        subject: must have a recipe.
        halves: from :func:`draw_halves`.
        victims: networks per shadow.
        attacks, noise_draws: see :func:`ask`.
        seed: of distillation and victims.

    Raises:
        Unsupported: no recipe.
    """
    distil_seed = ctx.seed_for("membership", "distil", seed)
    sets = ctx.redistill_many(subject, halves.pool, halves.members, distil_seed)
    networks = train_victims(sets, ctx, victims=victims, seed=seed)
    answers = ask(networks, ctx, halves, attacks=attacks, noise_draws=noise_draws, seed=seed)
    return Shadows(halves, sets, answers)


def draw_halves(ctx: Context, *, shadows: int, pool: int, population: int, seed: int) -> Halves:
    """K random halves of the training records, the same for every subject of an audit.

    Args:
        shadows: K; the halves of a smaller K are the first ones of a larger.
        pool: records to draw from; raised to four times the size of a distilled set, so that a half
            holds twice as many records as are released.
        population: at most this many strangers.
        seed: of memberships.

    Raises:
        Unsupported: a class with fewer than two records in the pool.
    """
    least = 4 * ctx.ipc * ctx.data.num_classes
    records = stratified(ctx.data.train, max(pool, least))
    members = draw_members(
        records.labels,
        shadows,
        num_classes=ctx.data.num_classes,
        generator=ctx.generator("membership", "members", seed),
    )
    held = held_out(ctx)
    return Halves(records, stratified(held.records, population), members, tuple(held.caveats()))


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


def ask(
    networks: Sequence[Sequence[Network]],
    ctx: Context,
    halves: Halves,
    *,
    attacks: Collection[str] = ("loss",),
    noise_draws: int = 0,
    seed: int,
) -> Answers:
    """Put pool, strangers and test images to the networks of every run.

    Args:
        networks: K runs of V networks each.
        halves: whose pool and strangers are asked about.
        attacks: names of the attacks whose scores are wanted; those that do not look at single networks
            are passed over.
        noise_draws: noisy copies per level of the attack "label-only".
        seed: of that noise, the same for all networks.
    """
    test = ctx.test()
    pool, strangers = halves.pool, halves.strangers
    images = torch.cat([pool.images, strangers.images, test.images])
    labels = torch.cat([pool.labels, strangers.labels])
    n, asked = len(pool), len(labels)
    phi, log_p, correct = [], [], []
    scores: dict[str, list[Tensor]] = {}
    for own in networks:
        logits = [ctx.predict(net, images) for net in own]
        phi.append(mean_of([signals.logit_margin(z[:asked], labels) for z in logits]))
        log_p.append(log_mean([signals.negative_loss(z[:asked], labels) for z in logits]))
        correct += [(z[asked:].argmax(1) == test.labels).double() for z in logits]
        found = network_scores([z[:n] for z in logits], pool.labels, attacks=attacks)
        found |= label_scores(own, ctx, pool, attacks=attacks, noise_draws=noise_draws, seed=seed)
        for name, score in found.items():
            scores.setdefault(name, []).append(score)
    margins, logs = torch.stack(phi), torch.stack(log_p)
    return Answers(
        phi=margins[:, :n],
        log_p=logs[:, :n],
        stranger_phi=margins[:, n:],
        stranger_log_p=logs[:, n:],
        scores={name: torch.stack(rows) for name, rows in scores.items()},
        correct=torch.stack(correct),
    )


def network_scores(
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


def label_scores(
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

    A row that would leave one of the present classes empty is drawn again (for classes of 20
    records that happens once in a million rows).

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
    while len(rows) < count:
        row = torch.rand(len(labels), generator=generator) < 0.5
        held = torch.bincount(labels[row], minlength=num_classes)
        if bool(((held > 0) | (sizes == 0)).all()):
            rows.append(row)
    return torch.stack(rows)


def others(index: int, count: int) -> list[int]:
    """Every shadow but the target."""
    return [k for k in range(count) if k != index]


def log_mean(log_p: list[Tensor]) -> Tensor:
    """Log of the mean of probabilities given as logs."""
    return torch.stack(log_p).logsumexp(0) - torch.tensor(float(len(log_p))).log()


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """Mean over a list of (N,) scores."""
    return torch.stack(list(values)).mean(0)
