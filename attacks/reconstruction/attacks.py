"""The two adversaries against a release with the targets and one without: what they see, and how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.attacks._common.nonmembers import held_out, made_of_ours
from ddaudit.attacks._common.records import join
from ddaudit.attacks._common.releases import Observed
from ddaudit.attacks.reconstruction.clues import Log, NoisySums, set_clues, sum_clue, unexplained
from ddaudit.attacks.reconstruction.inversion import (
    Case,
    Clue,
    Prior,
    Score,
    class_prior,
    invert,
    score,
)
from ddaudit.auditing import Context, Settings, Subject, stratified
from ddaudit.data import ImageData
from ddaudit.distillation.parts import TargetRule
from ddaudit.distillation.targets import ByClass, Reduced, Weighted
from ddaudit.errors import Unsupported
from ddaudit.models import Network
from ddaudit.sets import DistilledSet

Adversary = Literal["final-set", "intermediate"]

_MOST_EMBEDDED = 200_000
"""Images put through random networks per attack: large sets get fewer networks."""
_GRADIENT_SHARE = 1 / 3
"""Share of the clues a step where signals are gradients, which are several times as expensive."""
_FEWEST = 3
"""A class with fewer records says too little of what its records look like."""


class ReconstructionSettings(Settings):
    """How many records are attacked, in how large a set, and how hard."""

    targets: int = Field(default=10, ge=2)
    """Records to rebuild, spread over the classes; at most a tenth of the pool."""
    pool: int = Field(default=200, ge=20)
    """Records that are distilled again, an even sample of the training data. Every record weighs more in a smaller
    pool: rates of different pools cannot be compared.
    """
    networks: int = Field(default=48, ge=1)
    """Random networks of the final-set attack."""
    releases: int = Field(default=256, ge=1)
    """Noisy releases that the intermediate attack uses at most."""
    steps: int = Field(default=300, ge=1)
    """Gradient steps of an attack."""
    batch: int = Field(default=6, ge=1)
    """Networks or releases looked at in each step."""
    starts: int = Field(default=3, ge=1)
    """Starting images for each record."""
    pairs: int = Field(default=8, ge=0)
    """Records in the pictures; 0 keeps real records out of the report."""


@dataclass(frozen=True, eq=False)
class Side:
    """One attack on one release, with the targets in it or left out."""

    case: Case
    prior: Prior
    rebuilt: Tensor
    score: Score


@dataclass(frozen=True, eq=False)
class Attack:
    """One adversary against the release with the targets and against one made without them."""

    adversary: Adversary
    inside: Side
    outside: Side


def attack_recipe(
    subject: Subject, ctx: Context, settings: ReconstructionSettings, seed: int, log: Log
) -> tuple[list[Attack], DistilledSet]:
    """Distil a pool with the targets and without them, and attack both."""
    recipe = subject.recipe
    assert recipe is not None
    pool = stratified(ctx.data.train, settings.pool, even=True)
    everyone = torch.ones(len(pool), dtype=torch.bool)
    generator = ctx.generator("reconstruction", "targets", seed)
    targets = pick_targets(pool, everyone, settings.targets, generator)
    without = everyone.clone()
    without[targets] = False
    if recipe.reader is not None and recipe.reader.private:
        subject = replace(subject, recipe=replace(recipe, reader=Observed(recipe.reader, log)))
    sets = ctx.redistill_many(
        subject, pool, torch.stack([everyone, without]), ctx.seed_for("reconstruction", seed)
    )
    cases = [Case(pool, members, targets) for members in (everyone, without)]
    rule = class_rule(recipe.target, pool)
    attacks = [_final_set(sets, cases, rule, ctx, settings, seed)]
    releases = [log.of(case.members) for case in cases]
    if all(releases):
        gradients = recipe.objective is not None and not recipe.objective.shareable
        share = _GRADIENT_SHARE if gradients else 1.0
        sides = [
            _from_releases(r, c, ctx, settings, seed, share=share)
            for r, c in zip(releases, cases, strict=True)
        ]
        attacks.append(Attack("intermediate", *sides))
    return attacks, sets[0]


def attack_file(
    subject: Subject, ctx: Context, settings: ReconstructionSettings, seed: int
) -> tuple[list[Attack], DistilledSet]:
    """Attack training records in the released set; held-out records, believed to be in, are the control."""
    if subject.set is None:
        raise Unsupported(
            "rebuilding records from weights needs the weights before training too, and a checkpoint "
            "has only those after it"
        )
    released, train = subject.set, ctx.data.train
    source = released.card.source_fingerprint
    if source is not None and source != train.fingerprint:
        raise Unsupported(
            "the set says it was made from other data: an attacker who knows all but one of its "
            "records cannot be played with ours"
        )
    held = held_out(ctx, ours=made_of_ours(released, ctx)).records
    generator = ctx.generator("reconstruction", "targets", seed)
    outside = pick_targets(
        held, torch.ones(len(held), dtype=torch.bool), settings.targets, generator
    )
    pool = join(train, held.subset(outside))
    members = torch.arange(len(pool)) < len(train)
    inside = pick_targets(pool, members, len(outside), generator)
    control = torch.arange(len(train), len(pool))
    cases = [Case(pool, members, t) for t in (inside, control)]
    return [_final_set([released] * 2, cases, ByClass(), ctx, settings, seed)], released


def _final_set(
    sets: list[DistilledSet],
    cases: list[Case],
    rule: TargetRule,
    ctx: Context,
    settings: ReconstructionSettings,
    seed: int,
) -> Attack:
    each = len(cases[0].pool) + len(sets[0])
    count = max(1, min(settings.networks, _MOST_EMBEDDED // each))
    networks = _networks(ctx, count, seed)
    sides = []
    for released, case in zip(sets, cases, strict=True):
        clues = set_clues(released, case, rule, networks)
        prior = class_prior(case, device=ctx.device)
        rebuilt = _invert(clues, prior, ctx, settings, seed, independent=False)
        for j, image in enumerate(unexplained(released, case)):
            if image is not None:
                rebuilt[j] = image
        sides.append(Side(case, prior, rebuilt, score(rebuilt, case, prior)))
    return Attack("final-set", *sides)


def _from_releases(
    releases: list[NoisySums],
    case: Case,
    ctx: Context,
    settings: ReconstructionSettings,
    seed: int,
    *,
    share: float,
) -> Side:
    clues = [sum_clue(seen, case) for seen in releases]
    prior = class_prior(case, device=ctx.device)
    rebuilt = _invert(clues, prior, ctx, settings, seed, independent=True, share=share)
    return Side(case, prior, rebuilt, score(rebuilt, case, prior))


def _invert(
    clues: Sequence[Clue],
    prior: Prior,
    ctx: Context,
    settings: ReconstructionSettings,
    seed: int,
    *,
    independent: bool,
    share: float = 1.0,
) -> Tensor:
    return invert(
        clues,
        prior,
        independent=independent,
        steps=settings.steps,
        batch=max(1, round(share * settings.batch)),
        starts=settings.starts,
        generator=ctx.generator("reconstruction", "attack", seed),
    ).cpu()


def pick_targets(
    pool: ImageData, members: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """(J,) positions of random members, spread evenly over the classes that have enough records.

    Raises:
        Unsupported: fewer than two records can be spared.
    """
    count = min(count, int(members.sum()) // 10)
    order = torch.randperm(len(pool), generator=generator)
    order = order[members[order]]
    labels = pool.labels[order]
    turn = torch.zeros_like(labels)
    for label in torch.unique(labels).tolist():
        own = labels == label
        size = int(own.sum())
        turn[own] = torch.arange(size) if size >= _FEWEST else len(pool)
    first = torch.argsort(turn, stable=True)[:count]
    first = first[turn[first] < len(pool)]
    if len(first) < 2:
        raise Unsupported(f"{int(members.sum())} records are too few to leave some out")
    return torch.sort(order[first]).values


def class_rule(rule: TargetRule | None, pool: ImageData) -> TargetRule:
    """The recipe's own class rows in their bounded form, else plain ones."""
    if rule is None:
        return ByClass()
    bounded = _every_row(rule).bounded()
    slots = bounded.layout(pool).slots
    fits = torch.equal(slots, torch.arange(pool.num_classes))
    return bounded if fits else ByClass()


def _every_row(rule: TargetRule) -> TargetRule:
    """The rows of a rule that counts only the worst of them: a clue is about each."""
    if isinstance(rule, Reduced):
        return _every_row(rule.rule)
    return replace(rule, rule=_every_row(rule.rule)) if isinstance(rule, Weighted) else rule


def _networks(ctx: Context, count: int, seed: int) -> list[Network]:
    """Random networks from public seeds, of the audit's architecture."""
    return [ctx.random_network("reconstruction", "network", seed, i) for i in range(count)]
