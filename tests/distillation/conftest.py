"""Tensors that public code was run on outside: the same arithmetic there and here, so that losses can be compared."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ddaudit.distillation.networks import Fresh


def _network(arch="ConvNetD1W4", num_classes=3):
    """Float64; parameter k is 0.3 sin(0.7 i + k) over its elements i."""
    fresh = Fresh(arch)
    device = torch.device("cpu")
    net = fresh.make(shape=(1, 8, 8), num_classes=num_classes, seed=0, device=device).double()
    with torch.no_grad():
        for k, p in enumerate(net.body.parameters()):
            p.copy_(0.3 * torch.sin(0.7 * _counting(p.numel()) + k).view_as(p))
    return net


def _images(n, phase):
    """(n, 1, 8, 8) float64: cos(0.37 i + phase) over all elements i."""
    return torch.cos(0.37 * _counting(n * 64) + phase).view(n, 1, 8, 8)


def _counting(n):
    return torch.arange(n, dtype=torch.float64)


@pytest.fixture(scope="session")
def known():
    """``network(arch, num_classes)`` and ``images(n, phase)``."""
    return SimpleNamespace(network=_network, images=_images)
