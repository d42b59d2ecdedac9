"""Representative records: k-means against scikit-learn, batches at the centres, and what they may not be used for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.clusters import Representative, kmeans, nearest
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.parts import Opening, Query
from ddaudit.distillation.reading import couples_records
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass
from ddaudit.errors import BadInput

from .starts import given

FAST = {
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "loop.iterations": 2,
    "loop.outer": 2,
    "networks.records": 40,
    "reader.per_class": 4,
}


def test_centres_are_scikit_learns_from_the_same_start():
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[:7]]
    theirs = KMeans(7, init=start.numpy(), n_init=1, algorithm="lloyd", tol=0, max_iter=300)
    ours = kmeans(x, 7, torch.Generator().manual_seed(1), rounds=300, tolerance=0.0)
    assert np.allclose(ours.numpy(), theirs.fit(x.numpy()).cluster_centers_, atol=1e-10)


def test_the_nearest_points_are_those_of_brute_force():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    centres = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    expected = [min(range(50), key=lambda i: float((x[i] - c).norm())) for c in centres]
    assert nearest(x, centres).tolist() == expected


def opened(tiny, reader):
    device = torch.device("cpu")
    mean, std = torch.tensor(tiny.mean)[:, None, None], torch.tensor(tiny.std)[:, None, None]
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    return reader.open(tiny.train, everyone, Opening(ByClass(), mean, std, 9, 0, device))


def question(seed):
    device = torch.device("cpu")
    net = Fresh("ConvNetD2W8").make(shape=(3, 8, 8), num_classes=4, seed=seed, device=device)
    return Query("q", GradientMatch(), net, (None,) * 4)


def test_a_batch_stays_for_an_interval_and_goes_with_its_network(tiny):
    source = opened(tiny, Representative(per_class=5, interval=2))
    first, second = question(0), question(1)
    picks = [source.pick(q) for q in (first, first, first, second)]
    assert torch.equal(picks[0], picks[1])
    assert not torch.equal(picks[1], picks[2])  # clustered again, from another start
    assert not torch.equal(picks[2], picks[3])
    for pick in picks:
        assert torch.equal(torch.bincount(tiny.train.labels[pick]), torch.full((4,), 5))


def test_a_class_of_few_records_is_read_whole(tiny):
    source = opened(tiny, Representative(per_class=60))
    assert sorted(source.pick(question(0)).tolist()) == list(range(240))


def test_a_start_from_centres_represents_every_cluster(tiny):
    """Nineteen equal records and another one: two centres hold both, which two random draws rarely do."""
    images = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
    images[0, :, :4] = 255
    data = replace(
        tiny.train, images=images, labels=torch.zeros(20).long(), class_names=("a",),
        groups=None, group_names=(),
    )  # fmt: skip
    seen = []
    for seed in range(4):
        (x,) = Pixels(init="centres").start(given(data, ipc=2, seed=seed)).parameters
        seen.append(x.detach().amax((0, 2, 3, 4)).sum().item())
    assert seen == [1.0] * 4


def test_dream_runs_is_not_shared_between_runs_and_is_refused_under_privacy(tiny):
    recipe = resolve("dream", profile="small", options=FAST)
    made = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    assert torch.isfinite(made.images).all()
    assert len(distill(resolve("dream+fair", profile="small", options=FAST), tiny.train,
                       data=tiny, ipc=1, seed=0).images) == 4  # fmt: skip
    assert couples_records(recipe.reader)
    still = resolve("dm", profile="small")
    assert still.loop.shareable(still, 1)
    clustered = replace(still, reader=Representative(per_class=4))
    assert not clustered.loop.shareable(clustered, 1)
    with pytest.raises(BadInput, match="picks records by other records"):
        resolve("dream+dp")


def test_a_class_without_records_is_named(tiny):
    gone = tiny.train.subset(tiny.train.labels != 2)
    with pytest.raises(BadInput, match="has no training record to start from"):
        distill(resolve("dream", options=FAST), gone, data=tiny, ipc=1, seed=0)
