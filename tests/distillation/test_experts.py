"""Experts and the store they are kept in: trained once per set of records, resumable, refused under privacy."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.audits.store import RunStore
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import View
from ddaudit.distillation.store import FolderStore, content_key
from ddaudit.distillation.terms import CrossEntropy
from ddaudit.errors import BadInput
from ddaudit.seeds import stable_seed

FAST = {
    "loop.iterations": 4,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "networks.count": 2,
    "networks.epochs": 2,
}


@pytest.fixture(params=["folder", "run"])
def store(request, tmp_path):
    """Both stores: a folder, and an audit's run."""
    return FolderStore(tmp_path / "s") if request.param == "folder" else RunStore(str(tmp_path))


class Counting:
    """A store in memory that notes what is put into it."""

    def __init__(self, fail_after=None):
        self.held, self.fail_after = {}, fail_after

    def get(self, key):
        return self.held.get(key)

    def put(self, key, tensors):
        if self.fail_after is not None and len(self.held) >= self.fail_after:
            raise KeyboardInterrupt
        self.held[key] = {n: t.clone() for n, t in tensors.items()}


def made(recipe, data, store=None, *, ipc=1, seed=0):
    return distill(recipe, data.train, data=data, ipc=ipc, seed=seed, store=store).images


def test_what_is_put_is_got_and_damage_counts_as_missing(store, tmp_path):
    key = content_key("expert", 1, (0.5, 0.25))
    assert store.get(key) is None
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor(3)}
    store.put(key, tensors)
    back = store.get(key)
    assert all(torch.equal(back[n], t) for n, t in tensors.items())
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    assert store.get(key) is None
    assert content_key(1) != content_key("1") != content_key(1, None)


def test_experts_are_trained_once_for_all_seeds_and_sizes(tiny):
    store = Counting()
    recipe = resolve("dm-experts", profile="small", options=FAST)
    first = made(recipe, tiny, store)
    keys = set(store.held)
    assert len(keys) == 2
    made(recipe, tiny, store, seed=1)
    made(recipe, tiny, store, ipc=2)
    assert set(store.held) == keys
    assert torch.allclose(made(recipe, tiny, store), first, atol=1e-6)
    assert torch.allclose(made(recipe, tiny), first, atol=1e-6)  # without a store too


def test_a_killed_run_keeps_the_experts_it_has(tiny):
    recipe = resolve("dm-experts", profile="small", options=FAST)
    killed = Counting(fail_after=1)
    with pytest.raises(KeyboardInterrupt):
        made(recipe, tiny, killed)
    assert len(killed.held) == 1
    (before,) = killed.held.values()
    killed.fail_after = None
    made(recipe, tiny, killed)
    assert len(killed.held) == 2
    assert before is next(iter(killed.held.values()))


def test_shadows_have_the_experts_of_their_own_records(tiny):
    store = Counting()
    recipe = resolve("dm-experts", profile="small", options=FAST)
    assert not recipe.loop.shareable(recipe, 1)
    members = torch.ones(3, len(tiny.train), dtype=torch.bool)
    members[0, :60] = False  # runs 1 and 2 see the same records
    distill_many(recipe, tiny.train, members, data=tiny, ipc=1, seed=0, store=store)
    assert len(store.held) == 4


def test_experts_know_the_classes_and_copies_leave_them_as_they_are(tiny):
    job = Job(
        tiny.train,
        torch.ones(1, len(tiny.train), dtype=torch.bool),
        tiny,
        1,
        0,
        torch.device("cpu"),
    )
    mean, std = resolve("dm").constants(tiny)
    source = Experts("ConvNetD2W8", count=1, epochs=30).bind(tiny).learn(job, mean, std)
    make = {"shape": tiny.shape, "num_classes": 4, "seed": 3, "device": torch.device("cpu")}
    x = (tiny.test.pixels(torch.arange(len(tiny.test))) - mean) / std
    first, second = source.make(**make), source.make(**make)
    accuracy = (first.body(x).argmax(1) == tiny.test.labels).float().mean()
    assert accuracy > 0.9
    with torch.no_grad():
        first.body.classifier.weight.zero_()
    assert torch.equal(source.make(**make).body(x), second.body(x))
    assert all(p.requires_grad for p in second.body.parameters())


def test_private_readers_refuse_networks_trained_on_records(tiny):
    with pytest.raises(BadInput, match="trains networks on private records outside the ledger"):
        resolve("dm-experts+dp", profile="small", options=FAST)
    with pytest.raises(BadInput, match=r"networks\.count, networks\.epochs"):
        resolve("dm-experts", options={"networks.count": 0})


def test_interpolated_experts_lie_between_their_start_and_their_end(tiny):
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    job = Job(tiny.train, everyone, tiny, 1, 0, torch.device("cpu"))
    source = Experts("ConvNetD2W8", count=2, epochs=2, interpolate=True)
    source = source.bind(tiny).learn(job, *resolve("dm").constants(tiny))
    make = {"shape": tiny.shape, "num_classes": 4, "device": torch.device("cpu")}
    # Number 0 starts where the training engine starts a network of its seed.
    starts = [
        dict(Fresh("ConvNetD2W8").make(seed=stable_seed("expert", n), **make).named_parameters())
        for n in range(2)
    ]
    shares = []
    for seed in range(20):
        net, end = source.make(seed=seed, **make), source.teacher(seed)
        start = starts[source.trained.index(end)]
        moved = torch.cat([(p - start[n]).flatten() for n, p in net.named_parameters()])
        whole = torch.cat([(p - start[n]).flatten() for n, p in end.named_parameters()])
        share = float((moved @ whole / (whole @ whole)).detach())
        assert torch.allclose(moved, share * whole, atol=1e-6)
        shares.append(share)
    assert all(0 <= s <= 1 for s in shares)
    assert max(shares) - min(shares) > 0.5
    assert len({id(source.teacher(seed)) for seed in range(20)}) == 2


def test_calibration_reads_the_trained_end_and_not_the_network_of_the_step(tiny):
    term, plain = (CrossEntropy(1.0, on=on) for on in ("teacher", "net"))
    make = {"shape": tiny.shape, "num_classes": 4, "device": torch.device("cpu")}
    net, teacher = (Fresh("ConvNetD2W8").make(seed=seed, **make) for seed in (0, 1))
    x, y = torch.randn(2, 8, 3, 8, 8), torch.arange(8) % 4
    view = View(x, x, y, 4, net, torch.ones(3, 1, 1), 0, teacher=teacher)
    wanted = torch.stack([F.cross_entropy(teacher.body(xk), y) for xk in x])
    assert torch.allclose(term.loss(view), wanted, atol=1e-6)
    assert not torch.allclose(plain.loss(view), wanted, atol=1e-3)
    by_class = replace(term, per_class=True).loss(view)
    assert torch.allclose(
        by_class, 4 * wanted, atol=1e-5
    )  # classes of one size: the sum of their means
    with pytest.raises(BadInput, match="needs a network trained on the records"):
        term.loss(replace(view, teacher=None))
