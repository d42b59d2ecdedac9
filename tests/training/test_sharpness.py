"""Sharpness-aware gradients against their closed form on a quadratic, one network or several stacked."""

import numpy as np
import pytest
import torch

from ddaudit.errors import BadInput
from ddaudit.models import Arch
from ddaudit.training import EvaluationProtocol, train_many
from ddaudit.training._sharpness import sharpness_aware


def closed_form(a: np.ndarray, w: np.ndarray, radius: float, surrogate: float) -> np.ndarray:
    """L = sum a w^2 / 2 has the gradient a w: at w, and at the point that adaptive SAM climbs to."""
    g = a * w
    up = a * (w + radius * w**2 * g / np.linalg.norm(w * g))
    aside = g - (g @ up) / (up @ up) * up
    return up - surrogate * aside


@pytest.mark.parametrize("surrogate", [0.0, 0.4])
def test_the_gradient_on_a_quadratic_has_its_closed_form(surrogate: float) -> None:
    a, w = np.array([1.0, 4.0, 0.5, 2.0, 3.0]), np.array([0.3, -1.0, 2.0, 0.7, -0.2])
    parts = [torch.tensor(w[:2]), torch.tensor(w[2:])]
    for p in parts:
        p.requires_grad_(True)
    curves = [torch.tensor(a[:2]), torch.tensor(a[2:])]

    def loss() -> torch.Tensor:
        return torch.stack(
            [(c * p.square()).sum() / 2 for c, p in zip(curves, parts, strict=True)]
        ).sum()

    sharpness_aware(loss, parts, radius=0.3, surrogate=surrogate)
    got = torch.cat([p.grad for p in parts]).numpy()
    np.testing.assert_allclose(got, closed_form(a, w, 0.3, surrogate), rtol=1e-9)
    assert np.array_equal(torch.cat([p.detach() for p in parts]).numpy(), w), "weights come back"


def test_stacked_networks_climb_each_by_its_own_norm() -> None:
    a, w = np.array([[1.0, 4.0, 0.5], [2.0, 0.1, 3.0]]), np.array([[1.0, -1.0, 2.0], [9.0, 5, 7]])
    p, curve = torch.tensor(w, requires_grad=True), torch.tensor(a)
    sharpness_aware(
        lambda: (curve * p.square()).sum() / 2, [p], radius=0.2, surrogate=0.3, stacked=True
    )
    assert p.grad is not None
    want = np.stack([closed_form(a[k], w[k], 0.2, 0.3) for k in range(2)])
    np.testing.assert_allclose(p.grad.numpy(), want, rtol=1e-9)


def flat(**options: float) -> EvaluationProtocol:
    return EvaluationProtocol("flat", epochs=2, epochs_plain=2, augment="color", **options)


def trained(protocol: EvaluationProtocol, strategy: str = "loop", **options: object) -> list:
    g = torch.Generator().manual_seed(0)
    sets = [(torch.rand(12, 1, 8, 8, generator=g), torch.arange(12) % 3) for _ in range(2)]
    return train_many(
        sets, arch=Arch.parse("ConvNetD2W4"), num_classes=3, mean=[0.5], std=[0.5],
        protocol=protocol, seeds=[1, 2], strategy=strategy, **options,
    )  # fmt: skip


def test_the_engine_takes_sharpness_aware_steps_in_every_strategy() -> None:
    plain, one, many = (
        [torch.cat([p.flatten() for p in net.body.parameters()]) for net in nets]
        for nets in (
            trained(flat()),
            trained(flat(sam=0.02, sam_gap=0.3)),
            trained(flat(sam=0.02, sam_gap=0.3), "stacked"),
        )
    )
    for k in range(2):
        assert torch.allclose(one[k], many[k], atol=1e-5)
        assert not torch.allclose(one[k], plain[k], atol=1e-4)


def test_outliers_are_not_drawn_twice() -> None:
    with pytest.raises(BadInput, match="at both gradients"):
        flat(sam=0.1, outlier_weight=0.5)


@pytest.mark.parametrize("strategy", ["loop", "stacked"])
def test_a_callback_sees_every_pass_and_training_goes_on_from_given_networks(strategy: str) -> None:
    """Without momentum, two passes are one pass and another from where it ended, on the same batches."""
    steps = EvaluationProtocol(
        "two", epochs=2, epochs_plain=2, augment="", momentum=0.0, decay=1.0, batch_size=12
    )
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def keep(k: int, passes: int, named: dict) -> None:
        seen[k, passes] = torch.cat([p.detach().flatten() for p in named.values()]).clone()

    nets = trained(steps, strategy, after_pass=keep)
    assert sorted(seen) == [(k, e) for k in range(2) for e in range(4)]
    for k, net in enumerate(nets):
        end = torch.cat([p.detach().flatten() for p in net.body.parameters()])
        assert torch.equal(seen[k, 3], end)
    first = trained(EvaluationProtocol(**{**vars(steps), "max_steps": 1}), strategy)
    again = trained(EvaluationProtocol(**{**vars(steps), "max_steps": 2}), strategy, start=first)
    for k, net in enumerate(again):
        end = torch.cat([p.detach().flatten() for p in net.body.parameters()])
        assert torch.allclose(end, seen[k, 3], atol=1e-6), "full batches: the same three steps"
