"""Regression on network features: its gradients, the pool beneath it, and what it reaches."""

from dataclasses import dataclass, replace

import pytest
import torch

from ddaudit.data import load_data
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.kernels import NetworkFeatures, krr_accuracy
from ddaudit.distillation.kip import RidgeGradient
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.synthesis import labels_of
from ddaudit.errors import BadInput, DDAuditError

TINY = {
    "loop.steps": 4,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "networks.size": 2,
    "networks.age": 3,
}


def network(data, arch="ConvNetD2W8", seed=0):
    make = {"shape": data.shape, "num_classes": data.num_classes, "device": torch.device("cpu")}
    return Fresh(arch).make(seed=seed, **make)


@dataclass(frozen=True)
class Always(Fresh):
    """The network of seed 0 at every step."""

    def make(self, *, shape, num_classes, seed, device):
        return super().make(shape=shape, num_classes=num_classes, seed=0, device=device)


@pytest.mark.parametrize("space", ["pixels", "features"])
def test_gradients_per_record_add_up_on_network_features(space, tiny):
    """The closed form per record against autograd of the weighted losses."""
    g = torch.Generator().manual_seed(0)
    support, x = torch.randn(1, 6, 3, 8, 8, generator=g), torch.randn(9, 3, 8, 8, generator=g)
    y, rows = torch.randint(3, (9,), generator=g), torch.rand(1, 2, 9, generator=g)
    kernel = NetworkFeatures().on(network(tiny))
    ask = RidgeGradient(kernel, 1e-2, support, labels_of(3, 2), 3, space=space)
    want = rows @ ask.signals(None, x, y)
    got = ask.real(None, x, y, rows)
    assert torch.allclose(got, want, atol=1e-3 * float(want.abs().max()))


def test_on_one_network_the_regression_from_the_set_gets_better():
    """Digits, one image per class: on the features it is distilled for, against random real images."""
    data = load_data("digits")
    images = data.test.pixels(torch.arange(len(data.test)))
    options = {"loop.steps": 30, "networks.width": 16}
    recipe = resolve("frepo", profile="small", options=options)
    recipe = replace(recipe, networks=Always("ConvNet", 16))
    kernel = NetworkFeatures().on(network(data, "ConvNetD2W16"))

    def accuracy(made):
        with torch.no_grad():
            return krr_accuracy(made, images, data.test.labels, kernel=kernel, reg=1e-6)

    made = accuracy(distill(recipe, data.train, data=data, ipc=1, seed=0))
    subsets = [
        accuracy(distill(resolve("random"), data.train, data=data, ipc=1, seed=s)) for s in range(2)
    ]
    assert made > max(subsets) + 0.05


def test_frepo_learns_images_and_labels_on_its_pool(tiny):
    recipe = resolve("frepo", profile="small", options=TINY)
    a, b = (distill(recipe, tiny.train, data=tiny, ipc=1, seed=0) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert a.soft
    assert a.card.recipe["loop"]["kernel"] == {"part": "NetworkFeatures", "models": 1, "bias": 0.0}
    still = replace(recipe, networks=Fresh("ConvNetD2W8"))
    c = distill(still, tiny.train, data=tiny, ipc=1, seed=0)
    assert not torch.equal(a.images, c.images)


def test_runs_share_random_networks_and_no_pool(tiny):
    recipe = resolve("frepo", profile="small", options=TINY)
    assert not recipe.loop.shareable(recipe, 1)
    still = replace(recipe, networks=Fresh("ConvNetD2W8"))
    assert still.loop.shareable(still, 1)
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    record = int((members[0] & ~members[1]).nonzero()[0])
    changed = replace(tiny.train, images=tiny.train.images.clone())
    changed.images[record] = 255 - changed.images[record]
    still = still.options({"synthesis.inner.init": "noise", "reader.per_class": 1000})
    before, after = (
        distill_many(still, d, members, data=tiny, ipc=1, seed=0) for d in (tiny.train, changed)
    )
    same = [torch.equal(a.images, b.images) for a, b in zip(before, after, strict=True)]
    assert same == [not bool(m) for m in members[:, record]]


def test_a_kernel_of_features_goes_with_networks(tiny):
    frepo, kip = resolve("frepo", options=TINY), resolve("kip", options={"loop.steps": 1})
    for recipe in (replace(frepo, networks=None), replace(kip, networks=Fresh())):
        with pytest.raises(BadInput, match="needs networks for a kernel of their features"):
            distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    with pytest.raises(DDAuditError, match="without a network"):
        NetworkFeatures().embed(torch.zeros(1, 3, 8, 8))
