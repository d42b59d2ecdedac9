"""Known-answer tests of the membership attacks: a victim that memorised, simulated shadows with and
without a signal, and held-out records that pose as members.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ddaudit.attacks._common.nonmembers import TOLERANCE, cell_auc, cells, held_out
from ddaudit.attacks._common.signals import negative_loss
from ddaudit.attacks.membership.attacks import lira_scores
from ddaudit.attacks.membership.scores import lira
from ddaudit.attacks.membership.shadows import split
from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.findings import Check
from ddaudit.stats import auc
from ddaudit.stats.pooled import break_ties, mean_auc, pooled_tpr

AREA_TOLERANCE = 0.017
"""Four standard deviations of the AUC of simulated shadows without a signal; with one it varies less."""
RATE_TOLERANCE = 0.55
"""The same for TPR at 1 % FPR, as a share of the rate."""


def memorised_victim(ctx: Context, *, records: int = 150) -> Check:
    """A small network overfitted on random labels: its loss must show its members.

    Labels are random, so nothing but memory can lower the loss of a member. How much it can show depends
    on the number of classes, see :func:`memorised_area`.
    """
    images, labels, network = _memorise(ctx, ctx.data.train, records)
    members = torch.arange(len(labels)) < len(labels) // 2
    value = auc(negative_loss(network(images), labels), members)
    inside, outside = int(members.sum()), int((~members).sum())
    area, error = memorised_area(ctx.data.num_classes, members=inside, nonmembers=outside)
    # With few records four standard errors reach chance: then at least half of the way from there.
    least = max(area - 4 * error, (0.5 + area) / 2)
    return Check(
        name="a victim that memorised its members",
        passed=value.value > least,
        value=value.value,
        expected=f"AUC of the loss attack > {least:.3f}",
        detail=(
            f"{inside} members with random labels, {outside} non-members; a table of the members' labels that "
            f"guesses all others reads {area:.3f}"
        ),
    )


def memorised_area(classes: int, *, members: int, nonmembers: int) -> tuple[float, float]:
    """AUC of the loss attack on a table of its members' random labels, and the AUC's standard error.

    The table answers non-members with some class, as surely as members. In one of K cases that is the
    non-member's random label: it then looks like a member, and ranks above one with an even chance. All
    others rank below every member, so the area is ``1 - 1 / (2 K)``: 0.75 of two classes. A network that is
    less sure of records it has not seen reads more.

    Args:
        classes: K, at least 2.
        members, nonmembers: how many of each; the error is that of the number of agreements (binomial) and
            of ranks within them (Mann-Whitney).
    """
    share = 1 / classes
    alike = share * nonmembers
    labels = share * (1 - share) / nonmembers / 4
    ranks = share**2 * (members + alike + 1) / (12 * members * alike)
    return 1 - share / 2, math.sqrt(labels + ranks)


def nonmembers_only(ctx: Context, *, records: int = 400) -> Check:
    """Held-out records that pose as members, by the way that files and checkpoints are attacked.

    Every other (class, group) cell gives 60 % of its held-out records to the "members" and the others
    40 %, so that the two sides differ in composition until
    :func:`~ddaudit.attacks.membership.shadows.split` has made them alike. The victim is a network
    trained on real records that were drawn just as unevenly; it saw neither side, so its loss must
    show nothing. The interval is a 99.9 % one: a sound instrument fails once in 1000 audits.

    Args:
        records: training records of the victim, at most.

    Raises:
        NotEnoughData: too few held-out records.
    """
    train, held = ctx.data.train, held_out(ctx).records
    g = ctx.generator("membership", "check", "strangers")
    of_train, of_held = cells(train, held)
    known = torch.unique(torch.cat([of_train, of_held]))
    chance = [
        (2 + (torch.searchsorted(known, cell) % 2 == 0).double()) / 5
        for cell in (of_train, of_held)
    ]
    seen, posing = (torch.rand(len(p), generator=g, dtype=torch.float64) < p for p in chance)
    nobody = held.subset(torch.zeros(0, dtype=torch.int64))
    data = replace(
        ctx.data, train=held.subset(posing), validation=nobody, test=held.subset(~posing)
    )
    sides = split(
        replace(ctx, data=data, artifacts=None),
        members=max(20, int(posing.sum()) // 2),
        nonmembers=1000,
    )
    pick = torch.randperm(len(train), generator=g)
    own = train.subset(pick[seen[pick]][:records])
    network = _fit(own.pixels(), own.labels, ctx.data.num_classes, g, steps=60)
    scores = negative_loss(network(sides.records.pixels()), sides.records.labels)
    value = auc(scores, sides.members[0], confidence=0.999)
    composition = cell_auc(sides.records, sides.members[0])
    return Check(
        name="non-members against non-members",
        passed=value.low <= 0.5 <= value.high and composition <= TOLERANCE,
        value=value.value,
        expected=f"99.9 % interval of the AUC contains 0.5, class and group alone at most {TOLERANCE}",
        detail=(
            f"[{value.low:.3f}, {value.high:.3f}] on {len(sides.records)} held-out records, class and "
            f"group alone {composition:.3f}"
        ),
        affects=["membership."],
    )


def simulated_shadows(
    ctx: Context, *, distance: float, runs: int = 16, records: int = 3000
) -> Check:
    """Margins of simulated shadows, through the attack and the pooling that recipes are judged by.

    Each run is attacked with the others as references. What that must read follows from the
    distribution of LiRA's score with estimated means, drawn here record by record without any of
    that code; with unlimited references it would be ``Phi(distance / sqrt 2)``, and without a signal
    0.5.

    Args:
        distance: by how many standard deviations membership moves a margin.
        runs, records: K and N of the simulation.
    """
    g = ctx.generator("membership", "check", "shadows", distance)
    members = torch.rand(runs, records, generator=g) < 0.5
    phi = 3 * torch.randn(records, generator=g, dtype=torch.float64)
    phi = phi + torch.randn(runs, records, generator=g, dtype=torch.float64) + distance * members
    scores = lira_scores(phi, members, pooled=True)
    area = mean_auc(scores, members, n_boot=20).value
    rate = pooled_tpr(break_ties(scores, generator=g), members, 0.01, n_boot=20).value
    wanted_area, wanted_rate = _ideal_lira(distance, references=runs - 1, generator=g)
    loose = RATE_TOLERANCE * wanted_rate
    return Check(
        name=f"LiRA on simulated shadows, {'a known' if distance else 'no'} signal",
        passed=abs(area - wanted_area) < AREA_TOLERANCE and abs(rate - wanted_rate) < loose,
        value=area,
        expected=(
            f"AUC {wanted_area:.3f} +- {AREA_TOLERANCE} and TPR at 1% FPR {wanted_rate:.4f} +- "
            f"{loose:.4f}"
        ),
        detail=f"TPR at 1% FPR {rate:.4f}; {runs} runs, {records} records",
        affects=["membership."],
    )


def gaussian_lira(ctx: Context, *, records: int = 20_000, distance: float = 1.0) -> Check:
    """LiRA on simulated margins of known Gaussians: its AUC has a closed form.

    Records differ in difficulty ten times more than membership shifts them, so that an attack with
    one threshold for all reads 0.5. The tolerance is four standard deviations of the sampling
    error.
    """
    g = ctx.generator("membership", "check", "gaussian")
    members = torch.rand(records, generator=g) < 0.5
    centre = 10 * distance * torch.randn(records, generator=g, dtype=torch.float64)
    phi = centre + torch.randn(records, generator=g, dtype=torch.float64) + distance * members
    one = torch.ones_like(centre)
    known = lira.InOut(mean_in=centre + distance, std_in=one, mean_out=centre, std_out=one)
    value = auc(lira.online(phi, known), members).value
    expected = lira.gaussian_auc(distance)
    return Check(
        name="LiRA on known Gaussians",
        passed=abs(value - expected) < 0.014,
        value=value,
        expected=f"AUC {expected:.3f} +- 0.014 (closed form)",
    )


def _ideal_lira(
    distance: float, *, references: int, generator: torch.Generator, draws: int = 200_000
) -> tuple[float, float]:
    """AUC and TPR at 1 % FPR of LiRA with known spread 1 and means estimated from references.

    A record is in each reference with probability one half. Its difficulty cancels, so that the
    score depends on three independent normal numbers: the margin and the errors of both means.
    """

    def draw(shift: float) -> Tensor:
        coins = torch.rand(references, draws, generator=generator) < 0.5
        inside = coins.sum(0).clamp(1, references - 1).double()
        noise = torch.randn(3, draws, generator=generator, dtype=torch.float64)
        x = shift + noise[0]
        mean_in = distance + noise[1] / inside.sqrt()
        mean_out = noise[2] / (references - inside).sqrt()
        score: Tensor = (x - mean_out) ** 2 - (x - mean_in) ** 2
        return score

    member, other = draw(distance), draw(0.0)
    threshold = torch.sort(other).values[round(0.99 * draws)]
    return float((member > other).double().mean()), float((member > threshold).double().mean())


def _memorise(ctx: Context, data: ImageData, records: int) -> tuple[Tensor, Tensor, nn.Module]:
    """2 x ``records`` training images, random labels, and a network fitted to the first half."""
    g = ctx.generator("membership", "check", "memorise")
    pick = torch.randperm(len(data), generator=g)[: 2 * records]
    images = data.pixels(pick)
    labels = torch.randint(ctx.data.num_classes, (len(pick),), generator=g)
    half = len(pick) // 2
    network = _fit(images[:half], labels[:half], ctx.data.num_classes, g, steps=150)
    return images, labels, network


def _fit(
    images: Tensor, labels: Tensor, classes: int, generator: torch.Generator, *, steps: int
) -> nn.Module:
    """A small network fitted to all of the images at once."""
    network = _wide(images[0].numel(), classes, generator)
    shift, scale = images.mean(), images.std()
    memorise(network, (images - shift) / scale, labels, steps=steps)
    return _Scaled(network, shift, scale)


def memorise(network: nn.Module, x: Tensor, y: Tensor, *, steps: int) -> None:
    """Fit a network in place to all records at once, (N, ...) inputs and (N,) labels: no batches, no augmentation."""
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(network(x), y)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()


class _Scaled(nn.Module):
    """Pixels -> logits in one call, without gradients."""

    def __init__(self, network: nn.Module, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.network, self.shift, self.scale = network, shift, scale

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network((pixels - self.shift) / self.scale)
        return logits


def _wide(inputs: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    """One hidden layer of 256, weights from ``generator`` (He initialisation)."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, classes)
    )
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.Linear):
                scale = (2.0 / layer.in_features) ** 0.5
                layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator))
                layer.bias.zero_()
    return network
