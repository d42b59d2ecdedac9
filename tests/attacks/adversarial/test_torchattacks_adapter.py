"""The torchattacks adapter: our attacks against it image by image, and each known defect of torchattacks 3.5.1."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from ddaudit.attacks.adversarial import torchattacks_adapter as adapter
from ddaudit.attacks.adversarial.ball import Ball, Noise
from ddaudit.attacks.adversarial.execution import Model, classify, verify
from ddaudit.attacks.adversarial.gradient import FGSM, MIFGSM, PGD, VMIFGSM, Jitter
from ddaudit.attacks.adversarial.minimum_norm import DeepFool
from ddaudit.attacks.adversarial.torchattacks_adapter import library_autoattack as autoattack
from ddaudit.attacks.adversarial.torchattacks_adapter import library_pgd as pgd
from ddaudit.errors import Unsupported

from .linear import Linear, convnet, middle_of_the_box, true_radii

torchattacks = pytest.importorskip("torchattacks")


def test_library_apgdt_needs_four_classes_and_ours_does_not():
    net, x = Linear(classes=3, size=36, seed=0), middle_of_the_box(4, (1, 6, 6), seed=0)
    with pytest.raises(IndexError):
        torchattacks.APGDT(net, n_classes=3, steps=2)(x, classify(net, x))
    autoattack(net, x, classify(net, x), eps=0.01, steps=2, queries=2)


@pytest.mark.parametrize("steps", [1, 10])
def test_pgd_equals_ten_lines_of_plain_pytorch(steps):
    net, x = convnet(), torch.rand(100, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = classify(net, x)
    eps, alpha = 8 / 255, 2 / 255
    ours = x.clone()
    for _ in range(steps):
        ours.requires_grad_(True)
        (g,) = torch.autograd.grad(nn.functional.cross_entropy(net(ours), y), ours)
        ours = (x + (ours.detach() + alpha * g.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    got = pgd(net, x, y, eps=eps, alpha=alpha, steps=steps, random_start=False, only_correct=False)
    assert torch.equal(got.adversarial, ours)


def test_autoattack_runs_the_published_budgets_where_the_library_runs_ten_steps():
    parts = torchattacks.AutoAttack(convnet())._autoattack.attacks
    assert [p.steps for p in parts[:3]] == [10, 10, 10]
    net, x = Linear(classes=4, size=36, seed=0), middle_of_the_box(3, (1, 6, 6), seed=0)
    calls = {s.name: s.model_calls for s in autoattack(net, x, classify(net, x), eps=1e-6).stages}
    assert calls["apgd-ce"] >= 100
    assert calls["apgd-t"] >= 3 * 100
    assert calls["fab-t"] >= 3 * 100
    assert calls["square"] >= 5000


def test_non_contiguous_images_work_where_the_library_crashes():
    net, x = convnet(), torch.rand(4, 8, 8, 3).permute(0, 3, 1, 2)
    y = classify(net, x)
    with pytest.raises(RuntimeError, match="view"):
        torchattacks.PGDL2(net, random_start=True)(x, y)
    assert pgd(net, x, y, eps=0.5, norm="L2").invalid == 0


def test_library_cw_reads_a_negative_true_logit_as_zero():
    # True logit -2, rival -5: the margin is 3. The library sees max(0, ...) on both sides: 0.
    margin = torchattacks.CW(convnet()).f(torch.tensor([[-2.0, -5.0]]), torch.tensor([0]))
    assert float(margin) == 0.0


def test_library_pgd_l2_divides_zero_by_zero_at_eps_zero():
    x = torch.rand(2, 3, 8, 8)
    adv = torchattacks.PGDL2(convnet(), eps=0.0, alpha=0.0, random_start=False)(
        x, torch.tensor([0, 1])
    )
    assert bool(torch.isnan(adv).any())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_framed_square_attack_breaks_oblong_images_by_itself(norm):
    """Without gradients, from queries alone: it finds images well within reach, and never leaves the ball."""
    net = Linear(classes=3, size=96, seed=2)
    x = middle_of_the_box(12, (1, 8, 12), seed=3)
    y = classify(net, x)
    eps = 3 * max(true_radii(net, x, y, (1, 2)[norm == "L2"]))
    with adapter._forked_rng(torch.device("cpu"), 0):
        found = adapter._FramedSquare(net, norm=norm, eps=eps, n_queries=200)(x, y)
    assert verify(x, found, eps=eps, norm=norm).all()
    assert int((classify(net, found) != y).sum()) >= 10


def test_sides_that_square_can_tile_in_l2():
    """Tried on the library itself: it raises at just the sides that are said not to fit."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3))
    for side in range(5, 40):
        attack = torchattacks.Square(net, norm="L2", eps=0.1, n_queries=1)
        x = torch.rand(1, 1, side, side)
        y = net(x).argmax(1)  # it passes over images that are wrong already
        with torch.random.fork_rng(devices=[]):
            try:
                attack(x, y)
            except RuntimeError:
                assert not adapter._tiles(side), side
            else:
                assert adapter._tiles(side), side


def test_another_library_version_is_refused(monkeypatch):
    monkeypatch.setattr(torchattacks, "__version__", "3.4.0")
    net = convnet()
    with pytest.raises(Unsupported, match=r"3\.4\.0"):
        pgd(
            net,
            torch.rand(2, 3, 8, 8),
            classify(net, torch.rand(2, 3, 8, 8)),
            eps=0.1,
            only_correct=False,
        )


# ---- our attacks beside the library's -----------------------------------------------------------------


def _library_pairs():
    lib = torchattacks
    eps, alpha = 3 / 255, 0.75 / 255
    still = {"random_start": False}
    return eps, {
        "fgsm": (FGSM(), partial(lib.FGSM, eps=eps)),
        "pgd": (
            PGD(10, alpha, random_start=False, leave=False),
            partial(lib.PGD, eps=eps, alpha=alpha, steps=10, **still),
        ),
        "mi-fgsm": (
            MIFGSM(10, alpha, leave=False),
            partial(lib.MIFGSM, eps=eps, alpha=alpha, steps=10),
        ),
        # Without spread the neighbours are the point itself and the variance is zero on both sides.
        "vmi-fgsm": (
            VMIFGSM(10, alpha, leave=False, beta=0.0),
            partial(lib.VMIFGSM, eps=eps, alpha=alpha, steps=10, beta=0.0),
        ),
        "jitter": (
            Jitter(10, alpha, random_start=False, leave=False, std=0.0),
            partial(lib.Jitter, eps=eps, alpha=alpha, steps=10, std=0, **still),
        ),
    }


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mi-fgsm", "vmi-fgsm", "jitter"])
def test_images_equal_torchattacks(name, formula):
    """Pixel by pixel, where the attack fails to the end; a gradient of zero but for rounding may take either sign.

    Once an image is broken the library's Jitter also follows the gradient of the change's size.
    """
    net, x = formula.network(), formula.images()
    y = classify(net, x)
    eps, pairs = _library_pairs()
    ours, theirs = pairs[name]
    made = ours(Model(net, x.device), x, y, Ball(eps, "Linf"), Noise(0, torch.arange(len(x))))
    expected = theirs(net)(x, y)
    stands = classify(net, expected) == y
    same = (made - expected)[stands].abs().flatten(1).amax(1) <= 1e-6
    assert len(same) >= 8
    assert float(same.double().mean()) >= 0.95


def test_deepfool_distances_equal_torchattacks(formula):
    lib = torchattacks
    net, x = formula.network(), formula.images(12)
    y = classify(net, x)
    theirs = (lib.DeepFool(net)(x, y) - x).flatten(1).norm(dim=1)
    made = DeepFool().nearest(Model(net, x.device), x, y, Ball(1.0, "L2"))
    torch.testing.assert_close((made - x).flatten(1).norm(dim=1), theirs, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_stepwise_deepfool_is_the_librarys_image_by_image(shift):
    """Also on normalised inputs, half of which the library cuts away at its first step (BEARD as coded)."""
    net = convnet()
    x = 2 * torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(2)) - shift
    y = classify(net, x)
    y[:3] = (y[:3] + 1) % 10  # wrong before any step: the library leaves these as they are
    theirs = torchattacks.DeepFool(net)(x.clamp(0, 1) if shift == 0 else x, y)
    ball = Ball(1e6, "L2")
    ours = DeepFool(stepwise=True)(
        Model(net, x.device),
        x.clamp(0, 1) if shift == 0 else x,
        y,
        ball,
        Noise(0, torch.arange(30)),
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)  # classes tie on the boundary
