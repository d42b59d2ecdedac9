"""Broken private readers are caught, each by the check that is named after its bug; correct ones are not accused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.defenses.privacy.randomness import SeededRandomness
from ddaudit.defenses.privacy.reader import PoissonGaussian, PrivateTargets
from ddaudit.defenses.privacy.selfcheck import check_reader, check_start
from ddaudit.defenses.privacy.selfcheck import checks as selfcheck
from ddaudit.defenses.privacy.selfcheck.coins import coin_tests
from ddaudit.defenses.privacy.source import Plan, PrivateSource
from ddaudit.distillation import METHODS, resolve
from ddaudit.distillation.parts import Opening, Query, TargetRule, Targets
from ddaudit.distillation.targets import ByClass, Joint
from ddaudit.errors import BadInput

from .planted import (
    DELTA,
    FULL,
    Broken,
    Epochs,
    Everybody,
    FixedSize,
    FixedTotal,
    Forgetful,
    HalfNoise,
    Lying,
    NoClip,
    Redrawn,
    SameNoise,
    Stale,
)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits")


PER_CLASS: dict[str, Any] = {"epsilon": 4.0, "delta": DELTA, "noise_seed": 3}
UNIFORM = {**PER_CLASS, "sampling": "uniform", "batch": 256, "clip": 0.1, "scale": "mean"}
NOISY = {**PER_CLASS, "counts": "noisy"}


def _probe(
    digits: Dataset, gate: type[PrivateSource], rule: TargetRule, **options: Any
) -> list[str]:
    checks = check_reader(Broken(**options, behind=gate), rule, digits.train, subject="x")
    assert all(c.subject == "x" and c.affects == ["privacy.epsilon_claimed"] for c in checks)
    return [c.name for c in checks if not c.passed]


@pytest.mark.parametrize("options", [PER_CLASS, UNIFORM, FULL, NOISY])
@pytest.mark.parametrize("rule", [ByClass(), Joint()])
def test_correct_readers_pass(digits: Dataset, options: dict[str, Any], rule: TargetRule) -> None:
    assert _probe(digits, PrivateSource, rule, **options) == []
    assert _probe(digits, Lying, rule, **options) == []  # the planting itself is harmless


@pytest.mark.parametrize(
    ("gate", "caught"),
    [
        (HalfNoise, selfcheck.NOISE),
        (NoClip, selfcheck.CLIP),
        (Redrawn, selfcheck.STORED),
        (SameNoise, selfcheck.FRESH),
        (FixedSize, selfcheck.SAMPLING),
        (FixedTotal, selfcheck.SAMPLING),
        (Epochs, selfcheck.SAMPLING),
        (Stale, selfcheck.SAMPLING),
        (Everybody, selfcheck.SAMPLING),
        (Forgetful, selfcheck.LEDGER),
    ],
)
@pytest.mark.parametrize("options", [PER_CLASS, UNIFORM])
def test_each_bug_fails_its_own_check_and_no_other(
    digits: Dataset, gate: type[PrivateSource], caught: str, options: dict[str, Any]
) -> None:
    rule = ByClass() if options is PER_CLASS else Joint()
    assert _probe(digits, gate, rule, **options) == [caught]


@pytest.mark.parametrize(
    ("gate", "caught"),
    [(HalfNoise, selfcheck.NOISE), (NoClip, selfcheck.CLIP), (Redrawn, selfcheck.STORED)],
)
def test_bugs_of_full_batch_readers_are_caught_too(
    digits: Dataset, gate: type[PrivateSource], caught: str
) -> None:
    assert _probe(digits, gate, ByClass(), **FULL) == [caught]


class Telling(PrivateTargets):
    """Right answers, and weights of rows that tell of the records."""

    def targets(self, query: Query) -> Targets:
        answer = super().targets(query)
        return replace(answer, weights=answer.weights * self.told(query))

    def told(self, query: Query) -> float:
        return 1 + float(self._data.images.float().mean())


class TellingOfBatches(Telling):
    """How many records were sampled: the mass that the expected one stands for."""

    def told(self, query: Query) -> float:
        self.sampled = getattr(self, "sampled", {})
        return self.sampled.setdefault(query.id, 1 + len(self.sampled))


@pytest.mark.parametrize("source", [Telling, TellingOfBatches])
@pytest.mark.parametrize("options", [PER_CLASS, FULL, {**PER_CLASS, "noise_seed": None}])
def test_weights_of_rows_that_tell_of_the_records_are_seen(
    digits: Dataset, source: type[PrivateTargets], options: dict[str, Any]
) -> None:
    class Reader(PoissonGaussian):
        def open(self, data: ImageData, members: Tensor, opening: Opening) -> PrivateTargets:
            made = super().open(data, members, opening)
            made.__class__ = source
            return made

    checks = check_reader(Reader(**options), ByClass(), digits.train, subject="x")
    assert [c.name for c in checks if not c.passed] == [selfcheck.WEIGHTS]


def test_records_may_have_rates_of_their_own() -> None:
    """200 simulated openings: independent coins are accused at the stated rate, whatever their rates."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    found: dict[str, list[float]] = {}
    for _ in range(200):
        rates = 0.3 * torch.rand(300, generator=g)
        included = torch.rand(120, 300, generator=g) < rates
        for name, p in coin_tests(included, labels, 0.3).items():
            found.setdefault(name, []).append(p)
    for name, p in found.items():
        below = sum(v < 0.05 for v in p) / 200
        assert below <= 0.05 + 4 * (0.05 * 0.95 / 200) ** 0.5, name
        assert min(p) > 1e-6


def test_noise_of_nine_tenths_is_seen_and_of_more_is_no_offence(digits: Dataset) -> None:
    class NineTenths(Lying):
        def real(self, plan: Plan) -> Plan:
            return replace(plan, sigma=0.9 * plan.sigma)

    class Twice(Lying):
        def real(self, plan: Plan) -> Plan:
            return replace(plan, sigma=2 * plan.sigma)

    assert _probe(digits, NineTenths, ByClass(), **PER_CLASS) == [selfcheck.NOISE]
    assert _probe(digits, Twice, ByClass(), **PER_CLASS) == []


def test_clips_that_bound_the_wrong_norm_are_seen(digits: Dataset) -> None:
    """Every coordinate within the clip is sqrt(8) clips; the whole sum within it shares one record's room."""

    class PerCoordinate(Lying):
        def noisy_sum(self, query_id: str, signals: Any, rows: Any) -> Tensor:
            clip = self.stated.clip
            self._plan = replace(self.stated, clip=1e12, sigma=self.stated.sigma * clip / 1e12)
            return super().noisy_sum(query_id, lambda i: signals(i).clamp(-clip, clip), rows)

    class WholeSum(PerCoordinate):
        def noisy_sum(self, query_id: str, signals: Any, rows: Any) -> Tensor:
            def shared(index: Tensor) -> Tensor:
                s = signals(index)
                return s * len(index) * self.stated.clip / s.norm(dim=1).sum().clamp_min(1e-9)

            return super().noisy_sum(query_id, shared, rows)

    assert _probe(digits, PerCoordinate, ByClass(), **PER_CLASS) == [selfcheck.CLIP]
    assert _probe(digits, WholeSum, ByClass(), **PER_CLASS) == [selfcheck.CLIP]


def test_noise_from_the_public_seed_is_seen(digits: Dataset) -> None:
    """A second opening with the same public seed must not repeat the noise of the first."""

    class FromPublicSeed(PrivateSource):
        def __init__(self, data: ImageData, members: Tensor, *, noise_seed: int | None) -> None:
            super().__init__(data, members, noise_seed=noise_seed)
            self._secret = SeededRandomness(0)

    options = {k: v for k, v in PER_CLASS.items() if k != "noise_seed"}
    assert _probe(digits, FromPublicSeed, ByClass(), **options) == [selfcheck.FRESH]


def test_a_reader_that_refuses_made_up_records_is_not_vouched_for(digits: Dataset) -> None:
    class Refuses(PrivateSource):
        def noisy_sum(self, *_: Any) -> Tensor:
            raise BadInput("records", "look made up")

    assert _probe(digits, Refuses, ByClass(), **PER_CLASS) == ["reader: it can be probed"]


@pytest.mark.slow
def test_no_registered_private_method_is_accused(digits: Dataset) -> None:
    """Noise of the operating system: a false alarm about once in 1000 runs of this test."""
    private = [r for _, r in METHODS.items() if r.reader is not None and r.reader.private]
    assert {"ndpdc", "psg", "dosser"} <= {r.name for r in private}
    for recipe in private:
        assert recipe.reader is not None
        assert recipe.target is not None
        checks = check_start(recipe.at("small"), digits, ipc=2, subject=recipe.name)
        checks += check_reader(recipe.reader, recipe.target, digits.train, subject=recipe.name)
        assert [c.name for c in checks if not c.passed] == [], recipe.name


def test_starts_are_checked_on_float_pixels(tiny):
    floats = replace(tiny, train=replace(tiny.train, images=tiny.train.pixels()))
    checks = check_start(resolve("ndpdc", profile="small"), floats, ipc=1, subject="x")
    assert [c.passed for c in checks] == [True]
