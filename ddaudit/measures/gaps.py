"""Fairness metrics with intervals and noise floors, from what victims predicted on a test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.errors import Unsupported
from ddaudit.findings import Metric, Resampled
from ddaudit.measures import deo
from ddaudit.measures._fairlearn import one_vs_rest_gaps
from ddaudit.stats import (
    Floor,
    GapFloor,
    Interval,
    Resamples,
    crossed,
    fair_gap_floor,
)

STANDARD, PAIRED = "standard", "paired"
PARITY, ODDS = "demographic_parity_difference", "equalized_odds_difference"
WORST_CELL, WORST_GROUP = "worst_cell_accuracy", "worst_group_accuracy"

_CHUNK = 10_000_000  # table entries held at once


@dataclass(frozen=True, eq=False)
class Answers:
    """What V victims predicted on one test set with a protected attribute.

    Attributes:
        predictions: (V, N) int64 predicted classes.
        labels, groups: (N,) int64.
        class_names, group_names: K and G names.
        counts: (G, K) images per group and class.
        rates: (V, G, K, K), see ``ddaudit.measures.deo``.
    """

    predictions: Tensor
    labels: Tensor
    groups: Tensor
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]
    counts: Tensor
    rates: Tensor

    @classmethod
    def of(cls, predictions: Tensor, data: ImageData) -> Answers:
        """Cross-tabulate predictions on data with groups.

        Raises:
            Unsupported: the data have no groups, or no class has images of two of them.
        """
        if data.groups is None:
            raise Unsupported("the test images have no protected attribute")
        groups = max(len(data.group_names), int(data.groups.max()) + 1)
        counts = deo.cell_counts(
            data.labels, data.groups, num_classes=data.num_classes, num_groups=groups
        )
        names = data.group_names or tuple(str(i) for i in range(groups))
        if not bool(((counts > 0).sum(0) >= 2).any()):
            raise Unsupported(
                "no class has test images in two groups, so there is no gap to measure"
            )
        rates = deo.cross_tabulate(predictions, data.labels, data.groups, counts)
        return cls(predictions, data.labels, data.groups, data.class_names, names, counts, rates)

    @property
    def correct(self) -> Tensor:
        """(V, N) float64 1 where right."""
        return (self.predictions == self.labels).double()


@dataclass(frozen=True, eq=False)
class Resampling:
    """Every gap on resamples of the test images: its interval, and what pairs it with that of other subjects."""

    intervals: dict[str, Interval]
    kept: dict[str, Resampled | None]


def gap_metrics(
    answers: Answers,
    *,
    n_boot: int,
    n_sim: int,
    generator: torch.Generator,
    resamples: Resamples | None = None,
) -> list[Metric]:
    """DEO_M, DEO_A, demographic parity, equalized odds and the worst cell on independent images.

    Gaps are taken per network and then averaged, as published. Intervals: images resampled within
    (group, class) cells, joined with the spread of the networks, laid around the printed value: a
    largest gap is biased upwards in every resample (see ``ddaudit.stats.crossing``). Floors:
    networks of the same rates whose predictions within a class ignore the group.

    Args:
        resamples: the same for every subject, to pair gaps on; ``n_boot`` of them.
    """
    a, counts = answers, answers.counts
    theirs = [one_vs_rest_gaps(a.labels, p, a.groups, len(a.class_names)) for p in a.predictions]
    # fairlearn's values are printed; ours equal them and can be resampled a thousand times.
    printed = {
        PARITY: torch.tensor([t.demographic_parity for t in theirs]).double(),
        ODDS: torch.tensor([t.equalized_odds for t in theirs]).double(),
    }
    drawn = resampled_gaps(
        a, n_boot=n_boot, generator=generator, printed=printed, resamples=resamples
    )
    intervals = drawn.intervals
    seed = int(torch.randint(2**31, (1,), generator=generator))
    floor = fair_gap_floor(counts, deo.pooled_tpr(a.rates, counts), n_sim=n_sim, seed=seed)
    out = _deo_metrics(drawn, floor, test=STANDARD)
    fewer = max(50, n_sim // 10)  # a simulated table costs ten times a simulated row of hits
    twins = [
        _measures(deo.fair_rates(r, counts, n_sim=fewer, generator=generator), counts)
        for r in a.rates
    ]
    for name in (PARITY, ODDS):
        chance = sum(Floor.of(t[name]).mean for t in twins) / len(twins)
        out.append(Metric.of(f"bias.{name}", intervals[name], direction="lower", floor=chance))
    out.append(Metric.of(f"bias.{WORST_CELL}", intervals[WORST_CELL], direction="higher"))
    return [*out, _worst_group(drawn, test=STANDARD)]


def resampled_gaps(
    answers: Answers,
    *,
    n_boot: int,
    generator: torch.Generator,
    printed: Mapping[str, Tensor] | None = None,
    resamples: Resamples | None = None,
) -> Resampling:
    """Every gap on independent images, see :func:`gap_metrics`.

    Args:
        printed: (V,) values of each network to take in place of our own.
    """
    a, counts = answers, answers.counts
    source = generator if resamples is None else resamples.generator()

    def draw(count: int) -> Tensor:
        return deo.resampled_rates(
            a.predictions, a.labels, a.groups, counts, n_boot=count, generator=source
        )

    drawn = _replicates(draw, counts, a.rates, n_boot)
    per_network = {**_measures(a.rates, counts), **(printed or {})}
    return _resampling(per_network, drawn, counts, n=len(a.labels), resamples=resamples)


def paired_metrics(
    answers: Answers,
    *,
    n_boot: int,
    n_sim: int,
    generator: torch.Generator,
    resamples: Resamples | None = None,
) -> list[Metric]:
    """DEO_M, DEO_A and the worst group on a test set that shows image i as group g in record ``G * i + g``.

    All versions of an image are resampled together. The floor permutes, image by image, which
    versions a network got right (``ddaudit.measures.deo.paired_floor``); ``n`` counts images, not
    versions.

    Raises:
        Unsupported: the records are not in that order.
    """
    a = answers
    labels, versions = versions_of(a, a.predictions)
    source = generator if resamples is None else resamples.generator()

    def draw(count: int) -> Tensor:
        return deo.resampled_paired_rates(
            versions, labels, num_classes=len(a.class_names), n_boot=count, generator=source
        )

    drawn = _resampling(
        _measures(a.rates, a.counts),
        _replicates(draw, a.counts, a.rates, n_boot),
        a.counts,
        n=len(labels),
        resamples=resamples,
    )
    right = versions == labels[:, None]
    floors = [deo.paired_floor(r, labels, n_sim=n_sim, generator=generator) for r in right]
    out = _deo_metrics(drawn, GapFloor.average_of(floors), test=PAIRED)
    return [*out, _worst_group(drawn, test=PAIRED)]


def versions_of(answers: Answers, table: Tensor) -> tuple[Tensor, Tensor]:
    """(M,) labels and (V, M, G) values of a (V, N) table of a paired test set: image m shown as group g.

    Raises:
        Unsupported: the records are not image by image, in every group in turn.
    """
    a, g = answers, len(answers.group_names)
    labels = a.labels[::g]
    in_order = len(a.labels) % g == 0 and torch.equal(a.groups, torch.arange(g).repeat(len(labels)))
    if not in_order or not torch.equal(a.labels, labels.repeat_interleave(g)):
        raise Unsupported("the paired test set does not list every image in every group in turn")
    return labels, table.reshape(len(table), -1, g)


def paired_sample(paired: ImageData, limit: int | None) -> ImageData:
    """At most ``limit`` images of a paired test set, classes evenly, each in every group."""
    if paired.groups is None or not len(paired):
        return paired
    g = int(paired.groups.max()) + 1
    if limit is None or len(paired) // g <= limit:
        return paired
    labels = paired.labels[::g]
    position = torch.empty_like(labels)
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero()[:, 0]
        position[members] = torch.arange(len(members))
    chosen = torch.sort(torch.argsort(position, stable=True)[:limit]).values
    return paired.subset((chosen[:, None] * g + torch.arange(g)).flatten())


def _measures(rates: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Every gap over the leading axes of ``rates``."""
    return {
        "deo_m": deo.deo_m(rates),
        "deo_a": deo.deo_a(rates),
        PARITY: deo.demographic_parity(rates, counts),
        ODDS: deo.equalized_odds(rates, counts),
        WORST_CELL: deo.worst_cell(rates),
        WORST_GROUP: deo.worst_group(rates, counts),
    }


def _replicates(
    draw: Callable[[int], Tensor], counts: Tensor, rates: Tensor, n_boot: int
) -> dict[str, Tensor]:
    """(n_boot,) bootstrap replicates of every gap averaged over networks."""
    # Pieces must not depend on the number of networks: subjects share the resamples.
    step = max(1, _CHUNK // (4 * rates[0].numel()))
    pieces = []
    for start in range(0, n_boot, step):
        tables = draw(min(step, n_boot - start))
        pieces.append({m: v.mean(1) for m, v in _measures(tables, counts).items()})
    return {m: torch.cat([piece[m] for piece in pieces]) for m in pieces[0]}


def _resampling(
    per_network: dict[str, Tensor],
    drawn: dict[str, Tensor],
    counts: Tensor,
    *,
    n: int,
    resamples: Resamples | None,
) -> Resampling:
    """Intervals of every gap, with a continuity correction where one cell decides the value.

    The largest gap and the worst cell move in steps of one image of one cell, which in small cells
    is more than the whole interval; half a step of a typical cell is added on both sides.
    """
    step = 0.5 / float(counts[counts > 0].double().median())
    out: dict[str, Interval] = {}
    kept: dict[str, Resampled | None] = {}
    for name, values in per_network.items():
        i = crossed(values, drawn[name], n=n)
        slack = step if name in ("deo_m", ODDS, WORST_CELL) else 0.0
        within = None if i.within is None else (i.within[0] + slack, i.within[1] + slack)
        out[name] = Interval(i.value, i.low - slack, i.high + slack, n, within).clamp()
        if resamples is not None:
            kept[name] = resamples.kept(values, drawn[name], step=slack)
    return Resampling(out, kept)


def _deo_metrics(drawn: Resampling, floor: GapFloor, *, test: str) -> list[Metric]:
    out, intervals = [], drawn.intervals
    for name, chance in (("deo_m", floor.worst), ("deo_a", floor.average)):
        out.append(
            Metric.of(
                f"bias.{name}",
                intervals[name],
                direction="lower",
                floor=chance.mean,
                params={"test": test},
                resampled=drawn.kept.get(name),
            )
        )
        out.append(
            Metric(
                name=f"bias.{name}_floor95",
                value=chance.q95,
                n=intervals[name].n,
                params={"test": test},
            )
        )
    return out


def _worst_group(drawn: Resampling, *, test: str) -> Metric:
    return Metric.of(
        f"bias.{WORST_GROUP}",
        drawn.intervals[WORST_GROUP],
        direction="higher",
        params={"test": test},
        resampled=drawn.kept.get(WORST_GROUP),
    )
