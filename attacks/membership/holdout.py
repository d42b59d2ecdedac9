"""Attacks without a recipe: training records against held-out ones, on one set or one network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks._common import signals
from ddaudit.attacks._common.nonmembers import cells, held_out, matched_samples
from ddaudit.attacks._common.records import join
from ddaudit.attacks.membership.battery import FILE_ATTACKS, PRINCIPAL, features
from ddaudit.attacks.membership.evidence import Evidence
from ddaudit.attacks.membership.released import (
    class_mean_scores,
    feature_closeness,
    nearest_scores,
)
from ddaudit.attacks.membership.scores import domias as density
from ddaudit.attacks.membership.scores import quantile, rmia
from ddaudit.attacks.membership.shadows import label_scores, log_mean, mean_of, network_scores
from ddaudit.auditing import Context, Subject
from ddaudit.data import ImageData
from ddaudit.errors import NotEnoughData
from ddaudit.models import Network
from ddaudit.sets import Card, DistilledSet


@dataclass(frozen=True, eq=False)
class Sides:
    """Records under attack, members first, and reference strangers that are not among them.

    Attributes:
        records: N records.
        members: (N,) bool.
        reference: R strangers that calibrate the attacks.
        caveats: what a report must say about the strangers.
    """

    records: ImageData
    members: Tensor
    reference: ImageData
    caveats: tuple[str, ...]


def split(ctx: Context, *, members: int, strangers: int) -> Sides:
    """Random training records, and held-out ones of exactly the same class and group composition.

    A third of the held-out records calibrates, non-members are drawn from the other two thirds.

    Args:
        members: at most this many training records.
        strangers: at most this many non-members, and half as many reference records.

    Raises:
        NotEnoughData: fewer than 20 records on a side.
    """
    train, held = ctx.data.train, held_out(ctx)
    order = torch.randperm(len(held.records), generator=ctx.generator("membership", "split"))
    cut = len(order) // 3
    reference = held.records.subset(torch.sort(order[:cut][: max(20, strangers // 2)]).values)
    outside = held.records.subset(torch.sort(order[cut:]).values)
    drawn = matched_samples(
        *cells(train, outside),
        most_inside=members,
        most_outside=strangers,
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
    return Sides(records, torch.arange(len(records)) < len(inside), reference, tuple(caveats))


def holdout_evidence(
    subject: Subject,
    ctx: Context,
    sides: Sides,
    *,
    attacks: Collection[str],
    random_networks: int,
    noise_draws: int,
    rmia_gamma: float,
    rmia_a: float,
    rmia_references: int,
    seed: int,
) -> tuple[list[Evidence], Tensor | None]:
    """Scores of the attacks that work without re-distillation.

    Args:
        subject: a set file or a checkpoint.
        sides: from :func:`split`.
        attacks: names; those that need images are passed over for a checkpoint.
        random_networks: of the class-mean attack.
        noise_draws: noisy copies per level of the label-only attack; 0 leaves it out.
        rmia_gamma, rmia_a: see :mod:`scores.rmia`.
        rmia_references: networks that are trained on real strangers to serve as references.
        seed: of networks, noise and regressors.

    Returns:
        The evidence, with K = 1, and (1, N) bool: the set holds the member verbatim (None without a
        set).
    """
    found: dict[str, Tensor] = {}
    verbatim = None
    if subject.set is not None:
        found, verbatim = _image_scores(
            subject.set, ctx, sides, attacks=attacks, random_networks=random_networks, seed=seed
        )
        verbatim = verbatim & sides.members
    networks = ctx.victims(subject, seed)
    logits = [ctx.predict(net, sides.records.images) for net in networks]
    labels = sides.records.labels
    found |= network_scores(logits, labels, attacks={"loss", *attacks})
    found |= label_scores(
        networks, ctx, sides.records, attacks=attacks, noise_draws=noise_draws, seed=seed
    )
    if "quantile" in attacks:
        found["quantile"] = _quantile(networks, logits, ctx, sides, seed)
    if "rmia-offline" in attacks:
        found["rmia-offline"] = _rmia(
            networks, logits, ctx, sides,
            gamma=rmia_gamma, a=rmia_a, references=rmia_references, seed=seed,
        )  # fmt: skip
    members = sides.members[None]
    return [
        Evidence(name, found[name][None], members) for name in FILE_ATTACKS if name in found
    ], verbatim


def _image_scores(
    released: DistilledSet,
    ctx: Context,
    sides: Sides,
    *,
    attacks: Collection[str],
    random_networks: int,
    seed: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """The class-mean and nearest-copy attacks always (the verdicts); the others when asked for."""
    means = class_mean_scores(
        sides.records,
        [released],
        sides.reference,
        ctx,
        networks=random_networks,
        clip=released.card.privacy.clip if released.card.privacy is not None else None,
        seed=seed,
    )
    near, verbatim = nearest_scores(
        sides.records,
        [released],
        sides.reference,
        generator=ctx.generator("membership", "reference", seed),
    )
    found = {"class-mean": means[0], "nearest": near[0]}
    if "domias" in attacks:
        found["domias"] = density.domias(
            sides.records.pixels(), released.images, sides.reference.pixels(), dims=PRINCIPAL
        )
    if "nearest-features" in attacks:
        found["nearest-features"] = feature_closeness(
            sides.records,
            [released],
            sides.reference,
            ctx,
            generator=ctx.generator("membership", "reference", seed),
        )[0]
    return found, verbatim


def _quantile(
    networks: list[Network], logits: list[Tensor], ctx: Context, sides: Sides, seed: int
) -> Tensor:
    """(N,) surprise of the margin; the regressor learns on reference records only."""
    known = [ctx.predict(net, sides.reference.images) for net in networks]
    coordinates = density.whiten(sides.reference.pixels(), dims=2 * PRINCIPAL)
    head = quantile.fit_gaussian(
        features(sides.reference, coordinates),
        mean_of([signals.logit_margin(z, sides.reference.labels) for z in known]),
        seed=ctx.seed_for("membership", "quantile", seed),
    )
    phi = mean_of([signals.logit_margin(z, sides.records.labels) for z in logits])
    return head.score(features(sides.records, coordinates), phi)


def _rmia(
    networks: list[Network],
    logits: list[Tensor],
    ctx: Context,
    sides: Sides,
    *,
    gamma: float,
    a: float,
    references: int,
    seed: int,
) -> Tensor:
    """(N,) offline RMIA: references are trained on half of the reference records, the rest are its strangers."""
    order = torch.randperm(
        len(sides.reference), generator=ctx.generator("membership", "references", seed)
    )
    cut = len(order) // 2
    own, strangers = sides.reference.subset(order[:cut]), sides.reference.subset(order[cut:])
    material = DistilledSet(own.pixels(), own.labels, own.num_classes, Card())
    seeds = [ctx.seed_for("membership", "reference network", seed, i) for i in range(references)]
    trained = ctx.train([material] * references, seeds=seeds)

    def log_p(nets: list[Network], data: ImageData) -> list[Tensor]:
        return [signals.negative_loss(ctx.predict(net, data.images), data.labels) for net in nets]

    known = torch.stack(log_p(trained, sides.records))
    population = torch.stack(log_p(trained, strangers))
    return rmia.score(
        log_mean([signals.negative_loss(z, sides.records.labels) for z in logits]),
        rmia.offline_reference(known, a=a),
        log_mean(log_p(networks, strangers)),
        rmia.offline_reference(population, a=a),
        gamma=gamma,
    )
