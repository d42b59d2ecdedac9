"""The low-rank normal against torch's dense one."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from ddaudit.attacks.reconstruction.inversion import low_rank_normal, stack


@pytest.mark.parametrize("rows", [0, 3, 9])
def test_squared_lengths_and_samples_are_those_of_the_dense_normal(rows: int) -> None:
    g = torch.Generator().manual_seed(0)
    b = torch.randn(rows, 5, generator=g, dtype=torch.float64)
    covariance = 0.3 * torch.eye(5, dtype=torch.float64) + b.T @ b
    normal = low_rank_normal(b, floor=0.3)
    e = torch.randn(7, 5, generator=g, dtype=torch.float64)
    dense = MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance)
    # log density = -squared / 2 + constant
    expected = -2 * (dense.log_prob(e) - dense.log_prob(torch.zeros_like(e)))
    torch.testing.assert_close(normal.squared(e), expected)
    drawn = low_rank_normal(b.float(), floor=0.3).sample(200_000, g).double()
    scale = float(covariance.diagonal().max())
    assert float((torch.cov(drawn.T) - covariance).abs().max()) < 0.02 * scale


def test_a_stack_gives_each_vector_its_own_distribution() -> None:
    g = torch.Generator().manual_seed(0)
    normals = [low_rank_normal(torch.randn(n, 6, generator=g), floor=0.5) for n in (0, 2, 4)]
    e = torch.randn(5, 6, generator=g)
    which = torch.tensor([2, 0, 1, 1, 2])
    expected = [normals[j].squared(e[i : i + 1]) for i, j in enumerate(which.tolist())]
    torch.testing.assert_close(stack(normals).pick(which).squared(e), torch.cat(expected))
