"""Every attack by name: which subjects it works on, and its scores on shadow runs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

import torch
from torch import Tensor

from ddaudit.attacks.membership.evidence import Evidence
from ddaudit.attacks.membership.released import (
    class_mean_scores,
    feature_closeness,
    nearest_scores,
)
from ddaudit.attacks.membership.scores import domias as density
from ddaudit.attacks.membership.scores import lira, quantile, rmia
from ddaudit.attacks.membership.shadows import Shadows, others
from ddaudit.auditing import Context
from ddaudit.data import ImageData

Attack = Literal[
    "lira", "lira-offline", "lira-fixed", "rmia", "rmia-offline", "quantile", "loss", "confidence",
    "entropy", "modified-entropy", "label-only", "label-only-shifts", "class-mean", "domias", "nearest",
    "nearest-features",
]  # fmt: skip
"""In the order of the report. "lira" is online; "lira-fixed" is online with one spread for all records
(fixed variance), which "lira" itself uses below 64 shadows."""

FileAttack = Literal[
    "rmia-offline", "quantile", "loss", "confidence", "entropy", "modified-entropy", "label-only",
    "label-only-shifts", "class-mean", "domias", "nearest", "nearest-features",
]  # fmt: skip
"""What works without the recipe. On a checkpoint, only those that look at a network."""

ATTACKS: tuple[Attack, ...] = get_args(Attack)
FILE_ATTACKS: tuple[FileAttack, ...] = get_args(FileAttack)

OWN_SPREAD = 64
"""Shadows from which LiRA gives every record its own spread (Carlini et al., section VI-B)."""
PRINCIPAL = 10
"""Principal components of density estimates; the quantile regressor gets twice as many."""


def shadow_evidence(
    shadows: Shadows,
    ctx: Context,
    *,
    attacks: Collection[str],
    random_networks: int,
    rmia_gamma: float,
    rmia_a: float,
    rmia_references: int,
    seed: int,
) -> tuple[list[Evidence], Tensor]:
    """Leave-one-out scores: each shadow is the target once, the others are references.

    Args:
        shadows: K runs, whose answers hold the scores of single networks that ``attacks`` asks for.
        attacks: names; reported in the order of :data:`Attack`.
        random_networks: of the class-mean attack.
        rmia_gamma, rmia_a: see :mod:`scores.rmia`.
        rmia_references: references of the offline variant.
        seed: of networks, regressors and reference samples.

    Returns:
        The evidence, and (K, N) bool: the shadow's set holds the record verbatim.
    """
    answers, members = shadows.answers, shadows.members
    near, verbatim = _nearest(shadows, ctx, seed)
    found: dict[str, Tensor] = {"nearest": near, **answers.scores}
    own_spread = len(members) >= OWN_SPREAD
    found["lira"] = lira_scores(answers.phi, members, pooled=not own_spread)
    if own_spread and "lira-fixed" in attacks:
        found["lira-fixed"] = lira_scores(answers.phi, members, pooled=True)
    if "lira-offline" in attacks:
        found["lira-offline"] = lira_scores(
            answers.phi, members, pooled=not own_spread, offline=True
        )
    if "rmia" in attacks:
        found["rmia"] = _rmia(shadows, gamma=rmia_gamma, a=rmia_a)
    if "rmia-offline" in attacks:
        found["rmia-offline"] = _rmia(
            shadows, gamma=rmia_gamma, a=rmia_a, references=rmia_references
        )
    if "quantile" in attacks:
        found["quantile"] = _quantile(shadows, ctx, seed)
    if "class-mean" in attacks:
        found["class-mean"] = _class_mean(shadows, ctx, random_networks, seed)
    if "domias" in attacks:
        found["domias"] = torch.stack(
            [
                density.domias(
                    shadows.halves.pool.pixels(),
                    made.images,
                    shadows.halves.strangers.pixels(),
                    dims=PRINCIPAL,
                )
                for made in shadows.sets
            ]
        )
    if "nearest-features" in attacks:
        found["nearest-features"] = feature_closeness(
            shadows.halves.pool,
            shadows.sets,
            shadows.halves.strangers,
            ctx,
            generator=ctx.generator("membership", "reference", seed),
        )
    wanted = {"lira", "nearest", *attacks}
    leave_one_out = ("lira", "lira-offline", "lira-fixed", "rmia", "rmia-offline")
    return [
        Evidence(name, found[name], members, references=name in leave_one_out)
        for name in ATTACKS
        if name in wanted and name in found
    ], verbatim


def lira_scores(phi: Tensor, members: Tensor, *, pooled: bool, offline: bool = False) -> Tensor:
    """(K, N) LiRA scores of every run against all the others, from (K, N) logit margins."""
    score = lira.offline if offline else lira.online
    rows = []
    for k in range(len(members)):
        rest = others(k, len(members))
        rows.append(score(phi[k], lira.fit(phi[rest], members[rest], pooled=pooled)))
    return torch.stack(rows)


def out_references(log_p: Tensor, members: Tensor, count: int) -> Tensor:
    """(N,) log mean probability over the first ``count`` references that never saw the record.

    A record that fewer references missed uses those; one that all saw uses all (memberships are
    independent, so this tells nothing of the target's).

    Args:
        log_p: (R, N); ``members`` (R, N) bool.
        count: references a record, at least 1.
    """
    chosen = ~members & ((~members).cumsum(0) <= count)
    chosen = chosen | members.all(0)
    total = log_p.double().masked_fill(~chosen, -torch.inf).logsumexp(0)
    return total - chosen.sum(0).double().log()


def features(data: ImageData, coordinates: density.Whitener) -> Tensor:
    """(N, d + K): whitened principal components of the pixels, and the class."""
    classes = torch.nn.functional.one_hot(data.labels, data.num_classes).double()
    return torch.cat([coordinates(data.pixels()), classes], 1)


def _rmia(shadows: Shadows, *, gamma: float, a: float, references: int | None = None) -> Tensor:
    """(K, N) RMIA scores: online, or offline with a few references."""
    answers, members = shadows.answers, shadows.members
    rows = []
    for k in range(len(members)):
        rest = others(k, len(members))
        log_p, inside = answers.log_p[rest], members[rest]
        strangers = answers.stranger_log_p[rest]
        if references is None:
            reference = rmia.online_reference(log_p, inside, a=a)
        else:
            # Rotated, so that every run is a reference equally often.
            turn = [(k + 1 + i) % len(members) for i in range(len(members) - 1)]
            log_p, inside = answers.log_p[turn], members[turn]
            reference = rmia.offline_reference(out_references(log_p, inside, references)[None], a=a)
            strangers = answers.stranger_log_p[turn[:references]]
        rows.append(
            rmia.score(
                answers.log_p[k],
                reference,
                answers.stranger_log_p[k],
                rmia.offline_reference(strangers, a=a),
                gamma=gamma,
            )
        )
    return torch.stack(rows)


def _quantile(shadows: Shadows, ctx: Context, seed: int) -> Tensor:
    """(K, N): each target's regressor learns from strangers, who are non-members of every run."""
    halves, answers = shadows.halves, shadows.answers
    coordinates = density.whiten(halves.strangers.pixels(), dims=2 * PRINCIPAL)
    known, asked = features(halves.strangers, coordinates), features(halves.pool, coordinates)
    rows = []
    for k in range(len(answers.phi)):
        head = quantile.fit_gaussian(
            known,
            answers.stranger_phi[k],
            seed=ctx.seed_for("membership", "quantile", seed, k),
        )
        rows.append(head.score(asked, answers.phi[k]))
    return torch.stack(rows)


def _class_mean(shadows: Shadows, ctx: Context, networks: int, seed: int) -> Tensor:
    claim = shadows.sets[0].card.privacy
    return class_mean_scores(
        shadows.halves.pool,
        shadows.sets,
        shadows.halves.strangers,
        ctx,
        networks=networks,
        clip=claim.clip if claim is not None else None,
        seed=seed,
    )


def _nearest(shadows: Shadows, ctx: Context, seed: int) -> tuple[Tensor, Tensor]:
    return nearest_scores(
        shadows.halves.pool,
        shadows.sets,
        shadows.halves.strangers,
        generator=ctx.generator("membership", "reference", seed),
    )
