"""Scores that question a victim through a narrow interface: quantile regression and labels only."""

from __future__ import annotations

import pytest
import torch

from ddaudit.attacks.membership.scores import label_only, quantile
from ddaudit.stats import auc


def margins(n: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, and margins whose mean and spread depend on them: mu = 3 x0, s = 0.5 or 2."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, generator=g, dtype=torch.float64)
    spread = torch.where(x[:, 1] > 0.5, 2.0, 0.5)
    return x, 3 * x[:, 0] + spread * torch.randn(n, generator=g, dtype=torch.float64)


def test_gaussian_head_standardises_non_members() -> None:
    head = quantile.fit_gaussian(*margins(3000, seed=0), seed=0)
    x, phi = margins(4000, seed=1)
    score = head.score(x, phi)
    assert float(score.mean()) == pytest.approx(0, abs=0.1)
    for noisy in (x[:, 1] > 0.55, x[:, 1] < 0.45):
        assert float(score[noisy].std()) == pytest.approx(1, abs=0.2)


def test_gaussian_head_beats_a_global_threshold() -> None:
    head = quantile.fit_gaussian(*margins(3000, seed=2), seed=0)
    x, phi = margins(4000, seed=3)
    members = torch.arange(4000) % 2 == 0
    phi = phi + members * torch.where(x[:, 1] > 0.5, 2.0, 0.5)  # one standard deviation
    assert auc(head.score(x, phi), members).value > auc(phi, members).value + 0.05
    assert auc(head.score(x, phi), members).value == pytest.approx(0.76, abs=0.03)  # Phi(1/sqrt 2)


def _threshold(images: torch.Tensor) -> torch.Tensor:
    return (images.mean(dim=(1, 2, 3)) > 0.5).long()


def test_records_far_from_the_boundary_are_stabler() -> None:
    levels = torch.tensor([0.52, 0.55, 0.9, 0.4])
    images = levels[:, None, None, None].expand(4, 1, 2, 2).contiguous()
    labels = torch.ones(4, dtype=torch.int64)
    g = torch.Generator().manual_seed(0)
    score = label_only.stability_under_noise(
        _threshold, images, labels, sigmas=(0.05, 0.1), draws=20, generator=g
    )
    assert score[0] < score[1] < score[2] == 1.0
    assert score[3] < 0.2
    again = label_only.stability_under_noise(
        _threshold, images, labels, sigmas=(0.05, 0.1), draws=20,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert score.equal(again)


def test_shifts_count_all_translations() -> None:
    def corner(images: torch.Tensor) -> torch.Tensor:
        return (images[:, 0, 0, 0] > 0.5).long()

    images = torch.zeros(1, 1, 4, 4)
    images[..., 0, 0] = 1.0
    # edges repeat, so the bright corner stays bright for the 4 shifts away from it
    score = label_only.stability_under_shifts(corner, images, torch.ones(1, dtype=torch.int64))
    assert score.item() == pytest.approx(4 / 9)
