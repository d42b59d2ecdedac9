"""A network and images given by formulas: the same numbers with every version of every library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from ddaudit.data import Dataset
from ddaudit.models import Arch, Network, build


@dataclass(frozen=True)
class Formula:
    """``network(classes)`` on 3 x 8 x 8 images; ``images(n)`` pixels strictly inside [0, 1]."""

    network: Callable[..., nn.Module]
    images: Callable[..., Tensor]


@pytest.fixture(scope="session")
def formula() -> Formula:
    """The reference repository's verdicts in test_attacks were computed on these."""
    return Formula(_network, _images)


@pytest.fixture(scope="session")
def fitted() -> Callable[..., Network]:
    """``fitted(data, arch, steps, seed=0)``: a network after some steps of Adam on all training records."""

    def fit(data: Dataset, arch: Arch, steps: int, seed: int = 0) -> Network:
        net = build(
            arch, shape=data.shape, num_classes=data.num_classes, seed=seed, mean=data.mean, std=data.std
        )  # fmt: skip
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(net(data.train.pixels()), data.train.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return net.eval()

    return fit


def _wave(*shape: int, pace: float) -> Tensor:
    count = int(torch.tensor(shape).prod())
    return torch.sin(torch.arange(1, count + 1, dtype=torch.float64) ** 2 * pace).view(shape)


def _network(classes: int = 6) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, classes)
    )  # fmt: skip
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(0.3 * _wave(*p.shape, pace=0.37 + 0.11 * k))
        net[4].bias -= net(_images()).mean(0)  # no class wins everywhere
    return net.eval()


def _images(n: int = 40) -> Tensor:
    return (0.5 + 0.45 * _wave(n, 3, 8, 8, pace=0.0173)).float()
