"""Every attack by name, once: its scores of all records against each run of a trial.

A run of a recipe is attacked with the other runs as references; a file or a checkpoint is a single run, so attacks
that need references either train their own (``rmia-offline``) or are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from ddaudit.attacks._common.features import exact_copies
from ddaudit.attacks._common.signals import negative_loss
from ddaudit.attacks.membership.evidence import Evidence
from ddaudit.attacks.membership.scores import domias as density
from ddaudit.attacks.membership.scores import lira, quantile, rmia
from ddaudit.attacks.membership.scores.class_mean import clip_rows, inner_product
from ddaudit.attacks.membership.scores.nearest import calibrated_closeness
from ddaudit.attacks.membership.settings import ATTACKS, Attack, MembershipSettings
from ddaudit.attacks.membership.shadows import Cohort, Trial
from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.sets import Card, DistilledSet
from ddaudit.training import features

OWN_SPREAD = 64
"""Shadows from which LiRA gives every record its own spread (Carlini et al., section VI-B)."""
PRINCIPAL = 10
"""Principal components of density estimates; the quantile regressor gets twice as many."""

_OF_RUNS = ("lira", "lira-offline", "lira-fixed", "rmia")
"""Attacks that need other runs as references."""
_OF_SETS = ("class-mean", "domias", "nearest", "nearest-features")
"""Attacks that look at released images."""


def attack(
    trial: Trial,
    ctx: Context,
    settings: MembershipSettings,
    *,
    attacks: Collection[str],
    seed: int,
) -> tuple[list[Evidence], Tensor | None]:
    """Scores of the named attacks, as far as the trial allows them.

    Args:
        trial: K runs; the scores of single networks are in its readings.
        attacks: names; reported in the order of :data:`Attack`.
        settings: numbers of networks and references, constants of RMIA.
        seed: of networks, regressors and reference samples.

    Returns:
        The evidence, and (K, N) bool: the run's set holds the record verbatim (None without sets).
    """
    alone = len(trial.members) == 1
    few = len(trial.members) < OWN_SPREAD
    phi, members = trial.readings.phi, trial.members
    scores: dict[str, Tensor] = dict(trial.readings.scores)
    makers: dict[Attack, Callable[[], Tensor]] = {
        "lira": lambda: lira_scores(phi, members, pooled=few),
        "lira-offline": lambda: lira_scores(phi, members, pooled=few, offline=True),
        "rmia": lambda: _rmia(trial, settings),
        "rmia-offline": lambda: (
            _rmia_alone(trial, ctx, settings, seed) if alone else _rmia_offline(trial, settings)
        ),
        "quantile": lambda: _quantile(trial, ctx, seed),
        "class-mean": lambda: class_mean_scores(
            trial.cohort, trial.sets, ctx, networks=settings.random_networks, seed=seed
        ),
        "domias": lambda: _domias(trial),
        "nearest-features": lambda: _nearest_features(trial, ctx, seed),
    }
    if not few:
        makers["lira-fixed"] = lambda: lira_scores(phi, members, pooled=True)
    left_out = (*(_OF_RUNS if alone else ()), *(() if trial.sets else _OF_SETS))
    verbatim = None
    if trial.sets:
        generator = ctx.generator("membership", "reference", seed)
        scores["nearest"], verbatim = nearest_scores(trial.cohort, trial.sets, generator=generator)
    for name, make in makers.items():
        if name in attacks and name not in left_out:
            scores[name] = make()
    references = () if alone else (*_OF_RUNS, "rmia-offline")
    return [
        Evidence(name, scores[name], members, references=name in references)
        for name in ATTACKS
        if name in attacks and name in scores
    ], verbatim


# ---- references: LiRA and RMIA -------------------------------------------------------------------


def lira_scores(phi: Tensor, members: Tensor, *, pooled: bool, offline: bool = False) -> Tensor:
    """(K, N) LiRA scores of every run against all the others, from (K, N) logit margins."""
    score = lira.offline if offline else lira.online
    rows = []
    for k in range(len(members)):
        rest = other_runs(k, len(members))
        rows.append(score(phi[k], lira.fit(phi[rest], members[rest], pooled=pooled)))
    return torch.stack(rows)


def out_references(log_p: Tensor, members: Tensor, count: int) -> Tensor:
    """(N,) log mean probability over the first ``count`` references that never saw the record.

    A record that fewer references missed uses those; one that all saw uses all (memberships are
    independent, so nothing of the target's shows in this).

    Args:
        log_p: (R, N); ``members`` (R, N) bool.
        count: references a record, at least 1.
    """
    chosen = ~members & ((~members).cumsum(0) <= count)
    chosen = chosen | members.all(0)
    total = log_p.double().masked_fill(~chosen, -torch.inf).logsumexp(0)
    return total - chosen.sum(0).double().log()


def other_runs(index: int, count: int) -> list[int]:
    """Every run but the target."""
    return [k for k in range(count) if k != index]


def _rmia(trial: Trial, settings: MembershipSettings) -> Tensor:
    """(K, N) online RMIA: all other runs are references."""
    readings, gamma = trial.readings, settings.rmia_gamma
    return rmia_scores(readings.log_p, readings.nonmember_log_p, trial.members, gamma=gamma)


def rmia_scores(
    log_p: Tensor, nonmember_log_p: Tensor, members: Tensor, *, gamma: float = 1.0
) -> Tensor:
    """(K, N) online RMIA of every run with all the others as references.

    Args:
        log_p: (K, N) log-probability of the true label; ``nonmember_log_p`` (K, Z) of the population.
        members: (K, N) bool.
        gamma: see :func:`rmia.score`.
    """
    rows = []
    for k in range(len(members)):
        rest = other_runs(k, len(members))
        seen, population = members[rest], nonmember_log_p[rest]
        shift = rmia.in_out_shift(log_p[rest], seen)
        reference = rmia.online_reference(log_p[rest], seen, shift)
        nobody = torch.zeros_like(population, dtype=torch.bool)
        base = rmia.online_reference(population, nobody, shift)
        rows.append(rmia.score(log_p[k], reference, nonmember_log_p[k], base, gamma=gamma))
    return torch.stack(rows)


def _rmia_offline(trial: Trial, settings: MembershipSettings) -> Tensor:
    """(K, N) RMIA with a few of the other runs, only where they never saw the record."""
    readings, members = trial.readings, trial.members
    a, count, rows = settings.rmia_a, settings.rmia_references, []
    for k in range(len(members)):
        # Rotated, so that every run is a reference equally often.
        turn = [(k + 1 + i) % len(members) for i in range(len(members) - 1)]
        outside = out_references(readings.log_p[turn], members[turn], count)
        rows.append(
            rmia.score(
                readings.log_p[k],
                rmia.offline_reference(outside[None], a=a),
                readings.nonmember_log_p[k],
                rmia.offline_reference(readings.nonmember_log_p[turn[:count]], a=a),
                gamma=settings.rmia_gamma,
            )
        )
    return torch.stack(rows)


def _rmia_alone(trial: Trial, ctx: Context, settings: MembershipSettings, seed: int) -> Tensor:
    """(1, N) offline RMIA: references are trained on half of the non-members, the rest are its population."""
    records, nonmembers = trial.cohort.records, trial.cohort.nonmembers
    generator = ctx.generator("membership", "references", seed)
    order = torch.randperm(len(nonmembers), generator=generator)
    cut = len(order) // 2
    own, population = nonmembers.subset(order[:cut]), nonmembers.subset(order[cut:])
    material = DistilledSet(own.pixels(), own.labels, own.num_classes, Card())
    count = settings.rmia_references
    seeds = [ctx.seed_for("membership", "reference network", seed, i) for i in range(count)]
    trained = ctx.train([material] * count, seeds=seeds)

    def log_p(data: ImageData) -> Tensor:
        rows = [negative_loss(ctx.predict(net, data.images), data.labels) for net in trained]
        return torch.stack(rows)

    return rmia.score(
        trial.readings.log_p[0],
        rmia.offline_reference(log_p(records), a=settings.rmia_a),
        trial.readings.nonmember_log_p[0][order[cut:]],
        rmia.offline_reference(log_p(population), a=settings.rmia_a),
        gamma=settings.rmia_gamma,
    )[None]


def _quantile(trial: Trial, ctx: Context, seed: int) -> Tensor:
    """(K, N): each target's regressor learns from records that are non-members of every run."""
    cohort, readings = trial.cohort, trial.readings
    coordinates = density.whiten(cohort.nonmembers.pixels(), dims=2 * PRINCIPAL)
    known, wanted = (_principal(x, coordinates) for x in (cohort.nonmembers, cohort.records))
    runs, rows = len(readings.phi), []
    for k in range(runs):
        turn = (seed, k) if runs > 1 else (seed,)
        head = quantile.fit_gaussian(
            known, readings.nonmember_phi[k], seed=ctx.seed_for("membership", "quantile", *turn)
        )
        rows.append(head.score(wanted, readings.phi[k]))
    return torch.stack(rows)


def _principal(data: ImageData, coordinates: density.Whitener) -> Tensor:
    """(N, d + K): whitened principal components of the pixels, and the class."""
    classes = torch.nn.functional.one_hot(data.labels, data.num_classes).double()
    return torch.cat([coordinates(data.pixels()), classes], 1)


# ---- released images -----------------------------------------------------------------------------


def nearest_scores(
    cohort: Cohort, sets: Sequence[DistilledSet], *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Calibrated closeness of every record to every set, in pixels.

    Returns:
        (K, N) float64, see :func:`calibrated_closeness`, and (K, N) bool: the set holds the record verbatim.
    """
    x, r = cohort.records.pixels(), cohort.nonmembers.pixels()
    rows = [released.images for released in sets]
    scores, distances = calibrated_closeness(x, rows, r, generator=generator)
    return scores, exact_copies(distances, pixels=x[0].numel())


def class_mean_scores(
    cohort: Cohort, sets: Sequence[DistilledSet], ctx: Context, *, networks: int, seed: int
) -> Tensor:
    """(K, N) float64 class-mean statistic of every record against every set, over public random networks.

    Args:
        networks: random networks of the audit's architecture; features are clipped as a private set's were.
        seed: of the networks.
    """
    records, nonmembers = cohort.records, cohort.nonmembers
    claim = sets[0].card.privacy
    clip = claim.clip if claim is not None else None
    x, r = records.pixels(), nonmembers.pixels()
    total = torch.zeros(len(sets), len(x), dtype=torch.float64)
    for t in range(networks):
        net = ctx.random_network("membership", "random network", seed, t)
        zx, zr = (clip_rows(features(net, part), clip) for part in (x, r))
        for k, released in enumerate(sets):
            total[k] += inner_product(
                zx,
                records.labels,
                clip_rows(features(net, released.images), clip),
                released.labels,
                zr,
                nonmembers.labels,
                num_classes=ctx.data.num_classes,
            )
    return total


def _domias(trial: Trial) -> Tensor:
    """(K, N) density ratios of every record."""
    x, r = trial.cohort.records.pixels(), trial.cohort.nonmembers.pixels()
    rows = [density.domias(x, released.images, r, dims=PRINCIPAL) for released in trial.sets]
    return torch.stack(rows)


def _nearest_features(trial: Trial, ctx: Context, seed: int) -> Tensor:
    """(K, N) calibrated closeness between embeddings of one public random network.

    Distances in features survive small shifts and changes of contrast that pixels do not.
    """
    net = ctx.random_network("membership", "nearest features")
    x, r = (features(net, d.pixels()) for d in (trial.cohort.records, trial.cohort.nonmembers))
    rows = [features(net, released.images) for released in trial.sets]
    generator = ctx.generator("membership", "reference", seed)
    return calibrated_closeness(x, rows, r, generator=generator)[0]
