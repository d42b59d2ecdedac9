"""A function as a method: which records it sees, which seed, what it may give back, and what it composes with."""

from __future__ import annotations

import pytest
import torch

import ddaudit
from ddaudit.auditing import recipe_subject
from ddaudit.data import ImageData, load_data
from ddaudit.distillation import distill_many
from ddaudit.distillation.recipe import METHODS
from ddaudit.errors import BadInput

Pair = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def registered():
    """Names that a test registers, taken back afterwards."""
    yield
    for name in [n for n in METHODS._entries if n.startswith("own-")]:
        del METHODS._entries[name], METHODS._owners[name]


@pytest.fixture
def means(registered):
    @ddaudit.method("own-means")
    def class_means(train: ImageData, ipc: int, seed: int) -> Pair:
        pixels = train.pixels()
        made = [pixels[train.labels == c].mean(0) for c in range(train.num_classes)]
        return torch.stack(made).repeat(ipc, 1, 1, 1), torch.arange(train.num_classes).repeat(ipc)

    return class_means


def test_a_function_is_distilled_again_on_the_members_alone(means) -> None:
    data = load_data("digits")
    members = torch.rand(2, len(data.train), generator=torch.Generator().manual_seed(0)) < 0.5
    sets = distill_many(ddaudit.resolve("own-means"), data.train, members, data=data, ipc=1, seed=0)
    for row, made in zip(members, sets, strict=True):
        threes = data.train.pixels()[row & (data.train.labels == 3)]
        assert torch.allclose(made.images[3], threes.mean(0))
        assert made.card.method == "own-means"


def test_its_own_random_numbers_follow_the_seed(registered) -> None:
    @ddaudit.method("own-noise")
    def noise(train: ImageData, ipc: int, seed: int) -> Pair:
        return torch.rand(10, *train.shape), torch.arange(10)

    one, same, other = (ddaudit.distill("own-noise", ipc=1, seed=s, quiet=True) for s in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: torch.rand(10, 1, 8, 8), "gives Tensor, not two tensors"),
        (lambda: (torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10)), "torch.uint8"),
        (lambda: (torch.rand(10, 1, 8, 8), torch.arange(10) + 1), "label 10 is out of range"),
        (lambda: (torch.rand(10, 64), torch.arange(10)), r"expected \(M, C, H, W\)"),
        (lambda: (torch.full((10, 1, 8, 8), torch.nan), torch.arange(10)), "contain NaN"),
    ],
)
def test_what_is_no_set_is_refused_in_a_line(registered, made, words: str) -> None:
    ddaudit.method("own-wrong")(lambda train, ipc, seed: made())
    with pytest.raises(BadInput, match=f"^own-wrong: .*{words}"):
        ddaudit.distill("own-wrong", ipc=1, quiet=True)


@pytest.mark.parametrize("defense", ["fair", "dp", "balanced"])
def test_defenses_that_change_parts_refuse_it(means, defense: str) -> None:
    with pytest.raises(BadInput):
        ddaudit.resolve(f"own-means+{defense}")


def test_an_edited_function_is_another_subject(registered) -> None:
    def first(train: ImageData, ipc: int, seed: int) -> Pair:
        return torch.zeros(10, *train.shape), torch.arange(10)

    def second(train: ImageData, ipc: int, seed: int) -> Pair:
        return torch.ones(10, *train.shape), torch.arange(10)

    second.__qualname__ = first.__qualname__
    ddaudit.method("own-edited")(first)
    before = recipe_subject(ddaudit.resolve("own-edited")).identity
    ddaudit.method("own-edited")(second)
    assert recipe_subject(ddaudit.resolve("own-edited")).identity != before


def test_nobody_takes_a_builtin_name(registered) -> None:
    with pytest.raises(BadInput, match="is registered by ddaudit"):
        ddaudit.method("dm")(lambda train, ipc, seed: None)
