"""Known-answer tests of the reconstruction attacks: releases that hold everything, and that hold nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from ddaudit.attacks.reconstruction.clues import (
    NoisySums,
    SumClue,
    set_clues,
    sum_clue,
    unexplained,
)
from ddaudit.attacks.reconstruction.inversion import Case, Score, class_prior, invert, score
from ddaudit.data import ImageData
from ddaudit.distillation.networks import fit
from ddaudit.distillation.targets import ByClass
from ddaudit.findings import Check
from ddaudit.models import Arch, Network, build
from ddaudit.sets import Card, DistilledSet

_STEPS, _BATCH, _NETWORKS = 150, 8, 24


def simulate_sums(
    case: Case, *, sigma: float, rate: float = 1.0, releases: int = _NETWORKS, seed: int = 0
) -> list[SumClue]:
    """Clues of noisy class sums of a case's members, under random networks without normalisation layers.

    Networks without normalisation keep an image's contrast, so that nothing of the record is lost.

    Args:
        case: members and targets.
        sigma: noise multiplier; the clip is larger than every signal.
        rate: probability that a record is sampled.
        releases: one network each.
        seed: of networks, coins and noise.
    """
    pool = case.pool
    generator = torch.Generator().manual_seed(seed)
    members = case.members.float()
    weights = ByClass().rows(pool, torch.arange(len(pool))) * members
    clues = []
    for t in range(releases):
        network = small_network(pool, seed=seed + t, norm="none")
        with torch.no_grad():
            z = network.embed(pool.pixels())
        clip = 1.1 * float(z.norm(dim=1).max())
        coins = (torch.rand(len(pool), generator=generator) < rate).float()
        sums = (weights * coins) @ z
        sums = sums + sigma * clip * torch.randn(sums.shape, generator=generator)
        rates = torch.full((len(weights),), rate)
        seen = NoisySums(
            lambda x, _, net=network: net.embed(x),  # type: ignore[misc]
            sums,
            lambda records: ByClass().rows(records, torch.arange(len(records))),
            rates,
            sigma * clip,
            clip,
        )
        clues.append(sum_clue(seen, case))
    return clues


def attack_sums(
    case: Case,
    *,
    sigma: float,
    rate: float = 1.0,
    releases: int = _NETWORKS,
    steps: int = _STEPS,
    batch: int = _BATCH,
) -> Score:
    """The intermediate adversary on simulated sums."""
    clues = simulate_sums(case, sigma=sigma, rate=rate, releases=releases)
    prior = class_prior(case, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    rebuilt = invert(
        clues, prior, independent=True, steps=steps, batch=batch, starts=1, generator=generator
    )
    return score(rebuilt, case, prior)


def exact_sums(case: Case) -> Check:
    """Sums without noise and with every record in: what is left after subtraction is the record."""
    result = attack_sums(case, sigma=0.0)
    value = float(result.ratio.median())
    return Check(
        name="exact sums, one record unknown",
        passed=value <= 0.1,
        value=value,
        expected="distance ratio <= 0.1",
        detail=f"{int(result.success.sum())} of {len(result.success)} records rebuilt",
        affects=["reconstruction"],
    )


def drowned_sums(case: Case) -> Check:
    """The same sums under noise a thousand times the largest signal: no better than the blind guess."""
    result = attack_sums(case, sigma=1000.0, steps=50, batch=4)
    value = float(result.success.double().mean())
    return Check(
        name="sums drowned in noise",
        passed=value <= 0.5 and float(result.ratio.median()) >= 0.9,
        value=value,
        expected="success rate <= 0.5, distance ratio >= 0.9",
        detail=f"distance ratio {float(result.ratio.median()):.3f}",
        affects=["reconstruction"],
    )


def whole_pool(case: Case, networks: Sequence[Network]) -> list[Check]:
    """The real records released as they are, with the targets and without them.

    With them, the unexplained image is the record, and the class means alone show it too. Without them the
    attacker subtracts one record too many and gets nothing; 6 of 10 successes by luck are rarer than 1 in 100.
    """
    inside = Case(case.pool, torch.ones(len(case.pool), dtype=torch.bool), case.targets)
    outside = Case(case.pool, case.known, case.targets)
    checks = []
    for name, here, leaks in (
        ("set of all records", inside, True),
        ("set made without the record", outside, False),
    ):
        records = here.pool.subset(here.members)
        released = DistilledSet(records.pixels(), records.labels, records.num_classes, Card())
        prior = class_prior(here, device=torch.device("cpu"))
        generator = torch.Generator().manual_seed(2)
        clues = set_clues(released, here, ByClass(), networks)
        rebuilt = invert(
            clues, prior, independent=False, steps=80, batch=4, starts=1, generator=generator
        )  # fmt: skip
        value = float(score(rebuilt, here, prior).success.double().mean())
        odd = sum(v is not None for v in unexplained(released, here))
        good = value >= 0.8 and odd == len(here.targets) if leaks else value <= 0.5 and odd == 0
        checks.append(
            Check(
                name=name,
                passed=good,
                value=value,
                expected="success rate >= 0.8" if leaks else "success rate <= 0.5",
                detail=f"{odd} of {len(here.targets)} records lie in the set unexplained",
                affects=["reconstruction"],
            )
        )
    return checks


def shrunk(data: ImageData) -> ImageData:
    """At most 8 x 8 pixels: checks are of the attack, and larger images only take longer."""
    if data.modality != "image":
        return data
    size = min(8, *data.shape[1:])
    if (size, size) == tuple(data.shape[1:]):
        return data
    pooled = F.adaptive_avg_pool2d(data.pixels(), size)
    return replace(data, images=(255 * pooled).round().to(torch.uint8))


def small_network(data: ImageData, *, seed: int, norm: str = "") -> Network:
    """A narrow random ConvNet on pixels, in eval mode."""
    channels = data.shape[0]
    network = build(
        fit(Arch("convnet", width=16, norm=norm), data.shape),
        shape=data.shape,
        num_classes=data.num_classes,
        seed=seed,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    return network.eval().requires_grad_(False)
