"""Nothing but the gate's answers reaches a private set: replayed on neighbouring data they give the same set.

Every private method is run on records, and once more where a few of them have other pixels, while the gate gives the
answers of the first run whatever it finds. What still differs got past the ledger. On the way, each clean sum is
compared with that of the first run: a record that is exchanged moves it by two clips at most.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ddaudit.data import Dataset
from ddaudit.defenses.privacy import source
from ddaudit.defenses.privacy.randomness import SeededRandomness
from ddaudit.defenses.privacy.source import PrivateSource
from ddaudit.distillation import METHODS, Recipe, distill, resolve
from ddaudit.distillation.requests import has_option
from ddaudit.errors import BadInput
from ddaudit.sets import DistilledSet

from .planted import Sneaky

SMALL = {
    "reader.sigma": 1.0,
    "reader.delta": 1e-3,
    "reader.batch": 60,
    "loop.steps": 2,
    "loop.pool": 2,
    "loop.iterations": 2,
    "loop.inner": 1,
    "networks.features": 50,
    "networks.dims": 8,
    "networks.images": 20,
    "networks.width": 4,
    "synthesis.width": 4,
}
COMPOSED = ("dm+dp", "dsa+dp", "dm+fair+balanced+dp")


def private_methods() -> list[str]:
    found = (METHODS.get(name) for name in METHODS.names())
    return [m.name for m in found if m.reader and m.reader.private] + list(COMPOSED)


def small(name: str) -> Recipe:
    recipe = resolve(name, profile="small")
    pooled = getattr(recipe.loop, "pool", None) is not None
    options = {k: v for k, v in SMALL.items() if has_option(recipe, k)}
    if not pooled:
        options.pop("loop.pool", None)
    else:
        options.pop("loop.inner", None)
    if not hasattr(recipe.loop, "iterations") or recipe.loop.iterations is None:
        options.pop("loop.iterations", None)
    return recipe.options(options)


class Gate:
    """Records the clean sums and the answers of a run, then gives the same answers to other records."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums: list[Tensor] = []
        self.answers: list[Tensor] = []
        self.moves: list[float] = []
        self.replayed: int | None = None
        real, gate = PrivateSource._noisy, self

        def noisy(mine: PrivateSource, sums: Tensor, deviation: float) -> Tensor:
            answer = real(mine, sums, deviation)
            if gate.replayed is None:
                gate.sums.append(sums)
                gate.answers.append(answer)
                return answer
            first = gate.sums[gate.replayed]
            gate.moves.append(float((sums - first).double().norm()) / mine._planned().clip)
            gate.replayed += 1
            return gate.answers[gate.replayed - 1]

        monkeypatch.setattr(PrivateSource, "_noisy", noisy)
        # The same coins for both, although no seed is published.
        monkeypatch.setattr(source, "randomness", lambda _: SeededRandomness(5))


EXCHANGED = slice(0, 40, 8)
"""Five records of one class, so that some are sampled."""


def twice(
    recipe: Recipe, data: Dataset, gate: Gate, exchanged: slice = EXCHANGED
) -> tuple[DistilledSet, DistilledSet]:
    first = distill(recipe, data.train, data=data, ipc=1, seed=1)
    gate.replayed = 0
    images = data.train.images.clone()
    images[exchanged] = 255 - images[exchanged]
    neighbour = replace(data, train=replace(data.train, images=images))
    return first, distill(recipe, neighbour.train, data=neighbour, ipc=1, seed=1)


def card(made: DistilledSet) -> dict[str, object]:
    plain = made.card.model_dump()
    plain["privacy"].pop("release")  # drawn by the system
    return plain


@pytest.mark.parametrize("name", private_methods())
def test_answers_are_all_that_reaches_a_private_set(
    tiny: Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    first, again = twice(small(name), tiny, gate)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert card(first) == card(again)
    assert gate.replayed == len(gate.answers) > 0
    assert 0 < max(gate.moves) <= 5 * 2 * (1 + 1e-4)


def test_a_start_from_records_is_shown_none(tiny: Dataset) -> None:
    recipe = replace(small("dm+dp"), synthesis=Sneaky())
    with pytest.raises(BadInput, match="has no training record to start from"):
        distill(recipe, tiny.train, data=tiny, ipc=1, seed=1)
