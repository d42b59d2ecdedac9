"""Gradient-masking checks: silent on an honest network, red on planted defects, each able to fail alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ddaudit.attacks.adversarial.ball import UNBOUNDED
from ddaudit.attacks.adversarial.execution import classify
from ddaudit.attacks.adversarial.masking import (
    AFFECTS,
    EVERYTHING,
    MaskingEvidence,
    checks,
    clip_check,
    clip_only_changes,
    standard_error,
)
from ddaudit.attacks.adversarial.probe import Probe, nonzero_gradient_share

HEALTHY = MaskingEvidence(
    images=100, clean=0.8, changed_at_zero=0, changed_by_clip=0, by_eps={0.0: 0.8, 0.01: 0.5, 0.03: 0.2},
    curve_images=100, eps=0.01, by_steps={1: 0.6, 10: 0.5, 100: 0.48}, unbounded=0.0, transfer=0.7, gradients=1.0,
    invalid=0, noise=0.78, restarts={1: 0.5, 5: 0.49}, margin=0.47, targeted=1.0, white_box=0.5, with_square=0.48,
    square_images=50,
)  # fmt: skip


def red(evidence: MaskingEvidence) -> set[str]:
    return {c.name.split(":")[0] for c in checks(evidence, subject="s") if not c.passed}


def test_healthy_evidence_passes_all_tests_and_names_the_subject():
    found = checks(HEALTHY, subject="dm")
    assert all(c.passed for c in found)
    assert {c.subject for c in found} == {"dm"}
    everything = {"masking 1", "masking 13"}  # of other networks, clean accuracy is wrong too
    for check in found:
        assert check.affects == (EVERYTHING if check.name.split(":")[0] in everything else AFFECTS)
    numbers = {int(c.name.split(":")[0].split()[1]) for c in found}
    assert numbers == set(range(1, 15))


@pytest.mark.parametrize("by_eps", [{}, {0.01: 0.5}])
def test_a_curve_of_one_radius_is_no_evidence(by_eps: dict[float, float]) -> None:
    names = [c.name for c in checks(replace(HEALTHY, by_eps=by_eps), subject="dm")]
    assert "masking 2: accuracy does not rise with steps" in names
    assert not [name for name in names if "rise with eps" in name]


@pytest.mark.parametrize(
    ("number", "defect"),
    [
        (1, {"changed_at_zero": 1}),
        (2, {"by_eps": {0.0: 0.8, 0.01: 0.5, 0.03: 0.6}}),
        (3, {"unbounded": 0.05}),
        (4, {"by_steps": {1: 0.42, 10: 0.5, 100: 0.48}}),
        (5, {"transfer": 0.4}),
        (6, {"with_square": 0.4}),
        (6, {"with_square": None, "queried": 0.4}),
        (7, {"noise": 0.55}),
        (8, {"restarts": {1: 0.5, 5: 0.4}}),
        (9, {"by_steps": {1: 0.6, 10: 0.5, 100: 0.4}}),
        (10, {"margin": 0.3}),
        (11, {"gradients": 0.9}),
        (12, {"targeted": 0.8}),
        (13, {"changed_by_clip": 3}),
        (14, {"invalid": 1}),
    ],
)
def test_each_test_can_fail(number, defect):
    assert f"masking {number}" in red(replace(HEALTHY, **defect))


def test_a_defect_within_one_standard_error_is_not_a_defect():
    slack = standard_error(0.5, 100)
    assert slack == pytest.approx(0.05, abs=0.001)
    assert red(replace(HEALTHY, by_eps={0.0: 0.8, 0.01: 0.5, 0.03: 0.54})) == set()
    assert red(replace(HEALTHY, by_eps={0.0: 0.8, 0.01: 0.5, 0.03: 0.56})) == {"masking 2"}


def test_standard_error_is_the_binomial_one_and_never_below_one_image():
    assert standard_error(0.3, 10_000) == pytest.approx((0.3 * 0.7 / 10_000) ** 0.5, rel=1e-3)
    assert standard_error(0.0, 50) == pytest.approx(1 / 50)


def test_tests_without_evidence_are_left_out():
    bare = dict.fromkeys(
        ("transfer", "white_box", "with_square", "noise", "restarts", "margin", "targeted")
    )
    found = checks(replace(HEALTHY, **bare), subject="s")
    assert {int(c.name.split(":")[0].split()[1]) for c in found} == {1, 2, 3, 4, 9, 11, 13, 14}


# ---- real networks --------------------------------------------------------------------------------


class Linear(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(5, 64, generator=g))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.w.T


class Quantised(Linear):
    """Rounds its input to five grey levels: robust to nothing, but its gradient is zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 4).round() / 4)


class Saturated(Linear):
    """Logits so large that the softmax has no gradient left in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1e5


def probe(network: nn.Module, sibling: nn.Module) -> set[str]:
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = classify(network, x)
    p = Probe(x, y, eps=0.05, seed=0)
    p.add(network, classify(network, x), sibling)
    return red(p.evidence(by_eps={0.0: 1.0, 0.05: p.steps[10][0]}, curve_images=40))


def test_honest_network_passes():
    assert probe(Linear(), Linear(1)) == set()


def test_a_table_s_network_is_not_accused_where_its_softmax_saturates_far_out():
    """Without bounds every class can be reached; ten deviations away the logits of this one are 100 apart."""
    x = torch.randn(40, 1, 1, 64, generator=torch.Generator().manual_seed(1))
    net = Linear()
    with torch.no_grad():
        net.w *= 3
    p = Probe(x, classify(net, x), eps=0.05, seed=0, bounds=UNBOUNDED, queries=0)
    p.add(net, classify(net, x), None)
    assert p.unbounded == [0.0]


def test_quantised_input_is_caught():
    # Same weights without the rounding: the transfer attack works where the white-box attack is blind.
    assert {"masking 3", "masking 5", "masking 6", "masking 11", "masking 12"} <= probe(
        Quantised(), Linear()
    )


def test_saturated_softmax_is_caught():
    # The margin does not saturate: it breaks what the cross-entropy cannot.
    assert {"masking 3", "masking 10", "masking 11"} <= probe(Saturated(), Linear())


def test_clip_only_control_goes_red_on_the_benchmark_that_attacks_normalised_images():
    net = Linear()
    pixels = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    normalised = (pixels - 0.5) / 0.25
    right = clip_only_changes(net, pixels, classify(net, pixels))
    wrong = clip_only_changes(net, normalised, classify(net, normalised))
    assert clip_check(right).passed
    assert not clip_check(wrong).passed


def test_clip_only_control_goes_red_when_reported_predictions_come_from_another_path():
    net, other = Linear(), Linear(1)
    pixels = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    assert clip_only_changes(net, pixels, classify(other, pixels)) > 0


def test_gradient_share_counts_images():
    x = torch.rand(10, 1, 8, 8)
    y = torch.zeros(10, dtype=torch.int64)
    assert nonzero_gradient_share(Linear(), x, y) == 1.0
    assert nonzero_gradient_share(Quantised(), x, y) == 0.0
    assert nonzero_gradient_share(Linear(), x[:0], y[:0]) == 1.0
