"""Auditor ``ood``: are networks less sure of what belongs to no class than of test records?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from scipy.special import ndtr
from torch import Tensor

from ddaudit.auditing import Auditor, Context, Settings, Subject, Work, auditor, stratified
from ddaudit.data import ImageData
from ddaudit.data.unseen import UNSEEN as UNSEEN_SPLIT
from ddaudit.data.unseen import only_unseen, without_classes
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Check, Finding, Metric, MetricInfo
from ddaudit.measures._common import few_images
from ddaudit.measures.detection import KNN, SCORES, detection, msp, nearness
from ddaudit.measures.outliers import (
    CORRUPTED,
    DISTANCE,
    NOISE,
    PHOTOGRAPHS,
    SHUFFLED,
    UNSEEN,
    outliers,
)
from ddaudit.models import Network
from ddaudit.stats import Interval, Resamples, clopper_pearson, crossed
from ddaudit.training import features

LEAD = "msp"
"""The score of the headline numbers: what anybody can read off a network."""

HEADLINE = (UNSEEN, SHUFFLED, PHOTOGRAPHS)
"""One near set that may be missing, one that never is, one far set."""

_BANK = 5000
"""At most about so many images of a set are neighbours; every other, third, ... of a larger one."""


class OodSettings(Settings):
    """Knobs of the ood auditor."""

    images: int = Field(default=1000, ge=10)
    """Test images (a fixed stratified sample), and at most as many outliers of each kind."""
    unseen: int = Field(default=2, ge=0)
    """Classes left out for the near set "unseen classes": recipes distil once more without them. 0: only where the
    data have it (data set ``unseen``)."""
    neighbours: int = Field(default=5, ge=1)
    """k of the score by nearest neighbours."""
    bootstrap: int = Field(default=400, ge=20)
    """Resamples of test images and outliers behind the intervals."""


@auditor
class Ood(Auditor[OodSettings]):
    """Detection of outliers by four scores, near sets and far sets apart."""

    name: ClassVar[str] = "ood"
    title: ClassVar[str] = "Outliers"
    need: ClassVar[str] = "Outliers noticed"
    question: ClassVar[str] = (
        "Shown something that belongs to none of its classes, is a network trained on this set less sure than of real "
        "test images, so that the stranger can be turned away?"
    )
    threat_model: ClassVar[str] = (
        "No adversary. The outliers know nothing of the network, and no threshold or score is tuned on them."
    )
    how_to_read: ClassVar[str] = (
        "AUROC is the chance that a test image scores above an outlier: 1 is perfect, 0.5 guessing, below it the "
        "network is surer of strangers. FPR95 is the share of outliers that pass when 95 % of the test images do "
        "(guessing: 0.95). AUPR is given with either side as positives, at one outlier a test image (guessing: 0.5). "
        "Near outliers resemble the data and are the hard case; far ones may be told by their brightness alone, so the "
        "two are never averaged. A set that learned little is unsure of everything: read it beside accuracy."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136 (MSP, AUROC, AUPR)",
        "Liu et al., NeurIPS 2020, arXiv 2010.03759 (energy); Sun et al., ICML 2022, arXiv 2204.06507 (neighbours)",
        "TrustDD, Pattern Recognition 2024, arXiv 2307.09165 (outliers made of the data)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("ood.auroc", "higher", "chance that a test record scores above an outlier"),
        MetricInfo("ood.fpr95", "lower", "outliers accepted where 95 % of the test records are"),
        MetricInfo("ood.aupr_in", "higher", "average precision with test records as positives"),
        MetricInfo("ood.aupr_out", "higher", "average precision with outliers as positives"),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "ood.auroc": "AUROC",
        "ood.fpr95": "FPR95",
        "ood.aupr_in": "AUPR, test records",
        "ood.aupr_out": "AUPR, outliers",
    }
    from_records: ClassVar[tuple[str, ...] | None] = (f"set={UNSEEN}",)
    version: ClassVar[int] = 4
    settings: ClassVar[type[Settings]] = OodSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"images": 300, "unseen": 0, "bootstrap": 200},
        "full": {"images": 10_000},
    }

    def run(self, subject: Subject, ctx: Context, settings: OodSettings, seed: int) -> Finding:
        """Score every set of outliers against as many test images."""
        test = ctx.test(settings.images)
        made = outliers(test, ctx.data, ctx.generator("ood", "outliers"))
        finding = Finding(subject=subject.id, auditor=self.name)
        victims = ctx.victims(subject, seed)
        self._score(finding, subject, ctx, settings, seed, made)
        finding.caveats += few_images(len(test), len(victims))
        if subject.kind != "checkpoint" and ctx.distilled(subject, seed).outliers is not None:
            finding.caveats.append(
                f"The set was made with outliers of its own, exchanged quarters, enlarged pixels and noise among them: "
                f"'{SHUFFLED}', '{CORRUPTED}' and '{NOISE}' are no strangers to networks that learn of those "
                "(--protocol card). The others are."
            )
        if subject.kind == "checkpoint":
            finding.caveats.append("No score by neighbours: a checkpoint comes without its set.")
        given = only_unseen(ctx.data)
        if given is not None:
            self._score(finding, subject, ctx, settings, seed, {UNSEEN: given})
        elif not settings.unseen:
            finding.caveats.append(
                "No unseen classes: --setting ood.unseen=2 distils again without the last two, and the data set "
                f"unseen:base=({ctx.data.name}) leaves them out for every subject."
            )
        else:
            self._again(finding, subject, ctx, settings, seed)
        return finding

    def _again(
        self, finding: Finding, subject: Subject, ctx: Context, settings: OodSettings, seed: int
    ) -> None:
        """Distil without some classes, and take their test images for outliers."""
        try:
            if subject.recipe is None:
                raise Unsupported(f"a {subject.kind} was made with all classes")
            fewer = without_classes(ctx.data, settings.unseen, where="ood.unseen")
            same, gone = replace(ctx, data=fewer), fewer.extra[UNSEEN_SPLIT]
            self._score(finding, subject, same, settings, seed, {UNSEEN: gone})
        except (BadInput, Unsupported) as error:
            finding.caveats.append(f"No unseen classes: {error}".rstrip(".") + ".")
            return
        finding.caveats.append(
            f"Unseen classes: distilled once more without the last {settings.unseen}, and scored on networks of that "
            "set; the other outliers meet the subject's own."
        )

    def _score(
        self,
        finding: Finding,
        subject: Subject,
        ctx: Context,
        settings: OodSettings,
        seed: int,
        made: Mapping[str, ImageData],
    ) -> None:
        """Add the metrics of these sets."""
        nets = ctx.victims(subject, seed)
        bank = None
        if subject.kind != "checkpoint":
            images = ctx.distilled(subject, seed).images
            bank = images[:: math.ceil(len(images) / _BANK)]
        whole = ctx.test(settings.images)
        for name, away in made.items():
            away = stratified(away, settings.images)
            test = stratified(whole, len(away))
            away = stratified(away, len(test))
            tables = scored(nets, ctx, test, away, bank, neighbours=settings.neighbours)
            pair = f"{test.fingerprint}/{away.fingerprint}"
            resamples = Resamples(pair, len(test) + len(away), settings.bootstrap)
            lead = name in HEADLINE or (name == NOISE and ctx.data.space != "pixels")
            finding.metrics += detection_metrics(tables, len(test), resamples, name, headline=lead)

    def inputs(self, ctx: Context, settings: OodSettings) -> Mapping[str, str]:
        """The images of unseen classes, where the data have them."""
        given = only_unseen(ctx.data)
        return {} if given is None else {UNSEEN_SPLIT: given.fingerprint}

    def work(self, subject: Subject, ctx: Context, settings: OodSettings) -> Work:
        """One distillation, and its networks, for the unseen classes."""
        again = settings.unseen and subject.recipe is not None and only_unseen(ctx.data) is None
        return Work(distillations=1, archs=(ctx.arch,)) if again else Work()

    def checks(self, ctx: Context, settings: OodSettings) -> list[Check]:
        """Scores of known distributions, ties, and probabilities that a float would call 1."""
        g = ctx.generator("ood", "checks")
        n, apart = 4000, 1.5
        scores = torch.randn(2 * n, generator=g).double()
        scores[:n] += apart
        inside, once = torch.arange(2 * n) < n, torch.ones(1, 2 * n, dtype=torch.float64)
        drawn = {k: float(v) for k, v in detection(scores, inside, once).items()}
        area, passed = float(ndtr(apart / 2**0.5)), float(ndtr(1.6449 - apart))
        tied = {k: float(v) for k, v in detection(torch.zeros(2 * n), inside, once).items()}
        guess = max(
            abs(tied[k] - v)
            for k, v in {"auroc": 0.5, "fpr95": 1.0, "aupr_in": 0.5, "aupr_out": 0.5}.items()
        )
        sure = torch.tensor([[40.0, 0.0], [50.0, 0.0]])
        told = float(msp(sure)[1] - msp(sure)[0])
        return [
            # Standard errors 0.004 and 0.016; five of them on either side.
            Check(name="normal scores 1.5 apart", passed=abs(drawn["auroc"] - area) < 0.02, value=drawn["auroc"],
                  expected=f"AUROC {area:.4f} +- 0.02", affects=["ood.auroc"]),
            Check(name="normal scores 1.5 apart, threshold", passed=abs(drawn["fpr95"] - passed) < 0.08,
                  value=drawn["fpr95"], expected=f"FPR95 {passed:.4f} +- 0.08", affects=["ood.fpr95"]),
            Check(name="one score for all", passed=guess < 1e-9, value=guess,
                  expected="what guessing reads, largest difference 0"),
            Check(name="probabilities that float32 rounds to 1", passed=abs(told - 10) < 1e-6, value=told,
                  expected="10 apart in log odds"),
        ]  # fmt: skip


def scored(
    nets: Sequence[Network],
    ctx: Context,
    test: ImageData,
    away: ImageData,
    bank: Tensor | None,
    *,
    neighbours: int,
) -> dict[str, Tensor]:
    """Score -> (V, N) values of the test records, then of the outliers.

    Args:
        bank: images that the networks were trained on; None leaves the score by neighbours out.
    """
    parts = (test.images, away.images)
    logits = [torch.cat([ctx.predict(net, part) for part in parts]) for net in nets]
    out = {name: torch.stack([of(z) for z in logits]) for name, of in SCORES.items()}
    if bank is not None:
        near = []
        for net in nets:
            known = features(net, bank)
            asked = torch.cat([features(net, part) for part in parts])
            near.append(nearness(asked, known, neighbours=neighbours))
        out[KNN] = torch.stack(near)
    return out


def detection_metrics(
    tables: Mapping[str, Tensor],
    inside: int,
    resamples: Resamples,
    name: str,
    *,
    headline: bool = False,
) -> list[Metric]:
    """Every measure of every score on one set of outliers.

    Args:
        tables: score -> (V, N), test records first.
        inside: how many of the N are test records.
        resamples: of test records and outliers together, the same for every subject.
        name: of the set.
        headline: whether its AUROC by ``LEAD`` is one.
    """
    out = []
    ours = torch.arange(resamples.n) < inside
    once = torch.ones(1, resamples.n, dtype=torch.float64)
    for score, table in tables.items():
        values = _each(table, ours, once)
        drawn = [_each(table, ours, w) for w in resamples.weights()]
        for measure, value in values.items():
            replicates = torch.cat([piece[measure] for piece in drawn], 1).mean(0)
            lead = measure == "auroc" and score == LEAD
            out.append(
                Metric.of(
                    f"ood.{measure}",
                    _interval(value[:, 0], replicates, inside, resamples.n),
                    direction="lower" if measure == "fpr95" else "higher",
                    headline=lead and headline,
                    params={"set": name, "distance": DISTANCE[name], "score": score},
                    resampled=resamples.kept(value[:, 0], replicates) if lead else None,
                )
            )
    return out


def _each(table: Tensor, inside: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Measure -> (V, B)."""
    rows = [detection(scores, inside, weights) for scores in table]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _interval(values: Tensor, replicates: Tensor, inside: int, n: int) -> Interval:
    got = crossed(values, replicates, n=n, shift=False).clamp()
    if got.low == got.high and got.value in (0.0, 1.0):
        # No resample has an error: as many all-or-nothing trials as the smaller side has records.
        trials = min(inside, n - inside)
        exact = clopper_pearson(round(got.value * trials), trials)
        return Interval(got.value, exact.low, exact.high, n)
    return got
