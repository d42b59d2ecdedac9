"""Auditor ``shift``: how much accuracy is left on turned images, in other colours, and in another domain?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.auditing import Auditor, Context, Settings, Shared, Subject, auditor, stratified
from ddaudit.data import ImageData, load_data
from ddaudit.data.names import DIGIT_CLASSES
from ddaudit.data.shifts import COLOURS, rotated, turned_channels
from ddaudit.errors import BadInput
from ddaudit.findings import Check, Curve, Finding, Metric, MetricInfo
from ddaudit.measures._common import few_images, victim_logits
from ddaudit.measures.outliers import as_bytes, fitted
from ddaudit.stats import crossed_difference, crossed_rate

ROTATION, COLOUR, DOMAIN = "rotation", "colour", "domain"


class ShiftSettings(Settings):
    """How far images are moved."""

    images: int = Field(default=1000, ge=2)
    """Test images (a fixed stratified sample), the same for every shift."""
    degrees: tuple[float, ...] = (15.0, 30.0, 45.0)
    """Angles of rotation, each both ways."""
    domain: str = ""
    """Other data of the same classes, as --data names them; empty: the embedded digits for data of digits."""


_SHARED = Shared()


@auditor
class Shift(Auditor[ShiftSettings]):
    """Accuracy of victims on shifted test images, beside their accuracy on the same images as they were."""

    name: ClassVar[str] = "shift"
    title: ClassVar[str] = "Shift"
    need: ClassVar[str] = "Robust to shift"
    question: ClassVar[str] = (
        "If test images come turned, in other colours, or from another source, how often is a network trained on this "
        "set still right?"
    )
    threat_model: ClassVar[str] = (
        "No adversary: the shift does not know the network, and training saw none of it beyond its usual augmentation."
    )
    how_to_read: ClassVar[str] = (
        "The drop is accuracy on test images less that on the same images shifted: what the shift alone costs, so a "
        "set that learned little has a small one. Colour tells whether networks read colour in place of shape. A "
        "turned 6 may be a 9, so no network keeps everything; compare with the full-data and random-subset rows. The "
        "other domain shows other images of the same classes, so it has no drop. Damage (noise, blur, fog) is what the "
        "auditor corruption measures."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Engstrom et al., Exploring the Landscape of Spatial Robustness, ICML 2019, arXiv 1712.02779 (rotations)",
        "Taori et al., Measuring Robustness to Natural Distribution Shifts, NeurIPS 2020, arXiv 2007.00644",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("shift.accuracy", "higher", "accuracy under one kind of shift, mean over its types"),
        MetricInfo(
            "shift.drop", "lower", "accuracy on the same images as they were, less that under the shift", signed=True,
        ),
        MetricInfo("shift.type_accuracy", "higher", "accuracy under one type of shift"),
        MetricInfo("shift.clean_accuracy", "higher", "accuracy on the same images as they were"),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {"shift.accuracy": "accuracy"}
    from_records: ClassVar[tuple[str, ...] | None] = ()
    version: ClassVar[int] = 2
    settings: ClassVar[type[Settings]] = ShiftSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"images": 300},
        "full": {"images": 10_000},
    }

    def run(self, subject: Subject, ctx: Context, settings: ShiftSettings, seed: int) -> Finding:
        """Score the victims on every shift.

        Raises:
            Unsupported: the data are no pictures.
            BadInput: the other domain has other classes.
        """
        ctx.require_pixels("images are turned and recoloured")
        test = ctx.test(settings.images)

        def right(pixels: Tensor, labels: Tensor) -> Tensor:
            return (victim_logits(ctx, subject, seed, pixels).argmax(2) == labels).double()

        clean = right(test.images, test.labels)
        finding = Finding(subject=subject.id, auditor=self.name)
        finding.metrics = [
            Metric.of("shift.clean_accuracy", crossed_rate(clean), direction="higher")
        ]
        pixels = as_bytes(test.images)
        by_kind = {
            kind: {name: right(x, test.labels) for name, x in moved.items()}
            for kind, moved in shifted(pixels, settings.degrees).items()
        }
        for kind, tables in by_kind.items():
            if tables:
                mean = torch.stack(list(tables.values())).mean(0)
                finding.metrics += _metrics(ctx, kind, test, mean, tables)
                drop = crossed_difference(clean - mean)
                params = {"kind": kind}
                finding.metrics.append(
                    Metric.of("shift.drop", drop, direction="lower", floor=0.0, params=params)
                )
        finding.curves = [_curve(subject.id, clean, by_kind[ROTATION], settings.degrees)]
        finding.caveats = few_images(len(test), len(clean))
        name, other = self._domain(ctx, settings)
        if other is None:
            finding.caveats.append(
                "No other domain: --setting shift.domain=NAME takes data of the same classes."
            )
        else:
            table = right(other.images, other.labels)
            finding.metrics += _metrics(ctx, DOMAIN, other, table, {name: table})
        return finding

    def _domain(self, ctx: Context, settings: ShiftSettings) -> tuple[str, ImageData | None]:
        """Test images of the other domain in the shape of these data, and what they are.

        Raises:
            BadInput: its classes have other names.
        """
        data, name = ctx.data, settings.domain
        if not name:
            if data.train.class_names != DIGIT_CLASSES or data.origin in ("", "digits"):
                return "", None
            name = "digits"

        def load() -> ImageData:
            try:
                other = load_data(name, root=data.root)
            except BadInput as error:
                raise BadInput(f"shift.domain={error.where}", error.what, error.todo) from None
            if other.train.class_names != data.train.class_names:
                what = f"its classes are not those of '{data.name}'"
                raise BadInput(f"shift.domain={name}", what, "Name data of the same classes.")
            sample = stratified(other.test, settings.images)
            images = fitted(sample.pixels(), data.shape)
            return ImageData(images, sample.labels, sample.class_names)

        return name, _SHARED.once(ctx, (name, settings.images), load)

    def inputs(self, ctx: Context, settings: ShiftSettings) -> Mapping[str, str]:
        """The images of the other domain, where there is one."""
        name, other = self._domain(ctx, settings)
        return {} if other is None else {name: other.fingerprint}

    def checks(self, ctx: Context, settings: ShiftSettings) -> list[Check]:
        """A quarter turn against exact indexing, three turns of the channels, and there and back."""
        g = ctx.generator("shift", "checks")
        images = torch.randint(256, (4, 3, 9, 9), generator=g, dtype=torch.uint8)
        quarter = (rotated(images, 90).int() - images.rot90(1, (2, 3)).int()).abs().max()
        still = (rotated(images, 0).int() - images.int()).abs().max()
        round_trip = turned_channels(turned_channels(turned_channels(images)))
        moved = shifted(images, settings.degrees)
        same = sum(torch.equal(x, images) for kind in moved.values() for x in kind.values())
        return [
            Check(name="a rotation by 90 degrees, and by none", passed=int(quarter) <= 1 and int(still) == 0,
                  value=float(quarter), expected="exact indexing, at most one grey level off"),
            Check(name="three turns of the channels", passed=torch.equal(round_trip, images),
                  value=float((round_trip.int() - images.int()).abs().max()), expected="no change"),
            Check(name="every shift changes colour images", passed=same == 0, value=float(same),
                  expected="0 that do not"),
        ]  # fmt: skip


def shifted(images: Tensor, degrees: tuple[float, ...]) -> dict[str, dict[str, Tensor]]:
    """Kind -> type -> shifted images; changes of colour that change none of them are left out.

    Args:
        images: (N, C, H, W) uint8.
    """
    colours = {name: change(images) for name, change in COLOURS.items()}
    return {
        ROTATION: {f"rotation {d:g}": rotated(images, d) for a in degrees for d in (a, -a)},
        COLOUR: {name: x for name, x in colours.items() if not torch.equal(x, images)},
    }


def _metrics(
    ctx: Context, kind: str, records: ImageData, mean: Tensor, tables: Mapping[str, Tensor]
) -> list[Metric]:
    """Accuracy under a kind of shift, the mean (V, N) over its types, and under each."""
    headline = Metric.of(
        "shift.accuracy", crossed_rate(mean), direction="higher", headline=True,
        params={"kind": kind}, resampled=ctx.resamples(records).of_rate(mean),
    )  # fmt: skip
    types = [
        Metric.of(
            "shift.type_accuracy", crossed_rate(table), direction="higher", params={"type": name}
        )
        for name, table in tables.items()
    ]
    return [headline, *types]


def _curve(
    subject: str, clean: Tensor, tables: Mapping[str, Tensor], degrees: tuple[float, ...]
) -> Curve:
    """Accuracy by angle, both ways together."""
    both = {0.0: clean}
    for angle in sorted(degrees):
        pair = [tables[f"rotation {d:g}"] for d in (angle, -angle)]
        both[angle] = torch.stack(pair).mean(0)
    intervals = [crossed_rate(t) for t in both.values()]
    return Curve(
        plot="Accuracy by angle of rotation", label=subject, x=list(both),
        y=[i.value for i in intervals], low=[i.low for i in intervals],
        high=[i.high for i in intervals], x_label="degrees, both ways", y_label="accuracy",
    )  # fmt: skip
