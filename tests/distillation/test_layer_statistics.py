"""Layer statistics: 0 where they agree, closed forms, and the losses of the public code on the same tensors.

Constants were computed outside, by the authors' hooks on the tensors of :func:`waves` (patterns of einops written out):
SRe2L ``SRe2L/*small_dataset/utils.py`` (VILA-Lab/SRe2L 8d00cba), G-VBSM ``Branch_CIFAR_10/recover/utils.py``
(shaoshitong/G_VBSM_Dataset_Condensation 1ed80b0), EDC the same path (shaoshitong/EDC 80116a7), WMDD
``recover/utils.py`` (Liu-Hy/WMDD 45c2962). Moving averages of the middle two were started by the first batch, as their
test for it means to do; EDC's code swaps mean and variance of patches when it stores them by class, which was undone.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ddaudit.data import Dataset
from ddaudit.distillation.densify import Densify
from ddaudit.distillation.layer_statistics import (
    LayerStatistics,
    Moments,
    cells,
    divergence,
    moments,
)
from ddaudit.distillation.loops import Job
from ddaudit.distillation.parts import View
from ddaudit.distillation.tracing import Layer, trace
from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network, build

STD = torch.ones(3, 1, 1)


def waves(n: int, c: int, size: int, phase: float) -> Tensor:
    i = torch.arange(n * c * size * size, dtype=torch.float64)
    return (torch.sin(i * 0.37 + phase) + 0.1 * torch.cos(i * 1.3)).view(n, c, size, size).float()


def norm() -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(3).eval()
    bn.running_mean, bn.running_var = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 1.0, 1.5])
    return bn


def seen_by(module: nn.BatchNorm2d | nn.Conv2d, x: Tensor, labels: Tensor | None = None) -> View:
    """A view whose network is the one layer ``module``."""
    labels = torch.zeros(len(x), dtype=torch.int64) if labels is None else labels
    view = View(x[None], x[None], labels, 10, None, STD, 0)
    made = type(trace(tiny_net(), torch.zeros(1, 3, 8, 8)))(
        torch.zeros(len(x), 10), x.flatten(1), (Layer(module, x),)
    )
    view.__dict__["trace"] = made
    return view


def tiny_net(norm: str = "BN") -> Network:
    return build(
        Arch.parse(f"ConvNetD1W4{norm}"), shape=(3, 8, 8), num_classes=4, seed=0, mean=[0.0] * 3, std=[1.0] * 3
    ).eval()  # fmt: skip


def moments_of_conv(
    conv: nn.Conv2d, real: Tensor, labels: Tensor, classes: int
) -> dict[object, Moments]:
    """Of the one layer ``conv``: the network is that layer alone."""
    net = tiny_net("NN")
    net.body.features = nn.Sequential(conv, nn.Flatten())
    net.body.classifier = nn.Linear(conv.out_channels * real.shape[-1] ** 2, 10)
    return dict(moments(net, real, labels, classes, True))


X1, X2 = waves(6, 3, 8, 0.0), waves(6, 3, 8, 1.0)


def test_statistics_that_agree_cost_nothing() -> None:
    bn, x = norm(), waves(5, 3, 8, 0.7)
    bn.running_mean, bn.running_var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    term = LayerStatistics()
    assert float(term.loss(seen_by(bn, x))) == pytest.approx(0, abs=1e-5)
    assert float(term.loss(seen_by(bn, x + 1.0))) == pytest.approx(10 * 3**0.5, rel=1e-5)


def test_the_gradient_on_a_linear_map_is_the_closed_form() -> None:
    """x enters as a x: means m = a mean(x), variances a^2 var(x); far from the target both norms' slopes are known."""
    bn, x = norm(), waves(4, 3, 8, 0.2).double()
    a = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    bn.double()
    view = seen_by(bn, x.clone())
    view.__dict__["trace"] = replace(view.trace, layers=(Layer(bn, a * x),))
    (got,) = torch.autograd.grad(LayerStatistics(first=1.0).loss(view).sum(), a)
    m, v = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    dm, dv = 1.7 * m - bn.running_mean, 1.7**2 * v - bn.running_var
    want = (dm @ m) / dm.norm() + (dv @ (2 * 1.7 * v)) / dv.norm()
    assert float(got) == pytest.approx(float(want), rel=1e-9)


def test_the_loss_is_sre2ls() -> None:
    assert float(LayerStatistics(first=1.0).loss(seen_by(norm(), X1))) == pytest.approx(
        1.4842963218688965, rel=1e-5
    )
    assert float(LayerStatistics(first=10.0).loss(seen_by(norm(), X1))) == pytest.approx(
        14.842963218688965, rel=1e-5
    )


def test_moving_averages_are_gvbsms() -> None:
    bn, term = norm(), LayerStatistics(first=1.0, momentum=0.8)
    first = term.loss(seen_by(bn, X1))
    x = X2.clone().requires_grad_(True)
    second = term.loss(seen_by(bn, x))
    assert float(first) == pytest.approx(1.4842963218688965, rel=1e-5)
    assert float(second.detach()) == pytest.approx(1.4837253093719482, rel=1e-5)
    (slope,) = torch.autograd.grad(second.sum(), x)
    assert float(slope.abs().max()) > 0


@pytest.mark.parametrize(
    ("size", "phase", "want"),
    [(8, 0.0, 0.040366820991039276), (6, 0.5, 0.04768640175461769)],
)
def test_convolutions_are_gvbsms(size: int, phase: float, want: float) -> None:
    """Channels, and patches of maps enlarged to a multiple of 4."""
    conv = nn.Conv2d(3, 2, 3, padding=1)
    known = moments_of_conv(conv, waves(8, 3, size, 2.0), torch.arange(8) % 4, 4)
    term = LayerStatistics(first=1.0, convolutions=True, momentum=0.8, known=known)  # type: ignore[arg-type]
    assert float(term.loss(seen_by(conv, waves(6, 3, size, phase)))) == pytest.approx(
        want, rel=2e-3
    )


def test_category_aware_statistics_are_edcs() -> None:
    conv, bn = nn.Conv2d(3, 3, 3, padding=1), norm()
    net = tiny_net()
    real, labels = waves(40, 3, 8, 3.0), torch.arange(40) % 10
    net.body.features = nn.Sequential(bn, nn.Flatten())
    net.body.classifier = nn.Linear(3 * 64, 10)
    known = {
        **moments(net.eval(), real, labels, 10, True),
        **moments_of_conv(conv, real, labels, 10),
    }
    term = LayerStatistics(first=1.0, classes="half", convolutions=True, momentum=0.8, known=known)  # type: ignore[arg-type]
    own = torch.tensor([0, 1, 2, 3, 0, 1])
    assert float(term.loss(seen_by(bn, X1, own))) == pytest.approx(0.7531938552856445, rel=1e-4)
    assert float(term.loss(seen_by(conv, X1, own))) == pytest.approx(0.04115308076143265, rel=1e-3)


def test_statistics_of_each_class_are_wmdds() -> None:
    bn = norm()
    means = torch.tensor([[0.1, 0.0, -0.1], [0.2, -0.3, 0.4]])
    variances = torch.tensor([[0.5, 0.6, 0.7], [0.9, 0.8, 1.1]])
    known = {(bn, "channel"): Moments(torch.ones(2), means, variances, variances)}
    term = LayerStatistics(first=1.0, classes="each", known=known)  # type: ignore[arg-type]
    got = term.loss(seen_by(bn, X1, torch.tensor([0, 0, 0, 1, 1, 1])))
    assert float(got) == pytest.approx(0.8390473127365112, rel=1e-5)


def test_densification_is_gvbsms() -> None:
    x, labels = waves(6, 1, 4, 0.3), torch.tensor([0, 0, 0, 1, 1, 1])
    view = View(x[None], x[None], labels, 2, None, STD, 0)
    assert float(Densify().loss(view)) == pytest.approx(0.3451259136199951, rel=1e-4)
    alone = View(x[None, :1], x[None, :1], labels[:1], 2, None, STD, 0)
    assert float(Densify().loss(alone)) == pytest.approx(0, abs=1e-6)


def test_moments_are_those_of_all_records_at_once() -> None:
    """Exact whatever the order and number of records looked at together: numpy's mean and variance per class."""
    conv = nn.Conv2d(3, 2, 3, padding=1)
    x, labels = waves(300, 3, 8, 0.1), torch.arange(300) % 3
    known = moments_of_conv(conv, x, labels, 3)
    for kind in ("channel", "patch"):
        got = known[(conv, kind)]
        values = cells(x, kind).double()  # type: ignore[arg-type]
        for c in range(3):
            own = values[labels == c]
            assert torch.allclose(got.mean[c].double(), own.mean((0, 2)), atol=1e-5)
            assert torch.allclose(got.total[c].double(), own.var((0, 2), unbiased=False), atol=1e-5)
            assert torch.allclose(
                got.within[c].double(), own.var(2, unbiased=False).mean(0), atol=1e-5
            )
        mean, var = got.pooled()
        assert torch.allclose(mean.double(), values.mean((0, 2)), atol=1e-5)
        assert torch.allclose(var.double(), values.var((0, 2), unbiased=False), atol=1e-5)


def test_networks_without_batch_norm_are_refused_unless_convolutions_are_compared(
    tiny: Dataset,
) -> None:
    net, x = tiny_net("IN"), torch.rand(1, 4, 3, 8, 8)
    view = View(x, x, torch.arange(4), 4, net, STD, 0)
    with pytest.raises(BadInput, match="the network has none"):
        LayerStatistics().loss(view)
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    job = Job(tiny.train, everyone, tiny, 1, 0, torch.device("cpu"))
    term = LayerStatistics(convolutions=True).learn(job, [net], (torch.zeros(3, 1, 1), STD))
    assert float(term.loss(view)) > 0
    with pytest.raises(BadInput, match="one run at a time"):
        term.loss(View(x.expand(2, -1, -1, -1, -1), x, torch.arange(4), 4, net, STD, 0))


def test_dropped_convolutions_cost_nothing(tiny: Dataset) -> None:
    conv = nn.Conv2d(3, 2, 3, padding=1)
    known = moments_of_conv(conv, waves(8, 3, 8, 2.0), torch.zeros(8, dtype=torch.int64), 1)
    term = LayerStatistics(convolutions=True, drop=0.5, known=known)  # type: ignore[arg-type]
    many = []
    for step in range(60):
        view = seen_by(conv, X1.clone())
        shown = replace(view, step=step)
        shown.__dict__["trace"] = view.trace
        many.append(float(term.loss(shown)) > 0)
    assert 15 < sum(many) < 45


@pytest.mark.parametrize(
    "bad",
    [{"weight": 0.0}, {"momentum": 1.0}, {"drop": -0.1}, {"classes": "each", "momentum": 0.5}],
)
def test_values_that_mean_nothing_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="LayerStatistics"):
        LayerStatistics(**bad)  # type: ignore[arg-type]


def test_the_divergence_is_that_of_normal_distributions():
    """Against torch's, coordinate by coordinate; 0 for equal ones, and not symmetric."""
    g = torch.Generator().manual_seed(0)
    ours, theirs = (
        (torch.randn(5, generator=g), torch.rand(5, generator=g) + 0.1) for _ in range(2)
    )
    normal = [torch.distributions.Normal(m, (v + 1e-3).sqrt()) for m, v in (theirs, ours)]
    wanted = torch.distributions.kl_divergence(*normal).sum()
    torch.testing.assert_close(divergence(ours, theirs), wanted, rtol=1e-4, atol=1e-5)
    assert float(divergence(ours, ours)) == pytest.approx(0, abs=1e-6)
