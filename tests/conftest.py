"""Shared fixtures: small data on which every test runs in seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from ddaudit.cli import main
from ddaudit.data import Dataset, ImageData

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
