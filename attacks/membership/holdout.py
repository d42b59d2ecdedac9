"""Attacks without a recipe: training records against held-out ones, on one set or one network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks.membership.evidence import Evidence
from ddaudit.attacks.membership.heldout import held_out, join
from ddaudit.attacks.membership.released import class_mean_scores, nearest_scores
from ddaudit.attacks.membership.scores import domias as density
from ddaudit.attacks.membership.scores import label_only, quantile, signals
from ddaudit.auditor import Context, Subject, stratified
from ddaudit.data import ImageData
from ddaudit.errors import NotEnoughData
from ddaudit.models import Network


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
    """Members from training; held-out records (composed like training) on the other side.

    A third of the held-out records calibrates, two thirds are the non-members.

    Args:
        members: at most this many training records (a fixed stratified sample).
        strangers: at most this many non-members, and half as many reference records.

    Raises:
        NotEnoughData: fewer than 20 records on a side.
    """
    inside = stratified(ctx.data.train, members)
    held = held_out(ctx)
    order = torch.randperm(len(held.records), generator=ctx.generator("membership", "split"))
    cut = len(order) // 3
    reference = stratified(held.records.subset(order[:cut]), max(20, strangers // 2))
    outside = stratified(held.records.subset(order[cut:]), strangers)
    if min(len(inside), len(reference), len(outside)) < 20:
        raise NotEnoughData(
            f"membership needs 20 members, non-members and reference records, there are "
            f"{len(inside)}, {len(outside)} and {len(reference)}"
        )
    records = join(inside, outside)
    members_mask = torch.arange(len(records)) < len(inside)
    return Sides(records, members_mask, reference, tuple(held.caveats()))


def holdout_evidence(
    subject: Subject,
    ctx: Context,
    sides: Sides,
    *,
    random_networks: int,
    noise_draws: int,
    seed: int,
) -> tuple[list[Evidence], Tensor | None]:
    """Scores of every attack that works without re-distillation.

    Args:
        subject: a set file or a checkpoint.
        sides: from :func:`split`.
        random_networks: of the class-mean attack.
        noise_draws: noisy copies per level of the label-only attack; 0 leaves it out.
        seed: of networks, noise and regressors.

    Returns:
        The evidence, with K = 1, and (1, N) bool: the set holds the member verbatim (None without a
        set).
    """
    evidence, verbatim = [], None
    if subject.set is not None:
        scores, verbatim = _image_scores(
            subject, ctx, sides, random_networks=random_networks, seed=seed
        )
        evidence += [(name, score) for name, score in scores.items()]
        verbatim = verbatim & sides.members
    networks = ctx.victims(subject, seed)
    victim = _victim_scores(networks, ctx, sides, noise_draws=noise_draws, seed=seed)
    evidence += [(name, score) for name, score in victim.items()]
    members = sides.members[None]
    return [Evidence(name, score[None], members) for name, score in evidence], verbatim


def _image_scores(
    subject: Subject, ctx: Context, sides: Sides, *, random_networks: int, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    assert subject.set is not None
    claim = subject.set.card.privacy
    means = class_mean_scores(
        sides.records,
        [subject.set],
        sides.reference,
        ctx,
        networks=random_networks,
        clip=claim.clip if claim is not None else None,
        seed=seed,
    )
    near, verbatim = nearest_scores(
        sides.records,
        [subject.set],
        sides.reference,
        generator=ctx.generator("membership", "reference", seed),
    )
    ratio = density.domias(
        sides.records.pixels(), subject.set.images, sides.reference.pixels(), dims=10
    )
    return {"class-mean": means[0], "nearest": near[0], "domias": ratio}, verbatim


def _victim_scores(
    networks: list[Network], ctx: Context, sides: Sides, *, noise_draws: int, seed: int
) -> dict[str, Tensor]:
    """Averages over victims; the quantile regressor learns on reference records only."""
    labels = sides.records.labels
    logits = [ctx.predict(net, sides.records.images) for net in networks]
    reference = [ctx.predict(net, sides.reference.images) for net in networks]
    phi = _mean([signals.logit_margin(z, labels) for z in logits])
    reference_phi = _mean([signals.logit_margin(z, sides.reference.labels) for z in reference])
    coordinates = density.whiten(sides.reference.pixels(), dims=20)
    head = quantile.fit_gaussian(
        _features(sides.reference, coordinates),
        reference_phi,
        seed=ctx.seed_for("membership", "quantile", seed),
    )
    scores = {
        "loss": _mean([signals.negative_loss(z, labels) for z in logits]),
        "modified-entropy": _mean([signals.negative_modified_entropy(z, labels) for z in logits]),
        "quantile": head.score(_features(sides.records, coordinates), phi),
    }
    if noise_draws > 0:
        scores["label-only"] = _mean(
            [
                label_only.stability_under_noise(
                    lambda x, net=net: ctx.predict(net, x).argmax(1),  # type: ignore[misc]
                    sides.records.pixels(),
                    labels,
                    draws=noise_draws,
                    generator=ctx.generator("membership", "noise", seed),
                )
                for net in networks
            ]
        )
    return scores


def _features(data: ImageData, coordinates: density.Whitener) -> Tensor:
    """(N, d + K): whitened principal components of the pixels, and the class."""
    classes = torch.nn.functional.one_hot(data.labels, data.num_classes).double()
    return torch.cat([coordinates(data.pixels()), classes], 1)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)
