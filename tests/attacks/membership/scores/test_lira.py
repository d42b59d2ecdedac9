"""LiRA against closed forms, simulated shadow runs, and the two slips of the public code."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from ddaudit.attacks.membership.scores import lira
from ddaudit.stats import auc


def simulate(
    *, references: int, records: int, shift: float, noise: float, hardness: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, N) margins and memberships: record difficulty + noise + shift for members."""
    g = torch.Generator().manual_seed(seed)
    members = torch.rand(references, records, generator=g) < 0.5
    base = hardness * torch.randn(records, generator=g, dtype=torch.float64)
    phi = base + noise * torch.randn(references, records, generator=g, dtype=torch.float64)
    return phi + shift * members, members


@pytest.mark.parametrize("d", [0.5, 1.0, 2.0])
def test_known_gaussians_give_the_closed_form_auc(d: float) -> None:
    n = 40_000
    g = torch.Generator().manual_seed(1)
    members = torch.rand(n, generator=g) < 0.5
    centre = 5 * torch.randn(n, generator=g, dtype=torch.float64)
    phi = centre + torch.randn(n, generator=g, dtype=torch.float64) + d * members
    one = torch.ones_like(centre)
    known = lira.InOut(mean_in=centre + d, std_in=one, mean_out=centre, std_out=one)
    expected = norm.cdf(d / math.sqrt(2))
    assert lira.gaussian_auc(d) == pytest.approx(expected, abs=1e-12)
    for score in (lira.online(phi, known), lira.offline(phi, known)):
        assert float(auc(score, members).value) == pytest.approx(expected, abs=0.01)  # 4 sd


def test_online_score_is_the_log_likelihood_ratio_of_scipy() -> None:
    g = lira.InOut(*(torch.tensor([v], dtype=torch.float64) for v in (2.0, 1.5, -1.0, 0.7)))
    phi = torch.tensor([0.3])
    expected = norm.logpdf(0.3, 2.0, 1.5) - norm.logpdf(0.3, -1.0, 0.7)
    assert lira.online(phi, g).item() == pytest.approx(expected, rel=1e-6)
    assert norm.cdf(lira.offline(phi, g).item()) == pytest.approx(
        norm.cdf(0.3, -1.0, 0.7), rel=1e-6
    )


def test_many_references_reach_the_closed_form_despite_record_difficulty() -> None:
    phi, members = simulate(
        references=201, records=4000, shift=1.0, noise=1.0, hardness=10.0, seed=2
    )
    score = lira.online(phi[0], lira.fit(phi[1:], members[1:]))
    assert auc(score, members[0]).value == pytest.approx(lira.gaussian_auc(1.0), abs=0.03)
    # a global threshold on the margin is lost in the spread between records
    assert auc(phi[0], members[0]).value < 0.56


def test_pooled_spread_is_the_residual_one_not_that_of_the_whole_array() -> None:
    """The public code's std over (references x records) reads 10 here, where the noise is 1."""
    phi, members = simulate(
        references=40, records=2000, shift=0.0, noise=1.0, hardness=10.0, seed=3
    )
    fitted = lira.fit(phi, members)
    assert float(fitted.std_out[0]) == pytest.approx(1.0, abs=0.03)
    assert float(phi.std()) > 9
    assert torch.equal(fitted.std_in, fitted.std_in[:1].expand(2000))


def test_out_spread_comes_from_out_runs() -> None:
    """The public code's typo computes it from in-runs; here the two differ by a factor of 3."""
    phi, members = simulate(references=60, records=500, shift=0.0, noise=1.0, hardness=1.0, seed=4)
    phi = torch.where(members, phi, phi.mean(0) + 3 * (phi - phi.mean(0)))
    fitted = lira.fit(phi, members)
    assert float(fitted.std_in[0]) == pytest.approx(1.0, abs=0.1)
    assert float(fitted.std_out[0]) == pytest.approx(3.0, abs=0.3)


def test_per_record_spread_finds_the_noisy_records() -> None:
    g = torch.Generator().manual_seed(5)
    noise = torch.tensor([0.5, 4.0], dtype=torch.float64)
    members = torch.rand(400, 2, generator=g) < 0.5
    phi = noise * torch.randn(400, 2, generator=g, dtype=torch.float64)
    fitted = lira.fit(phi, members, pooled=False)
    torch.testing.assert_close(fitted.std_out, noise, rtol=0.2, atol=0)


def test_records_without_in_references_are_kept_with_the_average_shift() -> None:
    phi, members = simulate(references=12, records=400, shift=3.0, noise=0.5, hardness=2.0, seed=6)
    members[:, 0] = False
    members[:, 1] = True
    fitted = lira.fit(phi, members)
    assert float(fitted.mean_in[0] - fitted.mean_out[0]) == pytest.approx(3.0, abs=0.1)
    assert float(fitted.mean_in[1] - fitted.mean_out[1]) == pytest.approx(3.0, abs=0.1)
    assert torch.isfinite(lira.online(phi[0], fitted)).all()


def test_medians_resist_a_diverged_reference() -> None:
    phi, members = simulate(references=30, records=300, shift=2.0, noise=1.0, hardness=1.0, seed=7)
    clean = lira.fit(phi, members).mean_out
    phi[3] = 1e3
    robust = lira.fit(phi, members, centre="median").mean_out
    fragile = lira.fit(phi, members, centre="mean").mean_out
    assert float((robust - clean).abs().mean()) < 0.6
    assert float((fragile - clean).abs().mean()) > 20


def test_one_sided_offline_score_does_not_reward_misfits() -> None:
    g = lira.InOut(*(torch.tensor([v] * 3, dtype=torch.float64) for v in (3.0, 1.0, 0.0, 1.0)))
    score = lira.offline(torch.tensor([-6.0, 0.0, 6.0]), g)
    assert score.tolist() == sorted(score.tolist())


def test_balanced_memberships_bias_leave_one_out_and_independent_ones_do_not() -> None:
    """Why shadows draw memberships independently: with every record in exactly half of the runs, a
    member of the left-out run has one in-reference fewer, and pure noise reads an AUC below 0.5."""
    readings = {}
    for design in ("balanced", "independent"):
        g = torch.Generator().manual_seed(8)
        phi = torch.randn(6, 20_000, generator=g, dtype=torch.float64)
        u = torch.rand(6, 20_000, generator=g)
        members = u.argsort(0).argsort(0) < 3 if design == "balanced" else u < 0.5
        fitted = lira.fit(phi[1:], members[1:])
        readings[design] = auc(lira.online(phi[0], fitted), members[0]).value
    assert readings["balanced"] < 0.48
    assert readings["independent"] == pytest.approx(0.5, abs=0.012)  # 3 sd


def test_references_that_never_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="inside and outside"):
        lira.fit(torch.zeros(4, 3), torch.ones(4, 3, dtype=torch.bool))
