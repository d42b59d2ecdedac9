"""Trajectory matching: closed forms of the loss, its gradients, the paths of experts, and what recipes state."""

import itertools
import weakref

import pytest
import torch
import torch.nn.functional as F

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.curriculum import Curriculum, el2n, part_of_classes
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.loops import Job
from ddaudit.distillation.students import left, stepwise, unrolled
from ddaudit.distillation.trajectory import Starts
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Arch
from ddaudit.seeds import stable_seed
from ddaudit.training import EvaluationProtocol, train_many

TINY = {
    "loop.iterations": 2,
    "loop.steps": 2,
    "loop.span": 1,
    "loop.starts.last": 2,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
    "networks.count": 2,
    "networks.epochs": 3,
}


class Counting:
    """A store in memory that counts what is put, and can be killed."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.held: dict[str, dict[str, torch.Tensor]] = {}
        self.fail_after, self.puts = fail_after, 0

    def get(self, key):
        return self.held.get(key)

    def put(self, key, tensors):
        if self.puts == self.fail_after:
            raise KeyboardInterrupt
        self.puts += 1
        # Files keep names in no particular order.
        turned = reversed(tensors.items()) if self.puts % 2 else tensors.items()
        self.held[key] = {n: t.detach().clone() for n, t in turned}


def job(data, store=None) -> Job:
    everyone = torch.ones(1, len(data.train), dtype=torch.bool)
    return Job(data.train, everyone, data, 1, 0, torch.device("cpu"), store=store)


def learned(data, store=None, **options):
    recipe = resolve("mtt")
    part = ExpertPaths("ConvNetD2W8", **{"count": 2, "epochs": 3, **options})
    return part.learn(job(data, store), *recipe.constants(data))


def vector(at) -> torch.Tensor:
    return torch.cat([at[n].detach().flatten() for n in sorted(at)])


# The loss and its gradients.


class _Kept(torch.autograd.Function):
    """The identity; a node is in ``alive`` while a graph holds it."""

    @staticmethod
    def forward(ctx, x, alive):
        alive.add(ctx)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g, None


def problem(steps: int, shallow: float = 0.0):
    """A student of softmax regression in float64: two parameter tensors, learned labels, batches of its images."""
    g = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    start = {"w": normal(3, 5), "b": normal(3)}
    goal = {n: p + 0.3 * normal(*p.shape) for n, p in start.items()}
    images = normal(6, 5).requires_grad_(True)
    labels = normal(6, 3).softmax(1).requires_grad_(True)
    rate = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    picks = [torch.randperm(6, generator=g)[:4] for _ in range(steps)]

    def lesson(index):
        return lambda at, x, y: F.cross_entropy(
            (x[index] * 1.5).tanh() @ at["w"].T + at["b"], y[index]
        )

    lessons = [lesson(i) for i in picks]
    return (
        lessons,
        images,
        labels,
        rate,
        {"start": start, "goal": goal, "counted": slice(int(shallow * 18), None)},
    )


def test_a_student_that_stays_has_all_of_the_way_left():
    lessons, images, labels, rate, ends = problem(0)
    assert float(unrolled(lessons, images, labels, rate, **ends).detach()) == pytest.approx(
        1, rel=1e-12
    )
    assert float(stepwise(lessons, images, labels, rate, **ends).detach()) == pytest.approx(
        1, rel=1e-12
    )
    start, goal = ends["start"], ends["goal"]
    half = {n: (p + goal[n]) / 2 for n, p in start.items()}
    assert float(left(half, start, goal)) == pytest.approx(0.25, rel=1e-12)
    assert float(left(goal, start, goal)) == 0
    turned = dict(reversed(goal.items()))
    assert float(left(half, start, turned)) == pytest.approx(0.25, rel=1e-12), "by name"


def test_shallow_parameters_are_left_out():
    """Of 18 numbers the first 9 lie in w: what is wrong in them does not count, what is wrong behind them does."""
    start = {"w": torch.zeros(3, 5), "b": torch.zeros(3)}
    goal = {"w": torch.ones(3, 5), "b": torch.ones(3)}
    reached = {"w": torch.ones(3, 5), "b": torch.ones(3)}
    reached["w"].view(-1)[:9] = 7
    assert float(left(reached, start, goal, slice(9, None))) == 0
    reached["w"].view(-1)[9] = 0
    assert float(left(reached, start, goal, slice(9, None))) == pytest.approx(1 / 9)


@pytest.mark.parametrize("shallow", [0.0, 0.5])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_stepwise_gradient_is_autograds_with_parameters_held_constant(steps, shallow):
    """The reference holds the graphs of all steps, each at detached parameters; after one step nothing is held constant
    that depends on the set, and the unrolled gradient is the same."""
    lessons, images, labels, rate, ends = problem(steps, shallow)
    at = ends["start"]
    moved = {n: torch.zeros_like(p) for n, p in at.items()}
    for lesson in lessons:
        here = {n: p.detach().requires_grad_(True) for n, p in at.items()}
        slopes = torch.autograd.grad(
            lesson(here, images, labels), list(here.values()), create_graph=True
        )
        moved = {n: m + g for (n, m), g in zip(moved.items(), slopes, strict=True)}
        at = {n: p - rate.detach() * g for (n, p), g in zip(here.items(), slopes, strict=True)}
    end = {n: p - rate * moved[n] for n, p in ends["start"].items()}
    loss = left(end, **ends)
    want = torch.autograd.grad(loss, [images, labels, rate])

    value = stepwise(lessons, images, labels, rate, **ends)
    got = torch.autograd.grad(value, [images, labels, rate])
    assert float(value.detach()) == pytest.approx(float(loss.detach()), rel=1e-12)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-13)
    through = torch.autograd.grad(
        unrolled(lessons, images, labels, rate, **ends), [images, labels, rate]
    )
    same = [torch.allclose(g, t, rtol=1e-6) for g, t in zip(got, through, strict=True)]
    assert same == ([True] * 3 if steps == 1 else [False] * 3)


def test_stepwise_holds_the_graph_of_one_step():
    """A step's activations are alive at one time for one step; unrolled, for all of them."""

    def most(follow, steps):
        lessons, images, labels, rate, ends = problem(steps)
        alive, peak = weakref.WeakSet(), 0

        def watched(lesson):
            def watch(at, x, y):
                nonlocal peak
                seen = _Kept.apply(x, alive)
                peak = max(peak, len(alive))
                return lesson(at, seen, y)

            return watch

        follow([watched(lesson) for lesson in lessons], images, labels, rate, **ends)
        return peak

    assert most(stepwise, 8) == most(stepwise, 2) <= 2
    assert most(unrolled, 8) == 8


# Where students start.


def test_starts_grow_evenly_to_their_bound():
    """DATM's CIFAR-10 IPC 10: below 10 at first, below 20 from iteration 1000 on."""
    starts = Starts(first=0, last=20, opening=10, grown=1000)
    assert [starts.bound(i) for i in (0, 99, 100, 500, 999, 1000, 9000)] == [
        10, 10, 11, 15, 19, 20, 20,
    ]  # fmt: skip
    g = torch.Generator().manual_seed(0)
    early = {starts.draw(0, g, between=False) for _ in range(300)}
    late = {Starts(first=5, last=8).draw(0, g, between=False) for _ in range(100)}
    assert early == set(range(10))
    assert late == {5, 6, 7}
    times = [Starts(first=5, last=8).draw(0, g, between=True) for _ in range(100)]
    assert 5 <= min(times) <= max(times) < 8
    assert len(set(times)) > 90
    for bad in ({"first": 3, "last": 3}, {"opening": 0}, {"grown": 0}):
        with pytest.raises(ValueError, match="starts"):
            Starts(**bad)


# The paths of experts.


def test_a_path_is_what_the_engine_trains(tiny):
    """One pass after the other by plain SGD: against a network of the same seed trained alone for as many passes."""
    part = learned(tiny, batch=100, lr=0.05, augment="")
    start = part.make(
        shape=tiny.shape, num_classes=4, seed=stable_seed("path", 1), device=torch.device("cpu")
    )
    assert torch.equal(vector(part.paths.at(1, 0)), vector(dict(start.body.named_parameters())))
    (net,) = train_many(
        [(tiny.train.images, tiny.train.labels)],
        arch=Arch.parse("ConvNetD2W8"),
        num_classes=4,
        mean=tiny.mean,
        std=tiny.std,
        protocol=EvaluationProtocol(
            "two", epochs=1, epochs_plain=1, batch_size=100, lr=0.05, momentum=0.0,
            weight_decay=0.0, decay=1.0, augment="",
        ),
        seeds=[stable_seed("path", 1)],
    )  # fmt: skip
    torch.testing.assert_close(
        vector(part.paths.at(1, 2)), vector(dict(net.body.named_parameters()))
    )


def test_straight_paths_lie_on_the_line_and_share_its_length_out(tiny):
    """Every point of a tensor is on the line between its ends, and at the share of the walked length."""
    bent, straight = learned(tiny).paths, learned(tiny, Counting(), straight=True).paths
    for name in bent.at(0, 0):
        ends = [bent.at(0, e)[name] for e in range(4)]
        moves = [float((b - a).norm()) for a, b in itertools.pairwise(ends)]
        for e in range(4):
            share = sum(moves[:e]) / (sum(moves) or 1)
            want = ends[0] + share * (ends[3] - ends[0])
            torch.testing.assert_close(straight.at(0, e)[name], want, rtol=1e-4, atol=1e-6)
        between = (straight.at(0, 1)[name] + straight.at(0, 2)[name]) / 2
        torch.testing.assert_close(straight.at(0, 1.5)[name], between, rtol=1e-4, atol=1e-6)
    assert straight.megabytes == pytest.approx(bent.megabytes / 2)


def test_a_killed_buffer_goes_on_to_the_same_bits(tiny):
    whole, killed = Counting(), Counting(fail_after=3)
    want = [learned(tiny, whole).paths.at(k, e) for k in range(2) for e in range(4)]
    with pytest.raises(KeyboardInterrupt):
        learned(tiny, killed).paths.at(0, 1)
    killed.fail_after = None
    got = [learned(tiny, killed).paths.at(k, e) for k in range(2) for e in range(4)]
    assert all(torch.equal(vector(a), vector(b)) for a, b in zip(want, got, strict=True))
    assert sorted(whole.held) == sorted(killed.held)


def test_paths_are_trained_once_for_sizes_seeds_and_methods(tiny):
    store, recipe = Counting(), resolve("mtt", profile="small", options=TINY)
    for ipc, seed in ((1, 0), (2, 0), (1, 1)):
        distill(recipe, tiny.train, data=tiny, ipc=ipc, seed=seed, store=store)
    assert store.puts == 2 * 4
    half = tiny.train.subset(torch.arange(len(tiny.train)) < 120)
    distill(recipe, half, data=tiny, ipc=1, seed=0, store=store)
    assert store.puts == 4 * 4, "other records have other paths"


def test_a_store_that_loses_things_is_named(tiny):
    class Losing(Counting):
        def put(self, key, tensors):
            pass

    with pytest.raises(DDAuditError, match="does not give back"):
        learned(tiny, Losing()).paths.at(0, 0)


def test_batch_statistics_and_short_paths_are_refused(tiny):
    for options, message in (
        ({"networks.arch": "ConvNetD2W8BN"}, "keeps batch statistics"),
        ({"networks.epochs": 2, "loop.starts.last": 2, "loop.span": 2}, "up to pass 3"),
    ):
        with pytest.raises(BadInput, match=message):
            distill(
                resolve("mtt", profile="small", options=TINY | options),
                tiny.train, data=tiny, ipc=1, seed=0,
            )  # fmt: skip


# Recipes.


def test_the_card_states_the_learned_rate_the_protocol_and_the_buffer(tiny):
    recipe = resolve("mtt", profile="small", options=TINY)
    card = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0).card
    assert card.learned_lr > 0
    assert (card.protocol["name"], card.protocol["epochs"]) == ("mtt", 1000)
    assert card.notes == [
        "matched on the paths of 2 experts, 4 checkpoints each: 0.0 MB in all",
        "networks trained on the records are shared by every seed: a spread over seeds leaves theirs out",
    ]


def test_one_iteration_is_one_step_of_the_loss_it_states(tiny):
    """The images move by lr times the gradient of what is left, read a second time at every start of every expert."""
    options = TINY | {"loop.iterations": 1, "loop.steps": 1, "augment": ""}
    still, moving = (
        resolve("mtt", profile="small", options=options | {"loop.lr": lr}) for lr in (1e-12, 100.0)
    )
    before, after = (
        distill(recipe, tiny.train, data=tiny, ipc=1, seed=0, store=Counting())
        for recipe in (still, moving)
    )
    mean, std = still.constants(tiny)
    moved = (after.images - before.images) / std
    part = still.networks.learn(job(tiny), mean, std)
    net = part.make(shape=tiny.shape, num_classes=4, seed=0, device=torch.device("cpu"))

    def step(expert, time):
        start, goal = part.paths.at(expert, time), part.paths.at(expert, time + 1)
        x = ((before.images - mean) / std).requires_grad_(True)
        at = {n: p.clone().requires_grad_(True) for n, p in start.items()}
        loss = F.cross_entropy(torch.func.functional_call(net.body, at, (x,)), before.labels)
        slopes = torch.autograd.grad(loss, list(at.values()), create_graph=True)
        rate = still.loop.rate.start_at
        ends = zip(at.items(), slopes, strict=True)
        miss = sum((p - rate * g - goal[n]).square().sum() for (n, p), g in ends)
        way = (vector(start) - vector(goal)).square().sum()
        (slope,) = torch.autograd.grad(miss / way, x)
        return -100 * slope

    found = [step(k, t) for k in range(2) for t in range(2)]
    assert any(torch.allclose(f, moved, rtol=1e-2, atol=1e-5) for f in found)
    assert moved.abs().max() > 1e-3


def test_a_defense_that_changes_targets_is_refused_with_the_reason():
    with pytest.raises(BadInput, match="has none"):
        resolve("mtt+density", profile="small")


@pytest.mark.parametrize("name", ["mtt", "tesla", "ftd", "datm", "pad", "mct"])
def test_every_method_of_the_family_makes_a_set(name, tiny):
    """At most a handful of steps each; labels of datm and pad are distributions that start from the experts'."""
    options = dict(TINY)
    if name in ("datm", "pad"):
        options["loop.starts.opening"] = 1
    made = distill(
        resolve(name, profile="small", options=options), tiny.train, data=tiny, ipc=2, seed=0
    )
    assert made.images.shape == (8, *tiny.shape)
    assert made.soft == (name in ("datm", "pad"))
    assert made.card.learned_lr > 0
    ends = "their two ends" if name == "mct" else "4 checkpoints each"
    assert ends in made.card.notes[0]


def test_soft_labels_are_assigned_by_the_expert_at_the_target(tiny):
    options = TINY | {"loop.iterations": 1, "loop.assigned": True, "loop.lr": 1e-12, "augment": ""}
    recipe = resolve("tesla", profile="small", options=options)
    made = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    mean, std = recipe.constants(tiny)
    part = recipe.networks.learn(job(tiny), mean, std)
    net = part.make(shape=tiny.shape, num_classes=4, seed=0, device=torch.device("cpu"))
    x = (made.images - mean) / std
    found = [
        torch.func.functional_call(net.body, part.paths.at(k, t), (x,)).softmax(1)
        for k in range(2)
        for t in (1, 2)
    ]
    assert any(torch.allclose(f, made.labels, atol=1e-5) for f in found)


def test_labels_that_experts_start_are_the_mean_logits_of_those_that_are_right(tiny):
    options = TINY | {"loop.iterations": 1, "loop.starts.opening": 1, "loop.lr": 1e-12}
    options |= {"labels.lr": 1e-12, "networks.epochs": 4, "networks.lr": 0.1}
    recipe = resolve("datm", profile="small", options=options)
    made = distill(recipe, tiny.train, data=tiny, ipc=3, seed=0)
    mean, std = recipe.constants(tiny)
    part = recipe.networks.learn(job(tiny), mean, std)
    net = part.make(shape=tiny.shape, num_classes=4, seed=0, device=torch.device("cpu"))

    def read(k, x):
        with torch.no_grad():
            return torch.func.functional_call(net.body, part.paths.at(k, 4), (x,))

    truth = torch.arange(4).repeat_interleave(3)
    logits = [read(k, (made.images - mean) / std) for k in range(2)]
    assert torch.equal(logits[0].argmax(1), truth), "records that the first expert classifies"
    for i, c in enumerate(truth.tolist()):
        right = torch.stack([z[i] for z in logits if int(z[i].argmax()) == c])
        torch.testing.assert_close(made.labels[i], right.mean(0).softmax(0), rtol=1e-3, atol=1e-5)


# From easy to hard.


def test_el2n_is_the_norm_of_the_error():
    """A sure and right network errs by 0, a sure and wrong one by sqrt(2), one without an idea by sqrt(1 - 1 / C)."""
    logits = torch.tensor([[100.0, 0, 0, 0], [0.0, 100, 0, 0], [0.0, 0, 0, 0]])
    scores = el2n(logits[None], torch.zeros(3, dtype=torch.int64))
    assert scores.tolist() == pytest.approx([0, 2**0.5, 0.75**0.5])
    both = el2n(torch.stack([logits, logits.flip(0)]), torch.zeros(3, dtype=torch.int64))
    assert float(both[0]) == pytest.approx((0 + 0.75**0.5) / 2)


def test_the_curriculum_is_the_published_one():
    """Of 100 passes: 75 % growing to all in pass 20, all to pass 40, without 10 % to pass 60, without 20 % after."""
    stages = Curriculum().stages(100)
    parts = [(s.low, s.high) for s in stages for _ in range(s.passes)]
    assert len(parts) == 100
    assert parts[0] == (0, 0.75)
    assert parts[8] == pytest.approx((0, 0.85))
    assert parts[20] == parts[40] == (0, 1)
    assert parts[41] == parts[60] == (0.1, 1)
    assert parts[61] == parts[99] == (0.2, 1)
    assert [s.passes for s in stages] == [*[1] * 20, 21, 20, 39]
    for bad in ({"share": 0}, {"thin": 0.3}, {"all_at": 50}, {"judges": 0}):
        with pytest.raises(ValueError, match="curriculum"):
            Curriculum(**bad)


def test_a_part_is_taken_of_every_class_by_score():
    labels = torch.tensor([0, 1] * 10 + [2])
    scores = torch.arange(21).flip(0).float()
    easy = part_of_classes(scores, labels, 0, 0.5)
    assert easy.tolist() == [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    hard = part_of_classes(scores, labels, 0.8, 1)
    assert hard.tolist() == [0, 1, 2, 3, 20], "a class of one keeps it"


def test_experts_of_a_curriculum_see_its_records_alone(tiny):
    """A record that the first pass leaves out does not move it; one that it sees does."""
    by = Curriculum(share=0.5, all_at=2, thin_after=2, thinner_after=2, judges=1, judged_after=1)
    part = learned(tiny, curriculum=by, augment="", batch=500)
    mean, std = resolve("mtt").constants(tiny)
    paths = learned(tiny, curriculum=None, count=1, epochs=1, augment="", batch=500).paths
    net = part.make(shape=tiny.shape, num_classes=4, seed=0, device=torch.device("cpu"))
    x = (tiny.train.pixels(torch.arange(len(tiny.train))) - mean) / std
    with torch.no_grad():
        logits = torch.func.functional_call(net.body, paths.at(0, 1), (x,))
    seen = part_of_classes(el2n(logits[None], tiny.train.labels), tiny.train.labels, 0, 0.5)
    start = {n: p.clone().requires_grad_(True) for n, p in part.paths.at(0, 0).items()}
    loss = F.cross_entropy(
        torch.func.functional_call(net.body, start, (x[seen],)), tiny.train.labels[seen]
    )
    slopes = dict(zip(start, torch.autograd.grad(loss, list(start.values())), strict=True))
    reached = part.paths.at(0, 1)
    for n, p in start.items():
        torch.testing.assert_close(
            reached[n], (p - 0.01 * slopes[n]).detach(), atol=1e-6, rtol=1e-4
        )
