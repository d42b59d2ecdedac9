"""Auditor ``corruption``: how much accuracy is left on blurred, noisy, foggy or compressed images?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ddaudit.auditing import Auditor, Context, Settings, Subject, auditor, stratified
from ddaudit.data import ImageData
from ddaudit.data.corrupted import MNIST_C, Published, generated, published
from ddaudit.data.corruptions import CORRUPTIONS, LEVELS, corrupt
from ddaudit.errors import BadInput, closest
from ddaudit.findings import Caveat, Check, Curve, Finding, Metric, MetricInfo
from ddaudit.measures._common import few_images
from ddaudit.stats import crossed_rate


class CorruptionSettings(Settings):
    """How much is corrupted."""

    images: int = Field(default=500, ge=2)
    """Test images (a fixed stratified sample), the same in every cell."""
    types: tuple[str, ...] = ()
    """Corruptions by name, of C-lite or of the published files; empty: all."""

    @field_validator("types")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = {*CORRUPTIONS, *MNIST_C}
        unknown = [n for n in names if n not in known]
        if unknown:
            raise ValueError(f"unknown corruption {unknown[0]}. {closest(unknown[0], known)}")
        return names


@auditor
class Corruption(Auditor[CorruptionSettings]):
    """Accuracy of victims on corrupted test images, by type and by level."""

    name: ClassVar[str] = "corruption"
    title: ClassVar[str] = "Common corruptions"
    need: ClassVar[str] = "Robust to corruption"
    question: ClassVar[str] = (
        "If test images come noisy, blurred, foggy, dark or compressed, "
        "how often is a model trained on this set still right?"
    )
    threat_model: ClassVar[str] = (
        "No adversary: the corruption does not know the model. Training is untouched and sees no corrupted image."
    )
    how_to_read: ClassVar[str] = (
        "The mean over all cells is the number that benchmarks rank by; read it beside clean accuracy, as a set that "
        "learned little has little to lose, and compare with the full-data and random-subset rows. Types show which "
        "frequencies a set relies on: noise hurts what reads fine detail, blur what reads edges."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261 (types, CIFAR-10-C)",
        "Mu and Gilmer, MNIST-C, arXiv 1906.02337",
        "Croce et al., RobustBench, arXiv 2010.09670 (mean accuracy over all cells)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("corruption.accuracy", "higher", "accuracy on corrupted images, mean over all types and levels"),
        MetricInfo("corruption.clean_accuracy", "higher", "accuracy on test images without corruption"),
        MetricInfo("corruption.type_accuracy", "higher", "accuracy under one type, mean over its levels"),
        MetricInfo("corruption.worst_type_accuracy", "higher", "accuracy under the type that hurts most"),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {"corruption.accuracy": "accuracy on corrupted images"}
    version: ClassVar[int] = 5
    from_records: ClassVar[tuple[str, ...] | None] = ()
    settings: ClassVar[type[Settings]] = CorruptionSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"images": 100},
        "standard": {},
        "full": {"images": 10_000},
    }

    def inputs(self, ctx: Context, settings: CorruptionSettings) -> Mapping[str, str]:
        """The published corruptions, where the data root has them."""
        found = published(ctx.data)
        return {} if found is None else {found.name: found.fingerprint}

    def run(
        self, subject: Subject, ctx: Context, settings: CorruptionSettings, seed: int
    ) -> Finding:
        """Score the victims on every cell."""
        ctx.require_pixels("corruptions are changes of pictures")
        files = published(ctx.data)
        clean = ctx.test(settings.images)
        # Published files keep the order of the original test set; ours may be another.
        records = clean if files is None else stratified(_positions(files, clean), settings.images)
        types = _asked(settings.types, files.types if files else tuple(CORRUPTIONS))
        levels = files.levels if files else LEVELS
        victims = ctx.victims(subject, seed)

        def right(pixels: Tensor, labels: Tensor) -> Tensor:
            says = torch.stack([ctx.predict(net, pixels).argmax(1) for net in victims])
            return (says == labels).double()

        def cell(kind: str, level: int) -> Tensor:
            if files is None:
                return right(generated(clean, kind, level), clean.labels)
            index = records.images.flatten().long()
            return right(files.images(kind, level, index), records.labels)

        cells = {(kind, level): cell(kind, level) for kind in types for level in levels}
        plain = right(clean.images, clean.labels)
        finding = Finding(subject=subject.id, auditor=self.name)
        finding.metrics = _metrics(ctx, records, plain, cells, types, levels)
        finding.curves = [_curve(subject.id, plain, cells, types, levels)]
        finding.caveats = [
            *few_images(len(records), len(victims)),
            Caveat(_source(files, types, levels), "setup", 4),
        ]
        return finding

    def checks(self, ctx: Context, settings: CorruptionSettings) -> list[Check]:
        """Levels get worse, an image's corruption is its own, and a constant answer loses nothing."""
        g = ctx.generator("corruption", "checks")
        images = torch.randint(256, (6, 1, 16, 16), generator=g, dtype=torch.uint8)
        smooth = torch.nn.functional.avg_pool2d(images.float(), 5, 1, 2).to(torch.uint8)
        falls = sum(not _grows(smooth, kind) for kind in CORRUPTIONS)
        alone = sum(
            not torch.equal(corrupt(smooth, kind, 3)[2:3], corrupt(smooth[2:3], kind, 3))
            for kind in CORRUPTIONS
        )
        moved = sum(bool((corrupt(smooth, k, 5) == smooth).all()) for k in CORRUPTIONS)
        return [
            Check(name="C-lite: every type changes images more at level 5 than at level 1", passed=falls == 0,
                  value=float(falls), expected="0 types that do not"),
            Check(name="C-lite: an image is corrupted alike alone and among others", passed=alone == 0,
                  value=float(alone), expected="0 types that differ"),
            Check(name="C-lite: every type changes something", passed=moved == 0, value=float(moved),
                  expected="0 types that do not"),
        ]  # fmt: skip


def _asked(names: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """The types that are asked for; all where none is named.

    Raises:
        BadInput: one that there is not.
    """
    unknown = [n for n in names if n not in known]
    if unknown:
        where = f"--setting corruption.types={','.join(names)}"
        raise BadInput(where, f"has no {unknown[0]} here", f"There are {', '.join(known)}.")
    return names or known


def _grows(images: Tensor, kind: str) -> bool:
    first, last = ((corrupt(images, kind, k).float() - images).abs().mean() for k in (1, 5))
    return bool(last > first)


def _positions(files: Published, like: ImageData) -> ImageData:
    """Positions in the published files as records of one number, to draw a stratified sample of them."""
    positions = torch.arange(len(files.labels)).view(-1, 1, 1, 1).float()
    return ImageData(positions, files.labels, like.class_names, space="standard")


def _metrics(
    ctx: Context,
    records: ImageData,
    clean: Tensor,
    cells: Mapping[tuple[str, int], Tensor],
    types: tuple[str, ...],
    levels: tuple[int, ...],
) -> list[Metric]:
    by_type = {kind: torch.stack([cells[kind, k] for k in levels]).mean(0) for kind in types}
    everything = torch.stack(list(by_type.values())).mean(0)
    worst = min(types, key=lambda kind: float(by_type[kind].mean()))

    def metric(name: str, table: Tensor, **params: Any) -> Metric:
        interval = crossed_rate(table)
        return Metric.of(f"corruption.{name}", interval, direction="higher", params=params)

    headline = Metric.of(
        "corruption.accuracy", crossed_rate(everything), direction="higher", headline=True,
        resampled=ctx.resamples(records).of_rate(everything),
    )  # fmt: skip
    return [
        headline,
        metric("clean_accuracy", clean),
        metric("worst_type_accuracy", by_type[worst]),
        *[metric("type_accuracy", by_type[kind], type=kind) for kind in types],
    ]


def _curve(
    subject: str,
    clean: Tensor,
    cells: Mapping[tuple[str, int], Tensor],
    types: tuple[str, ...],
    levels: tuple[int, ...],
) -> Curve:
    tables = [clean, *[torch.stack([cells[kind, k] for kind in types]).mean(0) for k in levels]]
    intervals = [crossed_rate(t) for t in tables]
    return Curve(
        plot="Accuracy by corruption level", label=subject, x=[0.0, *map(float, levels)],
        y=[i.value for i in intervals], low=[i.low for i in intervals], high=[i.high for i in intervals],
        x_label="level (0: no corruption)", y_label="accuracy, mean over types",
    )  # fmt: skip


def _source(files: Published | None, types: tuple[str, ...], levels: tuple[int, ...]) -> str:
    if files is not None:
        return (
            f"{files.name} from the data root: {len(types)} types at {len(levels)} level(s). Its images are in an "
            "order of their own: clean accuracy is on as many test images, of which some are others."
        )
    return (
        "Never compare with published numbers on CIFAR-10-C or MNIST-C. This is C-lite: "
        f"{len(types)} types at {len(levels)} levels, generated here with strengths of our own."
    )
