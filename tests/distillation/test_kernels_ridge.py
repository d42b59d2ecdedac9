"""Kernel ridge regression and the pull of each record, against scikit-learn, jax and automatic differentiation."""

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.kernels import (
    DenseNTK,
    Scattering,
    centred_targets,
    krr_accuracy,
    predict,
    record_losses,
    record_pulls,
    solve,
)


def pictures(n, d, phase):
    """(n, d) fixed inputs."""
    i, j = np.arange(n)[:, None], np.arange(d)[None]
    return torch.from_numpy(np.sin(1.3 * i * (j + 1) + phase) + 0.2 * np.cos(j * j + i + phase))


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_targets_are_centred():
    y = centred_targets(torch.tensor([0, 2]), 4)
    assert y.tolist() == [[0.75, -0.25, -0.25, -0.25], [-0.25, -0.25, 0.75, -0.25]]
    soft = torch.tensor([[0.5, 0.5, 0, 0]])
    assert centred_targets(soft, 4).tolist() == [[0.25, 0.25, -0.25, -0.25]]


def test_solution_and_predictions_are_those_of_scikit_learn():
    z, s = random(7, 5, seed=0), random(6, 5, seed=1)
    y = centred_targets(torch.arange(6) % 3, 3).double()
    k_ss, reg = s @ s.T, 1e-2
    model = KernelRidge(alpha=reg * float(k_ss.trace()) / 6, kernel="precomputed")
    model.fit(k_ss.numpy(), y.numpy())
    coefficients = solve(k_ss, y, reg)
    assert np.allclose(coefficients.numpy(), model.dual_coef_)
    assert np.allclose(predict(z @ s.T, coefficients).numpy(), model.predict((z @ s.T).numpy()))
    # The ridge is relative: a kernel of another scale predicts the same.
    again = predict(0.1 * z @ s.T, solve(0.1 * k_ss, y, reg))
    assert torch.allclose(again, predict(z @ s.T, coefficients))


def test_losses_are_half_the_mean_square_over_classes():
    z, s = random(4, 5, seed=2), random(6, 5, seed=3)
    a = solve(s @ s.T, centred_targets(torch.arange(6) % 3, 3).double(), 1e-3)
    y = centred_targets(torch.tensor([0, 1, 2, 0]), 3).double()
    guess = (z @ s.T) @ a
    want = [float(((guess[i] - y[i]) ** 2).sum() / 6) for i in range(4)]
    assert record_losses(z @ s.T, a, y).tolist() == pytest.approx(want)
    # Several support sets at once.
    both = torch.stack([s, s.flip(0)])
    got = record_losses(z @ both.mT, solve(both @ both.mT, torch.zeros(6, 3), 1e-3), y)
    assert got.shape == (2, 4)


def test_record_gradients_are_those_of_jax_and_neural_tangents():
    """neural-tangents 0.6.5: loss, gradient norm, and some of the gradient, for three records and reg 1e-3."""
    support, x = pictures(4, 6, 0.0), pictures(3, 6, 1.0)
    y_support = centred_targets(torch.tensor([0, 1, 0, 1]), 2).double()
    y = centred_targets(torch.tensor([0, 1, 1]), 2).double()
    kernel = DenseNTK()
    k_ss, k_ts = kernel.gram(support, support), kernel.gram(x, support)
    losses = record_losses(k_ts, solve(k_ss, y_support, 1e-3), y)
    grads = kernel.pulls(x, support, record_pulls(k_ts, k_ss, y_support, y, reg=1e-3))
    assert losses.tolist() == pytest.approx(
        [0.2449863766823204, 0.008777506137056069, 0.0996496861702049], rel=1e-6
    )
    assert grads.flatten(1).norm(dim=1).tolist() == pytest.approx(
        [4.190825174508343, 0.47119164151014614, 0.5197444636125667], rel=1e-6
    )
    first = [
        [-1.189605170769, -1.735169069724, -1.993376286477],
        [-0.073909576353, 0.273290414955, 0.275947138151],
        [-0.218699174199, 0.30907522796, -0.190849666202],
    ]
    assert torch.allclose(grads[:, 0, :3], torch.tensor(first).double(), rtol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (DenseNTK(), (2, 4, 3)),
        (DenseNTK(depth=3), (2, 4, 3)),
        (Scattering(), (1, 8, 8)),
        (Scattering(standardise="never", unit_norm=True), (2, 8, 8)),
        (Scattering(scales=1, angles=4), (1, 8, 8)),
    ],
)
def test_record_gradients_in_pixels_are_those_of_autograd(kernel, shape):
    """Also with two equal synthetic images and a record that equals one."""
    support, x = random(5, *shape, seed=4), random(4, *shape, seed=5)
    support[3], x[0] = support[1], support[2]
    y_support = centred_targets(torch.arange(5) % 3, 3).double()
    y = centred_targets(torch.tensor([0, 1, 2, 0]), 3).double()

    def losses(images):
        s, z = kernel.embed(images), kernel.embed(x)
        return record_losses(kernel.gram(z, s), solve(kernel.gram(s, s), y_support, 1e-3), y)

    want = torch.autograd.functional.jacobian(losses, support).flatten(2)
    s, z = kernel.embed(support), kernel.embed(x)
    pull = record_pulls(kernel.gram(z, s), kernel.gram(s, s), y_support, y, reg=1e-3)
    got = kernel.pixel_pulls(support, z, s, pull)
    assert torch.allclose(got, want, atol=1e-9 * float(want.abs().max()))
    # And one of them by finite differences, which knows no derivative rule at all.
    step = torch.zeros_like(support)
    step[0, 0, 1, 2] = 1e-6
    slope = (losses(support + step) - losses(support - step)) / 2e-6
    assert torch.allclose(got[:, 0, shape[2] + 2], slope, rtol=1e-4, atol=1e-7)


def test_blocks_change_nothing(monkeypatch):
    s, z = random(5, 12, seed=6), random(4, 12, seed=7)
    kernel, y = DenseNTK(), centred_targets(torch.arange(5) % 3, 3).double()
    pull = record_pulls(kernel.gram(z, s), kernel.gram(s, s), y, y[:4], reg=1e-3)
    whole = kernel.pulls(z, s, pull)
    monkeypatch.setattr("ddaudit.distillation.kernels.base._FLOATS", 2 * 5 * 12)
    assert torch.allclose(kernel.pulls(z, s, pull), whole)


def test_krr_accuracy_is_that_of_scikit_learn(tiny):
    made = distill(resolve("random"), tiny.train, data=tiny, ipc=2, seed=0)
    images, labels = tiny.test.pixels(torch.arange(160)), tiny.test.labels
    kernel, reg = Scattering(), 1e-3
    mean, std = (torch.tensor(v)[:, None, None] for v in (tiny.mean, tiny.std))
    s = kernel.embed((made.images - mean) / std).double().numpy()
    z = kernel.embed((images - mean) / std).double().numpy()
    model = KernelRidge(alpha=reg * float((s**2).sum()) / len(s), kernel="linear")
    model.fit(s, np.eye(4)[made.labels.numpy()] - 0.25)
    want = float((model.predict(z).argmax(1) == labels.numpy()).mean())
    got = krr_accuracy(made, images, labels, kernel=kernel, reg=reg)
    assert got == pytest.approx(want)
    assert 0.3 < got <= 1
    wrong = krr_accuracy(made, images, (labels + 1) % 4, kernel=kernel, reg=reg)
    assert wrong < 1 - got + 1e-9
