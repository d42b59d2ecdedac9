"""Auditor ``bias``: do victims treat the groups of a protected attribute alike?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.auditing import Auditor, Context, Settings, Subject, Work, auditor
from ddaudit.errors import Unsupported
from ddaudit.findings import Caveat, Check, Curve, Finding, Metric, MetricInfo
from ddaudit.measures import deo, gaps, subgroups
from ddaudit.measures._common import few_images, victim_logits
from ddaudit.measures._fairlearn import class_gaps
from ddaudit.measures.scores import overconfidence
from ddaudit.stats import Resamples, fair_gap_floor, max_min_gap

PAIRED = "test_paired"
"""The extra split of data that show every test image in every group."""

HEADLINE = ("bias.deo_a", "bias.worst_group_accuracy")
"""On the paired test set where the data have one, else on the standard one.

Not DEO_M: the largest of many gaps between cells of a few images tells no two small sets apart. In the demo (4
images a cell) it reads 1.000 in 4 of 6 rows, over floors of 0.83 to 0.91; DEO_A of the same networks on the paired test
set reads 0.08 to 0.98, over floors of 0.05 to 0.22.
"""

SMALL_CELL = 30
"""Below this many images in a (group, class) cell, caveats say so."""


class BiasSettings(Settings):
    """Knobs of the bias auditor."""

    bootstrap: int = Field(default=1000, ge=20)
    """Resamples of the test images behind the intervals."""
    simulations: int = Field(default=2000, ge=1)
    """Fair networks simulated for the noise floors."""
    paired_limit: int | None = Field(default=None, ge=1)
    """At most this many distinct images of the paired test set (each in every group); None: all."""


@auditor
class Bias(Auditor[BiasSettings]):
    """Equal-opportunity gaps over groups, with the gap a perfectly fair network would show."""

    name: ClassVar[str] = "bias"
    title: ClassVar[str] = "Group bias"
    need: ClassVar[str] = "Less group bias"
    question: ClassVar[str] = (
        "Is a network trained on this set as often right for one group of images as for another "
        "(a colour, a gender), or has it learnt the group instead of the class?"
    )
    threat_model: ClassVar[str] = (
        "No adversary. The training data are biased: most images of a class share one group. "
        "Distillation can amplify that, because the majority dominates what it matches. The "
        "victims are scored on test images in which groups and classes are independent."
    )
    how_to_read: ClassVar[str] = (
        "For each class, the gap is the accuracy on its best group minus that on its worst. DEO_A "
        "is the mean gap over classes and DEO_M the largest; 0 is fair, 1 means a class that is "
        "always right for one group and always wrong for another. The largest of many noisy gaps "
        "is never 0: the noise floor is what a perfectly fair network of the same accuracy would "
        "show on these test images. Only what exceeds the floor is evidence of bias. A paired test "
        "set (every image shown in every group) has a much lower floor: where there is one, DEO_A "
        "and the worst group's accuracy on it lead, and DEO_M, which published tables print, stands "
        "beside them."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "FairDD: Fair Dataset Distillation, NeurIPS 2025, arXiv 2411.19623 (DEO_M, DEO_A as coded)",
        "fairlearn, Metrics and MetricFrame (demographic parity, equalized odds)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo(
            "bias.deo_m", "lower",
            "largest gap in true-positive rate between groups, the maximum over classes",
        ),
        MetricInfo("bias.deo_a", "lower", "the same gap, averaged over classes"),
        MetricInfo(
            "bias.deo_m_floor95", "none",
            "DEO_M that a fair network of these rates exceeds by chance in 5 % of test sets",
        ),
        MetricInfo("bias.deo_a_floor95", "none", "the same for DEO_A"),
        MetricInfo(
            "bias.demographic_parity_difference", "lower",
            "largest gap between groups in how often a class is predicted",
        ),
        MetricInfo(
            "bias.equalized_odds_difference", "lower",
            "largest gap between groups in true- or false-positive rate",
        ),
        MetricInfo("bias.group_accuracy", "higher", "accuracy on the images of one group"),
        MetricInfo("bias.worst_cell_accuracy", "higher", "accuracy of the worst (class, group) cell"),
        MetricInfo("bias.worst_group_accuracy", "higher", "accuracy of the group that is recognised worst"),
        MetricInfo(
            "bias.calibration_gap", "lower",
            "largest difference between groups in mean confidence less accuracy",
        ),
        MetricInfo(
            "bias.conflict_gap", "lower",
            "what an image's majority version gains in accuracy over its other versions", signed=True,
        ),
        MetricInfo(
            "bias.aligned_accuracy", "higher",
            "accuracy where the group is the one most common in the training images of the class",
        ),
        MetricInfo("bias.conflicting_accuracy", "higher", "accuracy on all other images"),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "bias.deo_m": "DEO_M",
        "bias.deo_a": "DEO_A",
        "bias.deo_m_floor95": "DEO_M, 95% floor",
        "bias.deo_a_floor95": "DEO_A, 95% floor",
        "bias.equalized_odds_difference": "equalized odds difference",
        "bias.worst_group_accuracy": "worst group",
        "bias.calibration_gap": "calibration gap",
    }
    light: ClassVar[bool] = True
    version: ClassVar[int] = 6
    from_records: ClassVar[tuple[str, ...] | None] = (
        "bias.aligned_accuracy",
        "bias.conflict",
    )
    settings: ClassVar[type[Settings]] = BiasSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"bootstrap": 300, "simulations": 500, "paired_limit": 1000}
    }

    def run(self, subject: Subject, ctx: Context, settings: BiasSettings, seed: int) -> Finding:
        """Score the balanced test set, and the paired one where the data have it.

        Raises:
            Unsupported: the data have no protected attribute.
        """
        test = ctx.test()
        if test.groups is None:
            raise Unsupported(
                f"the data '{ctx.data.name}' has no protected attribute; "
                "try a coloured version, for example digits-colored"
            )
        g = ctx.generator("bias", subject.id, seed)
        logits = ctx.answers(subject, seed)
        answers = gaps.Answers.of(logits.argmax(2), test)
        sizes = {"n_boot": settings.bootstrap, "n_sim": settings.simulations}
        resamples = ctx.resamples(test, settings.bootstrap)
        majority = subgroups.majority_groups(ctx.data.train)
        metrics = gaps.gap_metrics(answers, **sizes, generator=g, resamples=resamples)
        metrics += subgroups.group_metrics(answers)
        metrics += subgroups.alignment_metrics(answers, majority)
        finding = Finding(
            subject=subject.id,
            auditor=self.name,
            curves=[_class_curve(answers, subject.id), _group_curve(metrics, answers, subject.id)],
            caveats=few_images(len(test), len(logits)) + _caveats(answers, metrics),
        )
        lead, of, over = gaps.STANDARD, answers, _over(logits, test.labels)
        paired = ctx.data.extra.get(PAIRED)
        if paired is not None:
            chosen = gaps.paired_sample(paired, settings.paired_limit)
            try:
                shown = victim_logits(ctx, subject, seed, chosen.images)
                twins = gaps.Answers.of(shown.argmax(2), chosen)
                metrics += gaps.paired_metrics(
                    twins, **sizes, generator=g, resamples=ctx.resamples(chosen, settings.bootstrap)
                )
                metrics += subgroups.alignment_metrics(twins, majority, test=gaps.PAIRED)
                lead, of, over = gaps.PAIRED, twins, _over(shown, chosen.labels)
                images = len(chosen) // len(twins.group_names)
                resamples = Resamples(f"{chosen.fingerprint}/images", images, settings.bootstrap)
                finding.caveats.append(
                    f"The paired test set shows {images} images in all {len(twins.group_names)} groups; "
                    "its floor is that of a network for which it does not matter which version of an "
                    "image it sees. Published tables use the standard test set."
                )
            except Unsupported as error:
                finding.status, finding.reason = "partial", f"No paired gaps: {error}."
        metrics.append(
            subgroups.calibration_gap(
                of, over, test=lead, n_sim=settings.simulations, generator=g, resamples=resamples
            )
        )
        finding.metrics = [
            m.model_copy(update={"headline": m.name in HEADLINE and m.params.get("test") == lead})
            for m in metrics
        ]
        return finding

    def inputs(self, ctx: Context, settings: BiasSettings) -> Mapping[str, str]:
        """The paired test set, where the data have one."""
        paired = ctx.data.extra.get(PAIRED)
        return {} if paired is None else {PAIRED: paired.fingerprint}

    def work(self, subject: Subject, ctx: Context, settings: BiasSettings) -> Work:
        """Nothing anew; on data without groups nothing at all."""
        return Work(ends=ctx.data.test.groups is None)

    def checks(self, ctx: Context, settings: BiasSettings) -> list[Check]:
        """Perfect, group-reading and fair simulated networks; the mapping to fairlearn."""
        test = ctx.test()
        if test.groups is None:
            return []
        labels, groups, k = test.labels, test.groups, test.num_classes
        g = ctx.generator("bias", "checks")
        trials = 40
        wrong = (labels + 1) % k
        hits = torch.rand(trials, len(test), generator=g) < 0.9
        fair = gaps.Answers.of(torch.where(hits, labels, wrong), test)
        favourite = (fair.counts > 0).long().argmax(0)  # the first group that each class has
        one_group = torch.where(groups == favourite[labels], labels, wrong)
        perfect = float(deo.deo_m(gaps.Answers.of(labels[None], test).rates))
        reader = float(deo.deo_a(gaps.Answers.of(one_group[None], test).rates))
        seen = deo.deo_a(fair.rates)
        floor = fair_gap_floor(
            fair.counts, torch.full((k,), 0.9), seed=ctx.seed_for("bias", "floor")
        ).average.mean
        width = 4 * float(seen.std()) / trials**0.5 + 1e-9  # standard errors of the mean
        theirs = class_gaps(labels, fair.predictions[0], groups)
        ours = max_min_gap(deo.true_positive_rates(fair.rates[0])).nan_to_num(nan=0.0)
        present = torch.unique(labels)
        apart = float((ours[present] - theirs).abs().max())
        return [
            Check(
                name="perfect network",
                passed=perfect == 0,
                value=perfect,
                expected="DEO_M 0",
                affects=["bias.deo"],
            ),
            Check(
                name="network that is right for one group of each class only",
                passed=abs(reader - 1) < 1e-9,
                value=reader,
                expected="DEO_A 1",
                affects=["bias.deo"],
            ),
            Check(
                name="perfectly fair network, right on 90 % of every cell",
                passed=abs(float(seen.mean()) - floor) <= width,
                value=float(seen.mean()),
                expected=f"DEO_A {floor:.4f} +- {width:.4f}, the noise floor",
                detail=f"mean of {trials} simulated networks",
                affects=["bias.deo"],
            ),
            Check(
                name="same gaps as fairlearn's MetricFrame",
                passed=apart < 1e-9,
                value=apart,
                expected="largest difference over classes 0",
                affects=["bias.deo"],
            ),
        ]


def _over(logits: Tensor, labels: Tensor) -> Tensor:
    """(V, N) confidence less correctness."""
    return torch.stack([overconfidence(z.double().softmax(1), labels) for z in logits])


def _caveats(answers: gaps.Answers, metrics: Sequence[Metric]) -> list[str]:
    """What the reader must know about the cells, and whether the gaps rise above chance."""
    out: list[str] = []
    empty = int((answers.counts == 0).sum())
    smallest = int(answers.counts[answers.counts > 0].min())
    if empty:
        out.append(
            f"{empty} of {answers.counts.numel()} (group, class) cells have no test image and are "
            "left out."
        )
    if smallest < SMALL_CELL:
        text = (
            f"The smallest (group, class) cell has {smallest} test images. Most of a max-min gap "
            "over such cells is chance: read it against its floor, or the paired test set."
        )
        out.append(Caveat(text, "sample", 2))
    found = {m.name: m for m in metrics}
    for name in ("deo_m", "deo_a"):
        gap, chance = found[f"bias.{name}"].value, found[f"bias.{name}_floor95"].value
        if gap is not None and chance is not None and gap <= chance:
            text = (
                f"{name.upper()} {gap:.3f} does not exceed what a perfectly fair network of this "
                f"accuracy shows in 1 of 20 test sets ({chance:.3f}): by itself it is no evidence "
                "of bias."
            )
            out.append(Caveat(text, "result", 3))
    share = answers.counts.double() / answers.counts.sum(1, keepdim=True).clamp(min=1)
    if float((share.amax(0) - share.amin(0)).max()) > 0.02:
        out.append(
            "Classes are not spread alike over the groups of the test set, so demographic parity "
            "is not 0 even for a perfect network."
        )
    return out


def _class_curve(answers: gaps.Answers, label: str) -> Curve:
    """The gap of every class, averaged over networks."""
    gap = max_min_gap(deo.true_positive_rates(answers.rates)).nanmean(0)
    known = torch.isfinite(gap).nonzero()[:, 0].tolist()
    return Curve(
        plot="Gap between best and worst group, by class",
        label=label,
        x=[float(k) for k in known],
        y=[float(gap[k]) for k in known],
        kind="points",
        x_label="class index",
        y_label="accuracy gap",
    )


def _group_curve(metrics: Sequence[Metric], answers: gaps.Answers, label: str) -> Curve:
    """Accuracy of every group with its interval."""
    rows = [m for m in metrics if m.name == "bias.group_accuracy"]
    return Curve(
        plot="Accuracy by group",
        label=label,
        x=[float(answers.group_names.index(m.params["group"])) for m in rows],
        y=[m.value or 0.0 for m in rows],
        low=[m.low or 0.0 for m in rows],
        high=[m.high or 0.0 for m in rows],
        counts=[m.n or 0 for m in rows],
        kind="points",
        x_label="group index",
        y_label="accuracy",
    )
