"""Brier and NLL against scikit-learn, AURC and KS closed forms, temperature recovery."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import optimize
from sklearn.metrics import brier_score_loss, log_loss, zero_one_loss

from ddaudit.measures.scores import (
    ALL_EQUAL,
    ALL_RIGHT,
    NO_BETTER,
    Temperature,
    aurc,
    best_aurc,
    brier,
    fit_temperature,
    ks_error,
    nll,
    overconfidence,
)


def _logits(n: int, k: int = 10, *, seed: int = 0, scale: float = 2.0):
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(n, k, generator=g)
    y = torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]
    return z, y


def test_brier_and_nll_equal_scikit_learn() -> None:
    z, y = _logits(500)
    p = z.double().softmax(1)
    labels = list(range(10))
    want = brier_score_loss(y.numpy(), p.numpy(), labels=labels, scale_by_half=False)
    assert float(brier(p, y).mean()) == pytest.approx(want)
    assert float(nll(z, y).mean()) == pytest.approx(log_loss(y.numpy(), p.numpy(), labels=labels))


def test_brier_spans_zero_to_two() -> None:
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert brier(p, torch.tensor([0, 1])).tolist() == [0.0, 2.0]


def test_nll_does_not_saturate() -> None:
    assert float(nll(torch.tensor([[500.0, 0.0]]), torch.tensor([1]))[0]) == 500.0


def test_overconfidence_is_confidence_minus_accuracy() -> None:
    p = torch.tensor([[0.9, 0.1]] * 10)
    y = torch.tensor([0] * 7 + [1] * 3)
    assert float(overconfidence(p, y).mean()) == pytest.approx(0.2)


def test_ks_of_a_shifted_model_is_the_shift_and_of_a_crossing_one_its_half() -> None:
    # Always 0.1 too confident: the cumulative error ends at 0.1.
    confidence = torch.linspace(0.5, 0.9, 1000).double()
    assert float(ks_error(confidence, confidence - 0.1)) == pytest.approx(0.1)
    # 0.1 too low in the lower half, too high in the upper: the sum peaks at 0.05 and returns to 0.
    crossing = confidence + torch.where(torch.arange(1000) < 500, 0.1, -0.1)
    assert float(ks_error(confidence, crossing)) == pytest.approx(0.05)


def test_ks_ignores_the_order_of_tied_images() -> None:
    confidence = torch.full((10,), 0.5)
    a = ks_error(confidence, torch.tensor([1.0] * 5 + [0.0] * 5))
    assert float(a) == pytest.approx(0.0)


@pytest.mark.parametrize("statistic", [ks_error, aurc])
def test_weights_are_repeated_images(statistic) -> None:
    g = torch.Generator().manual_seed(0)
    confidence, correct = torch.rand(60, generator=g).double(), torch.rand(60, generator=g) < 0.6
    weights = torch.randint(3, (4, 60), generator=g).double()
    got = statistic(confidence, correct, weights)
    for row, value in zip(weights, got, strict=True):
        index = torch.arange(60).repeat_interleave(row.long())
        want = statistic(confidence[index], correct[index])
        # A repeated image enters AURC as one step of weight w instead of w steps inside a tie.
        assert float(value) == pytest.approx(float(want), abs=0.01 if statistic is aurc else 1e-9)


def test_aurc_of_an_oracle_is_the_optimum() -> None:
    n, errors = 10_000, 1500
    correct = torch.arange(n) >= errors
    oracle = torch.arange(n).double() / n
    r = errors / n
    assert float(aurc(oracle, correct)) == pytest.approx(
        float(best_aurc(torch.tensor(errors), n)), abs=1e-12
    )
    limit = r + (1 - r) * math.log(1 - r)
    assert float(best_aurc(torch.tensor(errors), n)) == pytest.approx(limit, abs=1e-4)
    assert best_aurc(torch.tensor([0, n]), n).tolist() == [0.0, 1.0]


def test_aurc_of_a_useless_confidence_is_the_error_rate() -> None:
    correct = torch.arange(1000) % 4 != 0
    assert float(aurc(torch.full((1000,), 0.7), correct)) == pytest.approx(0.25)
    reversed_oracle = float(aurc(-torch.arange(1000.0), torch.arange(1000) >= 250))
    assert reversed_oracle > 0.25


def test_aurc_is_the_mean_of_scikit_learns_errors_on_the_most_confident() -> None:
    g = torch.Generator().manual_seed(3)
    confidence, said = torch.rand(80, generator=g), torch.randint(3, (80,), generator=g)
    truth = torch.randint(3, (80,), generator=g)
    order = confidence.argsort(descending=True)
    risks = [zero_one_loss(truth[order[:k]], said[order[:k]]) for k in range(1, 81)]
    assert float(aurc(confidence, said == truth)) == pytest.approx(sum(risks) / 80)


def test_aurc_by_hand() -> None:
    # Correct, wrong, correct by falling confidence: risks 0, 1/2, 1/3.
    got = float(aurc(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 1])))
    assert got == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)


@pytest.mark.parametrize("planted", [0.4, 1.0, 2.5, 7.0])
def test_a_planted_temperature_is_recovered(planted) -> None:
    z, y = _logits(20_000)
    got = fit_temperature(z * planted, y)
    assert got.value == pytest.approx(planted, rel=0.03)  # standard error about 0.8 %
    assert not got.at_bound


def test_temperature_is_the_minimum_that_scipy_finds() -> None:
    z, y = _logits(400, seed=5)
    z = z * 3

    def loss(t: float) -> float:
        return float(nll(z / t, y).mean())

    want = optimize.minimize_scalar(
        loss, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-8}
    )
    assert fit_temperature(z, y).value == pytest.approx(want.x, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 0.005, 150.0, 1e4, 1e25])
def test_the_search_has_no_range_of_its_own(scale) -> None:
    """Logits in any unit: the temperature is the unit times that of the plain logits."""
    z, y = _logits(2000)
    plain = fit_temperature(z, y).value
    assert fit_temperature(z.double() * scale, y).value == pytest.approx(plain * scale, rel=1e-9)


@pytest.mark.parametrize(("n", "right"), [(10, 9), (100_000, 99_999), (100_000, 50_001)])
def test_a_closed_form_far_out(n, right) -> None:
    """Two logits 1 and 0, right in a share p: sigma(1 / T) = p, so T = 1 / log(p / (1 - p)), here up to 25 000."""
    y = (torch.arange(n) >= right).long()
    want = 1 / math.log(right / (n - right))
    assert fit_temperature(torch.tensor([[1.0, 0.0]]).repeat(n, 1), y).value == pytest.approx(want)


def test_where_no_temperature_is_best_the_reason_is_the_true_one() -> None:
    z = torch.eye(3).repeat(5, 1)
    y = torch.arange(3).repeat(5)
    assert fit_temperature(z, y) == Temperature(0.0, ALL_RIGHT)
    assert fit_temperature(-z, y) == Temperature(math.inf, NO_BETTER)
    assert fit_temperature(torch.ones(15, 3), y) == Temperature(1.0, ALL_EQUAL)
    # right in all but one case, or better than chance by one case: a temperature exists
    one_wrong = torch.cat([y[:-1], torch.tensor([0])])
    assert not fit_temperature(z, one_wrong).at_bound
    assert not fit_temperature(1e6 * z, one_wrong).at_bound
