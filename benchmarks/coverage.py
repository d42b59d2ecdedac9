"""How often do intervals cover, and how often does a report call equals different? Simulated from a known truth.

    OMP_NUM_THREADS=1 python -m benchmarks.coverage [--reports 200] [--metrics accuracy,auc] [--out docs/statistics.md]

A simulated report has three subjects and the reference, all of ONE method, so every "better" or "worse" in it is
false. Each draw of each subject has an effect of its own, each victim too, and all answer the same test records. The
numbers and their intervals come from the functions that the auditors call, merging, differences and Holm's correction
from those that reports call. The old rule, kept here to be compared with, calls a difference real where the
square-and-add interval of two single draws excludes 0.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddaudit.attacks.backdoor.naive import Outcome, gain
from ddaudit.data import ImageData
from ddaudit.findings import Metric
from ddaudit.measures import ece, gaps
from ddaudit.reports.compare import LEVEL, difference, spread_of
from ddaudit.reports.merge import merge_metric
from ddaudit.stats import Interval, auc, crossed, crossed_rate, tpr_at_fpr
from ddaudit.stats.intervals import weight_chunks
from ddaudit.stats.verdicts import holm

SUBJECTS, REFERENCE_DRAWS = 3, 5
CLASSES, GROUPS, BINS = 10, 2, 15
SEEDS, VICTIMS, RECORDS = (1, 3), (2, 5), (400, 10_000)


@dataclass(frozen=True)
class Spreads:
    """Standard deviations of the simulated effects, in logits (AUC and TPR: of the separation, in sigmas).

    Measured on seven draws of ``random`` (digits-colored, 10 images a class, quick preset, two victims each),
    standard deviations between draws and between victims: accuracy 0.026 and 0.011, ECE 0.019 and 0.017, ASR gain
    0.15 together. Of AUC, TPR and DEO_M there is no such measurement (DEO_M is 1 in each of those draws): their
    values are let spread about as accuracy does, those of DEO_M twice as far.
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


Measure = Callable[[Tensor, float], Interval]
"""One reading of a draw on records that the report has fixed: (records, 1 or 0 for the draw's effect)."""


def accuracy(w: World, images: Tensor, draw: float) -> Interval:
    """``utility.accuracy`` at about 0.65."""
    return crossed_rate(w.hits(w.logits(images, SPREAD["accuracy"], draw=draw)).double())


def calibration(w: World, images: Tensor, draw: float) -> Interval:
    """``calibration.ece`` (15 equal bins) of over-confident networks; draws differ in over-confidence."""
    s = SPREAD["ECE"]
    z = w.logits(images, s, draw=draw)
    hits = w.hits(z)
    excess = 0.8 + draw * s.draw * w.normal(1) + s.victim * w.normal(w.victims, 1)
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
        for x in weight_chunks(w.n, BOOT, w.generator)
    ]  # fmt: skip
    return crossed(whole, torch.cat(drawn), n=w.n).clamp()


def fairness(w: World, images: Tensor, draw: float) -> Interval:
    """``bias.deo_m``: ten classes, two groups, gaps of 0.1 to 0.2; draws move each cell."""
    s = SPREAD["DEO_M"]
    labels = torch.arange(w.n) % CLASSES
    groups = torch.arange(w.n) // CLASSES % GROUPS
    cell = groups * CLASSES + labels
    tilt = torch.linspace(0.2, 0.5, CLASSES, dtype=torch.float64)[labels] * (1 - 2 * groups)
    moved = draw * s.draw * w.normal(GROUPS * CLASSES)[cell]
    z = images + tilt + moved + s.victim * w.normal(w.victims, GROUPS * CLASSES)[:, cell]
    predictions = torch.where(w.hits(z), labels, (labels + 1) % CLASSES)
    names = tuple(map(str, range(CLASSES)))
    data = ImageData(
        torch.zeros(w.n, 1, 1, 1, dtype=torch.uint8), labels, names, groups, ("a", "b")
    )
    answers = gaps.Answers.of(predictions, data)
    return gaps.gap_intervals(answers, n_boot=BOOT, generator=w.generator)["deo_m"]


def backdoor(w: World, images: Tensor, draw: float) -> Interval:
    """``backdoor.asr_gain``: hits of a planted trigger minus hits without it, on the same images."""
    s = SPREAD["ASR gain"]
    clean = w.hits(w.logits(images - 3.0, s, draw=draw))
    attacked = w.hits(w.logits(images - 1.5, s, draw=draw))
    return gain(_outcome(attacked), _outcome(clean))


def membership_auc(w: World, images: Tensor, draw: float) -> Interval:
    """``stats.auc`` of a loss attack on half members."""
    return auc(*_scores(w, images, draw))


def membership_tpr(w: World, images: Tensor, draw: float) -> Interval:
    """``stats.tpr_at_fpr`` at 1 % of the same attack."""
    return tpr_at_fpr(*_scores(w, images, draw), FPR)


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


METRICS: dict[str, Callable[[World, Tensor, float], Interval]] = {
    "accuracy": accuracy,
    "AUC": membership_auc,
    "TPR": membership_tpr,
    "ECE": calibration,
    "DEO_M": fairness,
    "ASR gain": backdoor,
}
SPREAD = {
    "accuracy": Spreads(draw=0.17, victim=0.075),
    "AUC": Spreads(draw=0.08, victim=0.05),
    "TPR": Spreads(draw=0.08, victim=0.05),
    "ECE": Spreads(draw=0.15, victim=0.10),
    "DEO_M": Spreads(draw=0.25, victim=0.20),
    "ASR gain": Spreads(draw=0.90, victim=0.30),
}
BOOT, MEAN = 100, 1.0
"""Resamples behind an interval; mean logit of an image."""


@dataclass(frozen=True, eq=False)
class Readings:
    """One simulated report in one metric, before seeds are merged."""

    subjects: list[list[Interval]]
    """SUBJECTS x most seeds."""
    reference: list[Interval]
    still: Interval
    """Of a method whose draws are all alike: what one seed's interval is asked to cover."""


def simulate(metric: str, *, n: int, victims: int, seed: int) -> Readings:
    """All readings of a report in one metric, over the same records."""
    w = World(n, victims, torch.Generator().manual_seed(seed))
    images = MEAN + SPREAD[metric].image * w.normal(n)
    read = METRICS[metric]
    return Readings(
        [[read(w, images, 1.0) for _ in range(max(SEEDS))] for _ in range(SUBJECTS)],
        [read(w, images, 1.0) for _ in range(REFERENCE_DRAWS)],
        read(w, images, 0.0),
    )


def merged(draws: Sequence[Interval]) -> Metric:
    """As a report merges seeds."""
    return merge_metric([Metric.of("m", d, direction="higher", unit="sim") for d in draws])


def false_verdicts(report: Sequence[Readings], seeds: int) -> tuple[bool, bool]:
    """Whether a report over some metrics has a false verdict: by the rule of reports, by the old one."""
    p_values, old = [], False
    for r in report:
        reference = merged(r.reference)
        spread = spread_of(reference)
        lone = merged(r.reference[:seeds])
        for draws in r.subjects:
            mine = merged(draws[:seeds])
            diff = difference(mine, reference, spread)
            p_values.append(diff.p_value if diff and diff.p_value is not None else 1.0)
            old |= old_rule(mine, lone)
    return min(holm(p_values)) <= LEVEL, old


def old_rule(a: Metric, b: Metric) -> bool:
    """The rule before this one: square-and-add of the two printed intervals, each taken by itself."""
    (x, low, high), (y, under, over) = _ends(a), _ends(b)
    return x - y > math.hypot(x - low, over - y) or y - x > math.hypot(high - x, y - under)


def _ends(m: Metric) -> tuple[float, float, float]:
    assert m.value is not None
    assert m.low is not None
    assert m.high is not None
    return m.value, m.low, m.high


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    metric: str
    seeds: int
    victims: int
    n: int
    covered: float
    reports: int


def coverage(metric: str, bank: Sequence[Readings], *, victims: int, n: int) -> list[Row]:
    """With one seed: of the set's own value (draws all alike). With three: of the method's."""
    rows = []
    closed = metric in ("AUC", "TPR")
    truth = membership_truth(metric, victims, 0) if closed else _mean([r.still.value for r in bank])
    held = _mean([float(truth in r.still) for r in bank])
    rows.append(Row(metric, 1, victims, n, held, len(bank)))
    truth = (
        membership_truth(metric, victims, 1) if closed
        else _mean([d.value for r in bank for draws in [*r.subjects, r.reference] for d in draws])
    )  # fmt: skip
    inside = []
    for r in bank:
        for draws in r.subjects:
            _, low, high = _ends(merged(draws))
            inside.append(float(low <= truth <= high))
    rows.append(Row(metric, 3, victims, n, _mean(inside), len(bank)))
    return rows


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def main() -> None:
    """Simulate, print the tables, and with ``--out`` put them into the page between its markers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--reports", type=int, default=200, help="simulated reports with 400 records"
    )
    parser.add_argument(
        "--large", type=int, default=100, help="simulated reports with 10 000 records"
    )
    parser.add_argument("--metrics", default=",".join(METRICS))
    parser.add_argument("--out", type=Path, help="page whose tables are replaced")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    rows: list[Row] = []
    lines = []
    for n in RECORDS:
        count = args.reports if n == RECORDS[0] else args.large
        for victims in VICTIMS:
            banks = {}
            for metric in args.metrics.split(","):
                key = list(METRICS).index(metric)
                banks[metric] = [
                    simulate(metric, n=n, victims=victims, seed=1000 * r + 10 * key + victims)
                    for r in range(count)
                ]
                rows += coverage(metric, banks[metric], victims=victims, n=n)
            for seeds in SEEDS:
                calls = [
                    false_verdicts([b[r] for b in banks.values()], seeds) for r in range(count)
                ]
                new, old = (_mean([float(c[i]) for c in calls]) for i in (0, 1))
                lines.append(f"| {seeds} | {victims} | {n:,} | {count} | {new:.1%} | {old:.1%} |")
            print(
                f"# {victims} victims, {n} records: {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    text = tables(rows, lines)
    print(text)
    if args.out is not None:
        page = args.out.read_text(encoding="utf-8")
        head, rest = page.split(BEGIN)
        tail = rest.split(END)[1]
        args.out.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


BEGIN, END = "<!-- begin: benchmarks.coverage -->", "<!-- end: benchmarks.coverage -->"


def tables(rows: Sequence[Row], lines: Sequence[str]) -> str:
    """Markdown: coverage by metric, false verdicts by report."""
    settings = [(s, v, n) for n in RECORDS for v in VICTIMS for s in SEEDS]
    found = {(r.metric, r.seeds, r.victims, r.n): r.covered for r in rows}
    head = " | ".join(f"{s} seed{'s' if s > 1 else ''}, {v} victims, {n:,}" for s, v, n in settings)
    out = [f"| Coverage of the 95 % interval | {head} |", "| :-- |" + " --: |" * len(settings)]
    for metric in dict.fromkeys(r.metric for r in rows):
        cells = " | ".join(f"{found[metric, s, v, n]:.1%}" for s, v, n in settings)
        out.append(f"| {metric} | {cells} |")
    return "\n".join([
        *out, "",
        "| Seeds | Victims | Records | Reports simulated | Reports with a false verdict | By the old rule |",
        "| --: | --: | --: | --: | --: | --: |", *lines,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
