"""The linear experiment against its closed form and against the numbers its authors published."""

from __future__ import annotations

import math

import pytest

from ddaudit.attacks.soft_labels.threshold import held_out_accuracy

RHO = 0.803
"""Step 41 of the 49 from 0.05 to 0.95 of the authors' grid: the nearest to 0.8."""

PUBLISHED_200 = {1.0: 0.715, 1.12: 0.800, 1.36: 1.0, 1.48: 1.0, 1.61: 1.0}
"""Held-out accuracy by n / d at d = 200, mean of 5 runs: the results file in the authors' repository
(SPOC-group/dataset-distillation-memorization, fig_3_results_linear_with_mse_d=200)."""
PUBLISHED_1600 = {0.804: 0.627, 1.208: 0.917, 1.343: 1.0}
"""The same at d = 1600."""


def accuracy(
    d: int, alpha: float, rho: float, runs: int, *, temperature: float = math.inf
) -> float:
    found = [held_out_accuracy(d, alpha, rho, seed=s, temperature=temperature) for s in range(runs)]
    return sum(r.correct for r in found) / sum(r.held_out for r in found)


@pytest.mark.parametrize(("alpha", "rho"), [(1.3, 0.8), (1.7, 0.6), (1.2, 0.9)])
def test_enough_equations_give_the_teacher_itself(alpha: float, rho: float) -> None:
    """rho n >= d equations have one solution, the teacher's weights: the student knows what the teacher knows."""
    for seed in range(3):
        found = held_out_accuracy(100, alpha, rho, seed=seed)
        assert found.memorised == 1.0
        assert found.accuracy == 1.0


def test_one_equation_too_few_is_not_enough() -> None:
    assert accuracy(100, 1.2, 0.8, 10) < 0.99  # 96 equations
    assert accuracy(100, 1.26, 0.8, 10) == 1.0  # 100 equations


@pytest.mark.parametrize(("alpha", "published"), PUBLISHED_200.items())
def test_the_published_numbers_at_d_200(alpha: float, published: float) -> None:
    # Single published runs scatter by 0.09 at alpha 1; the teacher is trained differently.
    tolerance = 0.08 if published < 1 else 0.005
    assert accuracy(200, alpha, RHO, 10) == pytest.approx(published, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "published"), PUBLISHED_1600.items())
def test_the_published_numbers_at_d_1600(alpha: float, published: float) -> None:
    tolerance = 0.08 if published < 1 else 0.001
    assert accuracy(1600, alpha, RHO, 3) == pytest.approx(published, abs=tolerance)


@pytest.mark.parametrize("alpha", [0.8, 1.5])
def test_hard_labels_are_at_chance_on_both_sides_of_the_threshold(alpha: float) -> None:
    found = [held_out_accuracy(100, alpha, 0.8, seed=s, temperature=0.0) for s in range(40)]
    count = sum(r.held_out for r in found)
    # Held-out labels are coin tosses whatever the student saw: 4 standard errors.
    assert abs(sum(r.correct for r in found) / count - 0.5) < 4 * 0.5 / math.sqrt(count)


def test_cold_labels_leak_less_than_warm_ones() -> None:
    cold, warm, logits = (accuracy(100, 1.5, 0.8, 20, temperature=t) for t in (0.01, 1e4, math.inf))
    assert cold < 0.6
    assert warm == logits == 1.0


def test_a_teacher_beyond_its_capacity_does_not_memorise() -> None:
    """Cover: 2 d random labels are the most that d weights can store."""
    assert held_out_accuracy(200, 3.0, 0.8, seed=0).memorised < 0.95


@pytest.mark.parametrize("bad", [{"rho": 0.0}, {"rho": 1.0}, {"temperature": -1.0}])
def test_impossible_worlds_are_refused(bad: dict[str, float]) -> None:
    arguments = {"rho": 0.8, "temperature": 1.0, **bad}
    with pytest.raises(ValueError, match=r"rho|temperature"):
        held_out_accuracy(50, 1.0, arguments["rho"], seed=0, temperature=arguments["temperature"])
