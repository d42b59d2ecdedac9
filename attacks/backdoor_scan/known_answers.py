"""Known answers of the scan: a trigger planted in real records must be found, clean records must not be accused.

All sets are random real records of equal size with one small network each. A white square on a tenth of the records of
one set, relabelled to one class, is the known answer; the other sets are clean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ddaudit.attacks._common.trigger import SquareTrigger, poison
from ddaudit.attacks.backdoor_scan.detector import FEWEST_ROWS, Detector, Exhibit
from ddaudit.attacks.backdoor_scan.fine_pruning import fine_prune
from ddaudit.attacks.backdoor_scan.scanning import ByDetector, Scanned, read, usable
from ddaudit.auditing import Context, stratified
from ddaudit.data import ImageData
from ddaudit.distillation.networks import fit
from ddaudit.findings import Check
from ddaudit.models import Arch, Network
from ddaudit.training import PROTOCOLS, train_many

CLEAN_SETS = 7
PER_CLASS = 40
RATIO = 0.1
TARGET = 0
STEPS = 300
BATCH = 128
WORKS = 0.5
"""Attack success on images of other classes from which a planted trigger counts as working."""


def checks(ctx: Context, detectors: Sequence[Detector], *, epochs: int) -> list[Check]:
    """Each detector finds the planted trigger in the right class, the scan too; of two clean sets one passes at least.

    By luck alone a detector passes one time in 8 x K classes, and both clean sets stand out one time in 36.
    """
    trial = _trial(ctx)
    asked, _ = usable(detectors, trial.networks[0], trial.seen[0])
    readings: list[ByDetector] = [
        read(asked, [net], seen) for net, seen in zip(trial.networks, trial.seen, strict=True)
    ]
    planted, clean, references = readings[0], readings[1:3], readings[3:]
    found = Scanned.of(planted, references).calibrated
    out = []
    for d in asked:
        verdict = found.verdicts[d.name]
        out.append(
            Check(
                name=f"planted trigger is found by {d.title}",
                passed=verdict.suspect == TARGET and verdict.p_value == found.smallest,
                value=float(verdict.excess[TARGET]),
                expected=f"class {TARGET} worst, above all {CLEAN_SETS} clean sets",
                detail=f"worst class {verdict.suspect}, p = {verdict.p_value:.3g}",
                affects=[f"backdoor_scan.{d.name}_"],
            )
        )
    worst = max(found.verdicts.values(), key=lambda v: float(v.excess.max()))
    quiet = [Scanned.of(c, references).calibrated.p_value for c in clean]
    out += [
        Check(
            name="planted trigger is found by the scan",
            passed=worst.suspect == TARGET and found.p_value == found.smallest,
            value=found.p_value,
            expected=f"p = {found.smallest:g} by class {TARGET}",
            detail=trial.detail,
            affects=["backdoor_scan.p_value"],
        ),
        Check(
            name="clean sets are not accused",
            passed=max(quiet) > found.smallest,
            value=max(quiet),
            expected=f"p > {found.smallest:g} for one of two clean sets at least",
            affects=["backdoor_scan."],
        ),
    ]
    return [*out, _pruning(ctx, trial, epochs=epochs)]


@dataclass(frozen=True, eq=False)
class _Trial:
    """The planted set, two clean ones and the references: networks and exhibits, in this order."""

    networks: list[Network]
    seen: list[Exhibit]
    trusted: ImageData
    test: ImageData
    trigger: SquareTrigger
    detail: str


def _trial(ctx: Context) -> _Trial:
    data = ctx.data
    per_class = torch.bincount(data.train.labels, minlength=data.num_classes)
    size = max(FEWEST_ROWS, min(PER_CLASS, int(per_class.min()) // 2))
    sets = []
    for i in range(3 + CLEAN_SETS):
        order = torch.randperm(len(data.train), generator=ctx.generator("scan check", i))
        own = data.train.labels[order]
        index = torch.cat([order[own == k][:size] for k in range(data.num_classes)])
        sets.append(data.train.subset(index))
    trigger = SquareTrigger(side=max(2, SquareTrigger.published(data.shape).side))
    planted = poison(
        sets[0], trigger, ratio=RATIO, target=TARGET, generator=ctx.generator("scan check", "planted")
    )  # fmt: skip
    sets[0] = planted.train
    protocol = replace(
        PROTOCOLS["quick"], name="scan check", batch_size=BATCH, augment="", deviations=(),
        epochs_plain=max(1, round(STEPS / math.ceil(len(sets[0]) / BATCH))),
    )  # fmt: skip
    networks = train_many(
        [(s.images, s.labels) for s in sets], arch=fit(Arch("convnet", width=16), data.shape),
        num_classes=data.num_classes, mean=data.mean, std=data.std, protocol=protocol,
        seeds=[ctx.seed_for("scan check", "network", i) for i in range(len(sets))], device=ctx.device,
    )  # fmt: skip
    trusted = stratified(data.test, FEWEST_ROWS * 2 * data.num_classes, even=True)
    order = torch.randperm(len(trusted), generator=ctx.generator("scan check", "trusted"))
    clean, labels = trusted.pixels(order), trusted.labels[order]
    seed = ctx.seed_for("scan check")
    seen = [Exhibit(clean, labels, data.num_classes, s.pixels(), s.labels, seed) for s in sets]
    detail = f"{len(planted.index)} of {len(sets[0])} real records stamped and relabelled; {CLEAN_SETS} clean sets"
    return _Trial(networks, seen, sets[-1], ctx.test(1000), trigger, detail)


def _pruning(ctx: Context, trial: _Trial, *, epochs: int) -> Check:
    """What fine-pruning does to the planted trigger: clean accuracy must be kept, and the trigger must have worked."""
    network, test = trial.networks[0], trial.test
    pruned = fine_prune(
        network, trial.trusted.pixels(), trial.trusted.labels, epochs=epochs,
        generator=ctx.generator("scan check", "fine-pruning"),
    )  # fmt: skip
    other = test.labels != TARGET
    before, after = (
        (
            float((ctx.predict(net, test.images).argmax(1) == test.labels).double().mean()),
            float((ctx.predict(net, trial.trigger.stamp(test.images[other])).argmax(1) == TARGET).double().mean()),
        )
        for net in (network, pruned.network)
    )  # fmt: skip
    return Check(
        name="fine-pruning keeps clean accuracy on a working backdoor",
        passed=before[1] > WORKS and after[0] > 0.9 * before[0],
        value=after[0],
        expected=f"> {0.9 * before[0]:.3f}, attack success before > {WORKS}",
        detail=f"attack success {before[1]:.2f} before, {after[1]:.2f} after; {pruned.share:.0%} of channels pruned",
        affects=["backdoor_scan.pruned", "backdoor_scan.accuracy_lost"],
    )
