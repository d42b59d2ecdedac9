"""Rules and objectives that couple records: refused where they say so, caught where they lie."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.defenses.fairness.density import inverse_density
from ddaudit.defenses.fairness.fairdd import Barycentre, ByGroup
from ddaudit.defenses.longtail.balanced import Balanced
from ddaudit.defenses.privacy.cells import cell_weights
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.defenses.privacy.selfcheck import check_rule, check_signals, coupling
from ddaudit.defenses.privacy.source import Plan, PrivateSource
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.parts import Layout, Opening
from ddaudit.distillation.requests import check_recipe
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass, Joint, Weighted
from ddaudit.errors import BadInput, DDAuditError

FAST = {
    "loop.iterations": 2,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "reader.batch": 20,
    "reader.delta": 1e-3,
}


# ---- rules that lie ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByDensity(ByClass):
    """Inverse density among the records at hand, and says that it couples nothing."""

    bandwidth: float = 0.2

    def rows(self, data, index):
        z = data.pixels().flatten(1)
        return super().rows(data, index) * inverse_density(z, z, bandwidth=self.bandwidth)[index]


@dataclass(frozen=True)
class BoundDensity(ByClass):
    """The same, computed when it is bound, so that nothing moves afterwards."""

    weight: torch.Tensor | None = None

    def bind(self, data, drawn=None):
        z = data.pixels().flatten(1)
        return replace(self, weight=inverse_density(z, z, bandwidth=0.2))

    def rows(self, data, index):
        return super().rows(data, index) * self.weight[index % len(self.weight)]


@dataclass(frozen=True)
class ByBatch(ByClass):
    """Shares of the records that are asked for."""

    def rows(self, data, index):
        rows = super().rows(data, index)
        return rows / rows.sum(1, keepdim=True).clamp_min(1)


@dataclass(frozen=True)
class ByCount(ByClass):
    """One over the class count, which it does not declare."""

    def bind(self, data, drawn=None):
        object.__setattr__(new := ByCount(), "counts", data.class_counts())
        return new

    def rows(self, data, index):
        return super().rows(data, index) / self.counts.clamp_min(1)[:, None]


@dataclass(frozen=True)
class ByRank(ByClass):
    """Classes weigh by their rank in brightness, which needs all records."""

    def rows(self, data, index):
        bright = [float(data.pixels(data.labels == c).mean()) for c in range(data.num_classes)]
        return super().rows(data, index) * (torch.tensor(bright) / max(bright))[:, None]


CORRECT = [
    ByClass(),
    Joint(),
    ByGroup(),
    Barycentre(),
    Weighted(Joint(), Balanced()),
    Weighted(ByGroup(), Balanced()),
    Weighted(Barycentre(), Balanced()),
    Weighted(Weighted(Joint(), Balanced()), Balanced()),
]


@pytest.mark.parametrize(
    ("rule", "runs"),
    [
        (ByDensity(), 20),
        (ByDensity(1e-3), 3),
        (ByDensity(10.0), 3),
        (BoundDensity(), 3),
        (ByBatch(), 3),
        (ByCount(), 3),
        (ByRank(), 3),
    ],
)
def test_a_rule_that_lies_is_caught_in_20_of_20(tiny, rule, runs):
    assert not rule.couples_records()
    for seed in range(runs):
        check = check_rule(rule, tiny.train, subject="x", seed=seed)
        assert not check.passed, seed
        assert check.value > 1e-4
        assert check.affects == ["privacy.epsilon_claimed"]


@pytest.mark.parametrize("rule", CORRECT)
def test_a_correct_rule_is_not_accused_in_40(tiny, rule):
    ungrouped = replace(tiny.train, groups=None, group_names=())
    needs_groups = "group" in repr(rule).lower() or "Barycentre" in repr(rule)
    for seed in range(40):
        train = tiny.train if needs_groups or seed % 2 else ungrouped
        assert check_rule(rule, train, subject="x", seed=seed).value == 0.0


# ---- signals -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Centred(MeanEmbedding):
    """Embeddings less the mean of their batch, and says that it couples nothing."""

    def signals(self, net, x, y):
        z = super().signals(net, x, y)
        return z - z.mean(0)


@dataclass(frozen=True)
class HiddenBatchNorm(Fresh):
    def couples_records(self):
        return False


def test_signals_that_depend_on_the_batch_are_caught():
    digits = load_data("digits")
    for name in ("dm+dp", "dc+dp"):
        recipe = resolve(name, options={k: FAST[k] for k in ("networks.arch", "networks.width")})
        assert [c.passed for c in check_signals(recipe, digits, subject="x")] == [True]
    recipe = resolve("dm+dp", options={k: FAST[k] for k in ("networks.arch", "networks.width")})
    for bad in (
        replace(recipe, objective=Centred()),
        replace(recipe, networks=HiddenBatchNorm("ConvNetD2W8BN")),
    ):
        for seed in range(5):
            (check,) = check_signals(bad, digits, subject="x", seed=seed)
            assert not check.passed


@pytest.mark.parametrize("name", ["dp-kip", "ldpdc", "dp-merf", "dp-teacher", "mtt+dp"])
def test_signals_of_loops_that_ask_in_ways_of_their_own_are_tried(name, monkeypatch):
    """Kernel regression's gradients, sums of pixels, random features, DP-SGD; each with a planted mean of the batch."""
    digits = load_data("digits")
    small = {"networks.arch": "ConvNetD2W8"} if name in ("dp-teacher", "mtt+dp") else {}
    recipe = resolve(name, profile="small", options=small)
    assert [c.passed for c in check_signals(recipe, digits, subject="x")] == [True]
    asked = coupling._first_question

    def planted(*args):
        query, opening = asked(*args)
        true = query.objective

        class Centring:
            def signals(self, net, x, y):
                z = true.signals(net, x, y)
                return z - z.mean(0)

        return replace(query, objective=Centring()), opening

    monkeypatch.setattr(coupling, "_first_question", planted)
    (check,) = check_signals(recipe, digits, subject="x")
    assert not check.passed


def test_a_loop_that_asks_nothing_is_said_to(tiny):
    recipe = resolve("dm+dp", options={k: FAST[k] for k in ("networks.arch", "networks.width")})

    class Silent:
        def run(self, recipe, job):
            return []

    (check,) = check_signals(replace(recipe, loop=Silent()), tiny, subject="x")
    assert not check.passed
    assert "asked its reader nothing" in check.detail


@dataclass(frozen=True)
class Watching(Pixels):
    """A start that notes how many records it is shown."""

    shown: ClassVar[list[int]] = []

    def start(self, given):
        self.shown.append(len(given.data))
        assert given.members.shape == (1, len(given.data))
        return super().start(given)


def test_a_start_under_a_private_reader_is_shown_no_record(tiny):
    private = resolve("dm+dp", profile="small", options=FAST)
    synthesis = Watching(init="noise")
    distill(replace(private, synthesis=synthesis), tiny.train, data=tiny, ipc=1, seed=0)
    assert set(Watching.shown) == {0}
    plain = resolve("dm", profile="small", options={"loop.iterations": 1})
    distill(replace(plain, synthesis=synthesis), tiny.train, data=tiny, ipc=1, seed=0)
    assert Watching.shown[-1] == len(tiny.train)


# ---- what is refused -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Honest(ByDensity):
    def couples_records(self):
        return True


class Silent:
    """A rule from before rules had to say."""

    def layout(self, data):
        return ByClass().layout(data)

    def rows(self, data, index):
        return ByClass().rows(data, index)


def _private(**change):
    return replace(resolve("dm+dp", profile="small", options=FAST), **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": Honest()}, "Honest sets each record's weight by the other records"),
        ({"target": Silent()}, "does not say whether a record's weight depends on others"),
    ],
)
def test_a_rule_that_couples_or_does_not_say_is_refused(tiny, change, words):
    with pytest.raises(BadInput, match=words):
        distill(_private(**change), tiny.train, data=tiny, ipc=1, seed=0)
    with pytest.raises(BadInput, match=words):
        _open(PoissonGaussian(delta=1e-3), change["target"], tiny.train)


def test_an_objective_that_couples_is_refused(tiny):
    @dataclass(frozen=True)
    class Says(Centred):
        def couples_records(self):
            return True

    with pytest.raises(BadInput, match="Says sets each record's signal by the other records"):
        distill(_private(objective=Says()), tiny.train, data=tiny, ipc=1, seed=0)


def test_the_gate_reads_weights_of_cells_so_a_lie_moves_nothing(tiny):
    """Even a rule that lies: its weights are asked on blank records, one of each class and group."""
    weights = cell_weights(ByDensity(), tiny.train)
    other = replace(tiny.train, images=255 - tiny.train.images)
    assert torch.equal(weights.table, cell_weights(ByDensity(), other).table)
    every = torch.arange(len(tiny.train))
    for rule in CORRECT:
        assert torch.equal(cell_weights(rule, tiny.train).rows(every), rule.rows(tiny.train, every))


def test_an_objective_without_a_known_clip_needs_one_from_the_user(tiny):
    @dataclass(frozen=True)
    class New(MeanEmbedding):
        def private_defaults(self):
            return None

    from ddaudit.defenses.privacy.dp import dp

    private = dp(replace(resolve("dm", profile="small"), objective=New()))
    with pytest.raises(BadInput, match="set reader"):
        private.reader.check(tiny.train)
    with pytest.raises(BadInput, match="no clip is known"):
        distill(
            private.options({**FAST, "reader.clip": None}), tiny.train, data=tiny, ipc=1, seed=0
        )
    made = distill(
        private.options({**FAST, "reader.clip": "0.5"}), tiny.train, data=tiny, ipc=1, seed=0
    )
    assert made.card.privacy.clip == 0.5


def test_claims_list_what_the_rule_assumes(tiny):
    def public(rule, **options):
        reader = PoissonGaussian(delta=1e-3, sigma=2.0, **options)
        return _open(reader, rule, tiny.train).claims()[0].public

    uniform = {"sampling": "uniform"}
    assert public(Joint(), **uniform)[0] == "number of records"
    assert public(Joint())[0] == "class counts"
    assert public(ByClass(), **uniform)[0] == "class counts"
    assert "(class, group) counts" in public(ByGroup())
    assert "(class, group) counts" in public(Barycentre())
    assert public(Weighted(Joint(), Balanced()), **uniform).count("class counts") == 1
    even = replace(tiny.train, groups=torch.arange(240) // 4 % 2)
    reader = PoissonGaussian(delta=1e-3, sigma=2.0)
    # Equal groups: the weights are equal, and that they are is known from the counts.
    assert "(class, group) counts" in _open(reader, Barycentre(), even).claims()[0].public


# ---- the gate ------------------------------------------------------------------------------------


def _gate(data, rates):
    everyone = torch.ones(1, len(data), dtype=torch.bool)
    plan = Plan(rates, 1.0, 1.0, 5, q=float(rates.max()))
    return PrivateSource(data, everyone, noise_seed=0).plan(plan)


def test_an_expected_mass_follows_from_counts_and_rates(tiny):
    data = tiny.train
    rates = torch.tensor([0.1, 0.2, 0.3, 0.4])[data.labels]
    gate = _gate(data, rates)
    for rule in CORRECT:
        weights = cell_weights(rule, data)
        every = rule.rows(data, torch.arange(len(data)))
        assert torch.allclose(gate.expected_mass(weights.table)[0], every @ rates)
    with pytest.raises(DDAuditError, match="no classes and groups make"):
        gate.expected_mass(torch.eye(len(data))[:1, :-1])  # weights of single records
    with pytest.raises(DDAuditError, match="L2 norm 1"):
        gate.expected_mass(torch.full((1, 4), 3.0))
    rates = rates.clone()
    rates[17] = 0.39
    with pytest.raises(DDAuditError, match="differ within a class"):
        _gate(data, rates).expected_mass(torch.ones(1, 4))


@dataclass(frozen=True)
class Looking(ByClass):
    """Lays its rows out by the first record, and says what it assumes in words that tell of it."""

    def layout(self, data: ImageData) -> Layout:
        bright = bool(data.images[0].float().mean() > 0)
        order = torch.arange(data.num_classes)
        return Layout(order.flip(0) if bright else order, data.class_names)

    def assumed(self, data: ImageData) -> tuple[str, ...]:
        return (f"pixels around {data.images.float().mean():.0f}",)


@dataclass(frozen=True)
class Peeping(Fresh):
    """Remembers how many records it was shown."""

    shown: ClassVar[list[int]] = []

    def bind(self, data: Dataset) -> "Peeping":
        splits = [data.train, data.validation, data.test, *data.extra.values()]
        self.shown.append(sum(map(len, splits)))
        return self

    def assumed(self, data: Dataset) -> tuple[str, ...]:
        self.bind(data)
        return ()


def test_rules_and_networks_of_a_private_recipe_are_shown_no_record(tiny):
    private = resolve("dm+dp", profile="small", options=FAST)
    made = replace(private, target=Looking(), networks=Peeping("ConvNetD2W8"))
    check_recipe(made, tiny)
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    source = made.open(Job(tiny.train, everyone, tiny, 1, 0, torch.device("cpu")))
    assert source.layout.slots.tolist() == [0, 1, 2, 3]  # that of black records
    claim = distill(made, tiny.train, data=tiny, ipc=1, seed=0).card.privacy
    assert claim is not None
    assert "pixels around 0" in claim.public
    check_signals(made, tiny, subject="x")
    assert set(Peeping.shown) == {0}
    plain = resolve("dm", profile="small", options={"loop.iterations": 1})
    distill(replace(plain, networks=made.networks), tiny.train, data=tiny, ipc=1, seed=0)
    assert Peeping.shown[-1] == 480  # without a claim they may look


def test_nan_weights_are_refused(tiny):
    data = tiny.train
    gate = _gate(data, torch.ones(len(data)))
    with pytest.raises(DDAuditError, match="no numbers"):
        gate.noisy_sum(
            "q", lambda i: torch.ones(len(i), 1), lambda i: torch.full((1, len(i)), torch.nan)
        )
    with pytest.raises(DDAuditError, match="no numbers"):
        gate.noisy_count("c", lambda i: torch.full((1, len(i)), torch.nan), sigma=1.0)


def _open(reader, rule, data):
    mean, std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    opening = Opening(rule, mean, std, 1, 0, torch.device("cpu"))
    return reader.open(data, torch.ones(1, len(data), dtype=torch.bool), opening)


def test_tables_are_checked_too():
    table = load_data("wine")
    recipe = resolve("dm+dp", profile="small", options={"networks.arch": "MLP"})
    assert check_rule(recipe.target, table.train, subject="x").passed
    assert [c.passed for c in check_signals(recipe, table, subject="x")] == [True]
    assert cell_weights(Joint(), table.train).rows(torch.arange(5)).tolist() == [[1.0] * 5]
