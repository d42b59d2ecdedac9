"""The weight-space attack: closed form for one layer, members against non-members, and noise on the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ddaudit.attacks.leakage.reconstruction.loo import (
    Params,
    Reconstructions,
    closer,
    mlp,
    nearest,
    random_mlp,
    reconstruct,
    train,
)
from ddaudit.data import load_data
from ddaudit.errors import BadInput


def _digits(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor, float]:
    """2 * count digits less the mean of the first half, odd or even as +-1, and that mean."""
    data = load_data("digits").train
    pick = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: 2 * count]
    x = data.pixels(pick).flatten(1)
    mean = float(x[:count].mean())
    return x - mean, (2.0 * (data.labels[pick] % 2) - 1)[:, None], mean


def _noisy(params: Params, sd: float) -> Params:
    g = torch.Generator().manual_seed(9)
    return tuple(p + sd * torch.randn(p.shape, generator=g) for p in params)


def test_one_linear_layer_gives_its_image_away_in_closed_form() -> None:
    """The gradient of a linear layer is (a x, a): the move of the weights over that of the bias is x."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 12, generator=g)
    initial: Params = (torch.randn(1, 12, generator=g), torch.zeros(1))
    final = (initial[0] + 0.7 * x, initial[1] + 0.7)
    torch.testing.assert_close((final[0] - initial[0]) / (final[1] - initial[1]), x)
    found = reconstruct(initial, final, count=1, both=False, steps=600, generator=g)
    assert found.unexplained < 1e-6
    torch.testing.assert_close(found.images, x, atol=5e-3, rtol=0)
    assert float(found.duals) == pytest.approx(0.7, abs=5e-3)


def test_the_perceptron_is_torchs() -> None:
    g = torch.Generator().manual_seed(0)
    params = random_mlp((6, 5, 4, 2), g)
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for p, q in zip(module.parameters(), params, strict=True):
            p.copy_(q)
    x = torch.randn(7, 6, generator=g)
    torch.testing.assert_close(mlp(params, x), module(x))


def test_a_network_that_memorised_its_records_gives_them_back() -> None:
    """10 members, 10 strangers. The smallest p-value of the test is 1 / C(20, 10) = 5e-6 (asymptotically 9e-5)."""
    x, y, mean = _digits(10)
    g = torch.Generator().manual_seed(0)
    initial = random_mlp((64, 256, 256, 1), g)
    final = train(initial, x[:10], y[:10])
    assert float((mlp(final, x[:10]) - y[:10]).square().mean()) < 1e-5
    median, p = {}, {}
    for sd in (0.0, 0.01, 0.1):
        found = reconstruct(
            initial,
            _noisy(final, sd),
            count=20,
            low=-mean,
            high=1 - mean,
            steps=200,
            generator=torch.Generator().manual_seed(1),
        )
        members, strangers = nearest(x[:10], found), nearest(x[10:], found)
        median[sd], p[sd] = float(members.median() / strangers.median()), closer(members, strangers)
    assert p[0.0] < 1e-3
    assert median[0.0] < 0.5
    assert median[0.0] < median[0.01] < median[0.1]
    assert median[0.1] > 0.8
    assert p[0.1] > 0.01


@pytest.mark.slow
def test_larger_networks_and_more_records() -> None:
    x, y, mean = _digits(20)
    g = torch.Generator().manual_seed(0)
    initial = random_mlp((64, 512, 512, 1), g)
    final = train(initial, x[:20], y[:20])
    found = reconstruct(initial, final, count=40, low=-mean, high=1 - mean, steps=1000, generator=g)
    members, strangers = nearest(x[:20], found), nearest(x[20:], found)
    assert closer(members, strangers) < 1e-6
    assert float(members.median()) < 0.3 * float(strangers.median())
    single = reconstruct(
        initial, final, count=40, low=-mean, high=1 - mean, steps=1000, both=False, generator=g
    )
    assert single.unexplained > found.unexplained
    assert closer(nearest(x[:20], single), nearest(x[20:], single)) < 0.01


def test_the_rank_test_is_one_sided_and_blind_to_strangers() -> None:
    found = Reconstructions(torch.eye(3), torch.zeros(3, 1), 0.0)
    near, far = nearest(torch.eye(3), found), nearest(torch.eye(3) + 5, found)
    assert near.tolist() == [0.0, 0.0, 0.0]
    assert closer(near, far) < 0.05
    assert closer(far, near) > 0.95
    assert closer(near, near) > 0.4


def test_weights_that_do_not_fit_or_did_not_move_are_refused() -> None:
    g = torch.Generator().manual_seed(0)
    params = random_mlp((4, 3, 1), g)
    with pytest.raises(BadInput, match="nothing was learnt"):
        reconstruct(params, params, count=2, generator=g)
    with pytest.raises(BadInput, match="shapes"):
        reconstruct(random_mlp((4, 2, 1), g), params, count=2, generator=g)
