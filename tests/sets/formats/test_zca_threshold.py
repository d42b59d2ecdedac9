"""When a colour set is asked about: error rates on images that the threshold was not set on."""

from __future__ import annotations

import torch
from torch import Tensor

from ddaudit.sets.formats._zca import uncorrelated

N = 400


def _cartoons(side: int = 16) -> Tensor:
    """Four discs or squares of one colour each on a plain ground."""
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    out = torch.rand(N, 3, 1, 1, generator=g).expand(-1, -1, side, side).clone()
    for picture in out:
        for _ in range(4):
            cx, cy, r = (torch.rand(3, generator=g) * torch.tensor([side, side, side / 3])).tolist()
            disc = (x - cx) ** 2 + (y - cy) ** 2 < r * r
            square = ((x - cx).abs() < r) & ((y - cy).abs() < r)
            shape = disc if torch.rand(1, generator=g) < 0.5 else square
            picture[:, shape] = torch.rand(3, 1, generator=g)
    return out


def _whitened(x: Tensor, epsilon: float = 0.1) -> Tensor:
    """ZCA as kornia has it: the covariance of the pixels, its eigenvalues raised by epsilon."""
    flat = x.flatten(1).double()
    centred = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(x) - 1))
    scale = (values.clamp(min=0) + epsilon).rsqrt()
    return (centred @ vectors @ torch.diag(scale) @ vectors.T).view(x.shape).float()


def _asked(x: Tensor, size: int = 10) -> float:
    g = torch.Generator().manual_seed(1)
    sets = [x[torch.randint(len(x), (size,), generator=g)] for _ in range(100)]
    return sum(map(uncorrelated, sets)) / len(sets)


def test_pictures_are_not_asked_about_and_their_whitened_versions_are() -> None:
    images = _cartoons()
    assert _asked(images) == 0
    assert _asked(_whitened(images)) >= 0.98


def test_noise_and_grey_pictures() -> None:
    noise = torch.rand(N, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    assert _asked(noise) == 1  # it may have been whitened: a reason to ask
    assert _asked(noise[:, :1]) == 0  # single-channel sets never are
