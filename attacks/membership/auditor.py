"""The ``membership`` auditor: can somebody tell who was in the data behind a distilled set?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from ddaudit.attacks._common.nonmembers import composition_check, made_of_ours
from ddaudit.attacks.membership import controls, known_answers
from ddaudit.attacks.membership.attacks import attack
from ddaudit.attacks.membership.caveats import file_caveats, recipe_caveats
from ddaudit.attacks.membership.evidence import (
    Summary,
    ceiling_check,
    ceiling_curve,
    direction_check,
    summarise,
    weakest_claim,
)
from ddaudit.attacks.membership.settings import PRESETS, MembershipSettings
from ddaudit.attacks.membership.shadows import (
    Cohort,
    Trial,
    draw_halves,
    read_networks,
    run_shadows,
    split,
)
from ddaudit.auditing import Auditor, Context, Shared, Subject, Work, auditor, recipe_subject
from ddaudit.errors import BadInput, NotEnoughData, Unsupported
from ddaudit.findings import Caveat, Check, Finding, Metric, MetricInfo
from ddaudit.sets import DistilledSet, PrivacyClaim
from ddaudit.stats import crossed_rate

GAME = "one released set against all training records; recipes, on halves of a pool"


@auditor
class Membership(Auditor[MembershipSettings]):
    """Shadow re-distillation with LiRA and RMIA for recipes; image and loss attacks for files."""

    name = "membership"
    title = "Membership inference"
    need = "Records harder to trace"
    question = (
        "Somebody has the distilled set and a particular record in hand (a patient's scan, a person's "
        "photo). Can they find out whether that record was in the data the set was made from?"
    )
    threat_model = (
        "The attacker has the released set, knows the recipe and its public random numbers, owns "
        "similar data, and holds the exact record in question. For a recipe the attacker "
        "re-runs it many times with and without the record (shadows), trains networks on each "
        "result, and learns how they behave when they have seen the record and when they have not. "
        "For a file without a recipe, or a checkpoint, the attacker can only look at "
        "the images or at how a network trained on them treats the record."
    )
    how_to_read = (
        "Think of a game: we show the attacker two records, one that was used (a member) and one that was "
        "not, and ask which is which. The AUC is how often the answer is right: 0.5 is a coin toss (good), "
        "1.0 is always right (bad); 0.55 is little, but not nothing if its interval stays above 0.5. "
        "An average hides what hurts most, which is to be sure about a few people. 'TPR at 1% FPR' measures "
        "that: the attacker may wrongly accuse one in a hundred of the records that were not used; what share "
        "of the members is then named? 0.01 is luck; 0.10 means that one member in ten can be pointed at. The "
        "plot (a ROC curve) shows this for every number of allowed mistakes: mistakes to the right, members "
        "found upwards. Along the dashed diagonal the attacker is guessing; the further a curve rises above it "
        "at the left edge, the worse. No such number means much alone, because networks that have learnt "
        "nothing betray nobody. So look at how accurate the attacked networks are, and at the controls: the "
        "same attack on networks trained by DP-SGD (a way of training with proven privacy), and on networks "
        "trained on a few real records picked at random. A set has bought privacy only if it beats DP-SGD: "
        "less is found at the same accuracy, or no more at a higher one."
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
        "2209.14987 (why DP-SGD and a random subset have to stand beside every reading)",
        "Abadi et al., Deep Learning with Differential Privacy, CCS 2016 (DP-SGD)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo(
            "membership.auc", "lower",
            "chance that an attack ranks a record that was used above one that was not",
        ),
        MetricInfo(
            "membership.tpr_at_fpr", "lower",
            "records that were used and are found, at a fixed rate of false alarms",
        ),
        MetricInfo("membership.victim_accuracy", "higher", "accuracy of the networks under attack"),
        MetricInfo(
            "membership.control_auc", "none",
            "AUC on a control: networks trained with DP-SGD, or on random real records",
        ),
        MetricInfo("membership.control_tpr_at_fpr", "none", "LiRA's TPR on a control"),
        MetricInfo("membership.control_accuracy", "none", "accuracy of a control's networks"),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "membership.auc": "membership AUC",
        "membership.tpr_at_fpr": "TPR",
        "membership.control_tpr_at_fpr": "control TPR",
    }
    redistils = True
    covers_draws = True
    heavy = True
    on_large: ClassVar[Mapping[str, Any]] = {"shadows": 4, "control_runs": 3}
    version = 8
    settings = MembershipSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    def __init__(self) -> None:
        # Halves and controls are the same for every subject of an audit.
        self._shared = Shared()

    def run(
        self, subject: Subject, ctx: Context, settings: MembershipSettings, seed: int
    ) -> Finding:
        """Shadows where there is a recipe, else members against held-out records."""
        if subject.recipe is not None:
            return self._of_recipe(subject, ctx, settings, seed)
        return self._of_file(subject, ctx, settings, seed)

    def sentence(self, finding: Finding) -> str:
        """No membership reading without the private training that does not distil at all."""
        return controls.beside_dp_sgd(finding)

    def work(self, subject: Subject, ctx: Context, settings: MembershipSettings) -> Work:
        """A distillation on a random half of the pool for each shadow."""
        half = min(settings.pool, len(ctx.data.train)) // 2
        return Work(settings.shadows, half) if subject.recipe else Work()

    def checks(self, ctx: Context, settings: MembershipSettings) -> list[Check]:
        """A victim that memorised, LiRA on known Gaussians, held-out records against held-out records, and what
        DP-SGD should hide.
        """
        checks = [
            known_answers.memorised_victim(ctx),
            known_answers.gaussian_lira(ctx),
            known_answers.simulated_shadows(ctx, distance=1.0),
            known_answers.simulated_shadows(ctx, distance=0.0),
        ]
        # With so few held-out records, files and checkpoints are hardly attacked either.
        with suppress(NotEnoughData):
            checks.append(known_answers.nonmembers_only(ctx))
        if settings.control_runs:
            try:
                halves = self._halves(ctx, settings, seed=0)
                reading, _ = self._dp_sgd(ctx, settings, halves, claim=None, seed=0)
            except (Unsupported, NotEnoughData, BadInput):
                return checks  # the subjects' findings say why there is no control
            runs = min(settings.control_runs, settings.shadows)
            checks.append(controls.overfitted(ctx, halves, reading, runs=runs, seed=0))
        return checks

    def _of_recipe(
        self, subject: Subject, ctx: Context, settings: MembershipSettings, seed: int
    ) -> Finding:
        trial = self._shadows(subject, ctx, settings, seed)
        evidence, verbatim = attack(
            trial, ctx, settings, attacks={"lira", "nearest", *settings.attacks}, seed=seed
        )
        generator = ctx.generator("membership", "ties", seed)
        summary = summarise(
            evidence,
            headlines=_verdicts("lira"),
            released=None if verbatim is None else verbatim & trial.members,
            generator=generator,
        )
        finding = _finding(self.name, subject, summary, headline="lira")
        claim = weakest_claim(trial.sets)
        if claim is not None:
            finding.checks.append(
                ceiling_check(evidence, claim, subject=subject.id, generator=generator)
            )
            finding.curves.append(ceiling_curve(claim))
        finding.metrics.append(controls.victim_accuracy(crossed_rate(trial.readings.correct)))
        self._compare(finding, subject, trial, ctx, settings, claim, seed)
        finding.caveats += recipe_caveats(trial, settings, claimed=claim is not None)
        return finding

    def _compare(
        self,
        finding: Finding,
        subject: Subject,
        trial: Trial,
        ctx: Context,
        settings: MembershipSettings,
        claim: PrivacyClaim | None,
        seed: int,
    ) -> None:
        """Put the controls beside a finding, and the comparison first among its caveats."""
        if not settings.control_runs:
            return
        runs = min(settings.control_runs, settings.shadows)
        ours = controls.read(trial.readings, trial.cohort, {}, runs=runs)
        sentences = []
        generator = ctx.generator("membership", "control ties", seed)
        try:
            reading, delta = self._dp_sgd(ctx, settings, trial.cohort, claim=claim, seed=seed)
        except (BadInput, Unsupported) as error:
            sentences.append(f"{subject.id} has no DP-SGD control: {error}")
        else:
            finding.metrics += controls.control_metrics(reading, generator=generator)
            finding.curves += controls.control_curve(reading, generator=generator)
            sentences.append(
                controls.against_dp_sgd(
                    subject.id, ours, reading, delta=delta, runs=runs, claim=claim
                )
            )
        if not _is_random(subject, ctx):
            subsets = self._random(ctx, settings, trial.cohort, seed)
            for reading in subsets:
                finding.metrics += controls.control_metrics(reading, generator=generator)
            if subsets:
                sentences.append(controls.against_random(subject.id, ours, subsets, runs=runs))
        if ctx.preset.seeds > 1:
            sentences = [f"Seed {seed}: {text}" for text in sentences]
        finding.caveats[:0] = sentences

    # ---- what subjects share ---------------------------------------------------------------------

    def _halves(self, ctx: Context, settings: MembershipSettings, seed: int) -> Cohort:
        return self._shared.once(
            ctx,
            ("halves", settings, seed),
            lambda: draw_halves(
                ctx,
                shadows=settings.shadows,
                pool=settings.pool,
                population=settings.population,
                seed=seed,
            ),
        )

    def _shadows(
        self, subject: Subject, ctx: Context, settings: MembershipSettings, seed: int
    ) -> Trial:
        def make() -> Trial:
            return run_shadows(
                subject,
                ctx,
                self._halves(ctx, settings, seed),
                victims=settings.victims_per_shadow,
                attacks={"loss", *settings.attacks},
                noise_draws=settings.noise_draws,
                seed=seed,
            )

        # Random records are a subject of nearly every audit, and a control of all the others.
        if _is_random(subject, ctx):
            return self._shared.once(ctx, ("random", settings, seed), make)
        return make()

    def _dp_sgd(
        self,
        ctx: Context,
        settings: MembershipSettings,
        halves: Cohort,
        *,
        claim: PrivacyClaim | None,
        seed: int,
    ) -> tuple[controls.Reading, float]:
        epsilon, delta = controls.target_of(
            claim, epsilon=settings.control_epsilon, delta=settings.control_delta
        )
        reading = self._shared.once(
            ctx,
            ("dp-sgd", settings, seed, epsilon, delta),
            lambda: controls.dp_sgd(
                ctx,
                halves,
                runs=min(settings.control_runs, settings.shadows),
                steps=settings.control_steps,
                epsilon=epsilon,
                delta=delta,
                seed=seed,
            ),
        )
        return reading, delta

    def _random(
        self, ctx: Context, settings: MembershipSettings, halves: Cohort, seed: int
    ) -> list[controls.Reading]:
        runs = min(settings.control_runs, settings.shadows)

        def make(ipc: int) -> controls.Reading:
            if ipc == ctx.ipc:
                same = recipe_subject(controls.random_recipe(ctx))
                readings = self._shadows(same, ctx, settings, seed).readings
                return controls.read(readings, halves, {"control": "random", "ipc": ipc}, runs=runs)
            return controls.random_records(
                ctx, halves, ipc=ipc, runs=runs, victims=settings.victims_per_shadow, seed=seed
            )

        return [
            self._shared.once(ctx, ("subset", settings, seed, n), partial(make, n))
            for n in controls.sizes_tried(settings.control_sizes, ctx, halves)
        ]

    # ---- files and checkpoints -------------------------------------------------------------------

    def _of_file(
        self, subject: Subject, ctx: Context, settings: MembershipSettings, seed: int
    ) -> Finding:
        try:
            cohort = split(
                ctx,
                members=settings.pool,
                nonmembers=settings.population,
                ours=made_of_ours(subject.set, ctx),
            )
        except NotEnoughData as error:
            raise Unsupported(str(error)) from None
        readings = read_networks(
            [ctx.victims(subject, seed)],
            ctx,
            cohort,
            attacks={"loss", *settings.file_attacks},
            noise_draws=settings.noise_draws,
            seed=seed,
        )
        trial = Trial(cohort, readings, [] if subject.set is None else [subject.set])
        evidence, verbatim = attack(
            trial,
            ctx,
            settings,
            attacks={"loss", "class-mean", "nearest", *settings.file_attacks},
            seed=seed,
        )
        headline = "class-mean" if subject.set is not None else "loss"
        summary = summarise(
            evidence,
            headlines=_verdicts(headline),
            released=None if verbatim is None else verbatim & trial.members,
            generator=ctx.generator("membership", "ties", seed),
        )
        finding = _finding(self.name, subject, summary, headline=headline)
        finding.checks.insert(
            0, composition_check(cohort.records, cohort.members[0], subject=subject.id)
        )
        finding.status = "partial"
        finding.reason = "no recipe: LiRA, online RMIA and the DP-SGD control need re-distillation"
        finding.caveats += [*cohort.caveats, *file_caveats(subject, ctx, headline)]
        if settings.control_runs and subject.set is not None:
            self._beside_random(finding, subject.set, cohort, ctx, settings, seed, headline)
        game = GAME if subject.set is not None else "one network against all training records"
        finding.metrics = [m.model_copy(update={"game": game}) for m in finding.metrics]
        return finding

    def _beside_random(
        self,
        finding: Finding,
        audited: DistilledSet,
        cohort: Cohort,
        ctx: Context,
        settings: MembershipSettings,
        seed: int,
        headline: str,
    ) -> None:
        """Put the same attacks on random records of the set's size beside a file: what hides nothing, in this game."""
        ipc = max(1, round(len(audited) / ctx.data.num_classes))
        attacks = {"loss", "class-mean", "nearest", *settings.file_attacks}
        try:
            found: list[Metric] = self._shared.once(
                ctx,
                ("beside a file", settings, seed, ipc),
                lambda: controls.random_file(
                    ctx, cohort, settings, ipc=ipc, attacks=attacks, seed=seed
                ),
            )
        except BadInput as error:  # a class without records, say
            finding.caveats.append(f"No control of random records: {error}")
            return
        finding.metrics += found
        area = next(
            (
                m.value
                for m in found
                if m.name == "membership.control_auc"
                and m.params.get("attack") == headline
                and "group" not in m.params
            ),
            None,
        )
        if area is not None:
            text = (
                f"Random records of the same number (IPC {ipc}) read an AUC of {area:.2f} by the {headline} "
                "attack in this game: compare with that, not with rows of recipes, whose game is played on halves."
            )
            finding.caveats.insert(0, Caveat(text, "method", 1))


def _is_random(subject: Subject, ctx: Context) -> bool:
    """The control itself: random real records, trained on like any others."""
    recipe = subject.recipe
    return recipe is not None and recipe.describe() == controls.random_recipe(ctx).describe()


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


def _finding(name: str, subject: Subject, summary: Summary, *, headline: str) -> Finding:
    return Finding(
        subject=subject.id,
        auditor=name,
        metrics=summary.metrics,
        curves=summary.curves,
        checks=[direction_check(summary.metrics, headline=headline, subject=subject.id)],
        caveats=summary.caveats,
    )
