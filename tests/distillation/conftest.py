"""Tensors that public code was run on outside: the same arithmetic there and here, so that losses can be compared."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ddaudit.models import Arch, build


def _network(arch="ConvNetD1W4", num_classes=3, channels=1):
    """Float64; parameter k is 0.3 sin(0.7 i + k) over its elements i."""
    net = build(
        Arch.parse(arch), shape=(channels, 8, 8), num_classes=num_classes, seed=0,
        mean=[0.0] * channels, std=[1.0] * channels,
    ).double()  # fmt: skip
    with torch.no_grad():
        for k, p in enumerate(net.body.parameters()):
            p.copy_(0.3 * torch.sin(0.7 * _counting(p.numel()) + k).view_as(p))
    return net


def _images(n, phase, channels=1):
    """(n, channels, 8, 8) float64: cos(0.37 i + phase) over all elements i."""
    return torch.cos(0.37 * _counting(n * channels * 64) + phase).view(n, channels, 8, 8)


def _counting(n):
    return torch.arange(n, dtype=torch.float64)


@pytest.fixture(scope="session")
def known():
    """``network(arch, num_classes, channels)`` and ``images(n, phase, channels)``."""
    return SimpleNamespace(network=_network, images=_images)
