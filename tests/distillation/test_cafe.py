"""CAFE: losses of the public code on the same tensors, and schedules that end by accuracies."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.layers import LayerAlignment
from ddaudit.distillation.schedules import Correct, Watch
from ddaudit.errors import BadInput

FAST = {
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "loop.iterations": 1,
    "loop.watch.window": 2,
    "loop.watch.rounds": 3,
    "loop.watch.epochs": 3,
    "reader.per_class": 4,
}


def rows(classes, each):
    return torch.eye(classes, dtype=torch.float64).repeat_interleave(each, 1) / each


@pytest.mark.parametrize(
    ("discrimination", "expected", "slope"),
    [
        # Sums of criterion_middle() and of the discrimination loss of kaiwang960112/CAFE, distill.py and networks.py at
        # b718ff5, on the same ConvNet-3 and images; its gradient in the synthetic images.
        (0.01, 1.350057759794224, 0.1861170790513453),
        (0.0, 0.6592826659462317, None),
    ],
)
def test_losses_are_those_of_the_public_code(known, discrimination, expected, slope):
    net = known.network("ConvNetD3W4", 10, 3)
    objective = LayerAlignment(discrimination=discrimination)
    y = torch.arange(10).repeat_interleave(3)
    target = objective.real(net, known.images(30, 0, 3), y, rows(10, 3)[None])
    x = known.images(20, 1, 3).requires_grad_(True)
    made = objective.synthetic(
        net, x[None], torch.arange(10).repeat_interleave(2), rows(10, 2), None
    )
    loss = objective.distance(net, target, made).sum()
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    if slope is not None:
        (gradient,) = torch.autograd.grad(loss, x)
        assert gradient.norm().item() == pytest.approx(slope, rel=1e-9)


def test_rows_of_different_length_count_their_own_records(known):
    """Two groups a class: the cross-entropies are those of all records, whichever row holds them."""
    net = known.network("ConvNetD3W4", 10, 3)
    objective = LayerAlignment(shallow=0, last=0, embedding=0)
    y = torch.arange(10).repeat_interleave(3)
    x = known.images(30, 0, 3)
    made = objective.synthetic(
        net, known.images(20, 1, 3)[None], torch.arange(10).repeat_interleave(2), rows(10, 2), None
    )
    whole = objective.distance(net, objective.real(net, x, y, rows(10, 3)[None]), made).sum()
    split = torch.zeros(20, 30, dtype=torch.float64)
    for c in range(10):
        split[2 * c, 3 * c] = 1
        split[2 * c + 1, 3 * c + 1 : 3 * c + 3] = 0.5
    apart = objective.distance(
        net, objective.real(net, x, y, split[None]), made.repeat_interleave(2, 1)
    )
    assert apart.sum().item() == pytest.approx(whole.item())


def test_rounds_end_when_accuracies_settle_and_training_when_they_move():
    watch = Watch(settled=0.04, moved=0.03, window=3)
    assert not watch.has_settled([0.5, 0.5])
    assert watch.has_settled([0.1, 0.5, 0.52, 0.53])
    assert not watch.has_settled([0.5, 0.5, 0.55])
    assert not watch.has_moved([0.1, 0.9])
    assert watch.has_moved([0.5, 0.5, 0.54])
    assert not watch.has_moved([0.1, 0.5, 0.51, 0.52])


def test_accuracy_is_the_share_of_records_a_network_gets_right(known):
    net = known.network()
    x, y = known.images(12, 0), torch.arange(12) % 3
    right = (net.body(x).argmax(1) == y).double()
    row = torch.full((1, 1, 12), 1 / 12, dtype=torch.float64)
    assert Correct().real(net, x, y, row).item() == pytest.approx(right.mean().item())


def test_cafe_stops_its_rounds_early_and_halves_its_step(tiny):
    recipe = resolve("cafe", profile="small", options=FAST)
    steps = []
    watched = replace(recipe, loop=replace(recipe.loop, watch=Watch(settled=2, window=2, rounds=9)))
    made = distill(
        watched, tiny.train, data=tiny, ipc=1, seed=0, progress=lambda done, _: steps.append(done)
    )
    assert steps == [1, 2]  # accuracies always lie within 2 of each other
    assert torch.isfinite(made.images).all()
    loop = resolve("cafe").loop
    assert [loop.rate(1, i) for i in (0, 1199, 1200, 1700, 1800)] == [0.1, 0.1, 0.05, 0.025, 0.0125]


def test_cafe_under_fairness_and_privacy(tiny):
    fair = resolve("cafe+fair", profile="small", options=FAST)
    assert len(distill(fair, tiny.train, data=tiny, ipc=1, seed=0).images) == 4
    with pytest.raises(BadInput, match="compares every real embedding with the synthetic centres"):
        resolve("cafe+dp")
    plain = replace(resolve("cafe"), objective=LayerAlignment(discrimination=0))
    assert not plain.objective.couples_records()
    assert plain.objective.squared
    small = {k: v for k, v in FAST.items() if "reader" not in k}
    private = resolve("dm+dp", options={"networks.width": 8})
    with pytest.raises(BadInput, match="no private reader has a budget for"):
        distill(
            replace(private, loop=resolve("cafe", options=small).loop),
            tiny.train, data=tiny, ipc=1, seed=0,
        )  # fmt: skip


def test_discrimination_pulls_a_centre_to_its_own_class(known):
    """The slope of the cross-entropy in a centre: sum over records of (softmax - one-hot) times their embedding."""
    net = known.network("ConvNetD3W4", 10, 3)
    d = net.body.classifier.in_features
    z = torch.randn(4, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 3, 3, 9])
    target = torch.cat([torch.zeros(1), torch.cat([y[:, None], z], 1).flatten()])[None, None]
    centres = torch.zeros(10, d, dtype=torch.float64, requires_grad=True)
    made = torch.cat([torch.zeros(1, dtype=torch.float64), centres.flatten()])[None, None]
    loss = LayerAlignment(discrimination=1.0).distance(net, target, made).sum()
    (slope,) = torch.autograd.grad(loss, centres)
    expected = (torch.full((4, 10), 0.1, dtype=torch.float64) - F.one_hot(y, 10)).T @ z
    assert torch.allclose(slope, expected)
