"""Small sets, a pickle that bites, and the data set that imported files are read against."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddaudit.sets import Card, DistilledSet


class _Bomb:
    """Unpickling this opens a file for writing: harmless, and it leaves a trace."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that appears when a bomb goes off."""
    return tmp_path / "exploded"


@pytest.fixture
def bomb(marker: Path) -> object:
    """A pickle bomb that is known to be live."""
    armed = _Bomb(marker)
    pickle.loads(pickle.dumps(armed)).close()
    assert marker.exists(), "the bomb is a dud: tests that use it prove nothing"
    marker.unlink()
    return armed


@pytest.fixture
def make_set() -> Callable[..., DistilledSet]:
    """A set of ``classes`` x ``ipc`` random images in [0, 1), class by class."""

    def make(
        *,
        classes: int = 4,
        ipc: int = 2,
        shape: tuple[int, int, int] = (3, 8, 8),
        soft: bool = False,
        **card: Any,
    ) -> DistilledSet:
        g = torch.Generator().manual_seed(7)
        images = torch.rand(classes * ipc, *shape, generator=g)
        labels = torch.arange(classes).repeat_interleave(ipc)
        if soft:
            labels = torch.rand(len(images), classes, generator=g).softmax(1)
        return DistilledSet(images, labels, classes, Card(**{"ipc": ipc, **card}))

    return make
