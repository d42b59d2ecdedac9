"""The auditor's own known-answer tests pass, and go red when the attack under test is weakened."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from ddaudit.attacks.adversarial import known_answers
from ddaudit.attacks.adversarial.masking import AFFECTS
from ddaudit.attacks.adversarial.suite import autoattack, pgd


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_critical_radius_flips_the_network_just_beyond_and_not_just_before(norm):
    case = known_answers.linear_case(norm=norm, images=30, seed=4)
    radius = known_answers.critical_radius(case.network, case.pixels, case.labels, norm=norm)
    w = case.network.weight.detach()
    for i in (radius > 0).nonzero().flatten().tolist():
        y, flipped = int(case.labels[i]), []
        for factor in (0.99, 1.01):
            predictions = set()
            for k in range(len(w)):
                d = w[k] - w[y]
                direction = d.sign() if norm == "Linf" else d / d.norm().clamp_min(1e-12)
                x = case.pixels[i].flatten() + factor * float(radius[i]) * direction
                predictions.add(int(case.network(x.view(1, *case.pixels.shape[1:])).argmax()))
            flipped.append(predictions != {y})
        assert flipped == [False, True]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_linear_case_holds_robust_fragile_and_wrong_images_inside_the_box(norm):
    case = known_answers.linear_case(norm=norm)
    assert 0 < int(case.robust.sum()) < len(case.labels)
    w = case.network.weight.detach()
    ways = [w[a] - w[b] for a in range(len(w)) for b in range(a)]
    peak = 1.0 if norm == "Linf" else max(float(d.abs().max() / d.norm()) for d in ways)
    assert float(case.pixels.min()) - case.eps * peak > 0
    assert float(case.pixels.max()) + case.eps * peak < 1


def test_all_checks_pass():
    found = [
        *known_answers.linear_checks(norm="Linf"),
        known_answers.reference_check(),
        known_answers.wrong_space_check(),
    ]
    assert [c.name for c in found if not c.passed] == []
    assert all(c.subject is None and c.affects == AFFECTS for c in found)


def test_ten_step_autoattack_fails_the_budget_check(monkeypatch):
    monkeypatch.setattr(known_answers, "autoattack", partial(autoattack, steps=10))
    (_, budget) = known_answers.linear_checks(norm="Linf", queries=1)
    assert not budget.passed


def test_attack_with_half_the_radius_fails_the_closed_form(monkeypatch):
    def timid(net, x, y, *, eps, **options):
        return autoattack(net, x, y, eps=eps / 2, **options)

    monkeypatch.setattr(known_answers, "autoattack", timid)
    assert not known_answers.linear_checks(norm="Linf", queries=1)[0].passed


def test_pgd_with_a_wrong_step_fails_the_reference_check(monkeypatch):
    monkeypatch.setattr(known_answers, "pgd", lambda *a, alpha, **k: pgd(*a, alpha=alpha / 10, **k))
    assert not known_answers.reference_check().passed


def test_plain_pgd_stays_in_ball_and_box():
    case = known_answers.linear_case(norm="Linf")
    x = known_answers.plain_pgd(case.network, case.pixels, case.labels, eps=0.4, alpha=0.2, steps=5)
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert float((x - case.pixels).abs().max()) <= 0.4 + 1e-6
    assert not torch.equal(x, case.pixels)
