"""Known-answer tests of the membership instrument: a victim that memorised, one that cannot know, a
formula.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddaudit.attacks.membership.scores import lira
from ddaudit.attacks.membership.scores.signals import negative_loss
from ddaudit.auditor import Context, stratified
from ddaudit.data import ImageData
from ddaudit.findings import Check
from ddaudit.stats import auc


def memorised_victim(ctx: Context, *, records: int = 150) -> Check:
    """A small network overfitted on random labels: its loss must give its members away.

    Labels are random, so nothing but memory can lower the loss of a member.
    """
    images, labels, network = _memorise(ctx, ctx.data.train, records)
    members = torch.arange(len(labels)) < len(labels) // 2
    value = auc(negative_loss(network(images), labels), members)
    return Check(
        name="a victim that memorised its members",
        passed=value.value > 0.9,
        value=value.value,
        expected="AUC of the loss attack > 0.9",
        detail=f"{int(members.sum())} members with random labels, as many non-members",
    )


def strangers_only(ctx: Context, *, records: int = 150) -> Check:
    """The same victim on records it never saw, split at random: nothing may be found.

    The interval is a 99.9 % one, so that a sound instrument fails once in 1000 audits.
    """
    _, _, network = _memorise(ctx, ctx.data.train, records)
    outside = stratified(ctx.data.test, 1000)
    g = ctx.generator("membership", "check", "strangers")
    labels = torch.randint(ctx.data.num_classes, (len(outside),), generator=g)
    half = torch.rand(len(outside), generator=g) < 0.5
    value = auc(negative_loss(network(outside.pixels()), labels), half, confidence=0.999)
    return Check(
        name="non-members against non-members",
        passed=value.low <= 0.5 <= value.high,
        value=value.value,
        expected="99.9 % interval of the AUC contains 0.5",
        detail=f"[{value.low:.3f}, {value.high:.3f}] on {len(outside)} records",
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


def _memorise(ctx: Context, data: ImageData, records: int) -> tuple[Tensor, Tensor, nn.Module]:
    """2 x ``records`` training images, random labels, and a network fitted to the first half."""
    g = ctx.generator("membership", "check", "memorise")
    pick = torch.randperm(len(data), generator=g)[: 2 * records]
    images = data.pixels(pick)
    labels = torch.randint(ctx.data.num_classes, (len(pick),), generator=g)
    half = len(pick) // 2
    network = _wide(images[0].numel(), ctx.data.num_classes, g)
    x = (images[:half] - images[:half].mean()) / images[:half].std()
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(150):
        loss = nn.functional.cross_entropy(network(x), labels[:half])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    shift, scale = images[:half].mean(), images[:half].std()
    return images, labels, _Scaled(network, shift, scale)


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
