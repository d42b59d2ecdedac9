"""What the probabilities of victims score on a test set: binned, smooth and proper scores, intervals, floors."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ddaudit.findings import Direction, Metric
from ddaudit.measures import ece as binned
from ddaudit.measures import scores
from ddaudit.measures.smooth import drawn_cells, residual_cells, smooth_ece
from ddaudit.stats import Floor, Interval, Resamples, crossed, crossed_mean
from ddaudit.stats.intervals import weight_chunks

PARTS: dict[str, Direction] = {
    "reliability": "lower", "resolution": "higher", "uncertainty": "none", "within": "none",
}  # fmt: skip
"""Of the top label's Brier score."""


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
            low, high = ece.low - floor, ece.high - floor
            above = Interval(ece.value - floor, low, high, n, ece.within).clamp()
            both = {"binning": name, "stage": stage}
            out.append(Metric.of("calibration.ece_debiased", above, direction="lower", params=both))
    for name in ("ks_error", "aurc", "excess_aurc"):
        out.append(
            Metric.of(f"calibration.{name}", intervals[name], direction="lower", params=params)
        )
    draws = more or generator
    floors = [binned_scores.calibrated(p, settings.simulations, draws) for p in probabilities]
    for name in ("smooth_ece", "mce"):
        chance = Floor.average_of([f[name] for f in floors]).mean
        out.append(
            Metric.of(
                f"calibration.{name}",
                intervals[name],
                direction="lower",
                floor=chance,
                params=params,
            )
        )
    for name, direction in PARTS.items():
        out.append(
            Metric.of(
                f"calibration.brier_{name}", intervals[name], direction=direction, params=params
            )
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
        out |= {name: torch.stack([part[name] for part in parts], 1) for name in parts[0]}
        errors = self.n - weights @ self.correct.T
        out["excess_aurc"] = out["aurc"] - scores.best_aurc(errors, self.n)
        return out
