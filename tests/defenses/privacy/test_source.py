"""The private gate: sensitivity, noise, sampling, one draw per query. Each test can fail: see the planted bugs."""

from dataclasses import replace

import pytest
import torch

from ddaudit.defenses.privacy.accounting import compose, epsilon
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.defenses.privacy.source import BudgetSpent, Plan, PrivateSource, clip_rows
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.parts import Opening
from ddaudit.distillation.targets import ByClass, Joint
from ddaudit.errors import BadInput, DDAuditError

FAST = {
    "loop.iterations": 6,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "reader.batch": 20,
    "reader.delta": 1e-3,
}


def gate(data, members=None, *, rate=1.0, clip=1.0, sigma=1.0, budget=10_000, seed=0):
    members = torch.ones(1, len(data), dtype=torch.bool) if members is None else members
    rates = torch.full((len(data),), rate)
    plan = Plan(rates, clip, sigma, budget, q=float(rates.max()))
    return PrivateSource(data, members, noise_seed=seed).plan(plan)


def signals_of(data, scale=10.0):
    z = scale * torch.randn(len(data), 16, generator=torch.Generator().manual_seed(5))
    return lambda index: z[index]


def rows_of(data):
    return lambda index: ByClass().rows(data, index)


def test_removing_one_record_moves_the_sum_by_at_most_the_clip(tiny):
    data, clip = tiny.train, 0.7
    everyone = torch.ones(1, len(data), dtype=torch.bool)
    with_all = gate(data, everyone, clip=clip, sigma=1e-9).noisy_sum(
        "q", signals_of(data), rows_of(data)
    )
    for record in range(0, len(data), 17):
        without = everyone.clone()
        without[0, record] = False
        moved = with_all - gate(data, without, clip=clip, sigma=1e-9).noisy_sum(
            "q", signals_of(data), rows_of(data)
        )
        assert (
            0.99 * clip < float(moved.norm()) <= clip * (1 + 1e-4)
        )  # signals are long, so clipping is active


def test_noise_has_the_claimed_scale(tiny):
    data, clip, sigma = tiny.train, 0.5, 2.0
    source = gate(data, clip=clip, sigma=sigma)
    clean = gate(data, clip=clip, sigma=1e-12).noisy_sum("q", signals_of(data), rows_of(data))
    noise = torch.stack(
        [source.noisy_sum(f"q{i}", signals_of(data), rows_of(data)) - clean for i in range(300)]
    )
    # 300 x 4 x 16 = 19 200 draws: the standard deviation is known to 0.5 %, the bound of 2 % is 4 sigma.
    assert float(noise.std()) == pytest.approx(sigma * clip, rel=0.02)
    assert abs(float(noise.mean())) < 4 * sigma * clip / noise.numel() ** 0.5


def test_sampling_is_an_independent_coin_per_record(tiny):
    data, rate, queries = tiny.train, 0.3, 400
    seen = torch.zeros(len(data))
    sizes = []

    def signals(index):
        seen[index] += 1
        sizes.append(len(index))
        return torch.zeros(len(index), 1)

    source = gate(data, rate=rate, budget=queries)
    for i in range(queries):
        source.noisy_sum(str(i), signals, rows_of(data))
    frequency = seen / queries
    assert (
        float((frequency - rate).abs().max()) < 5 * (rate * (1 - rate) / queries) ** 0.5
    )  # 240 records: false alarm 1e-4
    # A fixed-size batch, the usual bug, would have no spread.
    assert torch.tensor(sizes, dtype=torch.float).var() == pytest.approx(
        len(data) * rate * (1 - rate), rel=0.35
    )


def test_dp_release_is_stored_not_redrawn(tiny):
    source = gate(tiny.train)
    first = source.noisy_sum("q", signals_of(tiny.train), rows_of(tiny.train))
    assert torch.equal(first, source.noisy_sum("q", signals_of(tiny.train), rows_of(tiny.train)))
    assert source.count == 1
    assert source.ledger("x")[0].count == 1


def test_an_unstored_release_cannot_be_asked_twice(tiny, monkeypatch):
    monkeypatch.setattr("ddaudit.defenses.privacy.source.KEEP_FLOATS", 1)
    source = gate(tiny.train)
    source.noisy_sum("q", signals_of(tiny.train), rows_of(tiny.train))
    with pytest.raises(BudgetSpent, match="draw new noise"):
        source.noisy_sum("q", signals_of(tiny.train), rows_of(tiny.train))


def test_no_record_is_sampled_more_often_than_planned(tiny):
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    rates = torch.full((len(tiny.train),), 0.25)
    plan = Plan(rates, 1.0, 1.0, 1, q=0.25)
    PrivateSource(tiny.train, everyone).plan(plan)
    rates[3] = 0.26
    with pytest.raises(DDAuditError, match="exceeds the planned"):
        PrivateSource(tiny.train, everyone).plan(plan)


def test_long_signals_keep_the_bound():
    """Eleven million coordinates, all alike: a sum one after the other in float32 loses 0.8 % of the norm."""
    signal = torch.full((1, 11_000_000), 0.1)
    assert float(clip_rows(signal, 1.0).double().norm()) == pytest.approx(1.0, abs=1e-6)


def test_the_rate_does_not_tell_whether_a_class_is_empty(tiny):
    """Noisy counts: the same noise on neighbours gives nearly the same rate, also when a class has 0 or 1 records."""
    labels, absent = tiny.train.labels, tiny.num_classes - 1
    few = (labels != absent).nonzero().squeeze(1)
    one = torch.cat([few, (labels == absent).nonzero()[0]])
    found = []
    for index in (few, one):
        data = tiny.train.subset(index)
        reader = PoissonGaussian(
            counts="noisy", epsilon=1.0, delta=1e-3, batch=5, noise_seed=1, sampling="per-class"
        )
        everyone = torch.ones(1, len(data), dtype=torch.bool)
        source = reader.open(data, everyone, _opening(queries=3))
        found.append(source.gate.ledger("sums")[-1].q)
        smallest = source.gate.releases()["class counts"].round().clamp_min(1).min()
        assert found[-1] == pytest.approx(min(1.0, 5 / float(smallest)))
    low, high = sorted(found)
    assert high <= 2 * low


def test_the_budget_is_enforced(tiny):
    source = gate(tiny.train, budget=2)
    for i in range(2):
        source.noisy_sum(str(i), signals_of(tiny.train), rows_of(tiny.train))
    with pytest.raises(BudgetSpent, match="covers 2 queries"):
        source.noisy_sum("third", signals_of(tiny.train), rows_of(tiny.train))


def test_weights_above_one_are_refused(tiny):
    with pytest.raises(DDAuditError, match="exceed L2 norm 1"):
        gate(tiny.train).noisy_sum(
            "q", signals_of(tiny.train), lambda index: 2 * ByClass().rows(tiny.train, index)
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_a_record_without_a_finite_signal_adds_nothing_and_stops_nothing(tiny, value):
    """An error would say that such a record is in the data: an answer outside the ledger."""
    signals = torch.full((240, 2), 0.5)
    signals[7, 1] = value
    every = torch.ones(1, 240, dtype=torch.bool)
    without = every.clone()
    without[0, 7] = False
    a, b = (
        gate(tiny.train, m, sigma=1e-9).noisy_sum("q", lambda i: signals[i], rows_of(tiny.train))
        for m in (every, without)
    )
    torch.testing.assert_close(a, b)


def test_many_parts_of_a_sum_do_not_round_away_the_bound(tiny, monkeypatch):
    """Added up in float32, 20 000 records in parts of 32 put the move of one of them off by 9e-4."""

    class Clean(PrivateSource):
        def _noisy(self, sums, deviation):
            self.clean = sums.double()
            return super()._noisy(sums, deviation)

    monkeypatch.setattr("ddaudit.defenses.privacy.source._AT_ONCE", 32)
    data = tiny.train.subset(torch.arange(20_000) % 240)
    z = 0.2 * torch.rand(len(data), 200, generator=torch.Generator().manual_seed(0)) + 1
    plan = Plan(torch.ones(len(data)), 1.0, 1.0, 1, q=1.0)

    def total(members):
        made = Clean(data, members[None], noise_seed=0).plan(plan)
        made.noisy_sum("q", lambda i: z[i], lambda i: Joint().rows(data, i))
        return made.clean

    every = torch.ones(len(data), dtype=torch.bool)
    without = every.clone()
    without[0] = False  # every part holds other records then
    assert float((total(every) - total(without)).norm()) == pytest.approx(1, abs=1e-5)


def test_an_empty_batch_releases_noise(tiny):
    source = gate(tiny.train, rate=1e-9)
    release = source.noisy_sum("q", lambda index: torch.zeros(len(index), 3), rows_of(tiny.train))
    assert release.shape == (1, 4, 3)
    assert bool((release != 0).all())


def test_public_seed_fixes_everything_but_the_noise(tiny):
    recipe = resolve("dm+dp", profile="small", options=FAST)
    a, b = (distill(recipe, tiny.train, data=tiny, ipc=1, seed=0) for _ in range(2))
    assert not torch.equal(a.images, b.images)
    assert not a.card.privacy.noise_seed_published
    fixed = recipe.options({"reader.noise_seed": 7})
    c, d = (distill(fixed, tiny.train, data=tiny, ipc=1, seed=0) for _ in range(2))
    assert torch.equal(c.images, d.images)
    assert c.card.privacy.noise_seed_published


@pytest.mark.parametrize("name", ["dm+dp", "dm+fair+dp", "ndpdc", "psg", "dc+dp"])
def test_claims_hold_by_every_tight_accountant(tiny, name):
    options = {k: v for k, v in FAST.items() if k != "loop.iterations"} | {
        "loop.iterations": 2,
        "reader.epsilon": 5.0,
    }
    if name in ("psg", "dc+dp"):
        options |= {"loop.outer": 2, "loop.inner": 1}
    made = distill(
        resolve(name, profile="small", options=options), tiny.train, data=tiny, ipc=1, seed=0
    )
    claim = made.card.privacy
    assert claim.epsilon <= 5.0
    assert claim.epsilon > 4.9  # the budget is used, not wasted
    assert claim.cross_checks["prv"] <= 5.0 * 1.01
    assert claim.cross_checks["rdp"] >= claim.epsilon
    assert sum(e.count for e in claim.ledger) == made.card.recipe["loop"]["iterations"] * (
        20 * 2 // 2 if name == "psg" else 2 if name == "dc+dp" else 1
    )
    assert claim.public


def test_every_shadow_carries_its_own_claim(tiny):
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    sets = distill_many(
        resolve("dm+dp", profile="small", options=FAST),
        tiny.train,
        members,
        data=tiny,
        ipc=1,
        seed=0,
    )
    assert all(s.card.privacy.epsilon <= 10 for s in sets)
    assert not torch.equal(sets[0].images, sets[1].images)
    claims = [s.card.privacy for s in sets]
    # Three runs have coins and noise of their own: together they cost what all their ledgers cost.
    together = epsilon([entry for claim in claims for entry in claim.ledger], claims[0].delta)
    assert compose(claims) == pytest.approx(together)
    assert together > 1.5 * claims[0].epsilon


def test_private_recipes_refuse_leaks(tiny):
    with pytest.raises(BadInput, match="starts from real images"):
        distill(
            resolve("dm+dp", options={**FAST, "synthesis.init": "real"}),
            tiny.train,
            data=tiny,
            ipc=1,
            seed=0,
        )
    with pytest.raises(BadInput, match="normalises by constants of the private data"):
        distill(
            resolve("dm+dp", options={**FAST, "normalise": "data"}),
            tiny.train,
            data=tiny,
            ipc=1,
            seed=0,
        )
    with pytest.raises(BadInput, match="batch normalisation"):
        distill(
            resolve("dm+dp", options={**FAST, "networks.arch": "ConvNetD2W8BN"}),
            tiny.train,
            data=tiny,
            ipc=1,
            seed=0,
        )
    with pytest.raises(BadInput, match="releases real records"):
        resolve("random+dp")
    with pytest.raises(BadInput, match="epsilon must be positive"):
        resolve("dm+dp", options={"reader.epsilon": 0.0})
    with pytest.raises(BadInput, match="delta"):
        distill(
            resolve("dm+dp", options={**FAST, "reader.delta": 0.01}),
            tiny.train,
            data=tiny,
            ipc=1,
            seed=0,
        )


def test_no_class_may_be_empty_under_per_class_sampling(tiny):
    kept = (tiny.train.labels != 2).nonzero().squeeze(1)
    data = tiny.train.subset(kept)
    with pytest.raises(BadInput, match="'class 2'"):
        PoissonGaussian(delta=1e-3).open(
            data,
            torch.ones(1, len(data), dtype=torch.bool),
            _opening(),
        )


def test_uniform_sampling_does_not_need_class_counts(tiny):
    reader = replace(PoissonGaussian(delta=1e-3), sampling="uniform", batch=24, sigma=1.0)
    data = tiny.train
    opened = reader.open(
        data,
        torch.ones(1, len(data), dtype=torch.bool),
        _opening(),
    )
    assert opened.gate.ledger("q")[0].q == pytest.approx(0.1)
    assert "class counts" in opened.claims()[0].public  # the mass of a class row still needs them


def test_a_private_card_carries_no_hash_of_the_private_records(tiny):
    made = distill(
        resolve("dm+dp", profile="small", options=FAST), tiny.train, data=tiny, ipc=1, seed=0
    )
    assert made.card.source_fingerprint is None
    assert tiny.train.fingerprint not in made.card.model_dump_json()


def _opening(queries=1):
    mean, std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    return Opening(ByClass(), mean, std, queries, 0, torch.device("cpu"))
