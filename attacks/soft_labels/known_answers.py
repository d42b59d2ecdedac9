"""Instrument checks: worlds in which it is known what soft labels leak."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ddaudit.attacks.soft_labels.canaries import Marked, mark
from ddaudit.attacks.soft_labels.measure import chance, recalled
from ddaudit.attacks.soft_labels.threshold import held_out_accuracy
from ddaudit.auditing import Context, stratified
from ddaudit.findings import Check
from ddaudit.models import Arch, Network
from ddaudit.stats import clopper_pearson
from ddaudit.training import PROTOCOLS, train_many

AFFECTS = ["soft_labels."]
FALSE_ALARM = 1e-3
"""Chance that a check about chance fails by bad luck."""
_WIDTH = 200
_RHO = 0.8
_WORLDS = 10
_CANARIES = 100


def threshold() -> list[Check]:
    """A linear teacher of noise: above, below and without its soft labels."""
    above = _accuracy(alpha=1.5, temperature=math.inf)
    below = _accuracy(alpha=0.8, temperature=math.inf)
    hard = _accuracy(alpha=1.5, temperature=0.0)
    middle = clopper_pearson(*hard, confidence=1 - FALSE_ALARM)
    detail = (
        f"{_WORLDS} worlds of {_WIDTH} dimensions, student trained on {_RHO:g} of the pairs; "
        f"with soft labels everything leaks from {1 / _RHO:g} pairs per dimension on"
    )
    return [
        Check(
            name="a linear student above the threshold knows every held-out label",
            passed=_rate(above) >= 0.99, value=_rate(above), expected=">= 0.99 at 1.5 pairs per dimension",
            detail=detail, affects=AFFECTS,
        ),
        Check(
            name="a linear student below the threshold knows some",
            passed=0.5 < _rate(below) < 0.9, value=_rate(below),
            expected="between 0.5 and 0.9 at 0.8 pairs per dimension", detail=detail, affects=AFFECTS,
        ),
        Check(
            name="hard labels leak nothing",
            passed=0.5 in middle, value=middle.value, expected="0.5, chance, above the threshold too",
            detail=detail, affects=AFFECTS,
        ),
    ]  # fmt: skip


def published(ctx: Context) -> list[Check]:
    """A set that gives the canaries away with their labels, and canaries that it does not hold.

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
    found = float(own.double().mean())
    return [
        Check(
            name="published canary labels are found", passed=found >= 0.9, value=found, expected=">= 0.9",
            detail="share recalled by a network trained on canaries whose labels are given away", affects=AFFECTS,
        ),
        Check(
            name="canaries outside of the set are at chance", passed=chance(classes) in nothing,
            value=nothing.value, expected=f"{chance(classes):.3f}",
            detail="the same network, asked for canaries it has not seen", affects=AFFECTS,
        ),
    ]  # fmt: skip


def _student(given: Marked, ctx: Context) -> Network:
    """A narrow network that learns the given labels by heart; they are one-hot distributions."""
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


def _accuracy(*, alpha: float, temperature: float) -> tuple[int, int]:
    """(correct, held out), summed over worlds."""
    found = [
        held_out_accuracy(_WIDTH, alpha, _RHO, seed=s, temperature=temperature)
        for s in range(_WORLDS)
    ]
    return sum(r.correct for r in found), sum(r.held_out for r in found)


def _rate(count: tuple[int, int]) -> float:
    return count[0] / count[1]
