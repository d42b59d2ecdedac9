"""LAMB and AdaBelief: three steps against optax and torch_optimizer."""

import pytest
import torch

from ddaudit.distillation.optimisers import optimiser_named

START = [0.3, -0.2, 0.5, 0.1]
GRADIENTS = [[0.1, -0.4, 0.02, 0.3], [-0.2, 0.1, 0.05, 0.25], [0.3, 0.3, -0.01, 0.2]]
# optax 0.2.8, lamb(0.1), and torch_optimizer 0.3.0, AdaBelief(lr=0.1, eps=1e-16), run on the same numbers.
ELSEWHERE = {
    "lamb": [0.2672973052857326, -0.15453955123022475, 0.40584668679043967, -0.013082760118487087],
    "adabelief": [
        0.19125076197625224,
        -0.04690716912706244,
        0.21422116548469933,
        -0.24522621698095737,
    ],
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_three_steps_are_those_of_the_reference(name):
    p = torch.tensor([START, [-2 * v for v in START]], dtype=torch.float64)
    optimiser = optimiser_named(name, [{"params": [p]}], lr=0.1)
    for g in GRADIENTS:
        p.grad = torch.tensor([g, g], dtype=torch.float64)
        optimiser.step()
    # A second run in the same tensor changes nothing.
    assert p[0].tolist() == pytest.approx(ELSEWHERE[name], abs=1e-7)


def test_lamb_moves_a_share_of_the_parameters_own_length():
    p = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    before = p.clone()
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    optimiser_named("lamb", [{"params": [p]}], lr=0.01).step()
    moved, own = ((t.flatten(1).norm(dim=1)) for t in (p - before, before))
    torch.testing.assert_close(moved, 0.01 * own, rtol=1e-4, atol=0)
