"""Robust training: the attack, TRADES and the curvature in closed form, averaged weights, and how protocols carry
them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddaudit.attacks.adversarial.execution import run
from ddaudit.attacks.adversarial.gradient import PGD
from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network, build
from ddaudit.models.network import Body
from ddaudit.training import PROTOCOLS, Ascent, Curvature, EvaluationProtocol, Robust, train_many
from ddaudit.training.robust import climb, divergence

MEAN, STD = torch.full((3, 1, 1), 0.4), torch.full((3, 1, 1), 0.25)
ARCH = Arch.parse("ConvNetD2W8")
PLAIN = EvaluationProtocol(name="t", epochs=4, epochs_plain=4, batch_size=64, lr=0.05, augment="")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def linear(weight: torch.Tensor) -> nn.Sequential:
    layer = nn.Linear(weight.shape[1], len(weight), bias=False)
    layer.weight.data = weight
    return nn.Sequential(nn.Flatten(), layer)


def test_the_attack_of_a_linear_model_is_the_sign_of_its_weights():
    """Two classes: the slope of the loss has the sign of w_other - w_label everywhere. One step goes ``size`` along it,
    enough steps end at epsilon or at the box, whatever the start."""
    # Small, so that no softmax is 1 up to rounding.
    w, pixels = 0.1 * numbers(2, 3 * 4 * 4), torch.rand(6, 3, 4, 4, generator=seeded())
    x, y, body = (pixels - MEAN) / STD, torch.tensor([0, 1, 0, 1, 1, 0]), linear(w)
    away = ((w[1] - w[0]) * (1 - 2 * y)[:, None]).sign().view_as(x)
    for how, reach in (
        (Ascent(steps=1, random_start=False), 2 / 255),
        (Ascent(steps=30), 8 / 255),
        (Ascent(steps=30, sizes=3, random_start=False), 8 / 255),
        (Ascent(steps=1, random_start=False, towards=1), 2 / 255),
    ):
        got = how.on(x, lambda z, h=how: h.aim(body(z), y), mean=MEAN, std=STD, generator=seeded())
        expected = (pixels + reach * away).clamp(0, 1)
        assert torch.allclose(got * STD + MEAN, expected, atol=1e-6)


def test_training_and_evaluation_take_the_same_steps():
    """On a network: ten steps of the evaluating PGD, which normalises inside, are ten of the attack in training."""
    net = build(ARCH, shape=(3, 8, 8), num_classes=4, seed=0, mean=[0.4] * 3, std=[0.25] * 3)
    pixels, y = torch.rand(8, 3, 8, 8, generator=seeded()), torch.arange(8) % 4
    evaluated = run(
        net, pixels, y, [PGD(10, 2 / 255, False, leave=False)], eps=8 / 255, only_correct=False
    )
    body, how = net.body.eval(), Ascent(random_start=False)
    x = (pixels - MEAN) / STD
    trained = how.on(x, lambda z: how.aim(body(z), y), mean=MEAN, std=STD, generator=seeded())
    apart = (trained * STD + MEAN - evaluated.adversarial).abs()
    # A sign may flip where a slope is zero up to rounding.
    assert float((apart > 1e-5).float().mean()) < 0.01


def test_images_outside_the_box_go_no_further_and_tables_have_none():
    x = torch.full((2, 1, 2, 2), 1.5)
    up = Ascent(epsilon=0.3, size=0.3, steps=1, random_start=False)
    ones, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    rise = {"losses": lambda z: z.flatten(1).sum(1), "mean": zero, "std": ones}
    assert torch.equal(up.on(x, **rise, generator=seeded()), x)
    assert torch.allclose(up.on(x[:, :, :1], **rise, generator=seeded()), x[:, :, :1] + 0.3)
    coded = replace(up, space="normalised")
    assert torch.equal(coded.on(x, **rise, generator=seeded()), torch.ones_like(x))


def test_every_image_takes_the_best_of_several_steps():
    """Towards 0.1 from 0, steps of 1, 0.5 and 0.25: the shortest; towards 0.6 the middle one."""
    goal = torch.tensor([[0.1], [0.6]])
    got = climb(
        torch.zeros(2, 1), lambda z: -(z - goal).square().sum(1), radius=2.0, size=1.0, steps=1, sizes=3
    )  # fmt: skip
    assert got.flatten().tolist() == [0.25, 0.5]


def test_the_curvature_of_a_quadratic_is_its_hessian_along_the_slope():
    """loss = x'Hx / 2: g = Hx, z = h Hx / |Hx|, and g(x + z) - g(x) = Hz."""
    a = numbers(6, 6, seed=1)
    hessian, x = a @ a.T, numbers(5, 6, seed=2)
    share, g = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]), x @ hessian
    z = 1.5 * g / g.norm(dim=1, keepdim=True)

    def losses(at: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((at @ hessian) * at).sum(1)

    got = Curvature(weight=2.0, radius=1.5).penalty(losses, x, share)
    assert got.item() == pytest.approx(2 * (share * (z @ hessian).norm(dim=1)).sum().item(), 1e-5)
    scalar = Curvature(weight=2.0, radius=1.5, form="loss").penalty(losses, x, share)
    rise = (g * z).sum(1) + 0.5 * ((z @ hessian) * z).sum(1)
    assert scalar.item() == pytest.approx(2 * (share * rise).sum().item(), 1e-5)
    # The authors' 100 acts on slopes of the mean over a batch of 128.
    unit = Curvature(weight=1.0, radius=1.5).penalty(losses, x, share).item()
    assert Curvature(radius=1.5).penalty(losses, x, share).item() == pytest.approx(unit * 100 / 128)


def test_trades_weighs_torchs_divergence_of_attacked_from_plain_answers():
    p, q = numbers(5, 4, seed=3), numbers(5, 4, seed=4)
    expected = F.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean")
    assert divergence(p.log_softmax(1), q).mean().item() == pytest.approx(expected.item(), rel=1e-5)
    robust = Robust(Ascent(), trades=6.0)
    added = robust.added(nn.Identity(), p, torch.zeros(5, dtype=torch.int64), p, q)
    assert added.item() == pytest.approx(6 * expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match="give an attack"):
        Robust(trades=6.0)


def test_the_kept_weights_are_the_moving_average_of_every_step(tiny):
    """One batch is one pass, so that plain training shows the weights of all steps."""
    trail: list[torch.Tensor] = []

    def note(_position: int, _passes: int, parameters: dict[str, torch.Tensor]) -> None:
        trail.append(torch.cat([p.detach().flatten() for p in parameters.values()]).clone())

    def trained(protocol: EvaluationProtocol, **options: object) -> torch.Tensor:
        one = replace(protocol, batch_size=1000)
        (net,) = train_many(
            [(tiny.train.images, tiny.train.labels)], arch=ARCH, num_classes=4, mean=tiny.mean, std=tiny.std,
            protocol=one, seeds=[0], **options,
        )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in net.body.parameters()])

    last = trained(PLAIN, after_pass=note, strategy="loop")
    assert torch.equal(last, trail[-1])
    average = trail[0]
    for point in trail[1:]:
        average = 0.7 * average + 0.3 * point
    plain, trail = trail, []
    kept = trained(replace(PLAIN, ema=0.7), after_pass=note, strategy="loop")
    assert torch.allclose(kept, average, atol=1e-6)
    assert torch.allclose(trail[1], 0.7 * plain[0] + 0.3 * plain[1], atol=1e-6)
    stacked = trained(replace(PLAIN, ema=0.7), strategy="stacked")
    assert torch.allclose(stacked, average, atol=1e-5)


@pytest.mark.parametrize(
    "robust",
    [Robust(Ascent(steps=1)), Robust(Ascent(steps=1), trades=6.0), Robust(curvature=Curvature())],
    ids=["pgd", "trades", "curvature"],
)
def test_networks_trained_robustly_learn_and_depend_on_their_seed_alone(robust, tiny):
    how = replace(PLAIN, robust=robust)
    sets = [(tiny.train.images, tiny.train.labels)] * 2
    a, b = (
        train_many(
            sets[:n], arch=ARCH, num_classes=4, mean=tiny.mean, std=tiny.std, protocol=how, seeds=[5, 6][:n]
        )[0]
        for n in (1, 2)
    )  # fmt: skip
    assert a.trained_with == "loop"
    for p, q in zip(a.body.parameters(), b.body.parameters(), strict=True):
        assert torch.equal(p, q)
    right = (a(tiny.test.pixels(torch.arange(160))).argmax(1) == tiny.test.labels).float().mean()
    assert float(right) > 0.6


def test_the_attack_sees_running_statistics_and_moves_none():
    net = Network(
        Body(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten()), nn.Linear(16, 2)),
        arch=Arch("mlp"), shape=(1, 4, 4), num_classes=2, mean=[0.0], std=[1.0],
    ).train()  # fmt: skip
    x, y = numbers(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])
    before = net.body.features[0].running_mean.clone()
    ones, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    Robust(Ascent()).see(net.body, x, y, mean=zero, std=ones, generator=seeded())
    assert torch.equal(net.body.features[0].running_mean, before)
    assert net.body.training


def test_a_card_carries_robust_training_and_states_no_nonsense():
    hard = replace(PROTOCOLS["quick"], robust=Robust(Ascent(), 6.0, Curvature()), ema=0.9)
    stored = json.loads(json.dumps(hard.to_card()))
    assert EvaluationProtocol.from_card(stored) == hard
    plain = replace(hard, robust=None, ema=0.0)
    assert plain.key == PROTOCOLS["quick"].key
    assert len({hard.key, plain.key, replace(hard, robust=Robust(Ascent())).key}) == 3
    for part, change in (
        ("attack", {"steps": 0}),
        ("attack", {"power": 1}),
        ("curvature", {"radius": -1.0}),
    ):
        bad = {**stored, "robust": {**stored["robust"], part: {**stored["robust"][part], **change}}}
        with pytest.raises(BadInput, match="'robust"):
            EvaluationProtocol.from_card(bad)
