"""Auditor ``calibration``: does the confidence of victims match how often they are right?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddaudit.auditing import Auditor, Context, Settings, Subject, auditor, stratified
from ddaudit.findings import Check, Curve, Finding, Metric, MetricInfo
from ddaudit.measures import ece as binned
from ddaudit.measures import scores
from ddaudit.measures._common import few_images, victim_logits
from ddaudit.stats import Interval, Resamples, crossed, crossed_mean, wilson
from ddaudit.stats.intervals import weight_chunks

RAW, TEMPERATURE = "raw", "temperature"


class CalibrationSettings(Settings):
    """Knobs of the calibration auditor."""

    bins: int = 15
    bootstrap: int = 1000
    """Resamples of the test images behind the intervals of the binned errors."""
    simulations: int = 200
    """Label draws behind each noise floor."""
    validation_limit: int | None = None
    """At most this many validation images for the temperature; None: all."""


@auditor
class Calibration(Auditor[CalibrationSettings]):
    """Calibration errors, proper scores, selective risk; before and after temperature scaling."""

    name: ClassVar[str] = "calibration"
    title: ClassVar[str] = "Calibration"
    question: ClassVar[str] = (
        "When a network trained on this set says it is 90 % sure, is it right 90 % of the time, "
        "and if not, can the usual one-number correction repair it?"
    )
    threat_model: ClassVar[str] = (
        "No adversary. The predicted probabilities of the victims on real test images are compared "
        "with what turned out true. The correction (one temperature per network) is fitted on "
        "validation images that are neither in the distilled set nor among the test images."
    )
    how_to_read: ClassVar[str] = (
        "The expected calibration error (ECE) is the average distance between stated confidence "
        "and actual accuracy: 0 is ideal, 0.1 means ten points off. The noise floor is what a "
        "perfectly calibrated network would show on as many test images; near it nothing can be "
        "concluded. Positive overconfidence means the network promises too much. ECE says nothing "
        "about accuracy: a network that knows nothing and says so is well calibrated; Brier score "
        "and NLL reward both. A large error left after temperature scaling means the usual repair "
        "fails."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599",
        "Zhu et al., Rethinking Data Distillation: Do Not Overlook Calibration, ICCV 2023, "
        "arXiv 2307.12463",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo(
            "calibration.ece", "lower",
            "expected calibration error: how far confidence and accuracy lie apart, over bins of confidence",
        ),
        MetricInfo(
            "calibration.ece_debiased", "lower",
            "ECE less what a perfectly calibrated network reads on these images by chance",
        ),
        MetricInfo(
            "calibration.ks_error", "lower",
            "largest gap between accumulated confidence and accumulated accuracy; needs no bins",
        ),
        MetricInfo("calibration.overconfidence", "none", "mean confidence less accuracy: above 0 is overconfident"),
        MetricInfo(
            "calibration.brier", "lower",
            "squared distance between predicted probabilities and the true class", unit="squared error, 0 to 2",
        ),
        MetricInfo("calibration.nll", "lower", "mean negative log-probability of the true class", unit="nats"),
        MetricInfo(
            "calibration.aurc", "lower",
            "area under the risk-coverage curve: error rate when only the most confident answers count",
        ),
        MetricInfo(
            "calibration.excess_aurc", "lower",
            "AURC less that of the best possible order of the same answers",
        ),
        MetricInfo(
            "calibration.temperature", "none",
            "what logits are divided by to calibrate them, fitted on validation images", unit="ratio",
        ),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "calibration.ece": "ECE",
    }
    light: ClassVar[bool] = True
    version: ClassVar[int] = 3
    from_records: ClassVar[tuple[str, ...] | None] = (
        "calibration.temperature",
        f"stage={TEMPERATURE}",
    )
    settings: ClassVar[type[Settings]] = CalibrationSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"bootstrap": 300, "simulations": 100, "validation_limit": 2000}
    }

    def run(
        self, subject: Subject, ctx: Context, settings: CalibrationSettings, seed: int
    ) -> Finding:
        """Score raw logits, fit a temperature per victim on validation data, score again."""
        test = ctx.test()
        logits = victim_logits(ctx, subject, seed, test.images).double()
        g = ctx.generator("calibration", subject.id, seed)
        resamples = ctx.resamples(test, settings.bootstrap)
        finding = Finding(
            subject=subject.id,
            auditor=self.name,
            metrics=stage_metrics(
                logits, test.labels, settings, stage=RAW, generator=g, resamples=resamples
            ),
            curves=[_diagram(logits, test.labels, settings.bins, f"{subject.id}, {RAW}")],
            caveats=few_images(len(test), len(logits)),
        )
        finding.caveats += [
            "ECE is biased upwards by about its noise floor and depends on the binning; "
            "compare sets at one binning, and against their floors.",
            "Networks trained on soft labels are less over-confident for free: compare sets with "
            "the same kind of labels.",
        ]
        limit = settings.validation_limit
        held = ctx.data.validation
        held = held if limit is None else stratified(held, limit)
        if len(held) == 0:
            finding.status = "partial"
            finding.reason = f"Data '{ctx.data.name}' has no validation images for a temperature."
            return finding
        answers = victim_logits(ctx, subject, seed, held.images)
        fits = [scores.fit_temperature(z, held.labels) for z in answers]
        lost = [f for f in fits if f.at_bound]
        if lost:
            finding.caveats.append(_without_temperature(fits))
        if len(lost) == len(fits):
            finding.status = "partial"
            finding.reason = "No temperature can be fitted to any of the networks."
            return finding
        values = torch.tensor([1.0 if f.at_bound else f.value for f in fits], dtype=torch.float64)
        scaled = logits / values[:, None, None]
        label = f"{subject.id}, {TEMPERATURE}"
        finding.metrics += stage_metrics(
            scaled, test.labels, settings, stage=TEMPERATURE, generator=g, resamples=resamples
        )
        fitted = [f.value for f in fits if not f.at_bound]
        finding.metrics.append(
            Metric(
                name="calibration.temperature",
                value=sum(fitted) / len(fitted),
                n=len(held),
                unit="ratio",
            )
        )
        finding.curves.append(_diagram(scaled, test.labels, settings.bins, label))
        finding.caveats.append(
            f"The temperature is fitted on {len(held)} labelled real images that somebody who only "
            "holds the distilled set does not have."
        )
        if test.groups is not None:
            finding.caveats.append(
                "The temperature is fitted on images that carry the bias of the training data, and "
                "scored on images that do not: part of the error left is that shift."
            )
        return finding

    def checks(self, ctx: Context, settings: CalibrationSettings) -> list[Check]:
        """A calibrated simulator, a constant over-confident predictor, a planted temperature."""
        g = ctx.generator("calibration", "checks")
        k, n = max(ctx.data.num_classes, 2), 4000
        z = 1.5 * torch.randn(n, k, generator=g).double()
        p = z.softmax(1)
        y = torch.multinomial(p, 1, generator=g)[:, 0]
        floor = binned.calibrated_floor(p, bins=settings.bins, n_sim=2000, generator=g)
        # 4 standard deviations on either side: false alarms 1 in 10 000.
        width = (floor.high - floor.low) / 3.92 * 4
        calibrated = binned.ece(p, y, bins=settings.bins)
        constant = torch.full((1000, k), 0.05 / (k - 1), dtype=torch.float64)
        constant[:, 0] = 0.95
        truth = (torch.arange(1000) % 10 >= 6).long()
        known = binned.ece(constant, truth, bins=settings.bins)
        fitted = scores.fit_temperature(z * 2.5, y).value
        return [
            Check(
                name="perfectly calibrated simulator",
                passed=abs(calibrated - floor.mean) <= width,
                value=calibrated,
                expected=f"ECE {floor.mean:.4f} +- {width:.4f}, its noise floor",
                affects=["calibration.ece"],
            ),
            Check(
                name="always 95 % sure, right on 60 %",
                passed=abs(known - 0.35) < 1e-9,
                value=known,
                expected="ECE 0.35",
                affects=["calibration.ece"],
            ),
            Check(
                name="calibrated logits multiplied by 2.5",
                passed=abs(fitted / 2.5 - 1) < 0.1,
                value=fitted,
                expected="temperature 2.5 +- 10 %",
                affects=["calibration.temperature"],
            ),
        ]


def stage_metrics(
    logits: Tensor,
    labels: Tensor,
    settings: CalibrationSettings,
    *,
    stage: str,
    generator: torch.Generator,
    resamples: Resamples | None = None,
) -> list[Metric]:
    """All calibration metrics of (V, N, K) logits, averaged over victims, for ``params.stage``.

    Intervals: bootstrap over images (bins stay those of the whole test set), combined with the
    spread of the victims. ``resamples`` are the same for every subject, so that their ECEs can be paired.
    """
    n = len(labels)
    pieces = (
        weight_chunks(n, settings.bootstrap, generator)
        if resamples is None
        else resamples.weights()
    )
    params = {"stage": stage}
    probabilities = logits.softmax(2)
    binned_scores = _BinnedScores(probabilities, labels, settings.bins)
    whole = binned_scores(torch.ones(1, n, dtype=torch.float64))
    drawn = [
        {name: values.mean(1) for name, values in binned_scores(weights).items()}
        for weights in pieces
    ]
    replicates = {name: torch.cat([d[name] for d in drawn]) for name in whole}
    intervals = {
        name: crossed(values[0], replicates[name], n=n).clamp() for name, values in whole.items()
    }
    out = []
    for name in binned.BINNINGS:
        floor = sum(
            binned.calibrated_floor(
                p, binning=name, bins=settings.bins, n_sim=settings.simulations, generator=generator
            ).mean
            for p in probabilities
        ) / len(probabilities)
        main = name == binned.EQUAL_WIDTH
        out.append(
            Metric.of(
                "calibration.ece",
                intervals[name],
                direction="lower",
                floor=floor,
                headline=main,
                params={"binning": name, "stage": stage},
                resampled=resamples.kept(whole[name][0], replicates[name])
                if main and resamples is not None
                else None,
            )
        )
        if main:
            ece = intervals[name]
            above = Interval(ece.value - floor, ece.low - floor, ece.high - floor, n).clamp()
            both = {"binning": name, "stage": stage}
            out.append(Metric.of("calibration.ece_debiased", above, direction="lower", params=both))
    for name in ("ks_error", "aurc", "excess_aurc"):
        out.append(
            Metric.of(f"calibration.{name}", intervals[name], direction="lower", params=params)
        )
    over = torch.stack([scores.overconfidence(p, labels) for p in probabilities])
    squared = torch.stack([scores.brier(p, labels) for p in probabilities])
    likelihood = torch.stack([scores.nll(z, labels) for z in logits])
    out += [
        Metric.of("calibration.overconfidence", crossed_mean(over).clamp(-1, 1), params=params),
        Metric.of(
            "calibration.brier",
            crossed_mean(squared).clamp(0, 2),
            direction="lower",
            unit="squared error, 0 to 2",
            params=params,
        ),
        Metric.of(
            "calibration.nll",
            crossed_mean(likelihood).clamp(0, math.inf),
            direction="lower",
            unit="nats",
            params=params,
        ),
    ]
    return out


class _BinnedScores:
    """The scores that are no mean over images: weights (B, N) -> (B, V) by name."""

    def __init__(self, probabilities: Tensor, labels: Tensor, bins: int) -> None:
        self.n, self.k = len(labels), probabilities.shape[2]
        self.confidence, top = probabilities.max(2)
        self.correct = (top == labels).double()
        self.tables = {
            b: [binned.error_table(p, labels, binning=b, bins=bins) for p in probabilities]
            for b in binned.BINNINGS
        }

    def __call__(self, weights: Tensor) -> dict[str, Tensor]:
        out = {
            name: torch.stack(
                [
                    binned.table_errors(weights @ t, binning=name, n=self.n, num_classes=self.k)
                    for t in tables
                ],
                1,
            )
            for name, tables in self.tables.items()
        }
        victims = list(zip(self.confidence, self.correct, strict=True))
        out["ks_error"] = torch.stack([scores.ks_error(c, hit, weights) for c, hit in victims], 1)
        out["aurc"] = torch.stack([scores.aurc(c, hit, weights) for c, hit in victims], 1)
        errors = self.n - weights @ self.correct.T
        out["excess_aurc"] = out["aurc"] - scores.best_aurc(errors, self.n)
        return out


def _without_temperature(fits: Sequence[scores.Temperature]) -> str:
    """Which of the networks could not be scaled, and why."""
    why = Counter(fit.lacking for fit in fits if fit.lacking)
    reasons = "; ".join(f"{count}: {reason}" for reason, count in why.items())
    return (
        f"No finite temperature is best for {sum(why.values())} of {len(fits)} networks, which were left "
        f"unscaled ({reasons})."
    )


def _diagram(logits: Tensor, labels: Tensor, bins: int, label: str) -> Curve:
    """The reliability diagram of all victims pooled.

    Victims share their images, so each interval counts an image once, not once per victim.
    """
    v = len(logits)
    pooled = binned.reliability(logits.softmax(2).flatten(0, 1), labels.repeat(v), bins=bins)
    full = (pooled.counts > 0).nonzero()[:, 0].tolist()
    rates = []
    for b in full:
        n = max(1.0, float(pooled.counts[b]) / v)
        rates.append(wilson(float(pooled.accuracy[b]) * n, n))
    return Curve(
        plot="Reliability",
        label=label,
        x=[float(pooled.confidence[b]) for b in full],
        y=[r.value for r in rates],
        low=[r.low for r in rates],
        high=[r.high for r in rates],
        counts=[int(pooled.counts[b]) for b in full],
        kind="bars",
        x_label="confidence",
        y_label="accuracy",
        diagonal=True,
    )
