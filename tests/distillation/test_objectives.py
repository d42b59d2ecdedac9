"""Signals and distances against autograd, brute force and identities."""

import pytest
import torch
import torch.nn.functional as F

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch, MeanEmbedding, clip_factor
from ddaudit.errors import BadInput


@pytest.fixture
def net():
    return Fresh("ConvNetD2W8").make(
        shape=(3, 8, 8), num_classes=4, seed=0, device=torch.device("cpu")
    )


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 8, 8, generator=g), torch.arange(12) % 4


def test_targets_are_rows_times_signals(net, batch):
    x, y = batch
    rows = torch.rand(2, 5, 12, generator=torch.Generator().manual_seed(1))
    for objective, tolerance in ((MeanEmbedding(), 1e-6), (GradientMatch(), 1e-5)):
        direct = objective.real(net, x, y, rows)
        by_signals = rows @ objective.signals(net, x, y)
        assert torch.allclose(direct, by_signals, atol=tolerance)


def test_per_example_gradients_match_autograd(net, batch):
    x, y = batch
    signals = GradientMatch().signals(net, x, y)
    for i in (0, 7):
        loss = F.cross_entropy(net.body(x[i : i + 1]), y[i : i + 1])
        expected = torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(net.body.parameters()))]
        )
        assert torch.allclose(signals[i], expected, atol=1e-6)


def test_distance_of_a_set_to_itself_is_zero(net, batch):
    x, y = batch
    rows = F.one_hot(y, 4).T.float() / 3
    for objective in (MeanEmbedding(), GradientMatch()):
        target = objective.real(net, x, y, rows[None])
        synthetic = objective.synthetic(net, x[None], y, rows, None)
        assert objective.distance(net, target, synthetic).abs().max() < 1e-2


def test_gradient_distance_stays_within_its_range_and_skips_vectors(net, batch):
    x, y = batch
    objective = GradientMatch()
    a = objective.signals(net, x, y)[None]
    matrix_rows = sum(p.shape[0] for p in net.body.parameters() if p.ndim > 1)
    opposite = objective.distance(net, a, -a)
    assert opposite.max() <= 2 * matrix_rows + 1e-3
    assert opposite.max() > 1.5 * matrix_rows
    # Changing one-dimensional parameters' gradients alone changes nothing.
    b, start = a.clone(), 0
    for p in net.body.parameters():
        if p.ndim == 1:
            b[..., start : start + p.numel()] += 100.0
        start += p.numel()
    assert torch.equal(objective.distance(net, a, a), objective.distance(net, a, b))


def test_row_cosine_matches_a_loop_over_layers(net, batch):
    """The published layer-wise definition, written out naively."""
    x, y = batch
    objective = GradientMatch()
    a, b = objective.signals(net, x, y)[:2]
    expected, start = 0.0, 0
    for p in net.body.parameters():
        u, v = (t[start : start + p.numel()].view(p.shape) for t in (a, b))
        start += p.numel()
        if p.ndim == 1:
            continue
        for ru, rv in zip(u.reshape(p.shape[0], -1), v.reshape(p.shape[0], -1), strict=True):
            expected += float(1 - (ru @ rv) / (ru.norm() * rv.norm() + 1e-6))
    assert float(objective.distance(net, a[None, None], b[None, None])) == pytest.approx(
        expected, rel=1e-4
    )


def test_clipping_bounds_norms_and_leaves_short_vectors_alone():
    v = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clipped = v * clip_factor(v, 1.0)
    assert torch.allclose(clipped, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_clip_factor_is_a_constant_in_the_synthetic_gradient(net):
    x = (3 * torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(3))).requires_grad_(
        True
    )
    y, rows = torch.arange(4), torch.eye(4)
    clip = 0.5
    z = MeanEmbedding().synthetic(net, x, y, rows, clip)
    assert z.norm(dim=-1).max() <= clip * (1 + 1e-5)
    (got,) = torch.autograd.grad(z.sum(), x)
    features = net.body.features(x[0])
    (expected,) = torch.autograd.grad((features * clip_factor(features.detach(), clip)).sum(), x)
    assert torch.allclose(got, expected, atol=1e-6)


def test_many_records_are_looked_at_in_parts_and_give_the_same(net, batch, monkeypatch):
    x, y = batch
    whole = MeanEmbedding().signals(net, x, y)
    sizes = []
    seen = net.body.features.register_forward_pre_hook(
        lambda _, inputs: sizes.append(len(inputs[0]))
    )
    monkeypatch.setattr("ddaudit.distillation.objectives._MAP_FLOATS", 5 * 8 * 8 * 8)
    parts = MeanEmbedding().signals(net, x, y)
    seen.remove()
    assert sizes == [5, 5, 2]
    assert torch.allclose(parts, whole, atol=1e-6)


def test_records_that_batch_normalisation_ties_stay_together(batch, monkeypatch):
    x, y = batch
    tied = Fresh("ConvNetD2W8BN").make(
        shape=(3, 8, 8), num_classes=4, seed=0, device=torch.device("cpu")
    )
    whole = MeanEmbedding().signals(tied, x, y)
    monkeypatch.setattr("ddaudit.distillation.objectives._MAP_FLOATS", 5 * 8 * 8 * 8)
    assert torch.allclose(MeanEmbedding().signals(tied, x, y), whole, atol=1e-6)


def test_gradients_of_one_class_at_a_time_need_networks_without_batch_norm(tiny) -> None:
    for name in ("dc", "idc"):
        recipe = resolve(name, profile="small", options={"networks.arch": "ConvNetBN"})
        with pytest.raises(BadInput, match="would see one class at a time"):
            distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
