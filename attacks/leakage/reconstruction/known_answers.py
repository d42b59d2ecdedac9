"""Known-answer tests of the reconstruction attacks: releases that hold everything, and that hold nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from ddaudit.attacks.leakage.reconstruction import loo
from ddaudit.attacks.leakage.reconstruction.inversion import Case, class_prior, invert
from ddaudit.attacks.leakage.reconstruction.released_set import set_clues, unexplained
from ddaudit.attacks.leakage.reconstruction.releases import NoisySums, SumClue, sum_clue
from ddaudit.attacks.leakage.reconstruction.scoring import Score, score
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
    found = invert(
        clues, prior, independent=True, steps=steps, batch=batch, starts=1, generator=generator
    )
    return score(found, case, prior)


def exact_sums(case: Case) -> Check:
    """Sums without noise and with every record in: what is left after subtraction is the record."""
    found = attack_sums(case, sigma=0.0)
    value = float(found.ratio.median())
    return Check(
        name="exact sums, one record unknown",
        passed=value <= 0.1,
        value=value,
        expected="distance ratio <= 0.1",
        detail=f"{int(found.success.sum())} of {len(found.success)} records rebuilt",
        affects=["reconstruction"],
    )


def drowned_sums(case: Case) -> Check:
    """The same sums under noise a thousand times the largest signal: no better than the blind guess."""
    found = attack_sums(case, sigma=1000.0, steps=50, batch=4)
    value = float(found.success.double().mean())
    return Check(
        name="sums drowned in noise",
        passed=value <= 0.5 and float(found.ratio.median()) >= 0.9,
        value=value,
        expected="success rate <= 0.5, distance ratio >= 0.9",
        detail=f"distance ratio {float(found.ratio.median()):.3f}",
        affects=["reconstruction"],
    )


def whole_pool(case: Case, networks: Sequence[Network]) -> list[Check]:
    """The real records released as they are, with the targets and without them.

    With them, the unexplained image is the record, and the class means alone give it away too. Without them the
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
        found = invert(
            clues, prior, independent=False, steps=80, batch=4, starts=1, generator=generator
        )  # fmt: skip
        value = float(score(found, here, prior).success.double().mean())
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


def memorised_weights(train: ImageData, *, records: int = 10, width: int = 256, steps: int = 300) -> Check:  # fmt: skip
    """Loo's attack on a small network that has memorised a few records: members must be rebuilt closer.

    The network's weights before training are known. 1 in 1000 networks without any memory would pass.
    """
    generator = torch.Generator().manual_seed(3)
    pick = torch.randperm(len(train), generator=generator)[: 2 * records]
    x = train.pixels(pick).flatten(1)
    y = (2.0 * (train.labels[pick] % 2) - 1)[:, None]
    mean = float(x[:records].mean())
    x = x - mean
    initial = loo.random_mlp((x.shape[1], width, width, 1), generator)
    final = loo.train(initial, x[:records], y[:records])
    found = loo.reconstruct(
        initial,
        final,
        count=2 * records,
        low=-mean,
        high=1 - mean,
        steps=steps,
        generator=generator,
    )
    members, controls = loo.nearest(x[:records], found), loo.nearest(x[records:], found)
    value = loo.closer(members, controls)
    return Check(
        name="weights of a network that memorised its records",
        passed=value <= 1e-3,
        value=value,
        expected="p <= 0.001 that members are rebuilt closer than non-members",
        detail=(
            f"median distance {float(members.median()):.2f} to members, "
            f"{float(controls.median()):.2f} to non-members"
        ),
        affects=[],
    )


def shrunk(data: ImageData) -> ImageData:
    """At most 8 x 8 pixels: checks are of the attack, and larger images only take longer."""
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
