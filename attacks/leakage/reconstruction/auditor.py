"""The ``reconstruction`` auditor: can an unknown record be rebuilt from what is released?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.attacks.leakage.reconstruction import known_answers
from ddaudit.attacks.leakage.reconstruction.inversion import Case, Clue, Prior, class_prior, invert
from ddaudit.attacks.leakage.reconstruction.pictures import strip
from ddaudit.attacks.leakage.reconstruction.released_set import set_clues, unexplained
from ddaudit.attacks.leakage.reconstruction.releases import Log, NoisySums, Observed, sum_clue
from ddaudit.attacks.leakage.reconstruction.scoring import Score, score
from ddaudit.attacks.membership.heldout import held_out, join
from ddaudit.auditor import Auditor, Context, Settings, Subject, auditor, stratified
from ddaudit.data import ImageData
from ddaudit.distill.parts import TargetRule
from ddaudit.distill.targets import ByClass
from ddaudit.errors import Unsupported
from ddaudit.findings import Check, Curve, Finding, Metric
from ddaudit.models import Network, build
from ddaudit.sets import DistilledSet, PrivacyClaim
from ddaudit.stats import bootstrap, clopper_pearson

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
class _Side:
    """One attack on one release, with the targets in it or left out."""

    case: Case
    prior: Prior
    found: Tensor
    score: Score


@dataclass(frozen=True, eq=False)
class _Attack:
    """One adversary against the release with the targets and against one made without them."""

    adversary: Adversary
    inside: _Side
    outside: _Side


@auditor
class Reconstruction(Auditor[ReconstructionSettings]):
    """Rebuilds single records by gradient descent, knowing all the others."""

    name = "reconstruction"
    title = "Reconstruction of records"
    question = (
        "Can somebody who knows every record but one rebuild that record from what is released?"
    )
    threat_model = (
        "The attacker knows the recipe, every other training record, and the class of the missing "
        "one. 'final-set' sees the distilled images alone; 'intermediate' sees every noisy sum that a "
        "private recipe worked from, which is what its proof covers. Knowing all but one is the "
        "worst case, and the one that differential privacy promises to withstand."
    )
    how_to_read = (
        "The success rate is the share of records that were rebuilt closer than two guesses that need "
        "no release: the average of the known records of the class, and even the known record that "
        "happens to be most similar. The floor is the same rate when the set was made without the "
        "record: a rate near it means that nothing was found, 1 means that every record shows through. "
        "The distance ratio says how well: 1 is no better than the average record, 0 is the record "
        "itself, and at 0.5 its picture is usually easy to recognise."
    )
    sources = (
        "Balle, Cherubin & Hayes, Reconstructing Training Data with Informed Adversaries, S&P 2022",
        "Loo et al., Understanding Reconstruction Attacks with the NTK and Dataset Distillation, "
        "ICLR 2024, arXiv 2302.01428",
        "Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023 (the class means "
        "that are inverted)",
    )
    version = 1
    settings = ReconstructionSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"networks": 24, "releases": 64, "steps": 100, "starts": 1},
        "standard": {},
        "full": {"targets": 20, "networks": 96, "releases": 2000, "steps": 600, "starts": 5},
    }

    def run(
        self, subject: Subject, ctx: Context, settings: ReconstructionSettings, seed: int
    ) -> Finding:
        """Distil with the targets and without them, attack both, and compare.

        Raises:
            Unsupported: a checkpoint, a set that was made from other data, or too few records.
        """
        log = Log(settings.releases)
        if subject.recipe is not None:
            attacks, released = _attack_recipe(subject, ctx, settings, seed, log)
        else:
            attacks, released = _attack_file(subject, ctx, settings, seed)
        finding = Finding(subject=subject.id, auditor=self.name)
        for attack in attacks:
            finding.metrics += _metrics(attack)
            finding.curves += _curves(attack)
            if settings.pairs > 0:
                side = attack.inside
                finding.images.append(
                    strip(
                        side.case.truth,
                        side.found,
                        side.prior.means.cpu(),
                        name=attack.adversary,
                        triples=settings.pairs,
                    )
                )
        finding.caveats = _caveats(subject, attacks, released.card.privacy, log)
        return finding

    def checks(self, ctx: Context, settings: ReconstructionSettings) -> list[Check]:
        """Exact sums, drowned sums, the records themselves with and without the targets, memorised weights."""
        pool = known_answers.shrunk(stratified(ctx.data.train, 200))
        everyone = torch.ones(len(pool), dtype=torch.bool)
        generator = ctx.generator("reconstruction", "checks")
        case = Case(pool, everyone, _targets(pool, everyone, 10, generator))
        networks = [known_answers.small_network(pool, seed=i) for i in range(12)]
        return [
            known_answers.exact_sums(case),
            known_answers.drowned_sums(case),
            *known_answers.whole_pool(case, networks),
            known_answers.memorised_weights(pool),
        ]


def _attack_recipe(
    subject: Subject, ctx: Context, settings: ReconstructionSettings, seed: int, log: Log
) -> tuple[list[_Attack], DistilledSet]:
    """Distil a pool with the targets and without them, and attack both."""
    recipe = subject.recipe
    assert recipe is not None
    pool = stratified(ctx.data.train, settings.pool)
    everyone = torch.ones(len(pool), dtype=torch.bool)
    generator = ctx.generator("reconstruction", "targets", seed)
    targets = _targets(pool, everyone, settings.targets, generator)
    without = everyone.clone()
    without[targets] = False
    if recipe.reader is not None and recipe.reader.private:
        subject = replace(subject, recipe=replace(recipe, reader=Observed(recipe.reader, log)))
    sets = ctx.redistill_many(
        subject, pool, torch.stack([everyone, without]), ctx.seed_for("reconstruction", seed)
    )
    cases = [Case(pool, members, targets) for members in (everyone, without)]
    rule = _class_rule(recipe.target, pool)
    attacks = [_final_set(sets, cases, rule, ctx, settings, seed)]
    releases = [log.of(case.members) for case in cases]
    if all(releases):
        gradients = recipe.objective is not None and not recipe.objective.shareable
        share = _GRADIENT_SHARE if gradients else 1.0
        sides = [
            _from_releases(r, c, ctx, settings, seed, share=share)
            for r, c in zip(releases, cases, strict=True)
        ]
        attacks.append(_Attack("intermediate", *sides))
    return attacks, sets[0]


def _attack_file(
    subject: Subject, ctx: Context, settings: ReconstructionSettings, seed: int
) -> tuple[list[_Attack], DistilledSet]:
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
    held = held_out(ctx).records
    generator = ctx.generator("reconstruction", "targets", seed)
    outside = _targets(held, torch.ones(len(held), dtype=torch.bool), settings.targets, generator)
    pool = join(train, held.subset(outside))
    members = torch.arange(len(pool)) < len(train)
    inside = _targets(pool, members, len(outside), generator)
    strangers = torch.arange(len(train), len(pool))
    cases = [Case(pool, members, t) for t in (inside, strangers)]
    return [_final_set([released] * 2, cases, ByClass(), ctx, settings, seed)], released


def _final_set(
    sets: list[DistilledSet],
    cases: list[Case],
    rule: TargetRule,
    ctx: Context,
    settings: ReconstructionSettings,
    seed: int,
) -> _Attack:
    each = len(cases[0].pool) + len(sets[0])
    count = max(1, min(settings.networks, _MOST_EMBEDDED // each))
    networks = _networks(ctx, count, seed)
    sides = []
    for released, case in zip(sets, cases, strict=True):
        clues = set_clues(released, case, rule, networks)
        prior = class_prior(case, device=ctx.device)
        found = _invert(clues, prior, ctx, settings, seed, independent=False)
        for j, image in enumerate(unexplained(released, case)):
            if image is not None:
                found[j] = image
        sides.append(_Side(case, prior, found, score(found, case, prior)))
    return _Attack("final-set", *sides)


def _from_releases(
    releases: list[NoisySums],
    case: Case,
    ctx: Context,
    settings: ReconstructionSettings,
    seed: int,
    *,
    share: float,
) -> _Side:
    clues = [sum_clue(seen, case) for seen in releases]
    prior = class_prior(case, device=ctx.device)
    found = _invert(clues, prior, ctx, settings, seed, independent=True, share=share)
    return _Side(case, prior, found, score(found, case, prior))


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


def _targets(pool: ImageData, members: Tensor, count: int, generator: torch.Generator) -> Tensor:
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


def _class_rule(rule: TargetRule | None, pool: ImageData) -> TargetRule:
    """The recipe's own class rows in their bounded form, else plain ones."""
    if rule is None:
        return ByClass()
    bounded = rule.bounded()
    slots = bounded.layout(pool).slots
    fits = torch.equal(slots, torch.arange(pool.num_classes))
    return bounded if fits else ByClass()


def _networks(ctx: Context, count: int, seed: int) -> list[Network]:
    """Random networks from public seeds, of the audit's architecture."""
    return [
        build(
            ctx.arch,
            shape=ctx.data.shape,
            num_classes=ctx.data.num_classes,
            seed=ctx.seed_for("reconstruction", "network", seed, i),
            mean=ctx.data.mean,
            std=ctx.data.std,
        )
        .eval()
        .to(ctx.device)
        for i in range(count)
    ]


def _metrics(attack: _Attack) -> list[Metric]:
    params = {"adversary": attack.adversary}
    inside, outside = attack.inside.score, attack.outside.score
    rate = clopper_pearson(int(inside.success.sum()), len(inside.success))
    ratio = bootstrap(inside.ratio, lambda r: r.quantile(0.5, dim=1), n_boot=500)
    return [
        Metric(
            name="reconstruction.success_rate",
            value=rate.value,
            low=rate.low,
            high=rate.high,
            n=rate.n,
            direction="lower",
            floor=float(outside.success.double().mean()),
            params=params,
            headline=attack.adversary == "final-set",
        ),
        Metric(
            name="reconstruction.distance_ratio",
            value=ratio.value,
            low=ratio.low,
            high=ratio.high,
            n=len(inside.ratio),
            unit="ratio",
            direction="higher",
            floor=float(outside.ratio.quantile(0.5)),
            params=params,
        ),
    ]


def _curves(attack: _Attack) -> list[Curve]:
    """Share of records rebuilt within each distance ratio, with the records in and left out."""
    curves = []
    for side, label in (
        (attack.inside, attack.adversary),
        (attack.outside, f"{attack.adversary}, record left out"),
    ):
        ratio = torch.sort(side.score.ratio.clamp(max=2.0)).values
        share = torch.arange(1, len(ratio) + 1, dtype=torch.float64) / len(ratio)
        curves.append(
            Curve(
                plot="reconstruction distance",
                label=label,
                x=ratio.tolist(),
                y=share.tolist(),
                kind="step",
                x_label="distance to the record / distance of the average record (0 = rebuilt, 1 = guessed)",
                y_label="share of records within",
            )
        )
    return curves


def _caveats(
    subject: Subject, attacks: list[_Attack], claim: PrivacyClaim | None, log: Log
) -> list[str]:
    case = attacks[0].inside.case
    count, size = len(case.targets), int(case.members.sum())
    per_class = size / len(torch.unique(case.pool.labels[case.members]))
    notes = [
        f"{count} records in a set made from {size} ({per_class:.0f} a class): every record weighs less "
        "where there are more.",
        "What was not rebuilt is not safe: other attackers may do better. The rate is what this attack "
        "achieved, a lower bound.",
    ]
    if subject.recipe is not None:
        notes.append(
            "All targets were left out at once for the floor, and each attacker knows the others."
        )
        objective = subject.recipe.objective
        if objective is not None and not objective.shareable:
            notes.append(
                "This method matches gradients; the final-set attack inverts mean embeddings, which its "
                "sets carry only in passing."
            )
    else:
        notes.append(
            "The floor is for held-out records, attacked as if they had been in. That the set was made "
            "from exactly our training data is taken on trust."
        )
    if claim is not None:
        factor = (
            f"{math.exp(claim.epsilon):.3g}" if claim.epsilon < 20 else f"e^{claim.epsilon:.3g}"
        )
        notes.append(
            f"The claim (epsilon {claim.epsilon:.3g}, delta {claim.delta:g}) bounds every attacker: at "
            f"most {factor} times the chance of success without the record, plus delta."
        )
    used = len(attacks) > 1
    if used and log.asked > log.most:
        notes.append(f"The intermediate attack used {log.most} of {log.asked} noisy releases.")
    if used:
        notes.append(
            "The intermediate attack does not know which records were sampled for a release; the proof "
            "would even allow it to."
        )
    if not used and log.blind is not None:
        notes.append(f"No intermediate attack: {log.blind}.")
    return notes
