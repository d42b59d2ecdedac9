"""Losses against torch's own, written out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ddaudit.errors import BadInput
from ddaudit.training import PROTOCOLS, EvaluationProtocol
from ddaudit.training.losses import check_labels, loss, stored_targets, targets, to_uniform


def how(**changes: object) -> EvaluationProtocol:
    return replace(PROTOCOLS["quick"], augment="", **changes)  # type: ignore[arg-type]


def numbers(n: int = 6, k: int = 4, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0])
def test_kl_is_torchs_kl_div_of_softened_teacher_and_student(t: float) -> None:
    student, teacher = numbers(seed=1), numbers(seed=2)
    by_hand = torch.nn.functional.kl_div(
        F.log_softmax(student / t, 1), F.softmax(teacher / t, 1), reduction="batchmean"
    )
    p = how(loss="kl", temperature=t)
    from_logits = loss(student, stored_targets(teacher, p), p)
    from_labels = loss(student, targets(F.softmax(teacher, 1), p, 4), p)
    assert float(from_logits) == pytest.approx(float(by_hand), abs=1e-6)
    assert float(from_labels) == pytest.approx(float(by_hand), abs=1e-5)
    assert float(loss(teacher, stored_targets(teacher, p), p)) == pytest.approx(0, abs=1e-6)


def test_kl_from_labels_with_zeros_is_finite() -> None:
    p = how(loss="kl", temperature=2.0)
    x = numbers()[:1].requires_grad_(True)
    value = loss(x, targets(torch.tensor([[1.0, 0, 0, 0]]), p, 4), p)
    value.backward()
    wanted = -F.log_softmax(x.detach() / 2, 1)[0, 0]
    assert float(value.detach()) == pytest.approx(float(wanted), abs=1e-6)
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_cross_entropies() -> None:
    z, soft = numbers(), F.softmax(numbers(seed=3), 1)
    by_hand = -(soft * F.log_softmax(z, 1)).sum(1).mean()
    for name in ("ce", "soft-ce"):
        assert torch.allclose(loss(z, targets(soft, how(loss=name), 4), how(loss=name)), by_hand)
    hard = how(loss="hard-ce")
    assert torch.allclose(loss(z, targets(soft, hard, 4), hard), F.cross_entropy(z, soft.argmax(1)))


def test_mse_compares_logits_with_one_hot_labels() -> None:
    p, z, y = how(loss="mse"), numbers(), torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.allclose(loss(z, targets(y, p, 4), p), F.mse_loss(z, torch.eye(4)[y]))
    assert torch.allclose(
        loss(z, targets(y, p, 4), p, reduction="sum") / 6, F.mse_loss(z, torch.eye(4)[y])
    )


@pytest.mark.parametrize("name", ["kl", "soft-ce"])
def test_hard_labels_are_refused_where_distributions_are_needed(name: str) -> None:
    with pytest.raises(BadInput, match="needs soft labels"):
        check_labels(torch.tensor([0, 1]), how(loss=name))
    check_labels(torch.eye(2), how(loss=name))


def test_outlier_loss_is_cross_entropy_to_uniform() -> None:
    z = numbers()
    uniform = torch.full((6, 4), 0.25)
    assert torch.allclose(to_uniform(z), F.cross_entropy(z, uniform))
    assert float(to_uniform(torch.zeros(2, 4))) == pytest.approx(math.log(4))
