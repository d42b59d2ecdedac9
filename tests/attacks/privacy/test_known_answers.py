"""The known-answer tests pass, and each can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from ddaudit.attacks.privacy import known_answers
from ddaudit.attacks.privacy.bound import Bound
from ddaudit.data import Dataset
from ddaudit.models import Arch, Network, build

SHARES = ((0.4, 0.4), (0.1, 0.1), (0.05, 0.0))
KNOBS: dict[str, Any] = {"shares": SHARES, "delta": 1e-5}


@pytest.fixture(scope="module")
def networks(tiny: Dataset) -> list[Network]:
    arch = Arch.parse("ConvNetD2W32")
    return [
        build(arch, shape=tiny.shape, num_classes=4, seed=i, mean=tiny.mean, std=tiny.std).eval()
        for i in range(3)
    ]


@pytest.mark.parametrize("canaries", [150, 200, 300, 1000])
def test_simulated_mechanisms_pass(canaries: int) -> None:
    checks = [
        *known_answers.known_gaussian(canaries=canaries, **KNOBS),
        known_answers.no_noise(canaries=canaries, **KNOBS),
        known_answers.permuted(canaries=canaries, **KNOBS),
    ]
    assert [c.name for c in checks if not c.passed] == []


def test_end_to_end_answers_pass(tiny: Dataset, networks: list[Network]) -> None:
    checks = [
        *known_answers.noisy_sums(canaries=100, **KNOBS),
        *known_answers.verbatim(tiny.train, networks, canaries=60, kinds=("mislabelled",), **KNOBS),
        known_answers.accountants(),
    ]
    assert [c.name for c in checks if not c.passed] == []


def _plant(monkeypatch: pytest.MonkeyPatch, change: Callable[[Bound], Bound]) -> None:
    honest = known_answers.bound
    monkeypatch.setattr(known_answers, "bound", lambda *a, **k: change(honest(*a, **k)))


def test_a_bound_that_exaggerates_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, lambda b: replace(b, epsilon=8 * b.epsilon, epsilon_gdp=8 * b.epsilon_gdp))
    assert not any(c.passed for c in known_answers.known_gaussian(canaries=200, **KNOBS))


def test_a_blind_bound_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tiny: Dataset, networks: list[Network]
) -> None:
    _plant(monkeypatch, lambda b: replace(b, epsilon=0.0, epsilon_gdp=0.0))
    assert not any(c.passed for c in known_answers.known_gaussian(canaries=200, **KNOBS))
    assert not known_answers.no_noise(canaries=200, **KNOBS).passed
    assert not any(c.passed for c in known_answers.noisy_sums(canaries=100, **KNOBS))
    verbatim = known_answers.verbatim(
        tiny.train, networks, canaries=60, kinds=("mislabelled",), **KNOBS
    )
    assert [c.passed for c in verbatim] == [False, False, True, True]


def test_scores_that_peek_at_the_coins_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak of the truth into the scores: permuted coins must then prove something."""
    honest = known_answers.bound
    monkeypatch.setattr(known_answers, "bound", lambda s, y, **k: honest(s + 2 * y.float(), y, **k))
    assert not known_answers.permuted(canaries=200, **KNOBS).passed


def test_a_wrong_accountant_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_answers, "all_accountants", lambda *_: {"pld": 1.0, "prv": 0.5})
    assert not known_answers.accountants().passed


def test_null_release_alarm_would_be_raised_by_a_leak(
    monkeypatch: pytest.MonkeyPatch, tiny: Dataset, networks: list[Network]
) -> None:
    monkeypatch.setattr(known_answers, "score_nearest_copy", lambda *_: torch.arange(60).float())
    monkeypatch.setattr(known_answers, "toss", lambda *_: torch.zeros(60, dtype=torch.bool))
    checks = known_answers.verbatim(
        tiny.train, networks, canaries=60, kinds=("mislabelled",), **KNOBS
    )
    assert not checks[1].passed  # scores by position find no copies
