"""Auditor ``privacy``: an epsilon that the distilled set refutes, beside the epsilon that it claims."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ddaudit.attacks._common.releases import Observed
from ddaudit.attacks.privacy import known_answers
from ddaudit.attacks.privacy.adversaries import (
    IntermediateEvidence,
    score_final_set,
    score_nearest_copy,
    score_victims,
)
from ddaudit.attacks.privacy.bound import (
    Adversary,
    Shares,
    bound,
    ceiling,
    confidences,
    joint,
    metrics,
    refutation,
)
from ddaudit.attacks.privacy.canaries import Canaries, Kind, plant
from ddaudit.attacks.privacy.claims import check_claim, check_seen, claimed, describe, holds
from ddaudit.auditing import Auditor, Context, Settings, Subject, Work, auditor, stratified
from ddaudit.data import ImageData
from ddaudit.defenses.privacy.selfcheck import check_reader, check_rule, check_signals, check_start
from ddaudit.distillation import Recipe
from ddaudit.errors import NotEnoughData, Unsupported
from ddaudit.findings import Caveat, Check, Curve, Finding, MetricInfo
from ddaudit.models import Network
from ddaudit.sets import Card, DistilledSet, PrivacyClaim
from ddaudit.stats import roc_curve
from ddaudit.stats.gdp import tpr_ceiling

_MOST_EMBEDDED = 200_000
"""Images put through random networks per attack: large sets get fewer networks."""
_CHECK_POOL = 1000
"""Training records of the known-answer tests."""
_START_POOL = 2000
"""Training records of the check that a start does not depend on them."""


class PrivacySettings(Settings):
    """How many canaries, of which kind, and how they are guessed."""

    canaries: int = Field(default=300, ge=16)
    """Canaries; at most a quarter of the training records are used."""
    kinds: tuple[Kind, ...] = Field(default=("mislabelled",), min_length=1)
    """What canaries are made of; several kinds share the number evenly."""
    adversaries: tuple[Adversary, ...] = Field(
        default=("final-set", "nearest-copy", "victims", "intermediate"), min_length=1
    )
    shares: tuple[Shares, ...] = Field(default=((0.4, 0.4), (0.1, 0.1), (0.05, 0.0)), min_length=1)
    """(share guessed "in", share guessed "out") of the canaries, fixed before any score is seen; the
    error is split evenly over the pairs, and the first gives the accuracy.
    """
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """For subjects without a claim; a claim brings its own."""
    confidence: float = Field(default=0.95, ge=0.95, lt=1)
    """Of the bounds; no less than reports say of them."""
    networks: int = Field(default=32, ge=1)
    """Random networks of the final-set attack."""
    known: int = Field(default=2000, ge=20)
    """Known pool records that a set or a release is compared with; attacks are strongest with all."""
    release_megapixels: float | None = Field(default=100.0, gt=0)
    """Work of the intermediate attack: it stops after this many megapixels (of canaries and known
    records, once per noisy release; gradients count four times). None: it uses every release.
    """

    @field_validator("shares")
    @classmethod
    def _possible(cls, shares: tuple[Shares, ...]) -> tuple[Shares, ...]:
        for top, bottom in shares:
            if top < 0 or bottom < 0 or not 0 < top + bottom <= 1:
                raise ValueError(
                    "shares are not negative, and a pair sums to at most 1 and not to 0"
                )
        return shares


@dataclass(frozen=True, eq=False)
class _Audit:
    """One re-distillation with canaries, and every adversary's scores."""

    canaries: Canaries
    released: DistilledSet
    scores: dict[Adversary, Tensor]
    releases: tuple[int, int]


@auditor
class Privacy(Auditor[PrivacySettings]):
    """One-run empirical privacy audit of a recipe; re-derivation of the claim of a file."""

    name = "privacy"
    title = "Empirical privacy"
    need = "Less proven leakage"
    question = (
        "How much does the distilled set betray about single records, in the unit of differential "
        "privacy (epsilon), and is that less than what the set promises?"
    )
    threat_model = (
        "The attacker knows every training record, and only has to tell which of some marked "
        "records (canaries: pictures with a wrong label) were in as well. 'final-set' and "
        "'nearest-copy' see the released images, 'victims' networks trained on them, and "
        "'intermediate' every noisy release of a private recipe, which is what its proof covers."
    )
    how_to_read = (
        "Epsilon says how much more likely a record's presence may make any outcome: a factor of "
        "e^epsilon. The lower bound is proven by attack, with 95 % confidence; the claim is "
        "promised by calculation. A bound above the claim refutes the claim. A bound of 0 refutes "
        "nothing and promises nothing either: better attacks or more canaries may find more, and "
        "without a claim there is no ceiling at all."
    )
    sources = (
        "Steinke, Nasr & Jagielski, NeurIPS 2023, arXiv 2305.08846 (one-run bound)",
        "Mahloujifar, Melis & Chaudhuri, arXiv 2410.22235 (one-run bound for Gaussian curves)",
        "Nasr et al., S&P 2021, arXiv 2101.04535 (mislabelled canaries)",
        "Mironov, Talwar & Zhang, arXiv 1908.10530; Gopi et al., NeurIPS 2021 (accountants)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("privacy.epsilon_claimed", "lower", "epsilon on the set's card", unit="epsilon"),
        MetricInfo(
            "privacy.epsilon_lower_bound", "none",
            "epsilon is at least this, by the guesses of one adversary (95 %)", unit="epsilon",
        ),
        MetricInfo("privacy.canary_accuracy", "lower", "guesses about canaries that are right"),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "privacy.epsilon_claimed": "claimed ε",
        "privacy.epsilon_lower_bound": "ε lower bound",
    }
    redistils = True
    heavy = True
    # Networks are made of the set alone, and the other adversaries see all of it.
    on_large: ClassVar[Mapping[str, Any]] = {
        "adversaries": ("final-set", "nearest-copy", "intermediate")
    }
    version = 8
    settings = PrivacySettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"canaries": 200, "networks": 12, "release_megapixels": 15.0},
        "standard": {},
        "full": {"canaries": 1000, "networks": 100, "release_megapixels": None},
    }

    def run(self, subject: Subject, ctx: Context, settings: PrivacySettings, seed: int) -> Finding:
        """Distil once more with canaries and bound epsilon; for files, re-derive the claim.

        Raises:
            Unsupported: no recipe and no claim to verify, or too few training records.
        """
        if subject.recipe is None:
            return self._claim_only(subject, ctx)
        card = ctx.distilled(subject, seed).card
        claim = card.privacy
        audit = _audit(subject, ctx, settings, seed)
        tested = audit.released.card.privacy
        # A claim at delta 0 holds at every delta, and a bound at any of them tests it.
        delta = (tested.delta if tested else 0.0) or settings.delta
        coins = audit.canaries.included
        shares, sure = settings.shares, confidences(settings.confidence)
        bounds = {
            name: {
                k: bound(s, coins, shares=shares, delta=delta, confidence=c)
                for k, c in sure.items()
            }
            for name, s in audit.scores.items()
        }
        attacks = list(audit.scores.values())
        best = {
            k: joint(attacks, coins, shares=shares, delta=delta, confidence=c)
            for k, c in sure.items()
        }
        finding = Finding(subject=subject.id, auditor=self.name)
        if claim:
            finding.metrics.append(claimed(claim))
            finding.checks += check_claim(card, subject=subject.id, records=len(ctx.data.train))
        top = ceiling(len(coins), shares=shares, delta=delta)
        if tested:
            p = refutation(attacks, coins, shares=shares, delta=delta, epsilon=tested.epsilon)
            level = 1 - settings.confidence
            held = holds(best[1], top, tested, subject.id, p_value=p, level=level)
            finding.checks.append(held)
        finding.checks += _self_checks(subject, ctx, audit, seed)
        # Fewer records are read at a higher rate: the set with canaries may promise less than the card.
        true = claim and tested and claim.epsilon < best[1] <= tested.epsilon
        finding.metrics += metrics(bounds, best, decides=not true)
        finding.curves += _curves(audit, tested)
        finding.caveats += _caveats(audit, settings, top, claim)
        return finding

    def work(self, subject: Subject, ctx: Context, settings: PrivacySettings) -> Work:
        """One distillation with the canaries, and networks trained on what it makes."""
        networks = (ctx.arch,) if "victims" in settings.adversaries else ()
        return Work(1 if subject.recipe else 0, archs=networks)

    def checks(self, ctx: Context, settings: PrivacySettings) -> list[Check]:
        """Mechanisms of known epsilon, no noise, permuted coins, verbatim releases, accountants."""
        train = stratified(ctx.data.train, _CHECK_POOL)
        count, shares, delta = settings.canaries, settings.shares, settings.delta
        verbatim: list[Check] = []
        with suppress(NotEnoughData):  # ``run`` says so of every subject
            verbatim = known_answers.verbatim(
                train, _networks(ctx, 4), canaries=count, kinds=settings.kinds, shares=shares, delta=delta
            )  # fmt: skip
        return [
            *known_answers.known_gaussian(canaries=count, shares=shares, delta=delta),
            known_answers.no_noise(canaries=count, shares=shares, delta=delta),
            known_answers.permuted(canaries=count, shares=shares, delta=delta),
            *known_answers.noisy_sums(canaries=count, shares=shares, delta=delta),
            *verbatim,
            known_answers.accountants(),
        ]

    def _claim_only(self, subject: Subject, ctx: Context) -> Finding:
        card = subject.set.card if subject.set is not None else Card()
        claim = card.privacy
        why = f"needs the recipe to distil again with canaries, and a {subject.kind} is its result"
        if claim is None:
            raise Unsupported(f"{why}; it carries no privacy claim to verify either")
        return Finding(
            subject=subject.id,
            auditor=self.name,
            status="partial",
            reason=f"{why}; only its claim was verified",
            metrics=[claimed(claim)],
            checks=check_claim(card, subject=subject.id, records=len(ctx.data.train)),
            caveats=[describe(claim), _ASSUMED],
        )


_ASSUMED = Caveat(
    "Re-deriving a claim checks the arithmetic of its ledger. That the code which made the set asked "
    "only the queries in the ledger, with that noise, has to be believed.",
    rank=3,
)
_NO_CLAIM = Caveat(
    "No DP guarantee: nothing bounds what a better attack could learn. Epsilon is at least the lower "
    "bound.",
    rank=1,
)


def _audit(subject: Subject, ctx: Context, settings: PrivacySettings, seed: int) -> _Audit:
    try:
        canaries = plant(
            ctx.data.train,
            count=settings.canaries,
            kinds=settings.kinds,
            generator=ctx.generator("privacy", "canaries", seed),
        )
    except NotEnoughData as error:
        raise Unsupported(str(error)) from None
    observed, recipe = subject, subject.recipe
    known = stratified(canaries.base, settings.known)
    observer = IntermediateEvidence(
        canaries.records, known, most=_affordable(settings, recipe, len(canaries) + len(known), ctx)
    )
    reader = None if recipe is None else recipe.reader
    if recipe and reader and reader.private and "intermediate" in settings.adversaries:
        observed = replace(subject, recipe=replace(recipe, reader=Observed(reader, observer)))
    released = ctx.redistill(observed, canaries.pool, ctx.seed_for("privacy", "distil", seed))
    scores: dict[Adversary, Tensor] = {}
    for name in settings.adversaries:
        if name == "intermediate":
            evidence = observer.scores()
            if evidence is not None:
                scores[name] = evidence
        else:
            scores[name] = _score(name, released, canaries, known, ctx, settings, seed)
    if not scores:
        raise Unsupported("the only adversary asked for needs a private recipe")
    return _Audit(canaries, released, scores, (observer.used, observer.seen))


def _self_checks(subject: Subject, ctx: Context, audit: _Audit, seed: int) -> list[Check]:
    """What a private recipe's parts do on made-up records, and what the audited run was shown."""
    recipe = subject.recipe
    if recipe is None or recipe.reader is None or not recipe.reader.private:
        return []
    few = replace(ctx.data, train=stratified(ctx.data.train, _START_POOL))
    checks = check_start(recipe, few, ipc=ctx.ipc, subject=subject.id)
    claim, seen = audit.released.card.privacy, audit.releases[1]
    if claim and seen:
        checks.append(check_seen(seen, claim, subject=subject.id))
    drawn = ctx.seed_for("privacy", "probe", seed)
    checks += check_signals(recipe, ctx.data, subject=subject.id, seed=drawn)
    if recipe.target is not None:
        train, device = ctx.data.train, ctx.device
        checks.append(check_rule(recipe.target, train, subject=subject.id, seed=drawn))
        checks += check_reader(
            recipe.reader, recipe.target, train, subject=subject.id, seed=drawn, device=device
        )
    return checks


def _score(
    name: Adversary,
    released: DistilledSet,
    canaries: Canaries,
    known: ImageData,
    ctx: Context,
    settings: PrivacySettings,
    seed: int,
) -> Tensor:
    if name == "final-set":
        each = len(released) + len(known) + len(canaries)
        count = max(1, min(settings.networks, _MOST_EMBEDDED // each))
        return score_final_set(released, canaries.records, known, networks=_networks(ctx, count))
    if name == "nearest-copy":
        return score_nearest_copy(released, canaries.records, known)
    seeds = [ctx.seed_for("privacy", "victim", seed, i) for i in range(ctx.preset.victims)]
    networks = ctx.train([released] * len(seeds), seeds=seeds)
    logits = [ctx.predict(net, canaries.records.images) for net in networks]
    return score_victims(logits, canaries.records.labels)


def _affordable(
    settings: PrivacySettings, recipe: Recipe | None, records: int, ctx: Context
) -> int | None:
    """Noisy releases that the intermediate attack has time for; None: all."""
    if settings.release_megapixels is None:
        return None
    _, height, width = ctx.data.shape
    gradients = recipe is not None and (recipe.objective is None or not recipe.objective.shareable)
    each = records * height * width * (4 if gradients else 1)
    return max(1, int(1e6 * settings.release_megapixels / each))


def _networks(ctx: Context, count: int) -> list[Network]:
    """Random networks from public seeds, of the audit's architecture."""
    return [ctx.random_network("privacy", "network", i) for i in range(count)]


def _curves(audit: _Audit, claim: PrivacyClaim | None) -> list[Curve]:
    frame: dict[str, Any] = {
        "plot": "canary-roc",
        "x_label": "false-positive rate",
        "y_label": "true-positive rate",
        "log_x": True,
        "log_y": True,
        "diagonal": True,
    }
    curves = []
    for adversary, scores in audit.scores.items():
        roc = roc_curve(scores, audit.canaries.included)
        curves.append(
            Curve(label=adversary, x=roc.fpr.tolist(), y=roc.tpr.tolist(), kind="step", **frame)
        )
    if claim:
        grid = torch.logspace(-3, 0, 40, dtype=torch.float64).tolist()
        top = [tpr_ceiling(f, epsilon=claim.epsilon, delta=claim.delta) for f in grid]
        curves.append(Curve(label="ceiling of the claim", x=grid, y=top, **frame))
    return curves


def _caveats(
    audit: _Audit, settings: PrivacySettings, top: float, claim: PrivacyClaim | None
) -> list[str]:
    m = len(audit.canaries)
    notes = [describe(claim), _ASSUMED] if claim else [_NO_CLAIM]
    notes += [
        Caveat(
            f"A perfect attack on these canaries would prove epsilon {top:.3g}, no more. They are {m} "
            f"({', '.join(settings.kinds)}) in a pool of {len(audit.canaries.pool)}. The bound is for the recipe "
            "run on this pool, not for the released file.",
            "sample",
            2,
        ),
        "Bounds of method 'one-run-gdp' assume a Gaussian trade-off curve: nearly true for many "
        "subsampled Gaussian queries, untrue for sets made without noise. They decide nothing here.",
        "Bounds of single adversaries hold at the stated confidence each; 'any' holds for all of them "
        "together, and alone is compared with the claim. Over several seeds a bound is the best of them, "
        "each proven with its part of the error.",
    ]
    if len(audit.canaries.base) > settings.known:
        notes.append(
            f"Attacks compared with {settings.known} of {len(audit.canaries.base)} known records, "
            "which blunts them."
        )
    used, seen = audit.releases
    if seen and used < seen:
        notes.append(f"The intermediate attack used {used} of {seen} noisy releases.")
    return notes
