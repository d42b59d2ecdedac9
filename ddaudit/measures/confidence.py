"""What the probabilities of victims score on a test set: binned, smooth and proper scores, intervals, floors."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor

from ddaudit.findings import Direction, Metric, Resampled
from ddaudit.measures import ece as binned
from ddaudit.measures import scores
from ddaudit.measures.smooth import drawn_cells, residual_cells, smooth_ece
from ddaudit.stats import Floor, Interval, Resamples, crossed, crossed_mean
from ddaudit.stats.intervals import weight_chunks

UNBINNED: dict[str, Direction] = {
    **dict.fromkeys(("ks_error", "aurc", "excess_aurc", "smooth_ece", "mce"), "lower"),
    "brier_reliability": "lower", "brier_resolution": "higher", "brier_uncertainty": "none", "brier_within": "none",
}  # fmt: skip
"""Scores that no binning has to be named with; the Brier parts are those of the top label."""


class Sizes(Protocol):
    """How much is drawn; the settings of the auditor."""

    @property
    def bins(self) -> int: ...
    @property
    def bootstrap(self) -> int: ...
    @property
    def simulations(self) -> int: ...


def stage_metrics(
    logits: Tensor,
    labels: Tensor,
    settings: Sizes,
    *,
    stage: str,
    generator: torch.Generator,
    more: torch.Generator | None = None,
    resamples: Resamples | None = None,
) -> list[Metric]:
    """All calibration metrics of (V, N, K) logits, averaged over victims, for ``params.stage``.

    Intervals: bootstrap over images (bins stay those of the whole test set), combined with the
    spread of the victims. ``resamples`` are the same for every subject, so that their ECEs can be paired.
    ``more`` draws the floors of MCE and smooth ECE, so that those of the binned errors stay what they were.
    """
    n = len(labels)
    pieces = (
        weight_chunks(n, settings.bootstrap, generator)
        if resamples is None
        else resamples.weights()
    )
    probabilities = logits.softmax(2)
    read = _BinnedScores(probabilities, labels, settings.bins)
    whole = read(torch.ones(1, n, dtype=torch.float64))
    drawn = [{k: values.mean(1) for k, values in read(weights).items()} for weights in pieces]
    replicates = {name: torch.cat([d[name] for d in drawn]) for name in whole}
    # Brier's part within bins is negative by chance where a network is calibrated; cut, the parts would not add up.
    low = {"brier_within": -1.0}
    intervals = {
        k: crossed(v[0], replicates[k], n=n).clamp(low.get(k, 0.0), 1.0) for k, v in whole.items()
    }

    out = []
    for name in binned.BINNINGS:
        floor = fmean(
            binned.calibrated_floor(
                p, binning=name, bins=settings.bins, n_sim=settings.simulations, generator=generator
            ).mean
            for p in probabilities
        )
        kept = None
        if name == binned.EQUAL_WIDTH and resamples is not None:
            kept = resamples.kept(whole[name][0], replicates[name])
        out += _errors(intervals[name], floor, binning=name, stage=stage, resampled=kept)
    floors = [read.calibrated(p, settings.simulations, more or generator) for p in probabilities]
    chance: dict[str, float | None] = {
        name: Floor.average_of([f[name] for f in floors]).mean for name in ("smooth_ece", "mce")
    }
    out += [
        Metric.of(
            f"calibration.{name}",
            intervals[name],
            direction=direction,
            floor=chance.get(name),
            params={"stage": stage},
        )
        for name, direction in UNBINNED.items()
    ]
    return out + _means(logits, probabilities, labels, stage)


def _errors(
    found: Interval, floor: float, *, binning: str, stage: str, resampled: Resampled | None
) -> list[Metric]:
    """ECE by one binning, and by equal width what is above its floor."""
    params, main = {"binning": binning, "stage": stage}, binning == binned.EQUAL_WIDTH
    ece = Metric.of(
        "calibration.ece",
        found,
        direction="lower",
        floor=floor,
        headline=main,
        params=params,
        resampled=resampled,
    )
    if not main:
        return [ece]
    low, high = found.low - floor, found.high - floor
    above = Interval(found.value - floor, low, high, found.n, found.within).clamp(-1.0, 1.0)
    return [ece, Metric.of("calibration.ece_debiased", above, direction="lower", params=params)]


def _means(logits: Tensor, probabilities: Tensor, labels: Tensor, stage: str) -> list[Metric]:
    """The scores that are means over images: overconfidence, Brier, negative log-likelihood."""
    params = {"stage": stage}
    over = torch.stack([scores.overconfidence(p, labels) for p in probabilities])
    squared = torch.stack([scores.brier(p, labels) for p in probabilities])
    likelihood = torch.stack([scores.nll(z, labels) for z in logits])
    return [
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


def shifted_metric(
    logits: Tensor,
    labels: Tensor,
    settings: Sizes,
    *,
    stage: str,
    generator: torch.Generator,
    resamples: Resamples,
) -> Metric:
    """ECE of (V, N, K) logits on damaged test images."""
    probabilities = logits.softmax(2)
    tables = [binned.error_table(p, labels, bins=settings.bins) for p in probabilities]

    def read(weights: Tensor) -> Tensor:
        return torch.stack([(weights @ t).abs().sum(1) for t in tables], 1) / len(labels)

    values = read(torch.ones(1, len(labels), dtype=torch.float64))[0]
    drawn = torch.cat([read(w).mean(1) for w in resamples.weights()])
    floors = [
        binned.calibrated_floor(
            p, bins=settings.bins, n_sim=settings.simulations, generator=generator
        )
        for p in probabilities
    ]
    return Metric.of(
        "calibration.shifted_ece",
        crossed(values, drawn, n=len(labels)).clamp(),
        direction="lower",
        floor=Floor.average_of(floors).mean,
        params={"stage": stage},
    )


class _BinnedScores:
    """The scores that are no mean over images: weights (B, N) -> (B, V) by name."""

    def __init__(self, probabilities: Tensor, labels: Tensor, bins: int) -> None:
        self.n, self.k, self.bins = len(labels), probabilities.shape[2], bins
        self.confidence, top = probabilities.max(2)
        self.correct = (top == labels).double()
        self.tables = {
            b: [binned.error_table(p, labels, binning=b, bins=bins) for p in probabilities]
            for b in binned.BINNINGS
        }
        self.residuals = [
            residual_cells(c, hit) for c, hit in zip(self.confidence, self.correct, strict=True)
        ]

    def calibrated(self, p: Tensor, n_sim: int, generator: torch.Generator) -> dict[str, Floor]:
        """What MCE and smooth ECE read if the probabilities (N, K) of one network were calibrated."""
        confidence, top = p.max(1)
        drawn = torch.multinomial(p.clamp(min=0), n_sim, replacement=True, generator=generator)
        hits = (drawn == top[:, None]).T
        return {
            "smooth_ece": Floor.of(smooth_ece(drawn_cells(confidence, hits))),
            "mce": Floor.of(binned.largest_gaps(confidence, hits, bins=self.bins)),
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
        out["smooth_ece"] = torch.stack(
            [smooth_ece(weights @ cells / self.n) for cells in self.residuals], 1
        )
        parts = [binned.brier_parts(c, hit, weights, bins=self.bins) for c, hit in victims]
        for name in parts[0]:
            key = name if name == "mce" else f"brier_{name}"
            out[key] = torch.stack([part[name] for part in parts], 1)
        errors = self.n - weights @ self.correct.T
        out["excess_aurc"] = out["aurc"] - scores.best_aurc(errors, self.n)
        return out
