"""Dataset dictionaries: barycentres and distances of known answer, and labels that cross to a domain without any."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.dictionary import (
    Cloud,
    Dictionary,
    barycentre,
    distance,
)
from ddaudit.errors import BadInput
from ddaudit.sets.simplex import to_simplex


def clouds(shift: float, n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes far apart in the first coordinate, all of it shifted along the second."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    x = torch.randn(n, 2, generator=g) * 0.3
    return x + torch.stack([6.0 * labels, torch.full((n,), shift)], 1), F.one_hot(labels, 2).float()


def test_the_barycentre_of_a_cloud_and_its_shift_lies_between_them() -> None:
    """Of translates the optimal plan is the translation: point i goes to (1 - a) x_i + a (x_i + t)."""
    x, y = clouds(0.0)
    moved = x + torch.tensor([0.5, 3.0])
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    made = barycentre(
        torch.stack([x, moved[shuffled]]), torch.stack([y, y[shuffled]]),
        torch.tensor([0.75, 0.25]), 1.0, sweeps=10,
    )  # fmt: skip
    torch.testing.assert_close(made.x, x + torch.tensor([0.125, 0.75]))
    assert made.y is not None
    torch.testing.assert_close(made.y, y)


def test_the_distance_of_translates_is_the_squared_shift_and_labels_cost_extra() -> None:
    x, y = clouds(0.0)
    moved = Cloud(x + torch.tensor([3.0, 4.0]) / 10, y)
    assert float(distance(Cloud(x, y), moved, 7.0)) == pytest.approx(0.25, rel=1e-4)
    swapped = Cloud(x, y.flip(1))  # every label wrong: keep the place and pay 2, or cross over
    assert float(distance(Cloud(x, y), swapped, 0.1)) == pytest.approx(0.2, rel=1e-4)
    assert float(distance(Cloud(x, None), swapped, 7.0)) == pytest.approx(0.0, abs=1e-6)


def test_rows_go_to_the_nearest_point_of_the_simplex() -> None:
    rows = torch.tensor([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, 0.8, -3.0]])
    known = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [1 / 3] * 3, [0.6, 0.4, 0.0]]
    torch.testing.assert_close(to_simplex(rows), torch.tensor(known))


def test_a_domain_without_labels_gets_points_of_its_own_with_the_labels_of_others() -> None:
    sources = [Cloud(*clouds(s, seed=k)) for k, s in enumerate((-4.0, 4.0))]
    x, truth = clouds(1.0, n=60, seed=9)
    loop = Dictionary(atoms=2, iterations=40, lr=0.2)
    made = loop.learn([*sources, Cloud(x, None)], points=10, seed=0)
    assert made.y is not None
    nearest = torch.cdist(made.x, x).argmin(1)
    assert torch.equal(made.y.argmax(1), truth[nearest].argmax(1))
    assert (
        float(distance(Cloud(x[:10], None), Cloud(made.x, None), 0)) < 1.0
    )  # the sources: 9 and 25
    torch.testing.assert_close(made.y.sum(1), torch.ones(10))


def test_the_recipe_reads_no_label_of_its_target_and_needs_groups(tiny) -> None:
    options = {"loop.iterations": 3, "loop.atoms": 2}
    recipe = resolve("msda-dd", options=options)
    assert tiny.train.groups is not None
    hidden = replace(tiny.train, labels=tiny.train.labels.clone())
    hidden.labels[tiny.train.groups == 1] = 0
    one, other = (distill(recipe, part, data=tiny, ipc=2, seed=0) for part in (tiny.train, hidden))
    assert torch.equal(one.images, other.images)
    assert one.images.shape == (8, 3, 8, 8)
    assert one.labels.shape == (8, 4)
    only = tiny.train.subset(tiny.train.groups == 0)
    with pytest.raises(BadInput, match="groups are 0 to 1"):
        distill(recipe, only, data=tiny, ipc=2, seed=0)
    for name in ("msda-dd+dp", "msda-dd+fair"):
        with pytest.raises(BadInput):
            resolve(name)
