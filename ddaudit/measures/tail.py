"""Auditor ``tail``: are the classes with few training records recognised as well as those with many?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.auditing import Auditor, Context, Settings, Subject, Work, auditor
from ddaudit.data import ImageData
from ddaudit.errors import Unsupported
from ddaudit.findings import Check, Curve, Finding, Metric, MetricInfo
from ddaudit.measures._common import correct, few_images
from ddaudit.stats import Interval, Resamples, crossed, crossed_rate
from ddaudit.stats.intervals import stratified_replicates

HEAD, MEDIUM, TAIL = "head", "medium", "tail"


_FEW_CLASSES = 20
"""Up to here a split by numbers of records leaves parts of a class or two."""


class TailSettings(Settings):
    """Knobs of the tail auditor."""

    least_imbalance: float = Field(default=2.0, ge=1.0)
    """Below this factor between the largest and the smallest training class there is no tail to speak of."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The classes by their number of training records.

    Attributes:
        counts: (K,) training records of each class.
        classes: part -> its classes, most records first; a part without classes is left out.
    """

    counts: Tensor
    classes: Mapping[str, Tensor]

    @classmethod
    def of(cls, counts: Tensor) -> Parts:
        """The largest three tenths of the classes are the head, the smallest three tenths the tail: 3 / 4 / 3 of 10.

        By counts, not by class number, so the class order of a long tail does not matter; ties keep class order.
        """
        order = torch.argsort(counts, descending=True, stable=True)
        size = max(1, (3 * len(counts)) // 10)
        parts = {HEAD: order[:size], MEDIUM: order[size:-size], TAIL: order[-size:]}
        return cls(counts, {name: part for name, part in parts.items() if len(part)})

    @property
    def imbalance(self) -> float:
        """Records of the largest class for one of the smallest (that has any)."""
        return float(self.counts.max()) / float(self.counts[self.counts > 0].min())


@auditor
class Tail(Auditor[TailSettings]):
    """Accuracy of victims on head, medium and tail classes of long-tailed training data."""

    name: ClassVar[str] = "tail"
    title: ClassVar[str] = "Long tail"
    need: ClassVar[str] = "Rare classes learnt"
    question: ClassVar[str] = (
        "If some classes had few real records, is a network trained on this set as often right on them as on the "
        "classes that had many?"
    )
    threat_model: ClassVar[str] = (
        "No adversary. The real training data are long-tailed; the victims are scored on test images of every class."
    )
    how_to_read: ClassVar[str] = (
        "Tail accuracy is the mean recall of the three tenths of the classes with the fewest training records. A set "
        "with equally many images of every class can still be poor in the tail: its images were made from few records. "
        "Compare with the full-data row, and with a random subset, which is balanced too and often hard to beat. Some "
        "classes are harder than others whatever their number: before blaming the tail, run the data with another "
        "class order (order=permuted or reversed)."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019, arXiv 1904.05160 (the parts)",
        "Distilling Long-tailed Datasets, CVPR 2025, arXiv 2408.14506 (balanced test, imbalance factor)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("tail.accuracy", "higher", "mean recall of the classes of one part: head, medium or tail"),
        MetricInfo("tail.gap", "lower", "mean recall of the head less that of the tail", signed=True),
        MetricInfo("tail.class_recall", "higher", "share of a class's test images that are recognised"),
        MetricInfo(
            "tail.imbalance_factor", "none", "training records of the largest class for one of the smallest",
            unit="ratio",
        ),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "tail.accuracy": "accuracy",
        "tail.gap": "head less tail",
    }
    light: ClassVar[bool] = True
    version: ClassVar[int] = 3
    from_records: ClassVar[tuple[str, ...] | None] = ("tail.accuracy", "tail.gap", "tail.imbalance")
    settings: ClassVar[type[Settings]] = TailSettings

    def run(self, subject: Subject, ctx: Context, settings: TailSettings, seed: int) -> Finding:
        """Score the victims, class by class.

        Raises:
            Unsupported: the training classes are about equally large.
        """
        parts, test = Parts.of(ctx.data.train.class_counts()), ctx.test()
        if parts.imbalance < settings.least_imbalance:
            raise Unsupported(
                f"no tail: the largest training class of '{ctx.data.name}' has {parts.imbalance:.2g} times the records "
                f"of the smallest; try long-tail:base={ctx.data.name}"
            )
        right = correct(ctx, subject, seed)
        finding = Finding(subject=subject.id, auditor=self.name)
        finding.metrics = part_metrics(right, test, parts, ctx.resamples(test))
        finding.curves = [_curve(finding, parts, test.class_names)]
        few = ctx.data.num_classes <= _FEW_CLASSES
        sizes = ", ".join(
            f"{name} {len(part)} ({int(parts.counts[part].min())} to {int(parts.counts[part].max())} records each)"
            for name, part in parts.classes.items()
        )
        finding.caveats = [
            *few_images(len(test), len(right)),
            f"Classes by their training records: {sizes}. Three tenths, four tenths, three tenths of the classes; "
            "thresholds of 100 and 20 records, as on ImageNet-LT, "
            + (
                f"say nothing of {ctx.data.num_classes} classes."
                if few
                else "would be another split."
            ),
        ]
        return finding

    def work(self, subject: Subject, ctx: Context, settings: TailSettings) -> Work:
        """Nothing anew; on balanced data nothing at all."""
        return Work(
            ends=Parts.of(ctx.data.train.class_counts()).imbalance < settings.least_imbalance
        )

    def checks(self, ctx: Context, settings: TailSettings) -> list[Check]:
        """A network of known recalls, one that answers the largest class, and the same classes in another order."""
        k = ctx.data.num_classes
        counts = torch.tensor([round(1000 * 100 ** (-c / max(1, k - 1))) for c in range(k)])
        labels = torch.arange(k).repeat_interleave(20)
        test = ImageData(torch.zeros(20 * k, 1, 1, 1), labels, tuple(map(str, range(k))))
        rank = torch.arange(20).repeat(k)  # class c is right on the first of its images
        hits = (rank < 20 - 20 * labels // k).double()[None]
        resamples = Resamples("tail checks", len(test), 50)

        def read(table: Tensor, data: ImageData, by: Tensor) -> dict[str, float]:
            found = part_metrics(table, data, Parts.of(by), resamples)
            return {m.params["part"]: m.value or 0.0 for m in found if m.name == "tail.accuracy"}

        straight = read(hits, test, counts)
        classes = Parts.of(counts).classes
        want = {name: float((20 - 20 * c // k).double().mean()) / 20 for name, c in classes.items()}
        off = max(abs(straight[name] - want[name]) for name in want)
        other = torch.randperm(k, generator=ctx.generator("tail", "checks"))
        moved = ImageData(test.images, other[labels], test.class_names)
        by = torch.empty_like(counts).index_copy_(0, other, counts)
        apart = max(abs(a - straight[p]) for p, a in read(hits, moved, by).items())
        constant = read((labels == 0).double()[None], test, counts)
        return [
            Check(name="network of known recalls", passed=off < 1e-9, value=off,
                  expected="largest difference over parts 0"),
            Check(name="the same classes under other numbers", passed=apart < 1e-9, value=apart,
                  expected="largest difference over parts 0"),
            Check(name="always the largest class", value=constant[TAIL], expected="tail accuracy 0",
                  passed=constant[TAIL] == 0 and constant[HEAD] > 0),
        ]  # fmt: skip


def part_metrics(
    correct: Tensor, test: ImageData, parts: Parts, resamples: Resamples
) -> list[Metric]:
    """Recall by part and class.

    Args:
        correct: (V, N) 1 where victim v was right on test image i.
        resamples: of the test records, the same for every subject.
    """
    present = torch.unique(test.labels)
    sizes = torch.bincount(test.labels, minlength=len(parts.counts))
    recall = torch.stack([correct[:, test.labels == k].mean(1) for k in present], 1)  # (V, present)
    # One more image per class, right as often as all images are: a class without a single error is not certain.
    pseudo = correct.mean(1).expand(len(parts.counts), -1)
    drawn = stratified_replicates(
        correct.T, test.labels, resamples.count, resamples.generator(), pseudo=pseudo
    )[:, present].mean(2)
    members = {name: torch.isin(present, part) for name, part in parts.classes.items()}
    members = {name: inside for name, inside in members.items() if bool(inside.any())}

    def mean(table: Tensor, part: str) -> Tensor:
        return table[:, members[part]].mean(1)

    out = []
    for name, inside in members.items():
        values, replicates = mean(recall, name), mean(drawn, name)
        table = correct[:, torch.isin(test.labels, present[inside])]
        even = len(torch.unique(sizes[present[inside]])) == 1
        # Of equally many images a class, the mean recall is a rate, whose interval knows rare events.
        interval = crossed_rate(table) if even else _interval(values, replicates, table.shape[1])
        out.append(
            Metric.of(
                "tail.accuracy",
                interval,
                direction="higher",
                headline=name == TAIL,
                params={"part": name},
                resampled=resamples.kept(values, replicates),
            )
        )
    if HEAD in members and TAIL in members:
        values, replicates = (mean(x, HEAD) - mean(x, TAIL) for x in (recall, drawn))
        gap = _interval(values, replicates, len(test), low=-1.0)
        out.append(Metric.of("tail.gap", gap, direction="lower", floor=0.0))
    for k, name in enumerate(test.class_names):
        inside = test.labels == k
        if bool(inside.any()):
            rate = crossed_rate(correct[:, inside])
            params: dict[str, Any] = {"class": name}
            out.append(Metric.of("tail.class_recall", rate, direction="higher", params=params))
    factor = Metric(name="tail.imbalance_factor", value=parts.imbalance, unit="ratio")
    return [*out, factor]


def _interval(values: Tensor, replicates: Tensor, n: int, *, low: float = 0.0) -> Interval:
    return crossed(values, replicates, n=n, shift=False).clamp(low, 1.0)


def _curve(finding: Finding, parts: Parts, names: tuple[str, ...]) -> Curve:
    """Recall of every class over its number of training records."""
    rows = [m for m in finding.metrics if m.name == "tail.class_recall"]
    rows.sort(key=lambda m: float(parts.counts[names.index(m.params["class"])]))
    return Curve(
        plot="Recall by training records of the class",
        label=finding.subject,
        x=[float(parts.counts[names.index(m.params["class"])]) for m in rows],
        y=[m.value or 0.0 for m in rows],
        low=[m.low or 0.0 for m in rows],
        high=[m.high or 0.0 for m in rows],
        kind="points",
        x_label="training records of the class",
        y_label="recall",
        log_x=True,
    )
