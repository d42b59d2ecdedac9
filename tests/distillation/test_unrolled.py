"""Unrolled training: hypergradients against closed forms and finite differences, and what dd and sldd state."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from ddaudit.data import load_data
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.learned import LearnedRate
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.parts import Canvas
from ddaudit.distillation.unrolled import Unrolled, _drawn, unroll
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Arch, build
from ddaudit.seeds import stable_seed
from ddaudit.sets import from_bytes, to_bytes
from ddaudit.training import train_many

TINY = {"networks.arch": "ConvNetD2W8", "networks.width": None, "reader.per_class": 1000}


def recipe(name="dd", *, inner=3, **options):
    of_loop = {"loop.steps": 2, "loop.inner": inner, "protocol.max_steps": inner}
    dotted = {k.replace("__", "."): v for k, v in options.items()}
    return resolve(name, profile="small", options={**TINY, **of_loop, **dotted})


def free(rate):
    """The number whose softplus is ``rate``."""
    return np.log(np.expm1(rate))


def test_one_step_of_softmax_regression_has_its_closed_form():
    """W1 = W - rate * G, where G is the mean of (p_i - y_i) x_i'. With H the gradient of the real loss at W1, the loss
    moves by -<H, G> with the rate, and with images and labels by the derivative of -rate * <H, G>."""
    g = np.random.default_rng(0)
    classes, size, dim, rate = 3, 4, 5, 0.7
    x, y = g.normal(size=(size, dim)), g.dirichlet(np.ones(classes), size=size)
    real, truth = g.normal(size=(9, dim)), np.eye(classes)[g.integers(classes, size=9)]
    w = g.normal(size=(classes, dim))

    def softmax(z):
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p = softmax(x @ w.T)
    slope = (p - y).T @ x / size
    pull = (softmax(real @ (w - rate * slope).T) - truth).T @ real / len(real)
    u = x @ pull.T
    through = p * (u - (p * u).sum(1, keepdims=True))
    want = {
        "images": -rate / size * ((p - y) @ pull + through @ w),
        "labels": -rate / size * ((p * u).sum(1, keepdims=True) - u),
        "rate": -(pull * slope).sum(),
    }

    images, labels, eta = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, y, rate)
    )
    end = unroll(
        {"w": torch.tensor(w)},
        lambda at: F.cross_entropy(images @ at["w"].T, labels),
        rate=eta,
        steps=1,
    )["w"]
    np.testing.assert_allclose(end.detach().numpy(), w - rate * slope, rtol=1e-12)
    got = torch.autograd.grad(end, [images, labels, eta], torch.tensor(pull))
    for name, value in zip(("images", "labels", "rate"), got, strict=True):
        np.testing.assert_allclose(value.numpy(), want[name], rtol=1e-9, atol=1e-14)


def network():
    make = {"shape": (1, 8, 8), "num_classes": 3, "device": torch.device("cpu")}
    return Fresh("ConvNetD2W4").make(seed=0, **make).double()


def trained(net, x, y, rate, steps):
    """A second implementation: torch's own SGD on a copy of ``net``."""
    body = copy.deepcopy(net.body)
    optimiser = torch.optim.SGD(body.parameters(), lr=float(rate))
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(body(x), y).backward()
        optimiser.step()
    return body


def test_hypergradients_are_those_of_finite_differences():
    """Three steps of a ConvNet in float64: central differences of the real loss after torch's SGD, along the rate and
    along random directions of images and labels; relative error below 1e-5. The loop's way is taken: the reader's
    gradient at the trained network, pulled back through the unrolled training."""
    g = torch.Generator().manual_seed(0)
    net, rate = network(), 0.3
    x = torch.randn(6, 1, 8, 8, generator=g).double()
    y = torch.rand(6, 3, generator=g).double().softmax(-1)
    real, truth = torch.randn(9, 1, 8, 8, generator=g).double(), torch.arange(9) % 3

    def loss(x, y, rate):
        return float(F.cross_entropy(trained(net, x, y, rate, 3)(real), truth).detach())

    moved = [x.clone().requires_grad_(True), y.clone().requires_grad_(True)]
    eta = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
    buffers = dict(net.body.named_buffers())
    reached = unroll(
        dict(net.body.named_parameters()),
        lambda at: F.cross_entropy(
            functional_call(net.body, {**at, **buffers}, (moved[0],)), moved[1]
        ),
        rate=eta,
        steps=3,
    )
    other = copy.deepcopy(net)
    other.body.load_state_dict({n: p.detach() for n, p in reached.items()} | buffers)
    pull = GradientMatch().real(other, real, truth, torch.full((1, 1, 9), 1 / 9).double())[0, 0]
    end = torch.cat([p.flatten() for p in reached.values()])
    images, labels, slope = torch.autograd.grad(end, [*moved, eta], pull)

    h = 1e-5
    numeric = (loss(x, y, rate + h) - loss(x, y, rate - h)) / (2 * h)
    assert float(slope) == pytest.approx(numeric, rel=1e-5)
    for k in range(2):
        d = torch.randn(x.shape, generator=g).double()
        numeric = (loss(x + h * d, y, rate) - loss(x - h * d, y, rate)) / (2 * h)
        assert float((images * d).sum()) == pytest.approx(numeric, rel=1e-5), k
        d = torch.randn(y.shape, generator=g).double()
        numeric = (loss(x, y + h * d, rate) - loss(x, y - h * d, rate)) / (2 * h)
        assert float((labels * d).sum()) == pytest.approx(numeric, rel=1e-5), k


def test_momentum_is_that_of_torchs_sgd():
    """Four steps of a ConvNet, and the hypergradient against a central difference of the real loss."""
    g = torch.Generator().manual_seed(0)
    net, rate, momentum = network(), 0.2, 0.9
    x, y = torch.randn(6, 1, 8, 8, generator=g).double(), torch.arange(6) % 3
    real, truth = torch.randn(9, 1, 8, 8, generator=g).double(), torch.arange(9) % 3
    buffers = dict(net.body.named_buffers())

    def reached(x):
        return unroll(
            dict(net.body.named_parameters()),
            lambda at: F.cross_entropy(functional_call(net.body, {**at, **buffers}, (x,)), y),
            rate=rate,
            steps=4,
            momentum=momentum,
        )

    def loss(at):
        return F.cross_entropy(functional_call(net.body, {**at, **buffers}, (real,)), truth)

    body = copy.deepcopy(net.body)
    optimiser = torch.optim.SGD(body.parameters(), lr=rate, momentum=momentum)
    for _ in range(4):
        optimiser.zero_grad()
        F.cross_entropy(body(x), y).backward()
        optimiser.step()
    for name, p in reached(x).items():
        torch.testing.assert_close(p, body.get_parameter(name), rtol=1e-8, atol=1e-12)
    images = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(reached(images)), images)
    d, h = torch.randn(x.shape, generator=g).double(), 1e-5
    numeric = float(loss(reached(x + h * d)) - loss(reached(x - h * d))) / (2 * h)
    assert float((slope * d).sum()) == pytest.approx(numeric, rel=1e-5)


def test_batches_hold_as_many_images_of_every_class():
    labels, g = torch.tensor([2, 0, 1, 0, 0, 2]), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(20):
        drawn = _drawn(labels, 2, g)
        assert labels[drawn].bincount().tolist() == [2, 1, 2]
        assert len(set(drawn.tolist())) == 5
        seen |= {tuple(sorted(drawn.tolist()))}
    assert len(seen) == 3


def test_a_fixed_rate_is_not_learned_and_binds_no_protocol(tiny):
    options = {
        "loop.steps": 2,
        "loop.inner": 2,
        "networks.width": 8,
        "synthesis.bases": 4,
        "synthesis.scale": 2,
    }
    made = distill(
        resolve("rtp", profile="small", options=options), tiny.train, data=tiny, ipc=1, seed=0
    )
    assert made.card.learned_lr is None
    assert made.card.protocol["lr"] == 0.01


def test_without_steps_nothing_depends_on_the_set():
    x, eta = torch.randn(2, 3, requires_grad=True), torch.tensor(0.1, requires_grad=True)
    start = {"w": torch.randn(3)}
    end = unroll(start, lambda at: (x @ at["w"]).square().sum(), rate=eta, steps=0)["w"]
    assert torch.equal(end, start["w"])
    grads = torch.autograd.grad(end.sum(), [x, eta, end], allow_unused=True)
    assert grads[:2] == (None, None)


def test_the_rate_goes_to_the_optimum_of_a_quadratic():
    """One step on a w^2 / 2 reaches the minimum at the rate 1 / a, from above and from below."""
    for start_at in (0.02, 2.0):
        canvas = Canvas([torch.zeros(1)], torch.zeros(0), lambda: torch.zeros(0))
        canvas = LearnedRate(start_at).start(canvas, 1)
        assert canvas.rates().item() == pytest.approx(start_at, rel=1e-5)
        optimiser = torch.optim.Adam([canvas.free_rate.values], lr=0.1)
        for _ in range(400):
            end = unroll(
                {"w": torch.tensor(2.0)},
                lambda at: 4.0 * at["w"].square() / 2,
                rate=canvas.rates()[0],
                steps=1,
            )["w"]
            (canvas.free_rate.values.grad,) = torch.autograd.grad(
                end.square(), canvas.free_rate.values
            )
            optimiser.step()
        assert canvas.rates().item() == pytest.approx(0.25, rel=0.01)


def test_a_rate_below_its_floor_goes_back_to_it():
    """HaBa's code clips the rate after every step."""
    canvas = Canvas([torch.zeros(1)], torch.zeros(0), lambda: torch.zeros(0))
    canvas = LearnedRate(0.001, form="plain", least=0.001).start(canvas, 2)
    with torch.no_grad():
        canvas.free_rate.values.copy_(torch.tensor([-0.5, 0.3]))
    canvas.keep()
    assert canvas.rates().tolist() == pytest.approx([0.001, 0.3])
    assert canvas.finite
    with pytest.raises(ValueError, match=r"rate\.least"):
        LearnedRate(least=0.1)
    assert resolve("haba").loop.rate.least == 0.001


def test_an_iteration_descends_the_loss_of_the_real_records(tiny, monkeypatch):
    """With SGD in Adam's place one iteration is the gradient: against central differences of the loss on all records,
    of the network of the loop's seed trained by torch's SGD in float64."""
    monkeypatch.setattr(torch.optim, "Adam", lambda groups, betas: torch.optim.SGD(groups))
    start_at = 0.5
    options = {"loop__steps": 1, "loop__rate__start_at": start_at, "loop__rate__lr": 1.0}
    start, moved = (
        distill(recipe(**options, loop__lr=lr), tiny.train, data=tiny, ipc=1, seed=3)
        for lr in (1e-12, 100.0)
    )
    make = {"shape": tiny.shape, "num_classes": 4, "mean": tiny.mean, "std": tiny.std}
    net = build(Arch.parse("ConvNetD2W8"), seed=stable_seed(3, "network", 0), **make).double()
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (tiny.mean, tiny.std))
    real = (tiny.train.pixels(torch.arange(len(tiny.train))).double() - mean) / std
    x = (start.images.double() - mean) / std

    def loss(x, free_rate):
        body = trained(net, x, start.labels, np.log1p(np.exp(free_rate)), 3)
        with torch.no_grad():
            return float(F.cross_entropy(body(real), tiny.train.labels))

    at, h = free(start_at), 1e-5
    slope = (loss(x, at + h) - loss(x, at - h)) / (2 * h)
    assert at - free(moved.card.learned_lr) == pytest.approx(slope, rel=1e-3)
    step = (start.images - moved.images).double() / std / 100
    for seed in range(2):
        d = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
        slope = (loss(x + h * d, at) - loss(x - h * d, at)) / (2 * h)
        assert float((step * d).sum()) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("name", ["dd", "sldd"])
def test_the_card_states_the_training_that_was_unrolled(name, tiny):
    """A network trained by the engine as the card says is the network that the loop reached."""
    made = distill(recipe(name, inner=4), tiny.train, data=tiny, ipc=2, seed=0)
    assert made.card.learned_lr > 0
    assert made.card.learned_lr != pytest.approx(0.02, rel=1e-3)
    assert from_bytes(to_bytes(made)).card.learned_lr == made.card.learned_lr
    protocol = replace(recipe(name, inner=4).protocol, lr=made.card.learned_lr)
    assert {**made.card.protocol, "lr": protocol.lr} == protocol.to_card()
    (net,) = train_many(
        [(made.images, made.labels)],
        arch=Arch.parse("ConvNetD2W8"),
        num_classes=4,
        mean=tiny.mean,
        std=tiny.std,
        protocol=protocol,
        seeds=[11],
    )
    shape = {"shape": tiny.shape, "num_classes": 4, "device": torch.device("cpu")}
    start = Fresh("ConvNetD2W8").make(seed=11, **shape)
    x = (made.images - torch.tensor(tiny.mean)[:, None, None]) / torch.tensor(tiny.std)[
        :, None, None
    ]
    reached = unroll(
        dict(start.body.named_parameters()),
        lambda at: F.cross_entropy(functional_call(start.body, at, (x,)), made.labels),
        rate=torch.tensor(made.card.learned_lr),
        steps=4,
    )
    for n, p in net.body.named_parameters():
        assert torch.allclose(p, reached[n], atol=1e-5), n


def test_dd_teaches_more_than_the_noise_it_starts_from(tiny):
    """Under its own protocol, four images of noise against the same images after 30 iterations."""
    options = {"loop__steps": 30, "loop__halve_every": None, "inner": 5}
    start = distill(recipe(**{**options, "loop__lr": 1e-9}), tiny.train, data=tiny, ipc=1, seed=0)
    made = distill(recipe(**options), tiny.train, data=tiny, ipc=1, seed=0)
    test = tiny.test.pixels(torch.arange(len(tiny.test)))

    def accuracy(s):
        nets = train_many(
            [(s.images, s.labels)] * 3,
            arch=Arch.parse("ConvNetD2W8"),
            num_classes=4,
            mean=tiny.mean,
            std=tiny.std,
            protocol=replace(recipe(inner=5).protocol, lr=made.card.learned_lr),
            seeds=[21, 22, 23],
        )
        with torch.no_grad():
            hits = [(n(test).argmax(1) == tiny.test.labels).float().mean() for n in nets]
        return float(torch.stack(hits).mean())

    assert accuracy(start) < 0.6
    assert accuracy(made) > 0.85


def test_labels_are_learned_and_stay_distributions(tiny):
    made = distill(recipe("sldd"), tiny.train, data=tiny, ipc=2, seed=0)
    assert made.soft
    assert torch.allclose(made.labels.sum(1), torch.ones(8), atol=1e-5)
    assert not torch.equal(made.labels, F.one_hot(torch.arange(8) // 2, 4).float())


def test_runs_repeat_and_compose(tiny):
    a, b, fair, smooth = (
        distill(r, tiny.train, data=tiny, ipc=1, seed=4)
        for r in (
            recipe(),
            recipe(),
            recipe("dd+fair"),
            replace(recipe(), terms=resolve("dm-contrast").terms),
        )
    )
    assert torch.equal(a.images, b.images)
    assert a.card.learned_lr == b.card.learned_lr
    assert not torch.equal(a.images, fair.images)
    assert not torch.equal(a.images, smooth.images)


def test_shadows_run_one_by_one_and_see_their_records_alone(tiny):
    members = torch.rand(2, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    record = int((members[0] & ~members[1]).nonzero()[0])
    changed = replace(tiny.train, images=tiny.train.images.clone())
    changed.images[record] = 255 - changed.images[record]
    assert not recipe().loop.shareable(recipe(), 1)
    before, after = (
        distill_many(recipe(), d, members, data=tiny, ipc=1, seed=0) for d in (tiny.train, changed)
    )
    same = [torch.equal(a.images, b.images) for a, b in zip(before, after, strict=True)]
    assert same == [False, True]
    assert [
        a.card.learned_lr == b.card.learned_lr for a, b in zip(before, after, strict=True)
    ] == same


def test_what_cannot_be_unrolled_is_refused_in_one_line(tiny):
    with pytest.raises(BadInput, match="no clip is known"):
        resolve("dd+dp")
    with pytest.raises(BadInput, match="this method has none"):
        resolve("dd+group-dro")
    longer = resolve("dd", profile="small", options={**TINY, "loop.inner": 5})
    with pytest.raises(BadInput, match=r"unrolled over 5 steps.*max_steps=5"):
        distill(longer, tiny.train, data=tiny, ipc=1, seed=0)
    with pytest.raises(BadInput, match=r"loop\.inner must be at least 1"):
        recipe(inner=0)
    with pytest.raises(BadInput, match=r"rate\.start_at must lie in"):
        recipe(loop__rate__start_at=0)
    with pytest.raises(BadInput, match="lacks a target"):
        distill(replace(recipe(), networks=None), tiny.train, data=tiny, ipc=1, seed=0)
    with pytest.raises(DDAuditError, match=r"diverged at step \d. Lower --set loop\.lr"):
        distill(recipe(loop__lr=1e30), tiny.train, data=tiny, ipc=1, seed=0)


def test_one_question_per_iteration():
    loop = Unrolled(steps=7)
    assert loop.queries(1) == loop.queries(50) == 7
    assert not loop.reusable(recipe(), 1)


@pytest.mark.slow
def test_dd_beats_random_images_on_digits():
    """IPC 1, three seeds, each under dd's own training; random images at the rate that dd learned."""
    data = load_data("digits")
    own = resolve("dd", profile="small")
    test = data.test.pixels(torch.arange(len(data.test)))

    def accuracy(made, rate):
        (net,) = train_many(
            [(made.images, made.labels)],
            arch=Arch.parse("ConvNetD2W32"),
            num_classes=10,
            mean=data.mean,
            std=data.std,
            protocol=replace(own.protocol, lr=rate),
            seeds=[1],
        )
        with torch.no_grad():
            return float((net(test).argmax(1) == data.test.labels).float().mean())

    for seed in range(3):
        made = distill(own, data.train, data=data, ipc=1, seed=seed)
        chance = distill(resolve("random"), data.train, data=data, ipc=1, seed=seed)
        rate = made.card.learned_lr
        assert accuracy(made, rate) > max(0.75, accuracy(chance, rate) + 0.05)
