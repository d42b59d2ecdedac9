"""How often do intervals cover, and how often does a report call equals different? Simulated from a known truth.

    OMP_NUM_THREADS=1 python -m benchmarks.coverage [--reports 200] [--metrics accuracy,AUC] [--out docs/statistics.md]

A simulated report has three subjects and the reference, all of ONE method, and one subject without draws (as the full
data), so every "better" or "worse" in it is false. Each draw of each subject has an effect of its own, each victim
too, and all answer the same test records. The numbers, their intervals and what pairs them come from the functions
that auditors call, merging, differences and Holm's correction from those that reports call. Power: how often one more
subject that differs by 5 or 10 points in one metric is told from the reference, among all those verdicts. Two other
rules are there to be compared with: *unpaired* is the same rule with the test records taken as independent and a
borrowed spread for the subject without draws; *uncorrected* leaves out Holm's correction.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.worlds import BOOT, MEAN, METRICS, SPREAD, World, membership_truth
from ddaudit.findings import Metric
from ddaudit.reports.compare import LEVEL, Difference, difference, spread_of
from ddaudit.reports.merge import merge_metric
from ddaudit.reports.pairing import Answers
from ddaudit.stats import Resamples
from ddaudit.stats.verdicts import holm

SUBJECTS = 3
DRAWS = {"accuracy": 10, "ECE": 10, "DEO_M": 10, "ASR gain": 5, "AUC": 5, "TPR": 5}
"""Of the reference, as in the presets."""
SEEDS, VICTIMS, RECORDS = (1, 3), (2, 5), (400, 10_000)
POINTS = (5, 10)
"""Real differences whose power is simulated, in hundredths."""
PAIRED = ("accuracy", "ECE", "DEO_M", "ASR gain")
"""The metrics of test records; membership is measured on training records and not paired."""


@dataclass(frozen=True, eq=False)
class Readings:
    """One simulated report in one metric, before seeds are merged."""

    subjects: list[list[Metric]]
    """SUBJECTS x most seeds."""
    reference: list[Metric]
    still: Metric
    """Of a method whose draws are all alike: what one seed's interval is asked to cover, and a subject without draws.
    """
    real: dict[int, list[Metric]]
    """By points: most seeds of a subject that does differ."""
    real_still: dict[int, Metric]


def simulate(
    metric: str, *, n: int, victims: int, seed: int, points: Sequence[int] = POINTS
) -> Readings:
    """All readings of a report in one metric, over the same records.

    Args:
        points: real differences of further subjects, in hundredths.
    """
    generator = torch.Generator().manual_seed(seed)
    w = World(n, victims, generator, Resamples(str(seed), n, BOOT))
    images = MEAN + SPREAD[metric].image * w.normal(n)
    read = METRICS[metric]
    found = Readings(
        [[read(w, images, 1.0) for _ in range(max(SEEDS))] for _ in range(SUBJECTS)],
        [read(w, images, 1.0) for _ in range(DRAWS[metric])],
        read(w, images, 0.0, shift_for(metric, n, 0, 0.0) if metric in PAIRED else 0.0),
        {},
        {},
    )
    for size in points if metric in PAIRED else ():
        found.real[size] = [
            read(w, images, 1.0, shift_for(metric, n, size, 1.0)) for _ in range(max(SEEDS))
        ]
        found.real_still[size] = read(w, images, 0.0, shift_for(metric, n, size, 0.0))
    return found


@lru_cache
def shift_for(metric: str, n: int, points: int, draw: float) -> float:
    """The shift at which the metric lies so many points above that of the reference, by bisection.

    Args:
        draw: 0 for a subject without draws, whose number is another one where draws bend it.
    """

    def mean(draw: float, shift: float, draws: int) -> float:
        values = []
        for world in range(30):
            generator = torch.Generator().manual_seed(world)
            w = World(n, 2, generator, Resamples("shift", n, 2))
            images = MEAN + SPREAD[metric].image * w.normal(n)
            values += [METRICS[metric](w, images, draw, shift).value or 0.0 for _ in range(draws)]
        return _mean(values)

    if draw and not points:
        return 0.0
    # A shift moves the same draws; to tell where draws lie on average takes many.
    start, low, high = mean(1.0, 0.0, 2 if draw else 10), -1.0, 3.0
    for _ in range(9):
        middle = (low + high) / 2
        below = mean(draw, middle, 2) - start < points / 100
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, eq=False)
class Number:
    """A subject's number as a report has it: merged over seeds, and what pairs it."""

    metric: Metric
    answers: Answers | None

    @classmethod
    def of(cls, draws: Sequence[Metric], *, drawn: bool = True) -> Number:
        merged = merge_metric(draws).model_copy(update={"covers_draws": not drawn})
        return cls(merged, Answers.of([d.resampled for d in draws]))

    def less(self, other: Number, *, paired: bool) -> Difference:
        """This one minus the reference's."""
        pair = (self.answers, other.answers) if paired else (None, None)
        spread = spread_of(other.metric, other.answers if paired else None)
        mine = self.metric if paired else self.metric.model_copy(update={"covers_draws": False})
        diff = difference(mine, other.metric, spread, pair)
        assert diff is not None
        return diff


@dataclass(frozen=True)
class Verdicts:
    """What one simulated report says: whether it has a false verdict, and which real differences it sees."""

    false: dict[str, bool]
    """By rule."""
    covered: dict[tuple[str, str], list[bool]]
    """By rule and metric: whether the interval of each difference of two equals holds 0."""
    seen: dict[tuple[str, str, str, int], bool]
    """By rule, metric, kind of subject ("drawn", "still") and points."""


RULES = {"paired": True, "unpaired": False}


def verdicts(report: dict[str, Readings], seeds: int) -> Verdicts:
    """The verdicts of a report over some metrics."""
    out = Verdicts({}, {}, {})
    references = {m: Number.of(r.reference) for m, r in report.items()}
    equals = {
        m: [
            *(Number.of(draws[:seeds]) for draws in r.subjects),
            *([Number.of([r.still], drawn=False)] if m in PAIRED else []),
        ]
        for m, r in report.items()
    }
    for rule, paired in RULES.items():
        diffs = {
            m: [x.less(references[m], paired=paired) for x in numbers]
            for m, numbers in equals.items()
        }
        null = [_p(d) for found in diffs.values() for d in found]
        out.false[rule] = min(holm(null)) <= LEVEL
        if paired:
            out.false["uncorrected"] = min(null) <= LEVEL
        for m, found in diffs.items():
            drawn = found[:SUBJECTS]  # the one without draws has another mean, by a hair
            out.covered[rule, m] = [(d.low or 0.0) <= 0.0 <= (d.high or 0.0) for d in drawn]
        for m in PAIRED:
            for points in report[m].real if m in report else ():
                kinds = {
                    "drawn": Number.of(report[m].real[points][:seeds]),
                    "still": Number.of([report[m].real_still[points]], drawn=False),
                }
                for kind, number in kinds.items():
                    p = _p(number.less(references[m], paired=paired))
                    out.seen[rule, m, kind, points] = holm([*null, p])[-1] <= LEVEL
    return out


def _p(diff: Difference) -> float:
    return 1.0 if diff.p_value is None else diff.p_value


def _ends(m: Metric) -> tuple[float, float, float]:
    assert m.value is not None
    assert m.low is not None
    assert m.high is not None
    return m.value, m.low, m.high


@dataclass(frozen=True)
class Held:
    """How often the intervals of a number hold the truth, and how wide half of them is at the median."""

    share: float
    width: float

    @classmethod
    def of(cls, metrics: Sequence[Metric], truth: float) -> Held:
        ends = [_ends(m)[1:] for m in metrics]
        widths = sorted((high - low) / 2 for low, high in ends)
        return cls(
            _mean([float(low <= truth <= high) for low, high in ends]), widths[len(widths) // 2]
        )


def coverage(metric: str, bank: Sequence[Readings], *, victims: int) -> dict[int, Held]:
    """By seeds. With one: of the set's own value (draws all alike). With three: of the method's."""
    closed = metric in ("AUC", "TPR")
    still = [r.still for r in bank]
    truth = membership_truth(metric, victims, 0) if closed else _mean([_ends(m)[0] for m in still])
    held = Held.of(still, truth)
    truth = (
        membership_truth(metric, victims, 1) if closed
        else _mean([_ends(d)[0] for r in bank for draws in [*r.subjects, r.reference] for d in draws])
    )  # fmt: skip
    return {1: held, 3: Held.of([merge_metric(draws) for r in bank for draws in r.subjects], truth)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@dataclass(frozen=True)
class Setting:
    """One column of the tables."""

    seeds: int
    victims: int
    n: int

    @property
    def title(self) -> str:
        return (
            f"{self.seeds} seed{'s' if self.seeds > 1 else ''}, {self.victims} victims, {self.n:,}"
        )


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
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="page whose tables are replaced")
    args = parser.parse_args()
    covered: dict[tuple[str, Setting], Held] = {}
    said: dict[Setting, list[Verdicts]] = {}
    counts = dict(zip(RECORDS, (args.reports, args.large), strict=True))
    tasks = [
        (n, victims, counts[n], tuple(args.metrics.split(",")))
        for n in RECORDS
        for victims in VICTIMS
    ]
    with ProcessPoolExecutor(args.jobs) as pool:
        for part in pool.map(_setting, tasks):
            covered |= part[0]
            said |= part[1]
    text = tables(covered, said)
    print(text)
    if args.out is not None:
        page = args.out.read_text(encoding="utf-8")
        head, rest = page.split(BEGIN)
        tail = rest.split(END)[1]
        args.out.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


_Part = tuple[dict[tuple[str, Setting], Held], dict[Setting, list[Verdicts]]]


def _setting(task: tuple[int, int, int, tuple[str, ...]]) -> _Part:
    """The reports of one number of records and victims."""
    n, victims, count, metrics = task
    torch.set_num_threads(1)
    started = time.perf_counter()
    banks, covered = {}, {}
    for metric in metrics:
        key = list(METRICS).index(metric)
        banks[metric] = [
            simulate(metric, n=n, victims=victims, seed=1000 * r + 10 * key + victims)
            for r in range(count)
        ]
        for seeds, share in coverage(metric, banks[metric], victims=victims).items():
            covered[metric, Setting(seeds, victims, n)] = share
    said = {
        Setting(seeds, victims, n): [
            verdicts({m: b[r] for m, b in banks.items()}, seeds) for r in range(count)
        ]
        for seeds in SEEDS
    }
    taken = time.perf_counter() - started
    print(f"# {victims} victims, {n} records: {taken:.0f} s", flush=True)
    return covered, said


BEGIN, END = "<!-- begin: benchmarks.coverage -->", "<!-- end: benchmarks.coverage -->"


def tables(numbers: dict[tuple[str, Setting], Held], said: dict[Setting, list[Verdicts]]) -> str:
    """Markdown: coverage and width of numbers, coverage of differences, false verdicts, power."""
    settings = list(said)
    metrics = list(dict.fromkeys(m for m, _ in numbers))
    titles = [s.title for s in settings]
    parts = [
        _table(
            ["Coverage of the 95 % interval", *titles],
            [[m, *(f"{numbers[m, s].share:.1%}" for s in settings)] for m in metrics],
        ),
        _table(
            ["Half-width of the 95 % interval, median", *titles],
            [[m, *(f"{numbers[m, s].width:.3f}" for s in settings)] for m in metrics],
        ),
        _table(
            ["Coverage of the 95 % interval of a difference, paired (unpaired)", *titles],
            [
                [m, *(_both([v.covered for v in said[s]], (m,)) for s in settings)]
                for m in metrics
                if m in PAIRED
            ],
        ),
        _table(
            ["Seeds", "Victims", "Records", "Reports simulated", "With a false verdict", "Unpaired", "Uncorrected"],
            [
                [f"{s.seeds}", f"{s.victims}", f"{s.n:,}", f"{len(found)}"]
                + [f"{_mean([float(v.false[r]) for v in found]):.1%}" for r in (*RULES, "uncorrected")]
                for s, found in said.items()
            ],
        ),
        _table(
            ["Power, paired (unpaired)", *titles],
            [
                [name, *(_both([{k: [x] for k, x in v.seen.items()} for v in said[s]], key) for s in settings)]
                for name, key in _rows(metrics)
            ],
        ),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _rows(metrics: Sequence[str]) -> list[tuple[str, tuple[str, str, int]]]:
    """Titles and keys of the rows of the power table."""
    words = {"drawn": "", "still": ", a subject without draws"}
    return [
        (f"{m} differs by {points} points{words[kind]}", (m, kind, points))
        for m in metrics
        if m in PAIRED
        for kind in words
        for points in POINTS
    ]


def _both(found: Sequence[Mapping[Any, Sequence[bool]]], key: tuple[object, ...]) -> str:
    """The share under the paired rule, and under the unpaired one in brackets."""
    keys = ((rule, *key) for rule in RULES)
    paired, unpaired = (_mean([float(x) for values in found for x in values[k]]) for k in keys)
    return f"{paired:.0%} ({unpaired:.0%})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
