"""Known-answer tests of the privacy audit: mechanisms whose epsilon is known before they are audited."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ddaudit.attacks.privacy.adversaries import LinearEvidence, score_final_set, score_nearest_copy
from ddaudit.attacks.privacy.bound import Shares, bound, ceiling
from ddaudit.attacks.privacy.canaries import Kind, plant, toss
from ddaudit.attacks.privacy.claims import AFFECTS
from ddaudit.data import ImageData
from ddaudit.defenses.privacy.accounting import all_accountants
from ddaudit.findings import Check
from ddaudit.models import Network
from ddaudit.sets import Card, DistilledSet, LedgerEntry
from ddaudit.stats.gdp import epsilon_from_mu

BOUND = ["privacy.epsilon_lower_bound"]
_MU = 3.0
_REPEATS = 20
_ALLOWED = 3
"""A bound that errs in 5 % of audits errs in more than 3 of 20 with probability 1.6 %."""
_SURE = 0.999
"""Confidence where one audit must stay silent: a false alarm once in a thousand data sets."""


def known_gaussian(*, canaries: int, shares: Sequence[Shares], delta: float) -> list[Check]:
    """Every canary's coin is released with Gaussian noise of known size: bounds must not pass it."""
    truth = epsilon_from_mu(_MU, delta)
    generator = torch.Generator().manual_seed(1)
    bounds = []
    for _ in range(_REPEATS):
        included = toss(canaries, generator)
        noise = torch.randn(canaries, generator=generator)
        bounds.append(bound(_MU * included + noise, included, shares=shares, delta=delta))
    checks = []
    for method, values in (
        ("one-run", [b.epsilon for b in bounds]),
        ("one-run-gdp", [b.epsilon_gdp for b in bounds]),
    ):
        over = sum(v > truth for v in values)
        mean = sum(values) / len(values)
        checks.append(
            Check(
                name=f"Gaussian mechanism of epsilon {truth:.3g}, {method} bound",
                passed=over <= _ALLOWED and mean > 0,
                value=mean,
                expected=f"in (0, {truth:.3g}]",
                detail=f"Mean of {_REPEATS} simulated audits, {over} of them above the truth.",
                affects=BOUND,
            )
        )
    return checks


def no_noise(*, canaries: int, shares: Sequence[Shares], delta: float) -> Check:
    """Coins released as they are: the bound must come near what this many canaries can show."""
    top = ceiling(canaries, shares=shares, delta=delta)
    order = torch.randperm(canaries, generator=torch.Generator().manual_seed(2))
    included = order < canaries // 2
    proven = bound(included.float(), included, shares=shares, delta=delta).epsilon
    return Check(
        name="no noise at all",
        passed=proven >= 0.8 * top,
        value=proven,
        expected=f">= {0.8 * top:.3g} (ceiling {top:.3g})",
        affects=BOUND,
    )


def permuted(*, canaries: int, shares: Sequence[Shares], delta: float) -> Check:
    """Scores of a perfect attack against shuffled coins: nothing may be proven."""
    generator = torch.Generator().manual_seed(3)
    alarms = 0
    for _ in range(_REPEATS):
        scores = toss(canaries, generator) + torch.rand(canaries, generator=generator)
        included = toss(canaries, generator)
        alarms += bound(scores, included, shares=shares, delta=delta).epsilon > 0
    return Check(
        name="coins permuted",
        passed=alarms <= _ALLOWED,
        value=alarms / _REPEATS,
        expected=f"bound is 0 in all but {_ALLOWED} of {_REPEATS}",
        affects=BOUND,
    )


def noisy_sums(*, canaries: int, shares: Sequence[Shares], delta: float) -> list[Check]:
    """The intermediate adversary on simulated releases: sums of unit vectors, with known noise.

    Repeats are few because each solves for all canaries, so the bound is taken at 99.9 %.
    """
    count = min(max(canaries, 100), 300)
    truth = epsilon_from_mu(_MU, delta)
    top = ceiling(count, shares=shares, delta=delta)
    checks = []
    for name, sigma in (("known noise", math.sqrt(_RELEASES) / _MU), ("no noise", 0.0)):
        scores, included = simulate_sums(count, sigma=sigma, seed=4)
        proven = bound(scores, included, shares=shares, delta=delta, confidence=_SURE).epsilon
        good = 0 < proven <= truth if sigma else proven >= 0.5 * top
        checks.append(
            Check(
                name=f"intermediate adversary on simulated sums, {name}",
                passed=good,
                value=proven,
                expected=f"in (0, {truth:.3g}]" if sigma else f">= {0.5 * top:.3g}",
                affects=BOUND,
            )
        )
    return checks


_RELEASES = 16


def simulate_sums(canaries: int, *, sigma: float, seed: int) -> tuple[Tensor, Tensor]:
    """Scores and coins of an attack on full-batch Gaussian sums of nearly orthogonal unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    included, width = toss(canaries, generator), 4 * canaries
    evidence = LinearEvidence(canaries, 1)
    weights = torch.ones(1, canaries)
    for _ in range(_RELEASES):
        signals = torch.randn(canaries, width, generator=generator)
        signals = signals / signals.norm(dim=1, keepdim=True)
        known = torch.randn(1, width, generator=generator) / width**0.5
        noise = sigma * torch.randn(1, width, generator=generator)
        values = 50 * known + signals[included].sum(0, keepdim=True) + noise
        evidence.add(signals, weights, values, known)
    return evidence.scores(), included


def verbatim(
    train: ImageData,
    networks: Sequence[Network],
    *,
    canaries: int,
    kinds: Sequence[Kind],
    shares: Sequence[Shares],
    delta: float,
) -> list[Check]:
    """Release the pool itself, then the pool without any canary: all is seen at once, and nothing."""
    planted = plant(train, count=canaries, kinds=kinds, generator=torch.Generator().manual_seed(5))
    top = ceiling(len(planted), shares=shares, delta=delta)
    checks = []
    for name, released, leaks in (
        ("pool released verbatim", planted.pool, True),
        ("pool released without canaries", planted.base, False),
    ):
        images = DistilledSet(released.pixels(), released.labels, released.num_classes, Card())
        attacks = {
            "final-set": score_final_set(images, planted.records, planted.base, networks=networks),
            "nearest-copy": score_nearest_copy(images, planted.records, planted.base),
        }
        for adversary, scores in attacks.items():
            confidence = 0.95 if leaks else _SURE
            proven = bound(
                scores, planted.included, shares=shares, delta=delta, confidence=confidence
            ).epsilon
            checks.append(
                Check(
                    name=f"{name}, {adversary}",
                    passed=proven >= 0.5 * top if leaks else proven == 0,
                    value=proven,
                    expected=f">= {0.5 * top:.3g}" if leaks else "0",
                    affects=BOUND,
                )
            )
    return checks


def accountants() -> Check:
    """A published noise level (NDPDC on MNIST, 1000 queries) by two independent accountants."""
    entry = LedgerEntry(query="check", sigma=1.335, q=50 / 5421, count=1000)
    epsilons = all_accountants([entry], 1e-5)
    values = [epsilons["pld"], epsilons.get("prv", math.inf)]
    return Check(
        name="accountants on sigma 1.335, q 50/5421, 1000 queries, delta 1e-5",
        passed=all(0.99 <= v <= 1.01 for v in values),
        value=max(values) if math.isfinite(max(values)) else None,
        expected="1.00 by PLD and by PRV",
        affects=AFFECTS,
    )
