"""Pools of networks trained on the synthetic set: their training, their ages, and what they may depend on."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.distillation import distill, distill_many, distill_sizes, resolve
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Canvas, Targets
from ddaudit.distillation.pool import Pool
from ddaudit.distillation.reading import Around, Minibatch
from ddaudit.errors import BadInput

FAST = {
    "loop.iterations": 6,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "networks.size": 2,
    "networks.age": 3,
}


def make(pool, seed):
    device = torch.device("cpu")
    return pool.make(shape=(3, 8, 8), num_classes=4, seed=seed, device=device)


def still(seed=0):
    """A canvas of eight fixed images."""
    x = torch.randn(1, 8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Canvas([x], torch.arange(8) % 4, lambda: x)


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_a_network_learns_as_a_plain_adam_loop_on_the_synthetic_set_does(loss, tiny):
    pool = Pool("ConvNetD2W8", size=1, lr=1e-2, loss=loss, updates=2).bind(tiny)
    canvas = still()
    for step in range(3):
        got = make(pool, seed=5 + step)
        pool.update(canvas, step)
    want = make(Fresh("ConvNetD2W8"), seed=5)
    adam = torch.optim.Adam(want.body.parameters(), lr=1e-2)
    x, y = canvas.taught(0)
    for _ in range(6):
        out = want.body(x)
        value = F.cross_entropy(out, y)
        if loss == "mse":
            value = (out - F.one_hot(y, 4) + 1 / 4).square().mean()
        adam.zero_grad()
        value.backward()
        adam.step()
    # Their logits, not their parameters: biases before a normalisation have no gradient, and Adam scales rounding up.
    logits = [net.body(x) for net in (make(Fresh("ConvNetD2W8"), seed=5), want, got)]
    assert torch.allclose(logits[1], logits[2], atol=1e-3)
    assert not torch.allclose(logits[0], logits[1], atol=0.1)


def test_networks_leave_at_their_age_and_the_first_generation_at_staggered_ones(tiny):
    pool = Pool("ConvNetD2W8", size=2, age=4).bind(tiny)
    lives: dict[int, int] = {}
    order, canvas, kept = [], still(), []
    for step in range(80):
        net = make(pool, seed=step)
        kept.append(net)  # so that no two networks have one id
        if id(net) not in lives:
            order.append(id(net))
        lives[id(net)] = lives.get(id(net), 0) + 1
        pool.update(canvas, step)
    first, rest = order[:2], [lives[i] for i in order[2:]]
    assert sorted(lives[i] for i in first) == [2, 4]
    assert len(rest) > 10
    assert rest.count(4) >= len(rest) - 2  # those of the last steps may still be young
    assert max(rest) == 4


def test_a_queue_grows_to_its_size_and_drops_the_oldest(tiny):
    pool = Pool("ConvNetD2W8", size=2, age=3, rule="queue").bind(tiny)
    seen = []
    for step in range(30):
        seen.append(make(pool, seed=step))
        pool.update(still(), step)
    assert len({id(n) for n in seen[:3]}) == 1  # one network until the first arrival
    for start in range(6, 30, 3):
        block, earlier = seen[start : start + 3], seen[: start - 6]
        assert len({id(n) for n in block}) <= 2
        # Whoever came two arrivals ago is gone.
        assert not {id(n) for n in block} & {id(n) for n in earlier}


def test_pools_of_two_runs_are_apart_and_runs_repeat(tiny):
    recipe = resolve("dm-pool", profile="small", options=FAST)
    a, b = (distill(recipe, tiny.train, data=tiny, ipc=1, seed=0) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert "live" not in a.card.recipe["networks"]
    fresh = resolve("dm", profile="small", options={k: FAST[k] for k in list(FAST)[:3]})
    c = distill(replace(fresh, terms=recipe.terms), tiny.train, data=tiny, ipc=1, seed=0)
    assert not torch.equal(a.images, c.images)


def test_runs_do_not_share_networks_that_follow_their_images(tiny):
    recipe = resolve("dm-pool", profile="small", options=FAST)
    assert not recipe.loop.shareable(recipe, 1)
    assert not recipe.loop.reusable(recipe, 1)
    members = torch.ones(2, len(tiny.train), dtype=torch.bool)
    assert len(distill_many(recipe, tiny.train, members, data=tiny, ipc=1, seed=0)) == 2
    private = resolve("dm-pool+dp", profile="small", options=FAST)
    with pytest.raises(BadInput, match="questions depend on the synthetic set"):
        distill_sizes(private, tiny.train, [1, 2], data=tiny, seed=0)


@dataclass(frozen=True)
class Deaf(Around):
    """A private reader whose answers are noise alone, whatever the records."""

    @property
    def private(self):
        return True

    def open(self, data, members, opening):
        return _Deaf(self.reader.open(data, members, opening))


class _Deaf:
    def __init__(self, source):
        self._source, self.layout, self.clip = source, source.layout, 1.0
        self._noise = torch.Generator().manual_seed(0)

    def targets(self, query):
        true = self._source.targets(query)
        noise = torch.randn(true.values.shape, generator=self._noise)
        return Targets(noise, torch.ones_like(true.weights))

    def claims(self):
        return [None]


def test_all_that_is_not_an_answer_of_the_private_reader_ignores_the_records(tiny):
    """Same answers, other records: pool, terms and images are the same to the last bit."""
    other = replace(tiny.train, images=255 - tiny.train.images.flip(0))
    recipe = resolve("dm-pool+dp", profile="small", options=FAST)
    recipe = replace(
        recipe, reader=Deaf(Minibatch(16)), terms=(*recipe.terms, *resolve("dm-contrast").terms)
    )
    a, b = (distill(recipe, d, data=tiny, ipc=2, seed=0).images for d in (tiny.train, other))
    assert torch.equal(a, b)
    plain = resolve("dm-pool", profile="small", options={**FAST, "synthesis.init": "noise"})
    c, d = (distill(plain, d, data=tiny, ipc=2, seed=0).images for d in (tiny.train, other))
    assert not torch.equal(c, d)  # the test can fail


def test_a_private_pool_states_what_its_networks_are_made_from(tiny):
    recipe = resolve("dm-pool+dp", profile="small", options={**FAST, "reader.noise_seed": 1})
    claim = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0, device="cpu").card.privacy
    assert claim.epsilon == pytest.approx(10, rel=0.01)
    assert [e.count for e in claim.ledger] == [6]
    assert "networks trained on the synthetic set, which follows from past answers" in claim.public
    batch = replace(recipe, networks=replace(recipe.networks, arch="ConvNetD2W8BN"))
    with pytest.raises(BadInput, match="batch normalisation"):
        distill(batch, tiny.train, data=tiny, ipc=1, seed=0)


def test_bad_pools_are_one_line(tiny):
    for option, message in (
        ({"networks.size": 0}, "networks.size, age, updates and batch"),
        ({"networks.rule": "random"}, "networks.rule is 'age' or 'queue'"),
    ):
        with pytest.raises(BadInput, match=message):
            resolve("dm-pool", options=option)
    for option in ({"loop.outer": 2}, {"loop.pool": 3}):
        recipe = resolve("dm-pool", profile="small", options={**FAST, **option})
        with pytest.raises(BadInput, match="learn from the synthetic set by themselves"):
            distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
