"""ROC against scikit-learn, the Mann-Whitney definition, exact small cases and coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ddaudit.errors import NotEnoughData
from ddaudit.stats import auc, clopper_pearson, roc_curve, tpr_at_fpr
from ddaudit.stats.roc import null_tpr, tpr_at_threshold


def _gaussian(n: int, *, shift: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    members = torch.arange(2 * n) < n
    return torch.randn(2 * n, generator=g) + shift * members, members


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40))
def test_area_and_curve_equal_scikit_learn_with_ties(pairs) -> None:
    scores = torch.tensor([float(s) for s, _ in pairs])
    members = torch.tensor([m for _, m in pairs])
    if members.all() or not members.any():
        with pytest.raises(NotEnoughData):
            auc(scores, members)
        return
    got = auc(scores, members)
    assert got.value == pytest.approx(sk.roc_auc_score(members, scores))
    assert 0 <= got.low <= got.value <= got.high <= 1
    fpr, tpr, _ = sk.roc_curve(members, scores, drop_intermediate=False)
    curve = roc_curve(scores, members)
    np.testing.assert_allclose(curve.fpr, fpr)
    np.testing.assert_allclose(curve.tpr, tpr)


def test_thresholds_reproduce_their_rates_as_strictly_above() -> None:
    scores = torch.tensor([3.0, 2, 2, 1, 1, 0])
    members = torch.tensor([True, True, False, False, True, False])
    curve = roc_curve(scores, members)
    for f, t, cut in zip(curve.fpr, curve.tpr, curve.thresholds, strict=True):
        assert float((scores[members] > cut).double().mean()) == pytest.approx(float(t))
        assert float((scores[~members] > cut).double().mean()) == pytest.approx(float(f))


def test_delong_interval_covers() -> None:
    # True area Phi(1 / sqrt 2) = 0.7602. 400 trials at 95 %: fewer than 0.91 has probability 1e-3.
    hits = 0
    for seed in range(400):
        scores, members = _gaussian(60, shift=1.0, seed=seed)
        hits += 0.7602 in auc(scores, members)
    assert hits / 400 >= 0.91


def test_delong_variance_is_that_of_the_definition() -> None:
    scores, members = _gaussian(40, shift=0.7, seed=3)
    x, y = scores[members].numpy(), scores[~members].numpy()
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    var = psi.mean(1).var(ddof=1) / 40 + psi.mean(0).var(ddof=1) / 40
    a = psi.mean()
    got = auc(scores, members)
    logit = [np.log(v / (1 - v)) for v in (got.low, got.high)]
    assert (logit[1] - logit[0]) / 2 / 1.959964 * a * (1 - a) == pytest.approx(var**0.5, rel=1e-5)


def test_perfect_separation_still_has_a_width() -> None:
    got = auc([1.0] * 20 + [0.0] * 20, [True] * 20 + [False] * 20)
    assert (got.value, got.high) == (1.0, 1.0)
    assert got.low == pytest.approx(clopper_pearson(20, 20).low)


def test_clustered_interval_is_wider_when_copies_are_not_independent() -> None:
    scores, members = _gaussian(30, shift=0.5, seed=1)
    record = torch.arange(60)
    tenfold = auc(scores.repeat(10), members.repeat(10))
    honest = auc(scores.repeat(10), members.repeat(10), groups=record.repeat(10))
    single = auc(scores, members)
    assert honest.value == pytest.approx(single.value)
    assert honest.n == 60
    assert honest.half_width == pytest.approx(single.half_width, rel=0.25)
    assert tenfold.half_width < 0.4 * single.half_width


def test_tpr_uses_the_largest_fpr_within_the_target() -> None:
    negatives = torch.arange(100.0)
    positives = torch.tensor([98.5, 99.5, 97.5, 10.0])
    scores = torch.cat([positives, negatives])
    members = torch.arange(104) < 4
    assert tpr_at_fpr(scores, members, 0.01).value == 0.5  # one false alarm allowed: above 98
    assert tpr_at_fpr(scores, members, 0.02).value == 0.75
    got = tpr_at_threshold(scores, members, 0.01)
    assert (got.low, got.high, got.n) == (*_bounds(clopper_pearson(2, 4)), 4)


def test_the_interval_of_tpr_at_fpr_knows_that_its_threshold_is_an_estimate() -> None:
    """Gaussian scores, so the rate at the population's FPR is known. 400 trials: a coverage of 0.95 reads below
    0.92 once in 300; with the threshold taken as given it reads far below."""
    truth = 1 - float(torch.special.ndtr(torch.special.ndtri(torch.tensor(0.99)) - 1.0))
    found = [_gaussian(200, shift=1.0, seed=s) for s in range(400)]
    full, naive = (
        sum(truth in f(*x, 0.01) for x in found) / len(found)
        for f in (tpr_at_fpr, tpr_at_threshold)
    )
    assert full >= 0.92
    assert naive < 0.85


def _bounds(interval) -> tuple[float, float]:
    return interval.low, interval.high


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=30, max_size=80))
def test_tpr_is_the_best_point_of_the_curve_within_the_target(pairs) -> None:
    scores = torch.tensor([float(s) for s, _ in pairs])
    members = torch.tensor([m for _, m in pairs])
    if not members.any() or int((~members).sum()) < 10:
        return
    fpr, tpr, _ = sk.roc_curve(members, scores, drop_intermediate=False)
    assert tpr_at_fpr(scores, members, 0.1).value == pytest.approx(tpr[fpr <= 0.1 + 1e-12].max())


def test_a_constant_score_gains_nothing_from_ties() -> None:
    scores, members = torch.zeros(2000), torch.arange(2000) < 1000
    assert tpr_at_fpr(scores, members, 0.01).value == 0
    assert auc(scores, members).value == 0.5


def test_unresolved_rates_are_refused() -> None:
    scores, members = _gaussian(99, shift=1.0, seed=0)
    with pytest.raises(NotEnoughData, match="at least 1000 non-members, there are 99"):
        tpr_at_fpr(scores, members, 0.001)
    with pytest.raises(NotEnoughData):
        tpr_at_fpr(scores, members, 0.01)
    assert tpr_at_fpr(*_gaussian(100, shift=1.0, seed=0), 0.01).n == 100


def test_a_blind_score_reads_the_fpr_itself() -> None:
    # Blind score: hits are Binomial(2000, about 0.01). The mean over 50
    # repeats has a standard error of 0.00045 (members and threshold): 4 of them.
    values = [tpr_at_fpr(*_gaussian(2000, shift=0.0, seed=s), 0.01).value for s in range(50)]
    assert sum(values) / 50 == pytest.approx(0.01, abs=0.0018)


@pytest.mark.parametrize("negatives", [100, 199, 5000])
def test_null_tpr_is_the_mean_of_blind_readings(negatives: int) -> None:
    """20000 blind audits of 5 members each; the mean is within 4 standard errors of the formula."""
    g = torch.Generator().manual_seed(negatives)
    trials = 20_000 if negatives < 1000 else 1000
    others = torch.rand(trials, negatives, generator=g).sort(1, descending=True).values
    allowed = int(0.01 * negatives)
    above = (torch.rand(trials, 5, generator=g) > others[:, allowed, None]).double().mean(1)
    expected = null_tpr(0.01, negatives)
    assert float(above.mean()) == pytest.approx(expected, abs=4 * float(above.std()) / trials**0.5)
    assert tpr_at_fpr(
        [0.5, *others[0].tolist()], [True] + [False] * negatives, 0.01
    ).value == float(others[0, allowed] < 0.5)


def test_null_tpr_tends_to_the_rate() -> None:
    assert null_tpr(0.01, 100) == pytest.approx(2 / 101)
    assert null_tpr(0.01, 10**7) == pytest.approx(0.01, rel=1e-4)


def test_clustered_tpr_keeps_the_value() -> None:
    scores, members = _gaussian(300, shift=1.0, seed=2)
    plain = tpr_at_fpr(scores, members, 0.05)
    clustered = tpr_at_fpr(scores, members, 0.05, groups=torch.arange(600) // 2, n_boot=300)
    assert clustered.value == plain.value
    assert clustered.n == 300
    assert clustered.low < plain.value < clustered.high


def test_nan_scores_and_single_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="1 scores are NaN"):
        auc([float("nan"), 1.0], [True, False])
    with pytest.raises(NotEnoughData, match="at least 2"):
        auc([0.0, 1.0], [True, False], groups=[0, 0])


def test_thinning_keeps_low_fpr_detail_and_the_ends() -> None:
    scores, members = _gaussian(20_000, shift=1.0, seed=0)
    curve = roc_curve(scores, members)
    thin = curve.thinned()
    assert len(curve.fpr) > 10_000
    assert len(thin.fpr) <= 200
    assert (float(thin.fpr[0]), float(thin.fpr[-1])) == (0.0, 1.0)
    assert int(((thin.fpr > 0) & (thin.fpr < 1e-3)).sum()) >= 10
    full = set(zip(curve.fpr.tolist(), curve.tpr.tolist(), strict=True))
    assert set(zip(thin.fpr.tolist(), thin.tpr.tolist(), strict=True)) <= full
