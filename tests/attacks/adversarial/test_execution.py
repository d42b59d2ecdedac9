"""What every run of an attack promises, and AutoAttack against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddaudit.attacks.adversarial.ball import UNBOUNDED, Ball, Noise
from ddaudit.attacks.adversarial.execution import classify, run, verify
from ddaudit.attacks.adversarial.probe import nonzero_gradient_share
from ddaudit.attacks.adversarial.suite import autoattack, pgd, require_known
from ddaudit.errors import BadInput, Unsupported
from ddaudit.training import _memory

from .linear import Linear, convnet, middle_of_the_box, true_radii


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_autoattack_equals_the_closed_form_of_a_linear_network(norm, classes):
    net = Linear(classes=classes, size=36, seed=classes)
    x = middle_of_the_box(16, (1, 6, 6), seed=classes)
    y = classify(net, x)
    y[0] = (y[0] + 1) % classes  # wrong from the start: never robust
    radii = torch.tensor(true_radii(net, x, y, order=1 if norm == "Linf" else 2))
    ordered = radii[radii > 0].sort().values
    eps = float((ordered[7] + ordered[8]) / 2)
    # The worst perturbation stays inside the box, so the closed form holds: its largest pixel is below 0.3.
    steps = [(net.w[a] - net.w[b]).detach() for a in range(classes) for b in range(a)]
    peak = 1.0 if norm == "Linf" else max(float(d.abs().max() / d.norm()) for d in steps)
    assert 0 < eps * peak < 0.3
    result = autoattack(net, x, y, eps=eps, norm=norm, queries=50)
    assert result.survived.tolist() == (radii > eps).tolist()
    assert result.invalid == 0
    assert [s.name for s in result.stages] == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_pgd_l2_reaches_the_boundary_of_a_linear_network():
    net, x = Linear(classes=2, size=36, seed=3), middle_of_the_box(20, (1, 6, 6), seed=3)
    y = classify(net, x)
    radii = torch.tensor(true_radii(net, x, y, order=2))
    eps = float(radii.median()) * 1.001
    result = pgd(net, x, y, eps=eps, norm="L2", steps=50, alpha=eps / 4)
    assert result.survived.tolist() == (radii > eps).tolist()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_large_values_are_rounded_and_no_overshoot(norm):
    """Near 300 float32 lies 3e-5 apart: x + eps lands beyond eps as often as within."""
    x = 300 + torch.rand(50, 1, 1, 30, generator=torch.Generator().manual_seed(0))
    step = torch.ones_like(x) * (0.1 if norm == "Linf" else 0.1 / 30**0.5)
    assert bool(verify(x, x + step, eps=0.1, norm=norm, bounds=UNBOUNDED).all())
    assert not bool(verify(x, x + 1.01 * step, eps=0.1, norm=norm, bounds=UNBOUNDED).any())
    small = x - 300
    assert not bool(verify(small, small + 1.0001 * step, eps=0.1, norm=norm).any())


def test_autoattack_aims_at_nine_targets_at_most():
    net, x = Linear(classes=30, size=36, seed=0), middle_of_the_box(2, (1, 6, 6), seed=0)
    stages = autoattack(net, x, classify(net, x), eps=1e-6, steps=10, queries=1).stages
    # Who the rivals are, then a start and ten steps to each of nine targets.
    assert stages[1].forwards == 2 + 2 * 9 * 11
    # The first target alone, the other eight in one batch.
    assert stages[1].model_calls == 1 + 2 * 11


def test_normalised_images_are_refused():
    net, x = convnet(), torch.rand(4, 3, 8, 8)
    y, normalised = classify(net, x), (x - 0.5) / 0.25
    with pytest.raises(BadInput, match=r"outside \[0, 1\]"):
        pgd(net, normalised, y, eps=8 / 255)
    with pytest.raises(BadInput, match=r"outside \[0, 1\]"):
        autoattack(net, normalised, y, eps=8 / 255)
    with pytest.raises(BadInput, match="outside"):
        pgd(net, torch.full_like(x, torch.nan), y, eps=8 / 255)


def test_unknown_attacks_and_bad_radii_are_bad_input():
    net, x = convnet(), torch.rand(2, 3, 8, 8)
    with pytest.raises(BadInput, match=r"unknown attack\. Did you mean pgd"):
        require_known("pdg")
    with pytest.raises(BadInput, match="radius"):
        pgd(net, x, classify(net, x), eps=-0.1)
    with pytest.raises(BadInput, match="norm"):
        pgd(net, x, classify(net, x), eps=0.1, norm="L7")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_eps_zero_changes_nothing(norm):
    net = convnet()
    x = torch.rand(30, 3, 8, 8)
    y = classify(net, x)
    y[:10] = (y[:10] + 1) % 10
    result = pgd(net, x, y, eps=0.0, norm=norm)
    assert torch.equal(result.adversarial, x)
    assert torch.equal(result.survived, result.clean_correct)
    assert result.clean_accuracy == pytest.approx(2 / 3)
    assert result.invalid == 0


def test_global_randomness_and_the_network_are_left_as_they_were():
    net = convnet()
    net.train()
    net[0].weight.requires_grad_(False)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    autoattack(net, x, classify(net, x), eps=0.01, steps=3, queries=3)
    pgd(net, x, classify(net, x), eps=0.01)
    assert torch.equal(before, torch.get_rng_state())
    assert all(m.training for m in net.modules())
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    # FAB calls backward(): without freezing it would leave gradients in the parameters.
    assert all(p.grad is None for p in net.parameters())


def test_same_seed_same_images_and_other_seed_other_images():
    net, x = convnet(), torch.rand(20, 3, 8, 8)
    y = classify(net, x)
    runs = [
        pgd(net, x, y, eps=8 / 255, steps=2, seed=s, only_correct=False).adversarial
        for s in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_restarts_only_help():
    net, x = convnet(), torch.rand(60, 3, 8, 8)
    y = classify(net, x)
    one, five = (pgd(net, x, y, eps=2 / 255, steps=2, restarts=r).survived for r in (1, 5))
    assert not bool((five & ~one).any())


class _Fake:
    """An attack that returns whatever it is told to, and remembers what it was given."""

    name = "fake"

    def __init__(self, change) -> None:
        self.change, self.seen = change, []

    def __call__(self, model, x: Tensor, y: Tensor, ball, noise) -> Tensor:
        self.seen.append(len(x))
        return self.change(x)


@pytest.mark.parametrize(
    "cheat",
    [lambda x: x + 10, lambda x: (x + 0.2).clamp(0, 1), lambda x: x * torch.nan, lambda x: x - 0.5],
    ids=["far outside", "outside the ball", "nan", "below zero"],
)
def test_invalid_images_earn_no_credit_and_are_counted(cheat):
    net, x = convnet(), 0.4 + 0.2 * torch.rand(12, 3, 8, 8)
    y = classify(net, x)
    y[:4] = (y[:4] + 1) % 10
    fake = _Fake(cheat)
    result = run(net, x, y, [fake], eps=0.1, batch_size=5)
    assert result.invalid == 8
    assert torch.equal(result.survived, result.clean_correct)
    assert torch.equal(result.adversarial, x)
    assert fake.seen == [5, 3]  # only the 8 images that are right without an attack, in batches


def test_verify_bounds_are_the_ball_and_the_box():
    x = torch.full((1, 1, 2, 2), 0.5)
    one = torch.zeros_like(x)
    one[..., 0, 0] = 0.1
    assert verify(x, x + one, eps=0.1, norm="L2").all()
    assert not verify(x, x + 2 * one, eps=0.1, norm="L2").any()
    assert not verify(x, x + 0.1, eps=0.1, norm="L2").any()  # length 0.2
    assert verify(x, x + 0.1, eps=0.1, norm="Linf").all()
    assert not verify(x, x + 0.6, eps=1.0, norm="Linf").any()  # leaves the box


@pytest.mark.parametrize(
    ("shape", "norm"), [((1, 8, 12), "Linf"), ((1, 8, 12), "L2"), ((1, 4, 4), "L2")]
)
def test_images_of_any_shape_equal_the_closed_form(shape, norm):
    """The Square attack by itself could tile none of these; no image may change its outcome either way."""
    order, size = (1, 2)[norm == "L2"], shape[0] * shape[1] * shape[2]
    net = Linear(classes=4, size=size, seed=0)
    x = middle_of_the_box(8, shape, seed=1)
    y = classify(net, x)
    radii = torch.tensor(true_radii(net, x, y, order))
    ordered = radii.sort().values
    eps = float(ordered[3] + ordered[4]) / 2
    result = autoattack(net, x, y, eps=eps, norm=norm, steps=25, queries=60)
    assert result.survived.tolist() == (radii > eps).tolist()
    assert result.invalid == 0
    assert result.adversarial.shape == x.shape
    assert result.stages[3].forwards >= 60 * 4


def test_diverged_network_is_refused():
    net = convnet()
    with torch.no_grad():
        net[4].weight.fill_(torch.nan)
    for attack in (autoattack, pgd):
        with pytest.raises(Unsupported, match="not finite"):
            attack(net, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), eps=0.1)


@pytest.mark.gpu
def test_runs_on_the_network_s_device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    net = Linear(classes=5, size=36, seed=0).cuda()
    x = middle_of_the_box(8, (1, 6, 6), seed=0)
    result = autoattack(net, x, classify(net, x), eps=0.02, queries=100)
    assert result.survived.device.type == "cpu"
    assert result.invalid == 0


def test_attacks_keep_their_memory_from_step_to_step(monkeypatch):
    """Page faults cost an attack on images of 28x28 as much as its arithmetic."""
    inside = []
    net, x = Linear(classes=2, size=36, seed=3), middle_of_the_box(4, (1, 6, 6), seed=3)
    y = classify(net, x)
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda v: inside.append(_memory._depth) or forward(v))
    pgd(net, x, y, eps=0.01, steps=2, seed=0)
    assert len(inside) > 2
    assert min(inside) == 1
    assert _memory._depth == 0


@pytest.mark.parametrize("eps", [3.3, 40.0])
def test_l2_attacks_on_large_images_stay_in_the_ball(eps):
    """Rounded in float32, the length of 150,528 values is off by more than the slack, and good attacks were dropped."""
    x = middle_of_the_box(8, (3, 224, 224), seed=0)
    ball, noise = Ball(eps, "L2", -100, 100), Noise(0, torch.arange(8))
    far = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    for moved in (ball.project(x, far), ball.surface(x, noise)):
        assert bool(verify(x, moved, eps=eps, norm="L2", bounds=(-100, 100)).all())
        assert float((moved - x).double().flatten(1).norm(dim=1).min()) > 0.999 * eps


def test_networks_are_asked_in_full_float32(monkeypatch):
    net, seen = convnet(), []
    net.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    x = middle_of_the_box(2, (3, 8, 8), seed=0)
    y = classify(net, x)
    pgd(net, x, y, eps=0.1, norm="Linf", steps=2)
    nonzero_gradient_share(net, x, y)
    assert seen
    assert not any(seen)
