"""The tangent kernel: numbers of another library, a simulation of finite networks, safe derivatives."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap

from ddaudit.distillation.kernels import DenseNTK


def pictures(n, d, phase):
    """(n, d) fixed inputs."""
    i, j = np.arange(n)[:, None], np.arange(d)[None]
    return torch.from_numpy(np.sin(1.3 * i * (j + 1) + phase) + 0.2 * np.cos(j * j + i + phase))


# neural-tangents 0.6.5 (jax 0.4.25, float64): Flatten, (Dense, ReLU) x depth, Dense; W_std sqrt(2), b_std 0.1;
# kernels between pictures(3, 6, 1) and pictures(4, 6, 0).
NEURAL_TANGENTS = {
    1: [
        [0.146961926354, 0.967338334132, 0.659902502984, 0.152008204223],
        [0.132385643146, 1.141429378315, 0.642181509996, 0.245887886145],
        [-0.014578158879, 0.067631897151, 1.304877570319, 1.193756944169],
    ],
    2: [
        [0.281791176091, 1.513899142882, 1.169409403241, 0.702108372039],
        [0.246027943176, 1.642853188984, 1.06750966902, 0.691195110725],
        [0.124944481743, 0.60890998612, 1.866772804074, 1.744553774326],
    ],
    3: [
        [0.427034711489, 2.061153711177, 1.69118692751, 1.263653003908],
        [0.36877821688, 2.122228418685, 1.500615329184, 1.15007436639],
        [0.272706698359, 1.158346566947, 2.400055531723, 2.277725862406],
    ],
}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_numbers_are_those_of_neural_tangents(depth):
    got = DenseNTK(depth=depth).gram(pictures(3, 6, 1.0), pictures(4, 6, 0.0))
    assert torch.allclose(got, torch.tensor(NEURAL_TANGENTS[depth]).double(), atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2])
def test_wide_networks_have_this_tangent_kernel(depth):
    """Simulation: parameter gradients of random networks in NTK parameterisation, averaged over networks."""
    width, d = 1024, 6
    g = torch.Generator().manual_seed(depth)
    x = torch.cat([pictures(3, d, 1.0), pictures(2, d, 0.0)]).float()
    sizes = [d] + [width] * depth + [1]

    def network(params, v):
        for layer, (w, b) in enumerate(params):
            v = 2**0.5 * w @ v / w.shape[1] ** 0.5 + 0.1 * b
            v = torch.relu(v) if layer < depth else v
        return v[0]

    total = torch.zeros(len(x), len(x))
    repeats = 24
    for _ in range(repeats):
        params = [
            (torch.randn(o, i, generator=g), torch.randn(o, generator=g))
            for i, o in pairwise(sizes)
        ]
        grads = vmap(grad(network), in_dims=(None, 0))(params, x)
        flat = torch.cat([t.flatten(1) for pair in grads for t in pair], 1)
        total += flat @ flat.T / repeats
    want = DenseNTK(depth=depth).gram(x, x)
    # A relative deviation of one wide network of about 1 / sqrt(width), averaged over 24 of them: under 1 %.
    assert float((total - want).abs().max()) < 0.03 * float(want.max())


def test_a_network_written_with_torch_layers_agrees():
    """Flatten and two linear layers, scaled as the parameterisation says."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 20_000), torch.nn.ReLU(), torch.nn.Linear(20_000, 1)
    )
    params = {k: torch.randn_like(p) for k, p in body.named_parameters()}

    def output(p, v):
        scaled = {
            k: t * (0.1 if k.endswith("bias") else 2**0.5 / t.shape[1] ** 0.5) for k, t in p.items()
        }
        return functional_call(body, scaled, (v[None],))[0, 0]

    x = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    grads = vmap(grad(output), in_dims=(None, 0))(params, x)
    flat = torch.cat([t.flatten(1) for t in grads.values()], 1)
    kernel = DenseNTK()
    want = kernel.gram(kernel.embed(x), kernel.embed(x))
    assert torch.allclose(flat @ flat.T, want, atol=0.05 * float(want.max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_are_finite_at_identical_opposite_and_blank_inputs(dtype):
    x = pictures(4, 6, 0.5).to(dtype)
    x[1], x[2], x[3] = x[0], -x[0], 0
    x.requires_grad_(True)
    for depth in (1, 3):
        (g,) = torch.autograd.grad(DenseNTK(depth=depth).gram(x, x).sum(), x)
        assert bool(torch.isfinite(g).all())


def test_the_diagonal_is_exact_and_so_is_its_derivative():
    """k(x, x) in closed form: s + s (or s for depth 1) with s the pre-activation variance of each layer."""
    x = pictures(2, 6, 0.5).requires_grad_(True)
    first = 2 * x.square().mean(1) + 0.01  # sigma_w^2 |x|^2 / d + sigma_b^2
    second = first + 0.01  # sigma_w^2 / 2 = 1
    want = second + first
    got = DenseNTK().gram(x, x).diagonal()
    assert torch.allclose(got, want, rtol=1e-12)
    assert torch.allclose(
        torch.autograd.grad(got.sum(), x)[0], torch.autograd.grad(want.sum(), x)[0], rtol=1e-10
    )
    # In single precision too, where rounding would put the angle at 1e-3.
    y = x.detach().float()
    assert torch.allclose(DenseNTK().gram(y, y).diagonal().double(), want, rtol=1e-6)


def test_options_are_checked():
    for bad in ({"depth": 0}, {"w_std": 0.0}, {"b_std": 0.0}):
        with pytest.raises(ValueError, match="positive"):
            DenseNTK(**bad)
