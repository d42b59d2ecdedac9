"""Distribution objectives against closed forms, NumPy, and the authors' own functions on the same numbers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddaudit.distillation.attention import AttentionMaps, attention
from ddaudit.distillation.characteristic import (
    CharacteristicFunction,
    LearnedFrequencies,
    discrepancy,
    gaussian_frequencies,
)
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.samples import KernelDiscrepancy, Quantiles, pack, quantiles
from ddaudit.errors import Unsupported


def wave(*shape, step, dtype=torch.float64):
    """Numbers that need no generator: sin(step), sin(2 step), ..."""
    return torch.sin(step * torch.arange(1, math.prod(shape) + 1, dtype=dtype)).view(*shape)


def sample(z):
    """One row of equally weighted elements, packed."""
    rows = torch.full((1, 1, len(z)), 1 / len(z), dtype=z.dtype)
    return pack(z[None], rows)


@pytest.fixture
def net():
    return Fresh("ConvNetD3W8").make(
        shape=(3, 16, 16), num_classes=4, seed=0, device=torch.device("cpu")
    )


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 16, 16, generator=g), torch.arange(12) % 4


ALL = (
    AttentionMaps(),
    KernelDiscrepancy(),
    KernelDiscrepancy(kernel="polynomial"),
    Quantiles(),
    CharacteristicFunction(frequencies=16),
    LearnedFrequencies(frequencies=8),
)


@pytest.mark.parametrize("objective", ALL, ids=lambda o: type(o).__name__)
def test_a_set_is_at_distance_zero_of_itself_and_no_slope_is_nan(net, batch, objective):
    x, y = batch
    rows = F.one_hot(y, 4).T.float() / 3
    images = x[None].clone().requires_grad_(True)
    target = objective.real(net, x, y, rows[None])
    same = objective.distance(net, target, objective.synthetic(net, images, y, rows, None))
    assert same.shape == (1, 4)
    assert same.abs().max() < 1e-3 * getattr(objective, "scale", 1.0)
    other = objective.synthetic(net, images.flip(1), y, rows, None)
    apart = objective.distance(net, target, other)
    assert apart.min() > 10 * same.abs().max()
    (slope,) = torch.autograd.grad((same + apart).sum(), images)
    assert bool(torch.isfinite(slope).all())
    assert slope.abs().max() > 0


@pytest.mark.parametrize("objective", ALL, ids=lambda o: type(o).__name__)
def test_an_element_without_weight_and_a_row_without_elements_do_not_count(net, batch, objective):
    x, y = batch
    rows = F.one_hot(y, 4).T.float() / 3
    few = rows.clone()
    few[0, 0] = 0  # a smaller row, which is filled up
    few[0] /= few[0].sum()
    synthetic = objective.synthetic(net, x[None].roll(1, 1), y, rows, None)
    got = objective.distance(net, objective.real(net, x, y, few[None]), synthetic)
    alone = objective.distance(net, objective.real(net, x, y, few[None, :1]), synthetic[:, :1])
    assert torch.allclose(got[:, :1], alone, rtol=1e-4)
    empty = objective.real(net, x, y, torch.zeros(1, 4, 12))
    assert bool(torch.isfinite(objective.distance(net, empty, synthetic)).all())


def test_datadam_equals_the_authors_loss():
    """get_attention of DataDistillation/DataDAM, utils.py, and the error of main_DataDAM.py at 0f6ea09, run on the
    same numbers: 100 ||mean of maps - mean of maps||^2 + 100 * 0.01 ||mean - mean||^2."""
    a, b = wave(7, 4, 3, 3, step=1.3), wave(5, 4, 3, 3, step=2.1)
    za, zb = wave(7, 6, step=0.9), wave(5, 6, step=1.7)

    class Body:
        def blocks(self, x):
            return [a, a, za] if len(x) == 7 else [b, b, zb]

    class Net:
        body = Body()

    for power, expected in ((1, 11.204763143869087), (4, 48.35822662583517)):
        objective = AttentionMaps(power=power)
        real, made = (objective.measure(Net(), torch.zeros(n)).mean(0) for n in (7, 5))
        assert float(objective.distance(Net(), real, made)) == pytest.approx(expected, rel=1e-9)


def test_attention_is_of_norm_one_and_leaves_the_last_block_to_the_embedding(net, batch):
    x, _ = batch
    maps = net.body.blocks(x)
    seen = attention(maps[0], 4)
    assert seen.shape == (12, 256)
    assert torch.allclose(seen.norm(dim=1), torch.ones(12))
    by_hand = (maps[0][3] ** 4).sum(0).flatten()
    assert torch.allclose(seen[3], by_hand / by_hand.norm())
    # 16 x 16 and 8 x 8 places of the first two of three blocks, then the embedding at its weight.
    measured = AttentionMaps(balance=0.25, scale=4.0).measure(net, x)
    embedding = net.body.features(x)
    assert measured.shape[1] == 256 + 64 + embedding.shape[1]
    assert torch.allclose(measured[:, 320:], embedding)
    mlp = Fresh("MLP").make(shape=(3, 8, 8), num_classes=4, seed=0, device=torch.device("cpu"))
    with pytest.raises(Unsupported, match="blocks that make maps"):
        AttentionMaps().measure(mlp, x[..., :8, :8])


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (KernelDiscrepancy(), 1.0806072548772172),
        (KernelDiscrepancy(bandwidth=3.0), 1.4672250728676886),
        (KernelDiscrepancy(kernel="polynomial"), 9.526937000200085),
    ],
)
def test_m3d_equals_the_authors_loss(objective, expected):
    """M3DLoss as kept in XuhuiLi223/Manifold-with-dataset-distillation, m3dloss.py at db4d084, on the same numbers."""
    x, y = wave(7, 6, step=0.9), wave(5, 6, step=1.7) + 0.2
    got = objective.distance(None, sample(x), sample(y))
    assert float(got) == pytest.approx(expected, rel=1e-6)


def test_the_linear_kernel_is_distribution_matching(net, batch):
    x, y = batch
    rows = F.one_hot(y, 4).T.float()
    rows = rows * torch.rand(rows.shape, generator=torch.Generator().manual_seed(1))
    rows = rows / rows.sum(1, keepdim=True)
    even = F.one_hot(y, 4).T.float() / 3
    images = x[None].roll(1, 1)
    got, plain = (
        o.distance(net, o.real(net, x, y, rows[None]), o.synthetic(net, images, y, even, None))
        for o in (KernelDiscrepancy(kernel="linear"), MeanEmbedding())
    )
    assert torch.allclose(got, plain, rtol=1e-3)


def test_one_gaussian_against_the_closed_form():
    """MMD^2 of N(0, s^2) and N(m, s^2) under exp(-d^2 / b) is 2 c (1 - exp(-m^2 / (b + 4 s^2))), with
    c = sqrt(b / (b + 4 s^2)); here from quantiles of both, which stand for them."""
    p = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    z = torch.special.ndtri(p)[:, None]
    s, m, b = 0.7, 1.1, 2.5
    objective = KernelDiscrepancy(kernels=1, bandwidth=b)
    got = objective.distance(None, sample(s * z), sample(s * z + m))
    wide = b + 4 * s * s
    assert float(got) == pytest.approx(
        2 * math.sqrt(b / wide) * (1 - math.exp(-(m * m) / wide)), rel=1e-3
    )


def test_quantiles_are_numpys_by_hazens_rule():
    z = wave(9, 4, step=1.7)
    levels = (torch.arange(5, dtype=torch.float64) + 0.5) / 5
    expected = np.quantile(z.numpy(), levels.numpy(), axis=0, method="hazen")
    assert np.allclose(quantiles(sample(z), levels)[0, 0].T.numpy(), expected)
    # By hand: 1, 2 and 3 of weights 1/4, 1/4 and 1/2 stand at 1/8, 3/8 and 3/4.
    weights = torch.tensor([[[0.5, 0.25, 0.25]]], dtype=torch.float64)
    got = quantiles(pack(torch.tensor([[[3.0], [1.0], [2.0]]]).double(), weights), levels)
    assert got.flatten().tolist() == pytest.approx(
        [1.0, 1.7, 2 + 0.125 / 0.375, 2.8667, 3.0], abs=1e-3
    )


def test_lqm_with_as_many_records_as_images_is_the_wasserstein_distance():
    """The 2-Wasserstein distance of two samples of one size on a line pairs them in order (SciPy's W1 agrees on the
    pairing): so the squared one is the mean squared gap of sorted values, added up over coordinates."""
    from scipy.optimize import linear_sum_assignment

    x, y = wave(6, 3, step=0.9), wave(6, 3, step=1.7) + 0.2
    expected = 0.0
    for d in range(3):
        cost = (x[:, d, None] - y[None, :, d]).square().numpy()
        expected += cost[linear_sum_assignment(cost)].mean()
    for objective in (Quantiles(), Quantiles(levels=6)):
        got = objective.distance(None, sample(x), sample(y))
        assert float(got) == pytest.approx(expected, rel=1e-9)
    # One level: the medians.
    got = Quantiles(levels=1).distance(None, sample(x), sample(y))
    middles = np.median(x.numpy(), axis=0) - np.median(y.numpy(), axis=0)
    assert float(got) == pytest.approx((middles**2).sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("weights", "expected"), [((0.5, 0.5), 171.5254225767461), ((0.2, 0.9), 167.34476031844238)]
)
def test_ncfm_equals_the_authors_loss(weights, expected):
    """300 * CFLossFunc of gszfwsb/NCFM, NCFM/NCFM.py at de92fb8, on the same numbers."""
    t = wave(5, 6, step=0.7) * 2
    means = []
    for z in (wave(7, 6, step=1.3) + 0.3, wave(3, 6, step=2.1) + 0.1):
        angles = F.normalize(z, dim=1) @ t.T
        means.append(torch.cat([angles.cos().mean(0), angles.sin().mean(0)]))
    assert float(300 * discrepancy(*means, *weights)) == pytest.approx(expected, rel=1e-9)
    # The one that learns keeps the records until it knows the frequencies.
    learned = LearnedFrequencies(frequencies=5, amplitude=weights[0], phase=weights[1])
    got = learned._apart(sample(wave(7, 6, step=1.3) + 0.3), sample(wave(3, 6, step=2.1) + 0.1), t)
    assert float(got) == pytest.approx(expected, rel=1e-9)


def test_characteristic_signals_have_norm_one_so_that_the_private_clip_cuts_nothing(net, batch):
    x, y = batch
    objective = CharacteristicFunction(frequencies=64).draw(3)
    assert torch.allclose(objective.signals(net, 5 * x, y).norm(dim=1), torch.ones(12))
    assert objective.private_defaults().clip == 1.0
    assert not torch.equal(objective.signals(net, x, y), objective.draw(4).signals(net, x, y))
    assert torch.equal(objective.signals(net, x, y), objective.draw(3).signals(net, x, y))


def test_many_frequencies_are_a_gaussian_kernel():
    """Bochner: E_t |p(t) - q(t)|^2 over t ~ N(0, I) is the MMD^2 of exp(-d^2 / 2). At weights of 1 the squared
    distance is that, so that ncfm is what m3d can be under noise."""
    x, y = (F.normalize(wave(n, 6, step=s), dim=1) for n, s in ((7, 0.9), (5, 1.7)))
    t = gaussian_frequencies(200_000, 6, 0).double()
    p, q = (torch.cat([(z @ t.T).cos().mean(0), (z @ t.T).sin().mean(0)]) for z in (x, y))
    by_frequencies = float((p - q).square().sum()) / len(t)
    amplitude = (p.view(2, -1).norm(dim=0) - q.view(2, -1).norm(dim=0)).square()
    parts = [discrepancy(p[i::200_000], q[i::200_000], 1.0, 1.0).square() for i in range(50)]
    whole = [(p[i::200_000] - q[i::200_000]).square().sum() for i in range(50)]
    assert torch.allclose(torch.stack(parts), torch.stack(whole), atol=1e-9)
    assert (amplitude <= (p - q).square().view(2, -1).sum(0) + 1e-12).all()
    kernel = KernelDiscrepancy(kernels=1, bandwidth=2.0).distance(None, sample(x), sample(y))
    assert by_frequencies == pytest.approx(float(kernel), rel=0.02)


def test_learned_frequencies_climb_the_distance_that_the_images_descend():
    x, y = sample(wave(7, 6, step=0.9).float()), sample((wave(5, 6, step=1.7) + 0.2).float())
    learner = LearnedFrequencies(frequencies=16, lr=0.05).bind(0)
    drawn = learner.draw(1)  # the same noise throughout, so that only learning moves the distance
    first = float(drawn.distance(None, x, y))
    for _ in range(30):
        last = float(drawn.distance(None, x, y))
    assert last > 1.05 * first
    assert float(learner.bind(0).draw(1).distance(None, x, y)) == first  # every run starts anew
