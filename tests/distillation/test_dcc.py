"""DCC and LCMat: one gradient of all classes, after a warm-up class by class; the spread of gradients."""

import pytest
import torch

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.curvature import CurvatureMatch, spread
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.schedules import Schedule
from ddaudit.errors import BadInput

FAST = {
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "loop.iterations": 2,
    "loop.outer": 2,
    "loop.inner": 1,
    "reader.per_class": 4,
}


def test_the_joint_distance_is_that_of_the_public_code(known):
    # match_loss() of the mean of class gradients against the gradient of all synthetic images: Saehyung-Lee/DCC,
    # utils.py and main.py at 5073a44, on the same network and images (float32 sum).
    net, objective = known.network(), GradientMatch()
    row = torch.full((1, 1, 12), 1 / 12, dtype=torch.float64)
    target = objective.real(net, known.images(12, 0), torch.arange(3).repeat_interleave(4), row)
    y = torch.arange(3).repeat_interleave(2)
    made = objective.synthetic(net, known.images(6, 1)[None], y, row[0, :, :6] * 2, None)
    assert objective.distance(net, target, made).item() == pytest.approx(
        6.312075614929199, rel=1e-6
    )


def test_loops_are_those_of_the_public_code():
    loop = resolve("dcc").loop
    assert loop.schedule(1) == Schedule(10, 5)
    assert loop.schedule(10) == Schedule(10, 50)
    assert loop.schedule(50) == Schedule(50, 10)
    assert resolve("dc").loop.schedule(1) == Schedule(1, 1)
    with pytest.raises(BadInput, match=r"loop.table is 'dc' or 'dcc' or 'fairdd'"):
        resolve("dcc", options={"loop.table": "dsa"})


def images(tiny, name, **options):
    recipe = resolve(name, profile="small", options={**FAST, **options})
    return distill(recipe, tiny.train, data=tiny, ipc=1, seed=0).images


def test_warm_up_matches_class_by_class(tiny):
    """All rounds warmed up is DC from real records; none is another set."""
    options = {"loop.warmup_networks": 9, "loop.warmup_rounds": 9}
    dc = images(tiny, "dc", **{"synthesis.init": "real"})
    assert torch.equal(images(tiny, "dcc", **options), dc)
    cold = images(tiny, "dcc", **{**options, "loop.warmup_networks": 0})
    assert not torch.equal(cold, dc)
    half = images(tiny, "dcc", **{**options, "loop.warmup_rounds": 1})
    assert not torch.equal(half, dc)
    assert not torch.equal(half, cold)


def test_spread_is_the_variance_over_the_rows_there_are():
    g = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    there = torch.ones(2, 5, dtype=torch.bool)
    assert torch.allclose(spread(g, there), g.var(1, unbiased=False), atol=1e-6)
    there[1, 2:] = False
    assert torch.allclose(spread(g, there)[1], g[1, :2].var(0, unbiased=False), atol=1e-6)


def test_curvature_adds_the_gap_of_variances_in_equal_parts(known):
    net = known.network()
    size = sum(p.numel() for p in net.body.parameters())
    g = torch.randn(2, 1, 3, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = GradientMatch().distance(net, g[0], g[1])
    added = CurvatureMatch(radius=0.5).distance(net, g[0], g[1]) - near
    gap = (g[0].var(1, unbiased=False) - g[1].var(1, unbiased=False)).abs().sum()
    assert torch.allclose(added, (0.5 * gap / 3).expand(1, 3))
    assert torch.allclose(CurvatureMatch(radius=0).distance(net, g[0], g[1]), near)
    # A row without records changes neither the gap nor who bears it.
    g[0, :, 2] = 0
    added = CurvatureMatch().distance(net, g[0], g[1]) - GradientMatch().distance(net, g[0], g[1])
    gap = (g[0, :, :2].var(1, unbiased=False) - g[1, :, :2].var(1, unbiased=False)).abs().sum()
    assert torch.allclose(added, torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64) * gap / 2)


def test_variance_of_gradients_is_the_hessians_diagonal_for_a_gaussian_model():
    """l = (theta - t)^2 / 2 with t ~ N(theta, 1): per-record gradients have variance 1, the second derivative."""
    t = torch.randn(1, 20_000, 1, generator=torch.Generator().manual_seed(0))
    gradients = 0.0 - t
    assert spread(gradients, torch.ones(1, 20_000, dtype=torch.bool)).item() == pytest.approx(
        1.0, abs=0.03
    )


@pytest.mark.parametrize("name", ["lcmat", "lcmat+fair", "dcc"])
def test_recipes_run(tiny, name):
    made = images(tiny, name)
    assert made.shape == (4, 3, 8, 8)
    assert torch.isfinite(made).all()


def test_what_privacy_and_fairness_allow(tiny):
    small = {k: v for k, v in FAST.items() if "reader" not in k} | {"reader.noise_seed": 1}
    for name, options in (("lcmat+dp", {}), ("dcc+dp", {"loop.warmup_networks": 0})):
        recipe = resolve(name, profile="small", options={**small, **options})
        made = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
        assert made.card.privacy is not None
    with pytest.raises(BadInput, match="no private reader has a budget for"):
        distill(
            resolve("dcc+dp", profile="small", options=small), tiny.train, data=tiny, ipc=1, seed=0
        )
    with pytest.raises(BadInput, match="'fair' splits one target per class"):
        resolve("dcc+fair")


def test_a_table_is_looked_up_at_the_nearest_size():
    assert Matching(1, outer=None, inner=None, table="dcc").schedule(3) == Schedule(10, 5)


def test_loops_are_those_of_each_authors_code():
    """get_loops of zqhang/FairDD, mhmoslemi/COBRA (utils.py) and mashijie1028/TrustDD (dc_utils.py)."""
    known = {
        "fairdd-dc": {1: (1, 1), 10: (10, 50), 50: (50, 10), 100: (100, 10)},
        "fairdd-dsa": {1: (1, 1), 100: (100, 10)},
        "cobra-dc": {1: (5, 10), 5: (5, 10), 9: (5, 10), 10: (10, 50), 100: (100, 10)},
        "trustdd": {1: (1, 1), 5: (10, 50), 10: (10, 50), 50: (50, 10)},
    }
    for name, loops in known.items():
        loop = resolve(name).loop
        for ipc, pair in loops.items():
            made = loop.schedule(ipc)
            assert (made.outer, made.inner) == pair, (name, ipc)
