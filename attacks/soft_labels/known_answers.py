"""Known-answer tests of the soft-label attack: a set that publishes its canaries, and canaries that it lacks."""

from __future__ import annotations

from dataclasses import replace

import torch

from ddaudit.attacks.soft_labels.canaries import Marked, chance, mark, recalled
from ddaudit.auditing import Context, stratified
from ddaudit.findings import Check
from ddaudit.models import Arch, Network
from ddaudit.stats import clopper_pearson
from ddaudit.training import PROTOCOLS, train_many

AFFECTS = ["soft_labels."]
FALSE_ALARM = 1e-3
"""Chance that a check about chance fails by bad luck."""
_CANARIES = 100


def published(ctx: Context) -> list[Check]:
    """A set of the canaries with their planted labels, and canaries that it does not hold.

    Data of fewer than three classes have no canaries: nothing to check.
    """
    data = ctx.data
    if data.num_classes < 3:
        return []
    generator = ctx.generator("soft-labels", "checks")
    records = stratified(data.train, 2 * _CANARIES)
    order = torch.randperm(len(records), generator=generator)
    half = len(records) // 2
    given, withheld = (
        mark(records.subset(part), generator) for part in (order[:half], order[half:])
    )
    student = _student(given, ctx)
    classes = data.num_classes
    own, other = (recalled([ctx.predict(student, m.records.images)], m) for m in (given, withheld))
    nothing = clopper_pearson(int(other.sum()), len(other), confidence=1 - FALSE_ALARM)
    share = float(own.double().mean())
    return [
        Check(
            name="published canary labels are found", passed=share >= 0.9, value=share, expected=">= 0.9",
            detail="share recalled by a network trained on canaries with their labels", affects=AFFECTS,
        ),
        Check(
            name="canaries outside of the set are at chance", passed=chance(classes) in nothing,
            value=nothing.value, expected=f"{chance(classes):.3f}",
            detail="the same network, on canaries it has not seen", affects=AFFECTS,
        ),
    ]  # fmt: skip


def _student(given: Marked, ctx: Context) -> Network:
    """A narrow network that memorises the given labels; they are one-hot distributions."""
    labels = torch.nn.functional.one_hot(given.records.labels, ctx.data.num_classes).float()
    protocol = replace(
        PROTOCOLS["quick"], name="soft-labels control", augment="", epochs_plain=250, deviations=()
    )
    (network,) = train_many(
        [(given.records.pixels(), labels)],
        arch=Arch.parse("ConvNetD2W16"),
        num_classes=ctx.data.num_classes,
        mean=ctx.data.mean,
        std=ctx.data.std,
        protocol=protocol,
        seeds=[ctx.seed_for("soft-labels", "control")],
        device=ctx.device,
    )
    return network
