"""RMIA: against the definition written as a double loop, in worlds with a known answer, and its corner cases."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from ddaudit.attacks.membership.attacks import other_runs, rmia_scores
from ddaudit.attacks.membership.scores import rmia
from ddaudit.stats import auc
from ddaudit.stats.pooled import mean_auc, pooled_tpr


@pytest.fixture
def parts() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.rand(n, generator=g, dtype=torch.float64).log() for n in (40, 40, 25, 25))


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_score_counts_the_dominated_non_members(
    parts: tuple[torch.Tensor, ...], gamma: float
) -> None:
    x, rx, z, rz = (p.exp() for p in parts)
    counted = [
        sum(int((a / b) / (c / d) >= gamma) for c, d in zip(z, rz, strict=True))
        for a, b in zip(x, rx, strict=True)
    ]
    score = rmia.score(*parts, gamma=gamma)
    assert (score * (len(z) + 1)).floor().int().tolist() == counted
    assert score.min() >= 0
    assert score.max() < 1


def test_scaling_every_probability_of_the_victim_changes_nothing(
    parts: tuple[torch.Tensor, ...],
) -> None:
    x, rx, z, rz = parts
    torch.testing.assert_close(rmia.score(*parts), rmia.score(x - 3, rx, z - 3, rz))


def test_order_within_a_victim_is_that_of_the_likelihood_ratio(
    parts: tuple[torch.Tensor, ...],
) -> None:
    """Also among the records that dominate the same non-members, all or none of them."""
    for population in (25, 3, 1):
        x, rx, z, rz = parts
        score = rmia.score(x, rx, z[:population], rz[:population])
        assert (score[torch.argsort(x - rx)].diff() > 0).all()


def test_offline_formula_and_its_two_ends() -> None:
    p = torch.tensor([[0.2, 0.9], [0.4, 0.5]], dtype=torch.float64)
    mean = p.mean(0)
    expected = 0.5 * (1.3 * mean + 0.7)
    torch.testing.assert_close(rmia.offline_reference(p.log(), a=0.3).exp(), expected)
    torch.testing.assert_close(rmia.offline_reference(p.log(), a=1.0).exp(), mean)
    torch.testing.assert_close(rmia.offline_reference(p.log(), a=0.0).exp(), (mean + 1) / 2)


def test_online_reference_averages_the_two_sides() -> None:
    p = torch.tensor([[0.8, 0.6, 0.3], [0.2, 0.6, 0.5]], dtype=torch.float64)
    members = torch.tensor([[True, False, True], [False, False, True]])
    expected = torch.tensor([0.5, 0.6, 0.4], dtype=torch.float64)
    torch.testing.assert_close(rmia.online_reference(p.log(), members).exp(), expected)


def test_a_side_without_references_is_the_other_one_moved_by_the_shift() -> None:
    """Odds of 1.5 and of 2 / 3; log 3 multiplies and divides them by 3."""
    p = torch.tensor([[0.6, 0.4]], dtype=torch.float64)
    got = rmia.online_reference(p.log(), torch.tensor([[False, True]]), math.log(3)).exp()
    both = [(0.6 + 4.5 / 5.5) / 2, (0.4 + (2 / 9) / (11 / 9)) / 2]
    torch.testing.assert_close(got, torch.tensor(both, dtype=torch.float64))


def test_the_shift_is_the_rise_of_the_log_odds() -> None:
    g = torch.Generator().manual_seed(2)
    members = torch.rand(6, 400, generator=g) < 0.5
    odds = 4 * torch.randn(400, generator=g, dtype=torch.float64) + 1.7 * members
    log_p = torch.nn.functional.logsigmoid(odds)
    assert float(rmia.in_out_shift(log_p, members)) == pytest.approx(1.7)
    assert float(rmia.in_out_shift(log_p[:1], members[:1])) == 0.0  # no record on both sides
    assert math.isfinite(float(rmia.in_out_shift(torch.zeros(6, 400), members)))  # p = 1


def test_tiny_probabilities_keep_their_order() -> None:
    """exp(-800) is 0 in float64: a clipped implementation would tie these."""
    x = torch.tensor([-900.0, -800.0, -700.0], dtype=torch.float64)
    z = torch.tensor([-850.0, -750.0], dtype=torch.float64)
    score = rmia.score(x, torch.zeros(3), z, torch.zeros(2))
    assert (3 * score).floor().tolist() == [0.0, 1.0, 2.0]
    assert score[0] > 0


def test_no_chance_under_victim_and_references_is_a_ratio_of_0() -> None:
    """0 / 0 once was NaN, which sorts above everything: the surest member."""
    nothing, some = torch.full((2,), -torch.inf), torch.tensor([-1.0, -2.0])
    assert rmia.score(nothing, nothing, some, some).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="NaN"):
        rmia.score(some * torch.nan, some, some, some)
    with pytest.raises(ValueError, match="population"):
        rmia.score(some, some, some[:0], some[:0])


# ---- worlds with a known answer ------------------------------------------------------------------


def _world(
    *, runs: int, centre: float, width: float, rise: float, noise: float, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """(K, N) and (K, Z) log-probabilities and (K, N) memberships; log-odds are Gaussian, members' are higher."""
    g = torch.Generator().manual_seed(seed)
    n, z = 1200, 600
    members = torch.rand(runs, n, generator=g) < 0.5
    odds = centre + width * torch.randn(n + z, generator=g, dtype=torch.float64)
    odds = odds + noise * torch.randn(runs, n + z, generator=g, dtype=torch.float64)
    odds[:, :n] += rise * members
    log_p = torch.nn.functional.logsigmoid(odds)
    return log_p[:, :n], log_p[:, n:], members


def test_online_reaches_the_best_attack_where_that_is_known() -> None:
    """Where probabilities are tiny they are log-normal, and p(x | victim) / p(x) is the likelihood ratio of
    N(0, 1) and N(2, 1) but for the references' noise: exp(0.25) - 1 over 31 references."""
    log_p, population, members = _world(runs=32, centre=-15, width=2, rise=1, noise=0.5)
    scores = rmia_scores(log_p, population, members)
    distance = 1 / math.sqrt(0.25 + (math.exp(0.25) - 1) / 31)
    rate = pooled_tpr(scores, members, 0.01, n_boot=5).value
    # four other seeds: within 0.002 of the area, and 0.012 to 0.022 below the rate
    assert mean_auc(scores, members, n_boot=5).value == pytest.approx(
        norm.cdf(distance / 2**0.5), abs=0.006
    )
    assert rate == pytest.approx(norm.sf(norm.isf(0.01) - distance), abs=0.035)


CASES = [
    {"runs": runs, "centre": centre, "width": 3.0, "rise": rise, "noise": 1.0}
    for runs in (4, 8, 16)
    for centre, rise in ((-12.0, 1.0), (0.0, 1.0), (3.0, 2.0))
]


@pytest.mark.parametrize("case", CASES)
def test_online_is_no_worse_than_offline_and_its_population_fits(case: dict[str, float]) -> None:
    """With p(x) from both sides and p(z) from one, 2 to 80 % of the non-members dominated the population."""
    log_p, population, members = _world(**case)  # type: ignore[arg-type]
    online = rmia_scores(log_p, population, members)
    rows = []
    for k in range(len(members)):
        rest = other_runs(k, len(members))
        out = log_p[rest].masked_fill(members[rest] & ~members[rest].all(0), -torch.inf)
        mean = out.logsumexp(0) - torch.isfinite(out).sum(0).log()
        reference, base = (rmia.offline_reference(p) for p in (mean[None], population[rest]))
        rows.append(rmia.score(log_p[k], reference, population[k], base))
    offline = torch.stack(rows)
    areas = [mean_auc(s, members, n_boot=5).value for s in (online, offline)]
    rates = [pooled_tpr(s, members, 0.01, n_boot=5).value for s in (online, offline)]
    assert areas[0] > areas[1] - 0.005
    assert rates[0] > 0.7 * rates[1]
    assert rates[0] > 0.015
    outside = online[~members]
    # one in 601 above all of the population; with three references the population's own tail is noisy
    assert float((outside > 600 / 601).double().mean()) < 0.012
    assert float((outside > 0.9).double().mean()) == pytest.approx(0.1, abs=0.03)


def test_population_makes_two_victims_comparable() -> None:
    """Victim B is more confident about everything; only the population takes that out."""
    g = torch.Generator().manual_seed(1)
    raw, score, truth = [], [], []
    for level in (-2.0, -0.2):
        members = torch.rand(3000, generator=g) < 0.5
        ratio = 0.5 * torch.randn(3000, generator=g, dtype=torch.float64) + 0.5 * members
        strangers = 0.5 * torch.randn(1000, generator=g, dtype=torch.float64)
        zero = torch.zeros_like(ratio)
        raw.append(ratio + level)
        score.append(rmia.score(ratio + level, zero, strangers + level, zero[:1000]))
        truth.append(members)
    expected = 0.5 * (1 + math.erf(0.5))  # Phi(1 / sqrt 2)
    assert auc(torch.cat(score), torch.cat(truth)).value == pytest.approx(expected, abs=0.02)
    assert auc(torch.cat(raw), torch.cat(truth)).value < 0.65
