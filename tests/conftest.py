"""Shared fixtures: small data on which every test runs in seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddaudit.cli import main
from ddaudit.data import Dataset, ImageData
from ddaudit.models import Arch, build

torch.set_num_threads(1)


def _blobs(n: int, *, seed: int, classes: int = 4, groups: int = 2) -> ImageData:
    """Separable 8x8 RGB images: class = bright quadrant, group = tint. Learnt in a few steps by any network."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    group = torch.randint(groups, (n,), generator=g)
    x = 0.25 * torch.rand(n, 3, 8, 8, generator=g)
    for i in range(n):
        r, c = divmod(int(labels[i]) % 4, 2)
        x[i, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] += 0.5
        x[i, int(group[i]) % 3] += 0.2
    return ImageData(
        images=(x.clamp(0, 1) * 255).to(torch.uint8),
        labels=labels,
        class_names=tuple(f"class {c}" for c in range(classes)),
        groups=group,
        group_names=tuple(f"group {g}" for g in range(groups)),
    )


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
def tiny() -> Dataset:
    """240 / 80 / 160 separable 8x8 RGB images, 4 classes, 2 groups."""
    return Dataset(
        name="tiny",
        train=_blobs(240, seed=0),
        validation=_blobs(80, seed=1),
        test=_blobs(160, seed=2),
        mean=(0.4, 0.4, 0.4),
        std=(0.25, 0.25, 0.25),
        augment="",
    )


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with real data sets; the test skips, loudly, where it is absent."""
    root = os.environ.get("DDAUDIT_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("no real data: set DDAUDIT_DATA to a data root to run this test")
    return Path(root)


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a ddaudit command in this process; returns (exit code, standard output, lines of standard error)."""

    def call(*argv: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["ddaudit", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err.strip().splitlines()

    return call


@pytest.fixture(scope="session")
def known():
    """Tensors that public code was run on outside, the same arithmetic there and here, so that losses can be compared:
    ``network(arch, num_classes, channels)`` and ``images(n, phase, channels)``."""
    return SimpleNamespace(network=_network, images=_images)
