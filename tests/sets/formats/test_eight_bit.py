"""When a colour set needs no word about whitening: real records, and nothing that was whitened."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddaudit.data import load_data
from ddaudit.sets.formats._zca import eight_bit

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def _normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pixels - mean) / std


def _whitened(x: Tensor, epsilon: float) -> Tensor:
    """ZCA as kornia has it: the covariance of the pixels, its eigenvalues raised by epsilon."""
    flat = x.flatten(1).double()
    centred = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(x) - 1))
    scale = (values.clamp(min=0) + epsilon).rsqrt()
    return (centred @ vectors @ torch.diag(scale) @ vectors.T).view(x.shape).float()


def _no_word(x: Tensor, size: int) -> float:
    """Share of 100 sets of so many pictures that are taken as plain."""
    g = torch.Generator().manual_seed(1)
    sets = [x[torch.randint(len(x), (size,), generator=g)] for _ in range(100)]
    return sum(eight_bit(s, mean=MEAN, std=STD) for s in sets) / len(sets)


@pytest.mark.parametrize("size", [1, 10])
def test_records_need_no_word_and_whitened_or_optimised_ones_do(size: int) -> None:
    pixels = load_data("digits-colored").train.images.float() / 255
    for stored in (pixels, 255 * pixels, _normalised(pixels)):
        assert _no_word(stored, size) == 1
    for epsilon in (0.0, 0.1, 10.0):
        assert _no_word(_whitened(pixels, epsilon), size) == 0
    assert _no_word(_normalised(pixels + 0.01 * torch.rand(pixels.shape)), size) == 0


def test_a_blank_set_shows_nothing() -> None:
    assert not eight_bit(torch.zeros(4, 3, 8, 8), mean=MEAN, std=STD)
    assert not eight_bit(torch.rand(4, 3, 8, 8), mean=None, std=None)
