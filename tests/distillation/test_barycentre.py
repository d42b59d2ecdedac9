"""Barycentres and plans: closed forms on a line, a linear program's optimum by enumeration, k = 1 and k = N."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import optimize, stats

from ddaudit.data import Dataset
from ddaudit.distillation.barycentre import BarycentreFeatures, barycentre, transport
from ddaudit.distillation.loops import Job
from ddaudit.distillation.parts import View
from ddaudit.distillation.tracing import trace
from ddaudit.errors import BadInput
from ddaudit.models import Arch, build


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_on_a_line_atoms_are_the_means_of_equal_shares_in_order() -> None:
    """In one dimension mass keeps its order: atom j is the mean of the j-th k-quantile of the sorted points."""
    points = torch.randn(60, 1, generator=g(1), dtype=torch.float64)
    want = points.flatten().sort().values.view(6, 10).mean(1)
    got = barycentre(points, 6, g(2)).flatten().sort().values
    assert torch.allclose(got, want, atol=1e-8)


def test_of_a_gaussian_on_a_line_atoms_are_conditional_means_of_quantiles() -> None:
    """E[z | z in the j-th quartile] = 4 (pdf(q_j-1) - pdf(q_j)), of many points at the quantiles of N(3, 2^2)."""
    at = torch.from_numpy(stats.norm.ppf((torch.arange(400).double() + 0.5) / 400).copy())
    q = stats.norm.ppf([0.25, 0.5, 0.75])
    pdf = [0.0, *stats.norm.pdf(q), 0.0]
    want = torch.tensor([3 + 2 * 4 * (a - b) for a, b in itertools.pairwise(pdf)])
    got = barycentre((3 + 2 * at)[:, None], 4, g(3)).flatten().sort().values
    assert torch.allclose(got.float(), want.float(), atol=0.02)


def test_one_atom_is_the_mean_and_as_many_as_points_are_the_points() -> None:
    points = torch.randn(7, 5, generator=g(4), dtype=torch.float64)
    assert torch.allclose(barycentre(points, 1, g()), points.mean(0)[None])
    got = barycentre(points, 7, g())
    assert torch.allclose(
        torch.cdist(got, points).min(1).values, torch.zeros(7).double(), atol=1e-7
    )
    assert sorted(torch.cdist(got, points).argmin(1).tolist()) == list(range(7))


def test_a_plan_is_the_best_of_all_assignments() -> None:
    cost = torch.rand(5, 5, generator=g(5), dtype=torch.float64)
    best = min(
        sum(float(cost[i, j]) for i, j in enumerate(p)) for p in itertools.permutations(range(5))
    )
    plan = transport(cost)
    assert float((plan * cost).sum()) == pytest.approx(best / 5, rel=1e-7)
    assert torch.allclose(plan.sum(0), torch.full((5,), 0.2).double(), atol=1e-9)
    even = torch.rand(4, 24, generator=g(7), dtype=torch.float64)
    ours = transport(even) * even
    rows, columns = optimize.linear_sum_assignment(even.repeat_interleave(6, 0).numpy())
    assert float(ours.sum()) == pytest.approx(
        float(even.repeat_interleave(6, 0)[rows, columns].mean()), rel=1e-9
    )
    uneven = transport(torch.rand(3, 8, generator=g(6), dtype=torch.float64))
    assert torch.allclose(uneven.sum(1), torch.full((3,), 1 / 3).double(), atol=1e-9)
    assert torch.allclose(uneven.sum(0), torch.full((8,), 1 / 8).double(), atol=1e-7)


def test_the_loss_is_the_norm_to_the_atoms_of_the_batch(tiny: Dataset) -> None:
    net = build(
        Arch.parse("ConvNetD1W4BN"),
        shape=(3, 8, 8),
        num_classes=4,
        seed=0,
        mean=[0.0] * 3,
        std=[1.0] * 3,
    )
    net.eval()
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    job = Job(tiny.train, everyone, tiny, 2, 0, torch.device("cpu"))
    constants = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    few = BarycentreFeatures(records=6)
    assert torch.equal(*(few.learn(job, [net], constants).known for _ in range(2)))
    term = BarycentreFeatures().learn(job, [net], constants)
    assert term.known is not None
    assert len(term.known) == 8
    own = tiny.train.pixels((tiny.train.labels == 3).nonzero().squeeze(1))
    assert len(own) % 2 == 0
    features = trace(net, own).features
    # The mean of equally heavy atoms is the mean of the points.
    assert torch.allclose(term.known[6:].mean(0), features.mean(0), atol=1e-4)
    x, index = torch.rand(1, 3, 3, 8, 8, generator=g()), torch.tensor([1, 4, 6])
    view = View(x, x, torch.tensor([0, 2, 3]), 4, net, torch.ones(3, 1, 1), 0, index=index)
    want = (trace(net, x[0]).features - term.known[index]).square().sum().sqrt()
    assert float(term.loss(view).detach()) == pytest.approx(float(want), rel=1e-5)
    with pytest.raises(BadInput, match="features of one teacher, and there are 2"):
        BarycentreFeatures().learn(job, [net, net], constants)
    with pytest.raises(BadInput, match="learned beforehand"):
        BarycentreFeatures().loss(view)
