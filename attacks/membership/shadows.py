"""Shadow re-distillations: the recipe run on many random halves of a pool, victims trained on each.

A record enters each shadow independently with probability one half. Independence is not a detail:
it makes a member's and a non-member's references alike (see ``scores.lira.fit``), and it makes "in"
and "out" differ by exactly one added record, which is the neighbouring relation that privacy claims
are stated for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks.membership.heldout import held_out
from ddaudit.attacks.membership.scores.signals import logit_margin, negative_loss
from ddaudit.auditor import Context, Subject, stratified
from ddaudit.data import ImageData
from ddaudit.errors import Unsupported
from ddaudit.sets import DistilledSet


@dataclass(frozen=True, eq=False)
class Shadows:
    """K shadow runs and what their victims say.

    Attributes:
        pool: the N records that shadows are drawn from.
        strangers: Z records that no shadow saw (validation and test, composed like training).
        members: (K, N) bool.
        sets: the K distilled sets.
        phi: (K, N) float64 logit margins, averaged over a shadow's victims.
        log_p: (K, N) float64 log of the true label's probability, averaged over victims.
        stranger_log_p: (K, Z) the same for strangers.
        caveats: what a report must say about the strangers.
    """

    pool: ImageData
    strangers: ImageData
    members: Tensor
    sets: list[DistilledSet]
    phi: Tensor
    log_p: Tensor
    stranger_log_p: Tensor
    caveats: tuple[str, ...]


def run_shadows(
    subject: Subject,
    ctx: Context,
    *,
    shadows: int,
    pool: int,
    victims: int,
    population: int,
    seed: int,
) -> Shadows:
    """Re-distil K times and train ``victims`` networks on each set.

    All shadows use the same victim seeds: an attacker trains the victims himself, and equal
    initialisations take their noise out of the comparison.

    Args:
        subject: must have a recipe.
        shadows: K, at least 3.
        pool: records to draw from; raised to four times the size of the distilled set, so that a
            half holds twice as many records as are released.
        victims: networks per shadow.
        population: at most this many strangers.
        seed: of memberships, distillation and victims.

    Raises:
        Unsupported: no recipe, or a class with fewer than two records in the pool.
    """
    least = 4 * ctx.ipc * ctx.data.num_classes
    records = stratified(ctx.data.train, max(pool, least))
    generator = ctx.generator("membership", "members", seed)
    members = draw_members(
        records.labels, shadows, num_classes=ctx.data.num_classes, generator=generator
    )
    distil_seed = ctx.seed_for("membership", "distil", seed)
    sets = ctx.redistill_many(subject, records, members, distil_seed)
    seeds = [ctx.seed_for("membership", "victim", seed, i) for i in range(victims)]
    networks = ctx.train([s for s in sets for _ in seeds], seeds=seeds * shadows)
    held = held_out(ctx)
    outside = stratified(held.records, population)
    images = torch.cat([records.images, outside.images])
    labels = torch.cat([records.labels, outside.labels])
    phi, log_p = [], []
    for k in range(shadows):
        own = networks[k * victims : (k + 1) * victims]
        logits = [ctx.predict(net, images) for net in own]
        phi.append(torch.stack([logit_margin(z, labels) for z in logits]).mean(0))
        log_p.append(log_mean([negative_loss(z, labels) for z in logits]))
    n = len(records)
    return Shadows(
        pool=records,
        strangers=outside,
        caveats=tuple(held.caveats()),
        members=members,
        sets=sets,
        phi=torch.stack(phi)[:, :n],
        log_p=torch.stack(log_p)[:, :n],
        stranger_log_p=torch.stack(log_p)[:, n:],
    )


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
