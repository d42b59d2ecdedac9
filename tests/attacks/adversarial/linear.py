"""Networks and images whose answers to attacks are known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    def __init__(self, *, classes: int, size: int, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(classes, size, generator=g))
        self.b = nn.Parameter(0.1 * torch.randn(classes, generator=g))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.w, self.b)


def middle_of_the_box(n: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    return 0.3 + 0.4 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def true_radii(net: Linear, x: Tensor, y: Tensor, order: int) -> list[float]:
    """Smallest perturbation that flips a linear network, one image and one rival at a time."""
    radii = []
    for image, label in zip(x.flatten(1), y.tolist(), strict=True):
        z = (net.w @ image + net.b).tolist()
        rivals = [k for k in range(len(z)) if k != label]
        radii.append(
            min(
                (z[label] - z[k]) / float((net.w[label] - net.w[k]).detach().norm(p=order))
                for k in rivals
            )
        )
    return radii


def convnet(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(32, 10)
        )  # fmt: skip
