"""The ``reconstruction`` auditor: can an unknown record be rebuilt from what is released?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddaudit.attacks._common.nonmembers import pool_caveats
from ddaudit.attacks._common.pictures import mosaic
from ddaudit.attacks.reconstruction import known_answers
from ddaudit.attacks.reconstruction.attacks import (
    Attack,
    ReconstructionSettings,
    attack_file,
    attack_recipe,
    pick_targets,
)
from ddaudit.attacks.reconstruction.clues import Log
from ddaudit.attacks.reconstruction.inversion import Case
from ddaudit.auditing import Auditor, Context, Subject, Work, auditor, stratified
from ddaudit.data import ImageData
from ddaudit.findings import Caveat, Check, Curve, Finding, Metric, MetricInfo, Picture
from ddaudit.sets import PrivacyClaim
from ddaudit.stats import bootstrap, clopper_pearson

GAME = "one released set, all of whose records but one are known; recipes, on a pool"


@auditor
class Reconstruction(Auditor[ReconstructionSettings]):
    """Rebuilds single records by gradient descent, knowing all the others."""

    name = "reconstruction"
    title = "Reconstruction of records"
    need = "Records harder to rebuild"
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
        "record: a rate near it means that the release does not help, 1 means that every record shows through. "
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
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo(
            "reconstruction.success_rate", "lower",
            "attacked records that are rebuilt closer than their class's average and any known record of it",
        ),
        MetricInfo(
            "reconstruction.distance_ratio", "higher",
            "median distance of the rebuilt record to the true one, over that of the class's average", unit="ratio",
        ),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "reconstruction.success_rate": "rebuilt records",
        "reconstruction.distance_ratio": "distance of the rebuilt record",
    }
    redistils = True
    heavy = True
    version = 4
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
            attacks, released = attack_recipe(subject, ctx, settings, seed, log)
            game = ""
        else:
            attacks, released = attack_file(subject, ctx, settings, seed)
            game = GAME
        finding = Finding(subject=subject.id, auditor=self.name)
        for attack in attacks:
            finding.metrics += _metrics(attack, game)
            finding.curves += _curves(attack)
            if settings.pairs > 0 and ctx.data.modality == "image":
                side = attack.inside
                finding.images.append(
                    triples(
                        side.case.truth,
                        side.rebuilt,
                        side.prior.means.cpu(),
                        name=attack.adversary,
                        most=settings.pairs,
                    )
                )
        finding.caveats = _caveats(subject, attacks, released.card.privacy, log, ctx.data.train)
        return finding

    def work(self, subject: Subject, ctx: Context, settings: ReconstructionSettings) -> Work:
        """A distillation of the pool with the targets, and one without."""
        return Work(2, settings.pool) if subject.recipe else Work()

    def checks(self, ctx: Context, settings: ReconstructionSettings) -> list[Check]:
        """Exact sums, drowned sums, the records themselves with and without the targets."""
        pool = known_answers.shrunk(stratified(ctx.data.train, 200))
        everyone = torch.ones(len(pool), dtype=torch.bool)
        generator = ctx.generator("reconstruction", "checks")
        case = Case(pool, everyone, pick_targets(pool, everyone, 10, generator))
        networks = [known_answers.small_network(pool, seed=i) for i in range(12)]
        return [
            known_answers.exact_sums(case),
            known_answers.drowned_sums(case),
            *known_answers.whole_pool(case, networks),
        ]


def _metrics(attack: Attack, game: str) -> list[Metric]:
    params = {"adversary": attack.adversary}
    inside, outside = attack.inside.score, attack.outside.score
    rate = clopper_pearson(int(inside.success.sum()), len(inside.success))
    ratio = bootstrap(inside.ratio, lambda r: r.quantile(0.5, dim=1), n_boot=500)
    made = [
        Metric.of(
            "reconstruction.success_rate",
            rate,
            direction="lower",
            floor=float(outside.success.double().mean()),
            params=params,
            headline=attack.adversary == "final-set",
        ),
        Metric.of(
            "reconstruction.distance_ratio",
            ratio,
            unit="ratio",
            direction="higher",
            floor=float(outside.ratio.quantile(0.5)),
            params=params,
        ),
    ]
    return [m.model_copy(update={"game": game}) for m in made]


def _curves(attack: Attack) -> list[Curve]:
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


def triples(target: Tensor, rebuilt: Tensor, blind: Tensor, *, name: str, most: int = 8) -> Picture:
    """Triples side by side, the closest reconstructions first, in reading order.

    Args:
        target: (J, C, H, W) real records, pixels in [0, 1].
        rebuilt: (J, C, H, W) what the attack made of the release.
        blind: (J, C, H, W) the best guess without it.
        name: of the adversary.
        most: at most this many.

    Returns:
        A PNG. It shows real records: handle it like the data.
    """
    distance = (rebuilt - target).flatten(1).norm(dim=1)
    order = torch.argsort(distance, stable=True)[:most].tolist()
    return Picture(
        name=f"reconstructions, {name}",
        caption=(
            "Each triple: a record that the attacker does not know (left), what the attack rebuilt from "
            "the release (middle), and the best guess without it (right); the closest reconstructions "
            "first. The left images are real records: do not publish this picture if the training data "
            "are confidential."
        ),
        png_base64=mosaic([[target[i], rebuilt[i], blind[i]] for i in order], columns=3),
    )


def _caveats(
    subject: Subject,
    attacks: list[Attack],
    claim: PrivacyClaim | None,
    log: Log,
    train: ImageData,
) -> list[str]:
    case = attacks[0].inside.case
    count, size = len(case.targets), int(case.members.sum())
    per_class = size / len(torch.unique(case.pool.labels[case.members]))
    notes: list[str] = [
        f"{count} records in a set made from {size} ({per_class:.0f} a class): every record weighs less "
        "where there are more.",
        Caveat(
            "What was not rebuilt is not safe: other attackers may do better. The rate is what this attack "
            "achieved, a lower bound.",
            rank=1,
        ),
    ]
    if subject.recipe is not None:
        notes += pool_caveats(train, case.pool)
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
        factor = f"e^{claim.epsilon:.3g}"
        if claim.epsilon < 15:
            most = math.exp(claim.epsilon)
            factor = f"{most:.3g}" if most < 100 else f"{most:,.0f}"
        notes.append(
            f"The claim (epsilon {claim.epsilon:.3g}, delta {claim.delta:g}), where it holds, bounds every "
            f"attacker: at most {factor} times the chance of success without the record, plus delta."
        )
    used = len(attacks) > 1
    if used and log.asked > log.most:
        notes.append(f"The intermediate attack used {log.most} of {log.asked} noisy releases.")
    if used:
        notes.append(
            "The intermediate attack does not know which records were sampled for a release; the proof "
            "would even allow it to."
        )
    if claim is not None and subject.recipe is not None and not used:
        why = log.blind or "the recipe released no noisy sums of records"
        notes.append(f"No intermediate attack: {why}.")
    return notes
