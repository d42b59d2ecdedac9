"""The ``backdoor-scan`` auditor: does a set or a network of unknown origin carry a backdoor?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator

from ddaudit.attacks._common.rates import rate, rate_metric
from ddaudit.attacks._common.records import join
from ddaudit.attacks._common.trigger import Trigger, trigger_of
from ddaudit.attacks.backdoor_scan import known_answers
from ddaudit.attacks.backdoor_scan.detector import Detector, Exhibit
from ddaudit.attacks.backdoor_scan.fine_pruning import fine_prune
from ddaudit.attacks.backdoor_scan.references import Reference, exhibit_of, reference_for
from ddaudit.attacks.backdoor_scan.results import caveats, curves, pictures, scan_metrics
from ddaudit.attacks.backdoor_scan.scanning import ByDetector, Scanned, all_detectors, read, usable
from ddaudit.auditing import (
    Auditor,
    Context,
    Settings,
    Shared,
    Subject,
    Work,
    auditor,
    stratified,
)
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Check, Finding, Metric, MetricInfo
from ddaudit.models import Network
from ddaudit.sets import DistilledSet
from ddaudit.stats import paired_difference

DETECTORS = all_detectors()
LEVEL = 0.05
"""A scan's p-value at or below which the report warns."""
_SHARE, _FEWEST = 0.05, 200


class BackdoorScanSettings(Settings):
    """What clean sets are made, and how hard each detector looks."""

    references: int = Field(default=59, ge=5)
    """Clean sets beside the suspect; the smallest p-value is 1 / (1 + references)."""
    recipe: str = ""
    """The method of the clean sets; empty: what the file's card says, random subsets where it says nothing."""
    victims: int = Field(default=2, ge=1)
    """Networks read per set, at most as many as the preset trains."""
    detectors: tuple[str, ...] = ()
    """Which detectors; empty: all that can be asked."""
    images: int = Field(default=500, ge=50)
    """Trusted held-out images that detectors are shown, at most."""
    rows: int = Field(default=2000, ge=10)
    """At most this many images of the set, evenly over classes."""
    steps: int = Field(default=400, ge=16)
    """Of Neural Cleanse."""
    patch_steps: int = Field(default=100, ge=1)
    """Of the universal patch."""
    epochs: int = Field(default=10, ge=0)
    """Of fine-tuning after pruning."""

    @field_validator("detectors")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [d.name for d in DETECTORS]
        if wrong := [n for n in names if n not in known]:
            raise ValueError(f"no detector '{wrong[0]}'; known: {', '.join(known)}")
        return names

    def chosen(self) -> list[Detector]:
        """The detectors asked for, as hard as the settings say."""
        made = all_detectors(
            mask_steps=self.steps,
            patch_steps=self.patch_steps,
            images=min(100, self.images // 6),
        )
        return [d for d in made if not self.detectors or d.name in self.detectors]


_OF_DETECTOR = (
    ("excess", "lower", "{} above clean sets, of the class that looks worst", "standard deviations"),
    ("p_value", "higher", "chance that a clean set looks as bad to {} alone", "probability"),
    ("adjusted_p_value", "higher", "the same for {} when all detectors were asked", "probability"),
    ("flagged", "lower", "what the published threshold of {} flags: 1 or 0 a set, or a share of images", "fraction"),
    ("false_alarms", "none", "what that threshold flags in clean sets: the false-alarm rate of {}", "fraction"),
)  # fmt: skip

_WORDS = {
    "excess": "excess over clean sets",
    "p_value": "p-value",
    "adjusted_p_value": "p-value of all at once",
    "flagged": "its threshold flags",
    "false_alarms": "its false alarms",
}
_OF_THRESHOLD = ("flagged", "false_alarms")
"""Of detectors that were published with a threshold."""


@auditor
class BackdoorScan(Auditor[BackdoorScanSettings]):
    """Seven backdoor detectors, each beside its own readings on clean sets."""

    name = "backdoor-scan"
    title = "Backdoor scan"
    need = "Less backdoor signal"
    question = (
        "Somebody hands us a distilled set, or a network trained on one. Does it hide a backdoor: a mark that makes "
        "a network call any picture what its maker wants?"
    )
    threat_model = (
        "Whoever made the set may have planted a trigger, of a kind unknown to us. We hold the set (or one trained "
        "network), real records that we trust, and can make clean sets like it. The maker does not control how we "
        "train."
    )
    how_to_read = (
        "Seven detectors look for traces of a trigger. None is believed by itself: each looks at clean sets of the "
        "same method too, and what counts is how far the suspect stands out among them. The p-value is the chance "
        "that a clean set stands out as far to any detector; near 1 is good, and with n clean sets it cannot fall "
        "below 1 / (1 + n). A small one is a reason to look at the named class, not a proof. A large one says that "
        "these detectors saw nothing: triggers that cover the whole image escape Neural Cleanse and the patch, and "
        "detectors that look at images need about twenty a class. 'False alarms' is how often the threshold that a "
        "detector was published with accuses clean sets."
    )
    sources = (
        *(d.source for d in DETECTORS),
        "Liu, Dolan-Gavitt and Garg, Fine-Pruning, RAID 2018",
        "Wu et al., BackdoorBench, NeurIPS 2022 (constants)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo(
            "backdoor_scan.p_value", "higher",
            "chance that a clean set looks as bad as this one to any detector", unit="probability",
        ),
        MetricInfo(
            "backdoor_scan.smallest_p", "none",
            "the smallest p-value that so many clean sets can give", unit="probability",
        ),
        *(
            MetricInfo(f"backdoor_scan.{d.name}_{name}", direction, meaning.format(d.title), unit=unit)  # type: ignore[arg-type]
            for d in DETECTORS
            for name, direction, meaning, unit in _OF_DETECTOR
            if d.flags or name not in _OF_THRESHOLD
        ),
        MetricInfo(
            "backdoor_scan.neural_cleanse_not_reached", "none",
            "classes that no mask led 98 % of images to", unit="classes",
        ),
        MetricInfo("backdoor_scan.pruned_accuracy", "higher", "clean test accuracy after fine-pruning"),
        MetricInfo("backdoor_scan.accuracy_lost", "lower", "clean test accuracy that fine-pruning costs", signed=True),
        MetricInfo("backdoor_scan.trigger_asr", "lower", "attack success of the trigger that the set's card names"),
        MetricInfo("backdoor_scan.pruned_trigger_asr", "lower", "attack success of that trigger after fine-pruning"),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "backdoor_scan.p_value": "p-value of the scan",
        "backdoor_scan.smallest_p": "smallest possible p-value",
        **{
            f"backdoor_scan.{d.name}_{name}": f"{d.title}: {_WORDS[name]}"
            for d in DETECTORS for name, *_ in _OF_DETECTOR if d.flags or name not in _OF_THRESHOLD
        },
        "backdoor_scan.neural_cleanse_not_reached": "Neural Cleanse: classes not reached",
    }  # fmt: skip
    version = 5
    settings = BackdoorScanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {
            "references": 19, "victims": 1, "images": 300, "rows": 500, "steps": 96, "patch_steps": 30, "epochs": 3,
        },
        "standard": {},
        "full": {"references": 99, "victims": 3, "images": 1000, "steps": 800, "epochs": 20},
    }  # fmt: skip

    def __init__(self) -> None:
        self._shared = Shared()

    def run(
        self, subject: Subject, ctx: Context, settings: BackdoorScanSettings, seed: int
    ) -> Finding:
        """Read the suspect and clean sets like it with every detector that can be asked.

        Raises:
            Unsupported: no pixels, a baseline or a recipe of the user's own, nothing that can be asked, or a network
                that gives no numbers.
        """
        ctx.require_pixels("its detectors stamp and blend images")
        if subject.baseline:
            raise Unsupported("drawn from your own records: nothing of unknown origin")
        reference = reference_for(subject, ctx, recipe=settings.recipe)
        networks = ctx.victims(subject, seed)[: settings.victims]
        made = None if subject.network is not None else ctx.distilled(subject, seed)
        seen = exhibit(made, ctx, settings)
        asked, reasons = usable(settings.chosen(), networks[0], seen)
        if not asked:
            raise Unsupported("; ".join(f"{k}: {v}" for k, v in reasons.items()))
        # First: what cannot be read needs no clean sets beside it.
        own = read(asked, networks, seen)
        names = tuple(d.name for d in asked)
        clean, sizes = self._shared.once(
            ctx,
            (*reference.key, settings, names, len(networks)),
            lambda: _clean(reference, asked, settings, len(networks)),
        )
        scanned = Scanned.of(own, clean)
        finding = Finding(
            subject=subject.id, auditor=self.name, metrics=scan_metrics(scanned, asked)
        )
        trigger, unread = _trigger(made)
        finding.metrics += _purified(made, trigger, networks, ctx, settings, seed)
        finding.curves += curves(scanned, asked, ctx.data.train.class_names)
        finding.images += pictures(scanned, asked, ctx.data.train.class_names)
        finding.caveats += [*caveats(scanned, reference, reasons), *unread]
        if made is not None and sizes != {len(made)}:
            finding.caveats.append(
                f"It holds {len(made)} images and its clean sets {', '.join(map(str, sorted(sizes)))}: a clean one may "
                "differ for that alone."
            )
        return finding

    def work(self, subject: Subject, ctx: Context, settings: BackdoorScanSettings) -> Work:
        """The clean sets; the networks trained on them are part of what a cell is measured to cost."""
        if subject.baseline or (subject.recipe is not None and not settings.recipe):
            return Work(ends=True)
        reference = reference_for(subject, ctx, recipe=settings.recipe)
        return Work(settings.references, recipe=reference.maker.recipe)

    def warning(self, finding: Finding) -> str:
        """A set that looks worse than clean ones do."""
        p, smallest = _value(finding, "p_value"), _value(finding, "smallest_p")
        if p is not None and p <= LEVEL:
            return f"it may hide a backdoor: it stands out among clean sets (p = {p:.3g})."
        if p is not None and _extreme(p, smallest):
            return (
                f"it stands out from all clean sets, which are too few to prove more (p = {p:.3g}); "
                "scan it with more (--setting backdoor-scan.references=N)."
            )
        return ""

    def sentence(self, finding: Finding) -> str:
        """Which detector saw most, and in which class; or that none saw more than in clean sets."""
        p, smallest = _value(finding, "p_value"), _value(finding, "smallest_p")
        if p is None:
            return ""
        if p > LEVEL and not _extreme(p, smallest):
            return f"In {finding.subject} no detector sees more than in clean sets (p = {p:.2g})."
        excess = {d.title: _value(finding, f"{d.name}_excess") or 0.0 for d in DETECTORS}
        worst = max(excess, key=lambda title: excess[title])
        by_class = [c.y for c in finding.curves if c.label == worst]
        where = f" class {by_class[0].index(max(by_class[0]))} of" if by_class else ""
        return (
            f"In{where} {finding.subject}, {worst} reads {excess[worst]:.1f} standard deviations more than in clean "
            "sets."
        )

    def checks(self, ctx: Context, settings: BackdoorScanSettings) -> list[Check]:
        """A trigger planted in real records is found by each detector; clean records are not accused."""
        if ctx.data.space != "pixels":
            return []
        return known_answers.checks(ctx, settings.chosen(), epochs=settings.epochs)


def _extreme(p: float, smallest: float | None) -> bool:
    """Whether a set stands out as far as its clean sets can show; of many seeds the smallest p-value is 1."""
    return p == smallest and p < 1


def _value(finding: Finding, name: str) -> float | None:
    """Of one of this auditor's metrics; None where it is not there."""
    try:
        return finding.metric(f"backdoor_scan.{name}").value
    except KeyError:
        return None


def exhibit(made: DistilledSet | None, ctx: Context, settings: BackdoorScanSettings) -> Exhibit:
    """A set (None: a network came without one) beside held-out records, the same ones for every set."""
    trusted = stratified(join(ctx.data.validation, ctx.data.test), settings.images, even=True)
    seed = ctx.seed_for("backdoor-scan")
    # In an order of its own: detectors take the first so many.
    order = torch.randperm(len(trusted), generator=torch.Generator().manual_seed(seed))
    return exhibit_of(
        made, trusted.pixels(order), trusted.labels[order], classes=ctx.data.num_classes,
        rows=settings.rows, seed=seed,
    )  # fmt: skip


def _clean(
    reference: Reference, asked: Sequence[Detector], settings: BackdoorScanSettings, victims: int
) -> tuple[list[ByDetector], set[int]]:
    """What the detectors read of the clean sets, and how many images those have."""
    readings: list[ByDetector] = []
    sizes: set[int] = set()
    for made, networks in reference.made(settings.references, victims):
        readings.append(read(asked, networks, exhibit(made, reference.ctx, settings)))
        sizes.add(len(made))
    return readings, sizes


def _trigger(made: DistilledSet | None) -> tuple[Trigger | None, list[str]]:
    """The trigger that a set's card names, and what to say where it cannot be read."""
    if made is None or made.card.poison is None:
        return None, []
    try:
        return trigger_of(made), []
    except BadInput as error:
        return None, [f"No attack success of the trigger that its card names: {error.what}."]


def _purified(
    made: DistilledSet | None,
    trigger: Trigger | None,
    networks: Sequence[Network],
    ctx: Context,
    settings: BackdoorScanSettings,
    seed: int,
) -> list[Metric]:
    """Clean accuracy that is left after fine-pruning, and what became of the trigger where the card has one."""
    if networks[0].arch.family == "own":
        return []
    count = max(_FEWEST, round(_SHARE * len(ctx.data.train)))
    trusted, test = stratified(ctx.data.train, count, even=True), ctx.test()
    pruned = [
        fine_prune(
            network, trusted.pixels(), trusted.labels, epochs=settings.epochs,
            generator=ctx.generator("backdoor-scan", "fine-pruning", seed, i),
        ).network
        for i, network in enumerate(networks)
    ]  # fmt: skip
    before, after = (
        torch.stack([ctx.predict(n, test.images).argmax(1) == test.labels for n in nets])
        for nets in (networks, pruned)
    )
    lost = paired_difference(before.float(), after.float())
    metrics = [
        rate_metric("backdoor_scan.pruned_accuracy", rate(after), direction="higher"),
        Metric.of("backdoor_scan.accuracy_lost", lost, direction="lower"),
    ]
    note = None if made is None else made.card.poison
    if note is None or trigger is None:
        return metrics
    source = note.source_class
    reached = test.labels != note.target if source is None else test.labels == source
    stamped = trigger.stamp(test.images[reached])
    for name, nets in (("trigger_asr", networks), ("pruned_trigger_asr", pruned)):
        hits = torch.stack([ctx.predict(n, stamped).argmax(1) == note.target for n in nets])
        metrics.append(rate_metric(f"backdoor_scan.{name}", rate(hits), direction="lower"))
    return metrics
