"""What a scan says in a report: metrics, each class's excess, the smallest marks, caveats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ddaudit.attacks._common.pictures import mosaic
from ddaudit.attacks.backdoor_scan.detector import Detector
from ddaudit.attacks.backdoor_scan.references import Reference
from ddaudit.attacks.backdoor_scan.scanning import ByDetector, Scanned
from ddaudit.findings import Caveat, Curve, Metric, Picture
from ddaudit.stats import clopper_pearson

_SHOWN = 10


def scan_metrics(scanned: Scanned, asked: Sequence[Detector]) -> list[Metric]:
    """The scan's p-value, and every detector's numbers."""
    result, n = scanned.calibrated, scanned.calibrated.clean_sets
    made = [
        Metric(
            name="backdoor_scan.p_value", value=result.p_value, n=n, unit="probability", direction="higher",
            headline=True,
        ),
        Metric(name="backdoor_scan.smallest_p", value=result.smallest, n=n, unit="probability", merge="p-value"),
    ]  # fmt: skip
    for detector in asked:
        verdict, own = result.verdicts[detector.name], scanned.own[detector.name]
        name = f"backdoor_scan.{detector.name}_"
        made += [
            Metric(
                name=f"{name}excess", value=float(verdict.excess.max()), n=n, unit="standard deviations",
                direction="lower", floor=verdict.usual,
            ),
            Metric(
                name=f"{name}p_value", value=verdict.p_value, n=n, unit="probability", direction="higher",
                merge="p-value",
            ),
            Metric(
                name=f"{name}adjusted_p_value", value=verdict.adjusted, n=n, unit="probability", direction="higher",
                merge="p-value",
            ),
        ]  # fmt: skip
        if own.flagged is not None:
            made.append(Metric(name=f"{name}flagged", value=own.flagged, direction="lower"))
            made.append(_false_alarms(f"{name}false_alarms", scanned.clean, detector))
        if detector.name == "neural_cleanse":
            made.append(Metric(name=f"{name}not_reached", value=float(own.missed), unit="classes"))
    return made


def _false_alarms(name: str, clean: Sequence[ByDetector], detector: Detector) -> Metric:
    """How much of clean sets the published threshold flags: sets have an exact interval, shares of images none."""
    flagged = [r[detector.name].flagged or 0.0 for r in clean]
    if detector.flags == "sets" and all(f in (0.0, 1.0) for f in flagged):
        return Metric.of(name, clopper_pearson(round(sum(flagged)), len(flagged)))
    return Metric(name=name, value=sum(flagged) / len(flagged), n=len(flagged))


def curves(scanned: Scanned, asked: Sequence[Detector], class_names: Sequence[str]) -> list[Curve]:
    """Each class's excess, by detector."""
    places = [float(k) for k in range(len(class_names))]
    return [
        Curve(
            plot="suspicion by class",
            label=d.title,
            x=places,
            y=scanned.calibrated.verdicts[d.name].excess.tolist(),
            kind="points",
            x_label="class (number)",
            y_label="standard deviations above clean sets",
        )
        for d in asked
    ]


def pictures(
    scanned: Scanned, asked: Sequence[Detector], class_names: Sequence[str]
) -> list[Picture]:
    """The marks that lead to the classes that look worst."""
    made = []
    for d in asked:
        triggers = scanned.own[d.name].triggers
        if triggers is None:
            continue
        order = scanned.calibrated.verdicts[d.name].excess.argsort(descending=True)[:_SHOWN]
        names = ", ".join(class_names[k] for k in order.tolist())
        made.append(
            Picture(
                name="smallest marks",
                caption=(
                    f"The smallest mark {d.title} found that leads almost any image to a class, on black, worst class "
                    f"first: {names}. A few bright pixels in one place look like a planted trigger."
                ),
                png_base64=mosaic([[triggers[k]] for k in order.tolist()], columns=_SHOWN),
            )
        )
    return made


def caveats(scanned: Scanned, reference: Reference, reasons: Mapping[str, str]) -> list[str]:
    """What the suspect was compared with, and what was not measured; ``reasons`` by title."""
    result = scanned.calibrated
    notes: list[str] = [
        f"Compared with {result.clean_sets} {reference.words}, so no p-value is below {result.smallest:.3g}. The "
        "scan's counts all detectors at once: of ten clean sets about one reads 0.1 or less.",
        Caveat(
            "Neural Cleanse and the patch look for small marks. A trigger over the whole image escapes them.",
            rank=2,
        ),
    ]
    if reference.doubt:
        notes.append(reference.doubt)
    if reasons:
        by_reason: dict[str, list[str]] = {}
        for title, reason in reasons.items():
            by_reason.setdefault(reason, []).append(title)
        text = "; ".join(f"{', '.join(t)} ({r})" for r, t in by_reason.items())
        notes.append(f"Not measured: {text}.")
    return notes
