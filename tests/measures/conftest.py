"""Victims with known answers, and one real audit context."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddaudit.auditing import PRESETS, Context, Subject
from ddaudit.data import Dataset
from ddaudit.models import Arch

Answer = Callable[[Tensor], Tensor]


class KnownVictims(Context):
    """A context whose victims are functions from images (N, C, H, W) to logits (N, K)."""

    def __init__(self, data: Dataset, answers: list[Answer]) -> None:
        super().__init__(data=data, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"))
        self.trained = answers

    def victims(self, subject: Subject, seed: int, *, protocol=None) -> list[Answer]:  # type: ignore[override]
        return self.trained

    def predict(self, network: Answer, images: Tensor) -> Tensor:  # type: ignore[override]
        return network(images).float()


@pytest.fixture
def known() -> type[KnownVictims]:
    """The class, to be called with data and answers."""
    return KnownVictims


@pytest.fixture
def subject() -> Subject:
    """A checkpoint without a distilled set."""
    return Subject(id="known", kind="checkpoint")


@pytest.fixture(scope="session")
def audit(tiny) -> Context:
    """A real context on the tiny data; victims of one subject are trained once for all tests."""
    return Context(data=tiny, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"), ipc=5)


@pytest.fixture(scope="session")
def random_subset() -> Subject:
    """The random-subset recipe."""
    from ddaudit.distillation import resolve

    return Subject(id="random", kind="recipe", recipe=resolve("random"), identity="random")


def answering(table: Tensor, images: Tensor) -> Answer:
    """A victim that gives row i of ``table`` for row i of ``images``, and zeros for anything else."""

    def of(asked: Tensor) -> Tensor:
        same = len(asked) == len(images) and torch.equal(asked, images)
        return table if same else torch.zeros(len(asked), table.shape[1])

    return of


@pytest.fixture(name="answering")
def _answering() -> Callable[[Tensor, Tensor], Answer]:
    return answering
