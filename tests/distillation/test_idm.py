"""IDM: cross-entropy by accuracy in percents, on a queue of networks that learn the records."""

import pytest
import torch
import torch.nn.functional as F

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.parts import View
from ddaudit.distillation.terms import CrossEntropy
from ddaudit.errors import BadInput

FAST = {
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "networks.records": 64,
    "networks.age": 2,
    "networks.size": 4,
    "loop.iterations": 4,
    "reader.per_class": 4,
}


def test_the_weight_is_the_percents_a_network_gets_right(known):
    """IDM_cifar10.py of uitrbn/IDM at fe23bbc: for each class, its mean cross-entropy times 0.5 times percents."""
    net = known.network()
    x, y = known.images(6, 1).float(), torch.arange(3).repeat_interleave(2)
    net.float().accuracy = 0.25
    view = View(x[None], x[None], y, 3, net, torch.ones(1, 1, 1), 0)
    term = CrossEntropy(weight=0.5, per_class=True, by_accuracy=True)
    logits = net.body(x)
    expected = sum(F.cross_entropy(logits[y == c], y[y == c]).item() * 25.0 * 0.5 for c in range(3))
    assert (term.weight * term.loss(view)).item() == pytest.approx(expected, rel=1e-5)
    net.accuracy = None
    with pytest.raises(BadInput, match="an accuracy that is not known"):
        CrossEntropy(by_accuracy=True).loss(View(x[None], x[None], y, 3, net, torch.ones(1), 0))
    assert CrossEntropy().loss(View(x[None], x[None], y, 3, net, torch.ones(1), 0)) > 0


def test_idm_runs_alone_and_fair_and_its_trained_networks_are_refused_under_privacy(tiny):
    for name in ("idm", "idm+fair"):
        recipe = resolve(name, profile="small", options=FAST)
        made = [distill(recipe, tiny.train, data=tiny, ipc=1, seed=0) for _ in range(2)]
        assert torch.equal(made[0].images, made[1].images)
        assert torch.isfinite(made[0].images).all()
    with pytest.raises(BadInput, match="trains networks on private records"):
        resolve("idm+dp", profile="small")
