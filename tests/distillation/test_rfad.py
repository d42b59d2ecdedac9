"""Random features against the kernel of infinite width, the Platt loss by hand and by autograd, and label margins."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.kernels import NetworkFeatures, record_losses, record_pulls, solve
from ddaudit.distillation.kernels.ntk import dense_nngp
from ddaudit.distillation.kernels.ridge import predict
from ddaudit.distillation.kip import RidgeGradient
from ddaudit.distillation.learned import LearnedLabels, label_margins
from ddaudit.distillation.networks import Fresh, Gaussian
from ddaudit.distillation.parts import Canvas
from ddaudit.distillation.synthesis import labels_of
from ddaudit.errors import DDAuditError
from ddaudit.sets.simplex import to_sum_one

TINY = {"loop.steps": 3, "networks.arch": "ConvNetD2W8NN", "networks.width": None}


def test_random_features_go_to_the_process_of_infinite_width():
    """MLPs of two hidden ReLU layers of 256: the error of the mean over n networks falls as 1 / sqrt(n), from the
    arc-cosine recursion, and PyTorch's own initialisation has another kernel."""
    x = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    make = {"shape": (1, 3, 3), "num_classes": 2, "device": torch.device("cpu")}
    nets = [Gaussian("MLPD3W256").make(seed=s, **make) for s in range(40)]
    flat = x.flatten(1).double()
    inner, own = flat @ flat.T / 9, flat.square().sum(1) / 9
    want = dense_nngp(inner, own[:, None], own[None], depth=2)

    def error(nets):
        z = NetworkFeatures(models=len(nets), bias=0.01).on(*nets).embed(x).detach().double()
        return float((z @ z.T - want).norm() / want.norm())

    alone = sum(error([net]) for net in nets) / 40
    assert error(nets) < 2 * alone / 40**0.5 < 0.1 < alone
    assert error([Fresh("MLPD3W256").make(seed=s, **make) for s in range(5)]) > 0.5


def test_the_process_of_one_layer_by_hand():
    """Orthogonal unit inputs without biases: 2 * kappa1(0) / 2 = 1 / pi."""
    inner, one = torch.tensor([0.0, 1.0]), torch.ones(2)
    got = dense_nngp(inner, one, one, depth=1, w_std=math.sqrt(2), b_std=0.0)
    assert got.tolist() == pytest.approx([2 / math.pi, 2.0], rel=1e-6)


def test_platt_loss_by_hand():
    """Predictions (0.6, -0.1) at scale 2 for class 0: log(1 + exp(-2 * 0.7))."""
    kernel, coefficients = torch.tensor([[1.0]]).double(), torch.tensor([[0.6, -0.1]]).double()
    y = torch.tensor([[0.5, -0.5]])
    got = record_losses(kernel, coefficients, y, torch.tensor(2.0).double().log())
    assert float(got) == pytest.approx(math.log1p(math.exp(-1.4)), rel=1e-6)


def regression(seed=0):
    g = torch.Generator().manual_seed(seed)
    z, s = (torch.randn(n, 7, generator=g).double() for n in (5, 4))
    y, ys = torch.eye(3)[[0, 2, 1, 1, 0]].double() - 1 / 3, torch.randn(4, 3, generator=g).double()
    return z, s, y, ys


def test_platt_pulls_are_autograds():
    z, s, y, ys = regression()
    scale = torch.tensor(0.7).double()
    ts, ss = (z @ s.T).requires_grad_(True), (s @ s.T).requires_grad_(True)
    pull = record_pulls(ts.detach(), ss.detach(), ys, y, reg=0.1, log_scale=scale)
    losses = record_losses(ts, solve(ss, ys, 0.1), y, scale)
    for i in range(5):
        by_ts, by_ss = torch.autograd.grad(losses[i], (ts, ss), retain_graph=True)
        torch.testing.assert_close(by_ts[i], pull.a[i])
        want = -torch.outer(pull.b[i], pull.a[i])
        want += 0.1 / 4 * torch.eye(4) * want.diagonal().sum()
        torch.testing.assert_close(by_ss, want)


def test_a_support_set_without_ridge_reproduces_its_labels():
    _, s, _, ys = regression()
    kernel = s @ s.T
    np.testing.assert_allclose(predict(kernel, solve(kernel, ys, 0.0)), ys, atol=1e-9)


def test_the_temperature_has_its_gradient(tiny):
    make = {"shape": tiny.shape, "num_classes": 4, "device": torch.device("cpu")}
    kernel = NetworkFeatures(2, 0.01).on(
        *(Gaussian("ConvNetD2W8NN").make(seed=s, **make) for s in (0, 1))
    )
    g = torch.Generator().manual_seed(0)
    support = torch.randn(2, 4, 3, 8, 8, generator=g)
    x, y = torch.randn(9, 3, 8, 8, generator=g), torch.randint(4, (9,), generator=g)
    rows = torch.rand(2, 1, 9, generator=g)
    soft = torch.eye(4).expand(2, -1, -1)

    def ask(scale, labels=soft):
        return RidgeGradient(kernel, 1e-2, support, labels, 4, space="features", log_scale=scale)

    def loss(scale):
        z, s = kernel.embed(x).double(), kernel.embed(support.flatten(0, 1)).view(2, 4, -1).double()
        coefficients = solve(s @ s.mT, soft.double() - 0.25, 1e-2)
        targets = torch.eye(4).double()[y] - 0.25
        return (rows[:, 0] * record_losses(z @ s.mT, coefficients, targets, scale)).sum(1)

    at = torch.tensor([0.3, -0.2], dtype=torch.float64)
    with torch.no_grad():
        want = (loss(at + 1e-4) - loss(at - 1e-4)) / 2e-4
    got = ask(at).real(None, x, y, rows)
    assert got.shape == (2, 1, 4 * (2 * 8 * 4 + 1) + 16 + 1)
    np.testing.assert_allclose(got[:, 0, -1], want, rtol=1e-4)
    with pytest.raises(DDAuditError, match="not taken per record"):
        ask(at[:1]).__class__(
            kernel, 1e-2, support[:1], labels_of(4, 1), 4, space="features", log_scale=at[:1]
        ).signals(None, x, y)


def test_rfad_learns_images_targets_and_temperature(tiny):
    recipe = resolve("rfad", profile="small", options=TINY)
    x = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    assert x.soft
    squared = replace(recipe, loop=replace(recipe.loop, loss="squared"))
    assert not torch.equal(x.images, distill(squared, tiny.train, data=tiny, ipc=1, seed=0).images)
    everyone = torch.ones(2, len(tiny.train), dtype=torch.bool)
    both = distill_many(recipe, tiny.train, everyone, data=tiny, ipc=1, seed=0)
    torch.testing.assert_close(both[0].images, x.images, atol=1e-4, rtol=0)


def test_label_margins_are_frepos():
    """yongchaoz/FRePo at 43e028a, lib/datadistillation/frepo.py, lb_margin_th on the same rows."""
    rows = torch.tensor([[0.9, 0.1, -0.2, 0.3], [0.3, 0.25, 0.1, 0.0], [-0.1, -0.5, -0.4, -0.2]])
    assert label_margins(rows).tolist() == pytest.approx([-0.25, -0.05, -0.1], abs=1e-6)


def test_targets_are_centred_scaled_and_released_as_distributions():
    """FRePo's start for 40 classes: (one-hot - 1 / 40) / 2."""
    canvas = Canvas([], torch.tensor([3, 0]), lambda: torch.zeros(1, 2, 1, 2, 2))
    canvas = LearnedLabels(form="targets", margin=1.0).start(canvas, 1, 40)
    one_hot = torch.eye(40)[[3, 0]]
    torch.testing.assert_close(canvas.soft.values[0], (one_hot - 1 / 40) / 2)
    # What a loop regresses on is the label minus 1 / classes.
    torch.testing.assert_close(canvas.label_distributions()[0] - 1 / 40, canvas.soft.values[0])
    torch.testing.assert_close(canvas.released(0)[1], one_hot, atol=1e-6, rtol=0)
    # Beside a loss that is a mean over 40 classes; the margin of 1 / 2 counts as 1 / 40.
    assert canvas.penalty().item() == pytest.approx(-1 / 40 / 40, rel=1e-5)
    # RFAD's are not divided (yolky/RFAD, distillation.py: one-hot less 1 / classes).
    canvas = Canvas([], torch.tensor([3, 0]), lambda: torch.zeros(1, 2, 1, 2, 2))
    canvas = resolve("rfad").labels.start(canvas, 1, 40)
    torch.testing.assert_close(canvas.soft.values[0], one_hot - 1 / 40)
    torch.testing.assert_close(canvas.released(0)[1], one_hot, atol=1e-6, rtol=0)


def test_clipped_labels_are_bohdals():
    """Cut to [0, 1] and divided by the sum."""
    rows = torch.tensor([[0.5, 1.5, -0.5, 0.5], [-1.0, -2.0, -3.0, -1.0]])
    got = to_sum_one(rows)
    assert got[0].tolist() == [0.25, 0.5, 0.0, 0.25]
    assert float(got[1].sum()) == pytest.approx(1)
    uniform = LearnedLabels(form="clipped", confidence=None)
    canvas = Canvas([], torch.tensor([2, 0]), lambda: torch.zeros(1, 2, 1, 2, 2))
    assert uniform.start(canvas, 1, 4).label_distributions().unique().tolist() == [0.25]
