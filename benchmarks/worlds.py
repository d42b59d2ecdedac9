"""Simulated test sets and networks of a known truth, for ``benchmarks.coverage``: one function per metric.

Each takes the world of a report, the difficulty of its records, 1 or 0 for the effect of the draw, and a shift that
makes a real difference. Draws, victims and records have effects in logits; what comes back is what an auditor says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks.backdoor.outcomes import Outcome, gain
from ddaudit.data import ImageData
from ddaudit.findings import Metric, Resampled
from ddaudit.measures import ece, gaps
from ddaudit.stats import Interval, Resamples, auc, crossed, crossed_rate, tpr_at_fpr

CLASSES, GROUPS, BINS = 10, 2, 15


@dataclass(frozen=True)
class Spreads:
    """Standard deviations of the simulated effects, in logits (AUC and TPR: of the separation, in sigmas).

    Measured by ``python -m benchmarks.spreads`` on eight draws of ``random`` with six networks each (digits in
    colours that half of a class shares, 10 images a class), without what finitely many records add: accuracy 0.67
    with 0.048 between draws and 0.014 between networks, over-confidence 0.15 with 0.036 and 0.013, rates of cells
    (class and colour) beyond what moves all of them, separation of members. ASR gain is 0.15 for both together, from
    seven audits of the quick preset.
    """

    draw: float
    victim: float
    image: float = 1.6
    """How unlike in difficulty test images are: half of them are nearly always right, a tenth nearly never."""
    image_draw: float = 0.5
    """How far a draw moves single images beside moving all of them."""


@dataclass(frozen=True)
class World:
    """The test records of one report and how many networks answer them."""

    n: int
    victims: int
    generator: torch.Generator
    resamples: Resamples

    def normal(self, *size: int) -> Tensor:
        """Standard normal float64."""
        return torch.randn(*size, generator=self.generator, dtype=torch.float64)

    def logits(self, images: Tensor, s: Spreads, *, draw: float) -> Tensor:
        """(V, N) of being right for one draw: images, the draw (``draw`` 0 switches it off), victims."""
        moved = draw * (s.draw * self.normal(1) + s.image_draw * self.normal(self.n))
        return images + moved + s.victim * self.normal(self.victims, 1)

    def hits(self, logits: Tensor) -> Tensor:
        """(V, N) bool."""
        return (
            torch.rand(logits.shape, generator=self.generator, dtype=torch.float64)
            < logits.sigmoid()
        )


def accuracy(w: World, images: Tensor, draw: float, shift: float = 0.0) -> Metric:
    """``utility.accuracy`` at about 0.65."""
    hits = w.hits(w.logits(images + shift, SPREAD["accuracy"], draw=draw))
    return _metric(crossed_rate(hits.double()), w.resamples.of_rate(hits))


def calibration(w: World, images: Tensor, draw: float, shift: float = 0.0) -> Metric:
    """``calibration.ece`` (15 equal bins) of over-confident networks; draws differ in over-confidence."""
    s = SPREAD["ECE"]
    z = w.logits(images, s, draw=draw)
    hits = w.hits(z)
    excess = 0.8 + shift + draw * s.draw * w.normal(1) + s.victim * w.normal(w.victims, 1)
    confidence = (z + excess).sigmoid()
    p = torch.stack([confidence, 1 - confidence], 2)  # of two classes
    labels = torch.where(hits, 0, 1)
    tables = [ece.error_table(p[v], labels[v], bins=BINS) for v in range(w.victims)]
    whole = torch.stack(
        [ece.table_errors(t.sum(0), binning=ece.EQUAL_WIDTH, n=w.n, num_classes=2) for t in tables]
    )
    drawn = [
        torch.stack(
            [ece.table_errors(x @ t, binning=ece.EQUAL_WIDTH, n=w.n, num_classes=2) for t in tables]
        ).mean(0)
        for x in w.resamples.weights()
    ]  # fmt: skip
    replicates = torch.cat(drawn)
    interval = crossed(whole, replicates, n=w.n).clamp()
    return _metric(interval, w.resamples.kept(whole, replicates))


def fairness(w: World, images: Tensor, draw: float, shift: float = 0.0) -> Metric:
    """``bias.deo_m``: ten classes, two groups; draws move each cell."""
    s = SPREAD["DEO_M"]
    labels = torch.arange(w.n) % CLASSES
    groups = torch.arange(w.n) // CLASSES % GROUPS
    cell = groups * CLASSES + labels
    tilt = torch.linspace(0.2, 0.5 + shift, CLASSES, dtype=torch.float64)[labels] * (1 - 2 * groups)
    moved = draw * s.draw * w.normal(GROUPS * CLASSES)[cell]
    z = images + tilt + moved + s.victim * w.normal(w.victims, GROUPS * CLASSES)[:, cell]
    predictions = torch.where(w.hits(z), labels, (labels + 1) % CLASSES)
    names = tuple(map(str, range(CLASSES)))
    data = ImageData(
        torch.zeros(w.n, 1, 1, 1, dtype=torch.uint8), labels, names, groups, ("a", "b")
    )
    answers = gaps.Answers.of(predictions, data)
    drawn = gaps.resampled_gaps(
        answers, n_boot=w.resamples.count, generator=w.generator, resamples=w.resamples
    )
    return _metric(drawn.intervals["deo_m"], drawn.kept["deo_m"])


def backdoor(w: World, images: Tensor, draw: float, shift: float = 0.0) -> Metric:
    """``backdoor.asr_gain``: hits of a planted trigger minus hits without it, on the same images."""
    s = SPREAD["ASR gain"]
    clean = w.hits(w.logits(images - 3.0, s, draw=draw))
    attacked = w.hits(w.logits(images - 1.5 + shift, s, draw=draw))
    resampled = w.resamples.of_rate(attacked.double() - clean.double())
    return _metric(gain(_outcome(attacked), _outcome(clean)), resampled)


def membership_auc(w: World, images: Tensor, draw: float, shift: float = 0.0) -> Metric:
    """``stats.auc`` of a loss attack on half members."""
    return _metric(auc(*_scores(w, images, draw)))


def membership_tpr(w: World, images: Tensor, draw: float, shift: float = 0.0) -> Metric:
    """``stats.tpr_at_fpr`` at 1 % of the same attack."""
    return _metric(tpr_at_fpr(*_scores(w, images, draw), FPR))


SEPARATION, SHARED, OWN, FPR = 0.7, 0.6, 0.8, 0.01
"""Of members, in sigmas; the parts of a record's score that all networks share and that each has for itself."""


def _scores(w: World, images: Tensor, draw: float) -> tuple[Tensor, Tensor]:
    """(N,) scores averaged over networks. ``draw`` 0 also makes the networks alike: intervals of one attack take
    its networks as they are."""
    s = SPREAD["AUC"]
    members = torch.arange(w.n) % 2 == 0
    moved = s.draw * w.normal(1) + s.victim * w.normal(w.victims, 1)
    records = (images - MEAN) / s.image
    noise = SHARED * records + OWN * w.normal(w.victims, w.n)
    return (members * (SEPARATION + draw * moved) + noise).mean(0), members


def membership_truth(metric: str, victims: int, draw: float) -> float:
    """AUC, or TPR at a population FPR of 1 %, averaged over draws and victims: closed form for normal scores."""
    s = SPREAD["AUC"]
    sigma = math.hypot(SHARED, OWN / math.sqrt(victims))
    spread = draw * math.hypot(s.draw, s.victim / math.sqrt(victims))
    if metric == "AUC":
        return _phi(SEPARATION / math.hypot(math.sqrt(2) * sigma, spread))
    z = float(torch.special.ndtri(torch.tensor(1 - FPR, dtype=torch.float64)))
    return _phi((SEPARATION - z * sigma) / math.hypot(sigma, spread))


def _phi(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def _outcome(exclusive: Tensor) -> Outcome:
    return Outcome(exclusive, exclusive, torch.ones(exclusive.shape[1], dtype=torch.bool))


def _metric(interval: Interval, resampled: Resampled | None = None) -> Metric:
    return Metric.of("m", interval, direction="higher", unit="sim", resampled=resampled)


METRICS: dict[str, Callable[..., Metric]] = {
    "accuracy": accuracy,
    "AUC": membership_auc,
    "TPR": membership_tpr,
    "ECE": calibration,
    "DEO_M": fairness,
    "ASR gain": backdoor,
}
SPREAD = {
    "accuracy": Spreads(draw=0.33, victim=0.10),
    "AUC": Spreads(draw=0.02, victim=0.03),
    "TPR": Spreads(draw=0.02, victim=0.03),
    "ECE": Spreads(draw=0.33, victim=0.12),
    "DEO_M": Spreads(draw=1.9, victim=0.8),
    "ASR gain": Spreads(draw=0.90, victim=0.30),
}
BOOT, MEAN = 100, 1.0
"""Resamples behind an interval; mean logit of an image."""
