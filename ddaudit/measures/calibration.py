"""Auditor ``calibration``: does the confidence of victims match how often they are right?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.auditing import Auditor, Context, Settings, Subject, Work, auditor, stratified
from ddaudit.data import ImageData
from ddaudit.data.noise import TRUE_VALIDATION
from ddaudit.findings import Caveat, Check, Curve, Finding, Metric, MetricInfo
from ddaudit.measures import ece as binned
from ddaudit.measures import outliers, scores
from ddaudit.measures._common import few_images, victim_logits
from ddaudit.measures.confidence import shifted_metric, stage_metrics
from ddaudit.measures.matched import matched_ece, references
from ddaudit.measures.scaling import REPAIRS
from ddaudit.measures.smooth import residual_cells, smooth_ece
from ddaudit.stats import wilson

RAW, TEMPERATURE = "raw", "temperature"


class CalibrationSettings(Settings):
    """Knobs of the calibration auditor."""

    bins: int = Field(default=15, ge=2)
    bootstrap: int = Field(default=1000, ge=20)
    """Resamples of the test images behind the intervals of the binned errors."""
    simulations: int = Field(default=200, ge=1)
    """Label draws behind each noise floor."""
    validation_limit: int | None = Field(default=None, ge=1)
    """At most this many validation images for the temperature; None: all."""
    shifted: int = Field(default=500, ge=0)
    """Test images for the error under shift; 0 leaves it out."""
    matched: tuple[int, ...] = (1, 5, 10, 50)
    """Images per class of the random real subsets that accuracy is matched with; none leaves it out."""
    repairs: tuple[Literal["vector", "masked", "ensemble"], ...] = ("vector", "masked", "ensemble")
    """Further repairs that are scored: vector scaling, masked temperatures, the average of the networks."""


@auditor
class Calibration(Auditor[CalibrationSettings]):
    """Calibration errors, proper scores, selective risk; before and after temperature scaling."""

    name: ClassVar[str] = "calibration"
    title: ClassVar[str] = "Calibration"
    need: ClassVar[str] = "Better calibrated"
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
        "fails. Whoever is often wrong has more to be overconfident of: the matched ECE compares with networks of "
        "random real records that are as accurate. Of Brier's parts, reliability is what calibration could "
        "remove and resolution what the confidences know."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599",
        "Blasiok and Nakkiran, Smooth ECE, ICLR 2024, arXiv 2309.12236",
        "Ovadia et al., Can You Trust Your Model's Uncertainty?, NeurIPS 2019, arXiv 1906.02530 (under shift)",
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
            "ECE less what a perfectly calibrated network reads on these images by chance", signed=True,
        ),
        MetricInfo(
            "calibration.ks_error", "lower",
            "largest gap between accumulated confidence and accumulated accuracy; needs no bins",
        ),
        MetricInfo(
            "calibration.smooth_ece", "lower",
            "ECE by a kernel in place of bins, as wide as the error that it reads",
        ),
        MetricInfo("calibration.mce", "lower", "largest gap between confidence and accuracy of any bin"),
        MetricInfo(
            "calibration.brier_reliability", "lower",
            "part of the top label's Brier score that calibration would remove",
        ),
        MetricInfo(
            "calibration.brier_resolution", "higher",
            "how far the accuracy of bins differs: what confidence knows of correctness",
        ),
        MetricInfo("calibration.brier_uncertainty", "none", "accuracy times error rate: what no confidence changes"),
        MetricInfo(
            "calibration.brier_within", "none", "the rest of the top label's Brier score, from within bins",
            signed=True,
        ),
        MetricInfo(
            "calibration.shifted_ece", "lower", "ECE on test images damaged by common corruptions of middle strength"
        ),
        MetricInfo(
            "calibration.matched_ece", "lower",
            "ECE less that of networks as accurate that were trained on random real records", signed=True,
        ),
        MetricInfo(
            "calibration.overconfidence", "none", "mean confidence less accuracy: above 0 is overconfident",
            signed=True,
        ),
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
        "calibration.smooth_ece": "smooth ECE",
        "calibration.mce": "MCE",
        "calibration.shifted_ece": "ECE under shift",
        "calibration.matched_ece": "ECE beyond accuracy's",
    }
    light: ClassVar[bool] = True
    version: ClassVar[int] = 8
    from_records: ClassVar[tuple[str, ...] | None] = (
        "calibration.temperature",
        "calibration.matched_ece",
        *(f"stage={name}" for name in (TEMPERATURE, "vector", "masked")),
    )
    settings: ClassVar[type[Settings]] = CalibrationSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {
            "bootstrap": 300,
            "simulations": 100,
            "validation_limit": 2000,
            "shifted": 150,
            "matched": (),
            "repairs": (),
        }
    }

    def run(
        self, subject: Subject, ctx: Context, settings: CalibrationSettings, seed: int
    ) -> Finding:
        """Score raw logits, fit a temperature per victim on validation data, score again."""
        test = ctx.test()
        # Where labels are noisy by design, a temperature for wrong ones would answer another question.
        held = ctx.data.extra.get(TRUE_VALIDATION, ctx.data.validation)
        if settings.validation_limit is not None:
            held = stratified(held, settings.validation_limit)

        def answers(records: ImageData) -> Tensor:
            return victim_logits(ctx, subject, seed, records.images).double()

        logits = ctx.answers(subject, seed).double()
        finding = Finding(
            subject=subject.id, auditor=self.name, caveats=few_images(len(test), len(logits))
        )
        finding.caveats += [
            Caveat(
                "ECE is biased upwards by about its noise floor. It depends on the binning, too: "
                "compare sets at one binning, and against their floors.",
                rank=3,
            ),
            Caveat(
                "Networks trained on soft labels are less over-confident for free. Compare sets with "
                "the same kind of labels.",
                rank=4,
            ),
        ]
        damaged = _damaged(ctx, settings)
        shown = None if damaged is None else answers(damaged)
        stage = partial(
            self._stage, finding, test, ctx=ctx, settings=settings,
            g=ctx.generator("calibration", subject.id, seed),
            more=ctx.generator("calibration", "more", subject.id, seed),
        )  # fmt: skip
        by = references(ctx, seed, settings.matched, test)
        stage(RAW, logits, by=by, damaged=damaged, shown=shown)
        if len(held) == 0:
            finding.status = "partial"
            finding.reason = f"Data '{ctx.data.name}' has no validation images for a temperature."
            return finding
        unseen = answers(held)
        fits = [scores.fit_temperature(z, held.labels) for z in unseen]
        lost = [f for f in fits if f.at_bound]
        if lost:
            finding.caveats.append(_without_temperature(fits))
        if len(lost) == len(fits):
            finding.status = "partial"
            finding.reason = "No temperature can be fitted to any of the networks."
            return finding
        for name in settings.repairs:
            finding.metrics += _repaired(
                name, REPAIRS[name](logits, unseen, held.labels), test.labels, settings,
                ctx.generator("calibration", name, subject.id, seed),
            )  # fmt: skip
        beside = references(ctx, seed, settings.matched, held)
        stage(
            TEMPERATURE,
            _scaled(logits, fits),
            by=[
                _scaled(z, [scores.fit_temperature(a, held.labels) for a in asked])
                for z, asked in zip(by, beside, strict=True)
            ],
            damaged=damaged,
            shown=None if shown is None else _scaled(shown, fits),
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
        text = (
            f"The temperature is fitted on {len(held)} labelled real images that somebody who only "
            "holds the distilled set does not have."
        )
        if TRUE_VALIDATION in ctx.data.extra:
            text += " Their labels are the true ones, not the noisy ones of training."
        finding.caveats.append(Caveat(text, "setup"))
        if test.groups is not None:
            finding.caveats.append(
                "The temperature is fitted on images that carry the bias of the training data, and "
                "scored on images that do not: part of the error left is that shift."
            )
        return finding

    def _stage(
        self,
        finding: Finding,
        test: ImageData,
        stage: str,
        logits: Tensor,
        *,
        ctx: Context,
        settings: CalibrationSettings,
        g: torch.Generator,
        more: torch.Generator,
        by: Sequence[Tensor],
        damaged: ImageData | None,
        shown: Tensor | None,
    ) -> None:
        """Add the metrics and the diagram of the networks before or after scaling.

        Args:
            by: references of matched accuracy, at the same stage.
            shown: answers to ``damaged``, at the same stage.
        """
        resamples = ctx.resamples(test, settings.bootstrap)
        finding.metrics += stage_metrics(
            logits, test.labels, settings, stage=stage, generator=g, more=more, resamples=resamples
        )
        finding.curves.append(
            _diagram(logits, test.labels, settings.bins, f"{finding.subject}, {stage}")
        )
        if damaged is not None and shown is not None:
            finding.metrics.append(
                shifted_metric(
                    shown, damaged.labels, settings, stage=stage, generator=more,
                    resamples=ctx.resamples(damaged, settings.bootstrap),
                )
            )  # fmt: skip
        if not by:
            return
        matched = matched_ece(
            logits, by, test.labels, bins=settings.bins, resamples=resamples, stage=stage
        )
        if matched is not None:
            finding.metrics.append(matched)
        elif stage == RAW:
            finding.caveats.append(
                "No random real subset of the sizes tried is as accurate, so nothing is matched."
            )

    def work(self, subject: Subject, ctx: Context, settings: CalibrationSettings) -> Work:
        """The networks of the references, once a seed for all subjects: counted with ``random``."""
        return Work(archs=(ctx.arch,) * len(settings.matched) if subject.id == "random" else ())

    def inputs(self, ctx: Context, settings: CalibrationSettings) -> Mapping[str, str]:
        """The true labels of validation, where they are known."""
        true = ctx.data.extra.get(TRUE_VALIDATION)
        return {} if true is None else {TRUE_VALIDATION: true.fingerprint}

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
        sure, right = torch.full((1000,), 0.95), (truth == 0).double()
        other = [
            float(smooth_ece(residual_cells(sure, right).mean(0)[None])),
            float(binned.brier_parts(sure, right, torch.ones(1, 1000).double())["mce"]),
        ]
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
                name="always 95 % sure, right on 60 %: without bins, and by the largest bin",
                passed=max(abs(v - 0.35) for v in other) < 1e-6,
                value=max(other, key=lambda v: abs(v - 0.35)),
                expected="smooth ECE and MCE 0.35",
                affects=["calibration.smooth_ece", "calibration.mce"],
            ),
            Check(
                name="calibrated logits multiplied by 2.5",
                passed=abs(fitted / 2.5 - 1) < 0.1,
                value=fitted,
                expected="temperature 2.5 +- 10 %",
                affects=["calibration.temperature"],
            ),
        ]


def _damaged(ctx: Context, settings: CalibrationSettings) -> ImageData | None:
    """A sample of the test images under C-lite; None of data that are no pictures."""
    if not settings.shifted or ctx.data.space != "pixels":
        return None
    sample = ctx.test(settings.shifted)
    return replace(sample, images=outliers.damaged(sample, level=3))


def _repaired(
    name: str, logits: Tensor, labels: Tensor, settings: CalibrationSettings, g: torch.Generator
) -> list[Metric]:
    """The scores by which repairs are compared, of (V, N, K) repaired logits."""
    wanted = {"calibration.ece", "calibration.smooth_ece", "calibration.brier", "calibration.nll"}
    made = stage_metrics(logits, labels, settings, stage=name, generator=g)
    return [m.model_copy(update={"headline": False}) for m in made if m.name in wanted]


def _scaled(logits: Tensor, fits: Sequence[scores.Temperature]) -> Tensor:
    """(V, N, K) logits by each network's temperature; unscaled where none is best."""
    values = torch.tensor([1.0 if f.at_bound else f.value for f in fits], dtype=torch.float64)
    return logits / values[:, None, None]


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
