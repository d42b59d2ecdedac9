"""The ``membership`` auditor: can somebody tell who was in the data behind a distilled set?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.attacks.membership import known_answers
from ddaudit.attacks.membership.ceiling import ceiling_check, ceiling_curve, weakest_claim
from ddaudit.attacks.membership.evidence import Evidence, Summary, summarise
from ddaudit.attacks.membership.holdout import holdout_evidence, split
from ddaudit.attacks.membership.released import class_mean_scores, nearest_scores
from ddaudit.attacks.membership.scores import lira, rmia
from ddaudit.attacks.membership.shadows import Shadows, others, run_shadows
from ddaudit.auditor import Auditor, Context, Settings, Subject, auditor
from ddaudit.errors import NotEnoughData, Unsupported
from ddaudit.findings import Check, Finding

NO_FREE_LUNCH = (
    "A low reading is not privacy by itself: a random subset leaks nothing about the records it "
    "leaves out and everything about those it holds. Compare with the 'random' and 'full' rows "
    "at equal accuracy, and see the privacy auditor for planted worst-case records."
)
AVERAGE = (
    "Rates are averages over natural records; outliers and mislabelled records can be far more "
    "exposed."
)


class MembershipSettings(Settings):
    """How many shadows, and on how many records."""

    shadows: int = Field(default=16, ge=3)
    """Re-distillations of a recipe, each on a random half of the pool."""
    pool: int = Field(default=4000, ge=40)
    """Training records that shadows are drawn from (recipe), or members under attack (file,
    checkpoint).
    """
    victims_per_shadow: int = Field(default=2, ge=1)
    population: int = Field(default=2000, ge=20)
    """Records from validation and test: strangers of RMIA (recipe); at most as many non-members
    (file).
    """
    random_networks: int = Field(default=4, ge=1)
    """Public random networks of the class-mean attack."""
    noise_draws: int = Field(default=4, ge=0)
    """Noisy copies per level of the label-only attack on files and checkpoints; 0 leaves it out."""
    rmia_gamma: float = Field(default=1.0, gt=0)
    rmia_a: float = Field(default=0.3, ge=0, le=1)


@auditor
class Membership(Auditor[MembershipSettings]):
    """Shadow re-distillation with LiRA and RMIA for recipes; image and loss attacks for files."""

    name = "membership"
    title = "Membership inference"
    question = (
        "Could somebody who holds the distilled set find out whether a particular record (a "
        "patient's scan, a person's photo) was in the data it was made from?"
    )
    threat_model = (
        "The attacker has the released set, knows the recipe and its public random numbers, owns "
        "similar data, and holds the exact record in question. For a recipe the attacker "
        "re-runs it many times with and without the record (shadows) and trains networks on each "
        "result. For a file without a recipe, or a checkpoint, the attacker can only look at "
        "the images or at how a network trained on them treats the record."
    )
    how_to_read = (
        "Think of a guard who must call 'member' or 'not a member' for many records. The AUC "
        "says how often a true member gets a higher suspicion score than a non-member: 0.5 is "
        "coin flipping (good), 1.0 is certainty (bad). The rate 'TPR at 1% FPR' is stricter and "
        "matters more: the share of members exposed when only one in a hundred innocent records "
        "may be accused; 0.01 is chance, 0.10 means that one member in ten can be pointed at "
        "with some confidence. In the plot, a curve along the dashed diagonal is guessing; the "
        "more it rises above it at the left edge, the more individual members are exposed."
    )
    sources = (
        "Carlini et al., Membership Inference Attacks From First Principles, S&P 2022",
        "Zarifzadeh, Liu and Shokri, Low-Cost High-Power Membership Inference Attacks, ICML 2024",
        "van Breugel et al., Membership Inference Attacks against Synthetic Data (DOMIAS), "
        "AISTATS 2023",
        "Song and Mittal, Systematic Evaluation of Privacy Risks, USENIX Security 2021",
        "Bertran et al., Membership Inference via Quantile Regression, NeurIPS 2023",
        "Choquette-Choo et al., Label-Only Membership Inference Attacks, ICML 2021",
        "Dong, Zhao and Lyu, Privacy for Free, ICML 2022, and the critique No Free Lunch, arXiv "
        "2209.14987",
    )
    version = 1
    settings = MembershipSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"shadows": 8, "pool": 1200, "victims_per_shadow": 1, "population": 600,
                  "random_networks": 4, "noise_draws": 1},
        "standard": {"shadows": 16, "pool": 4000, "victims_per_shadow": 2, "population": 4000,
                     "random_networks": 8, "noise_draws": 4},
        "full": {"shadows": 64, "pool": 10_000, "victims_per_shadow": 4, "population": 10_000,
                 "random_networks": 16, "noise_draws": 8},
    }  # fmt: skip

    def run(
        self, subject: Subject, ctx: Context, settings: MembershipSettings, seed: int
    ) -> Finding:
        """Shadows where there is a recipe, else members against held-out records."""
        if subject.recipe is not None:
            return self._from_shadows(subject, ctx, settings, seed)
        return self._from_holdout(subject, ctx, settings, seed)

    def checks(self, ctx: Context, settings: MembershipSettings) -> list[Check]:
        """A victim that memorised, one that cannot know, and a closed form."""
        return [
            known_answers.memorised_victim(ctx),
            known_answers.strangers_only(ctx),
            known_answers.gaussian_lira(ctx),
        ]

    def _from_shadows(
        self, subject: Subject, ctx: Context, settings: MembershipSettings, seed: int
    ) -> Finding:
        shadows = run_shadows(
            subject,
            ctx,
            shadows=settings.shadows,
            pool=settings.pool,
            victims=settings.victims_per_shadow,
            population=settings.population,
            seed=seed,
        )
        evidence, verbatim = shadow_evidence(shadows, ctx, settings, seed)
        generator = ctx.generator("membership", "ties", seed)
        summary = summarise(
            evidence,
            headlines=_verdicts("lira"),
            released=verbatim & shadows.members,
            generator=generator,
        )
        finding = _finding(self.name, subject, summary)
        claim = weakest_claim(shadows.sets)
        if claim is not None:
            finding.checks.append(
                ceiling_check(evidence, claim, subject=subject.id, generator=generator)
            )
            finding.curves.append(ceiling_curve(claim))
        finding.caveats += _shadow_caveats(shadows, settings, claimed=claim is not None)
        return finding

    def _from_holdout(
        self, subject: Subject, ctx: Context, settings: MembershipSettings, seed: int
    ) -> Finding:
        try:
            sides = split(ctx, members=settings.pool, strangers=settings.population)
        except NotEnoughData as error:
            raise Unsupported(str(error)) from None
        evidence, verbatim = holdout_evidence(
            subject,
            ctx,
            sides,
            random_networks=settings.random_networks,
            noise_draws=settings.noise_draws,
            seed=seed,
        )
        headline = "class-mean" if subject.set is not None else "loss"
        summary = summarise(
            evidence,
            headlines=_verdicts(headline),
            released=verbatim,
            generator=ctx.generator("membership", "ties", seed),
        )
        finding = _finding(self.name, subject, summary)
        finding.status = "partial"
        finding.reason = "no recipe: LiRA and RMIA need re-distillation"
        finding.caveats += [*sides.caveats, *_holdout_caveats(subject, ctx, headline)]
        return finding


def shadow_evidence(
    shadows: Shadows, ctx: Context, settings: MembershipSettings, seed: int
) -> tuple[list[Evidence], Tensor]:
    """Leave-one-out scores of six attacks: each shadow is the target once, the others are
    references.

    Returns:
        The evidence, and (K, N) bool: the shadow's set holds the record verbatim.
    """
    count, members = len(shadows.members), shadows.members
    ratio, one_sided, robust = [], [], []
    for k in range(count):
        rest = others(k, count)
        fitted = lira.fit(shadows.phi[rest], members[rest], pooled=count <= 64)
        ratio.append(lira.online(shadows.phi[k], fitted))
        one_sided.append(lira.offline(shadows.phi[k], fitted))
        robust.append(
            rmia.score(
                shadows.log_p[k],
                rmia.online_reference(shadows.log_p[rest], members[rest], a=settings.rmia_a),
                shadows.stranger_log_p[k],
                rmia.offline_reference(shadows.stranger_log_p[rest], a=settings.rmia_a),
                gamma=settings.rmia_gamma,
            )
        )
    generator = ctx.generator("membership", "reference", seed)
    near, verbatim = nearest_scores(
        shadows.pool, shadows.sets, shadows.strangers, generator=generator
    )
    claim = shadows.sets[0].card.privacy
    means = class_mean_scores(
        shadows.pool,
        shadows.sets,
        shadows.strangers,
        ctx,
        networks=settings.random_networks,
        clip=claim.clip if claim is not None else None,
        seed=seed,
    )
    return [
        Evidence("lira", torch.stack(ratio), members, references=True),
        Evidence("lira-offline", torch.stack(one_sided), members, references=True),
        Evidence("rmia", torch.stack(robust), members, references=True),
        Evidence("loss", shadows.log_p, members),
        Evidence("class-mean", means, members),
        Evidence("nearest", near, members),
    ], verbatim


def _verdicts(attack: str) -> frozenset[tuple[str, str]]:
    """The declared attack, and copies at 1 % FPR: a set that holds records verbatim must not look
    safe.
    """
    return frozenset(
        {
            ("membership.auc", attack),
            ("membership.tpr_at_fpr", attack),
            ("membership.tpr_at_fpr", "nearest"),
        }
    )


def _finding(name: str, subject: Subject, summary: Summary) -> Finding:
    return Finding(
        subject=subject.id,
        auditor=name,
        metrics=summary.metrics,
        curves=summary.curves,
        caveats=summary.caveats,
    )


def _shadow_caveats(shadows: Shadows, settings: MembershipSettings, *, claimed: bool) -> list[str]:
    count, records = shadows.members.shape
    inside = int(shadows.members.sum())
    caveats = [
        *shadows.caveats,
        f"Measured on {count} re-distillations of random halves of {records} training records, "
        f"about {inside // count} a run: one record weighs more in them than in a set made from "
        "all of the data.",
        f"TPR and ROC pool {inside} member and {count * records - inside} non-member pairs (run, "
        "record) under one threshold. Pairs share records and references, so the interval is the "
        "wider of Clopper-Pearson's and a bootstrap over records, and n counts distinct records. "
        "AUC is the mean over runs.",
        f"Online LiRA was declared the verdict before looking; {count - 1} references and "
        f"{settings.victims_per_shadow} victim(s) per run limit its power, so leakage may be "
        "larger.",
        AVERAGE,
        NO_FREE_LUNCH,
    ]
    if claimed:
        caveats.append(
            "Shadows carry their own privacy claim, calibrated to their own number of records."
        )
    return caveats


def _holdout_caveats(subject: Subject, ctx: Context, headline: str) -> list[str]:
    caveats = [
        "Members are training records, non-members validation and test records: a distribution "
        "shift between the splits would look like membership.",
        "LiRA and RMIA, the strongest attacks, need re-distillation, hence the recipe; this "
        "reading is a lower bound on what an attacker with the recipe can do.",
        f"The {headline} attack was declared the verdict before looking; the others are shown, "
        "not selected.",
        AVERAGE,
        NO_FREE_LUNCH,
    ]
    if subject.set is not None:
        source = subject.set.card.source_fingerprint
        if source is None:
            caveats.append(
                "The set's card does not say which data it was made from; members are assumed to "
                "be ours."
            )
        elif source != ctx.data.train.fingerprint:
            caveats.append(
                f"The set says it was made from other data (fingerprint {source}, ours is "
                f"{ctx.data.train.fingerprint}): our training records need not be its members, "
                "and readings near 0.5 then mean nothing."
            )
    else:
        caveats.append("A checkpoint comes without images: only the network's loss was attacked.")
    return caveats
