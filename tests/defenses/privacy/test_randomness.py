"""Secret numbers: their distribution, against SciPy's, and where they come from."""

from __future__ import annotations

import math
import os

import pytest
import torch
from scipy import stats

from ddaudit.data import Dataset
from ddaudit.defenses.privacy.randomness import SeededRandomness, SystemRandomness
from ddaudit.defenses.privacy.source import Plan, PrivateSource, grid
from ddaudit.distillation import distill, resolve
from ddaudit.distillation.targets import ByClass


def test_normals_and_coins_have_their_distribution() -> None:
    """Kolmogorov-Smirnov on 200 000 fresh draws; a correct generator fails one run in a million."""
    source = SystemRandomness()
    assert stats.kstest(source.normal(200_000).numpy(), "norm").pvalue > 1e-6
    assert stats.kstest(source.uniform(200_000).numpy(), "uniform").pvalue > 1e-6
    assert stats.chi2.sf(float(source.normal(200_001).square().sum()), 200_001) > 1e-6
    pair = source.normal(2, 100_000)
    assert abs(float((pair[0] * pair[1]).mean())) < 5 / math.sqrt(
        100_000
    )  # both halves of Box-Muller


def test_numbers_do_not_come_again() -> None:
    torch.manual_seed(0)
    first = SystemRandomness().normal(8)
    torch.manual_seed(0)
    assert not torch.equal(first, SystemRandomness().normal(8))
    assert torch.equal(SeededRandomness(3).normal(8), SeededRandomness(3).normal(8))


def test_the_tail_is_as_long_as_53_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rarest bits give sqrt(2 * 53 * ln 2) = 8.57; in float32 they would give 5.77."""
    monkeypatch.setattr(os, "urandom", lambda n: b"\xff" * n)
    assert float(SystemRandomness().normal(1)) == pytest.approx(math.sqrt(2 * 53 * math.log(2)))
    assert float(SystemRandomness().uniform(1)) < 1.0
    monkeypatch.setattr(os, "urandom", lambda n: b"\x00" * n)
    assert float(SystemRandomness().normal(1)) == 0.0


def test_a_release_draws_every_number_from_the_system(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No short seed stands between the system and the noise: 64 bits for each coin and each coordinate."""
    drawn: list[int] = []
    system = os.urandom

    def counted(n: int) -> bytes:
        drawn.append(n)
        return system(n)

    data, dims = tiny.train, 64
    everyone = torch.ones(1, len(data), dtype=torch.bool)
    source = PrivateSource(data, everyone).plan(Plan(torch.ones(len(data)), 1.0, 1.0, 1, q=1.0))
    monkeypatch.setattr(os, "urandom", counted)
    release = source.noisy_sum(
        "q", lambda index: torch.ones(len(index), dims), lambda index: ByClass().rows(data, index)
    )
    assert sum(drawn) >= 8 * (len(data) + release.numel())
    assert "cryptographic" in source.origin


def test_sum_and_noise_are_rounded_once(tiny: Dataset) -> None:
    """Every answer is the exact sum, rounded once: sum and noise are added in NumPy's extended precision here."""
    source = PrivateSource(
        tiny.train, torch.ones(1, len(tiny.train), dtype=torch.bool), noise_seed=4
    )
    sums = torch.full((1, 1, 1000), 2.0**12)
    found = source._noisy(sums, 0.5)
    noise = SeededRandomness(4).normal(1, 1, 1000).numpy().astype("longdouble")
    exact = sums.numpy().astype("longdouble") + noise / 2
    assert (found.numpy() == (exact * 2048).round() / 2048).all()


@pytest.mark.parametrize("deviation", [1.0, 0.3, 77.0, 1e-6])
def test_answers_are_no_finer_near_zero_than_elsewhere(tiny: Dataset, deviation: float) -> None:
    """All are multiples of one step, which the sigma and the clip of the ledger give."""
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    source = PrivateSource(tiny.train, everyone)
    step = grid(deviation)
    assert math.log2(step).is_integer()
    assert deviation / 2048 <= step <= deviation / 1024
    for around in (0.0, 0.1 * deviation, 500.1 * deviation):
        found = source._noisy(torch.full((1, 1, 4000), around), deviation).double()
        assert bool(((found / step).frac() == 0).all())
    small = source._noisy(torch.zeros(1, 1, 200_000), deviation).abs()
    assert float(small[small > 0].min()) >= step


def test_the_step_is_on_the_card(tiny: Dataset) -> None:
    options = {"loop.iterations": 1, "reader.sigma": 3.0, "reader.delta": 1e-3, "reader.clip": 0.5}
    recipe = resolve("ndpdc", profile="small", options=options)
    claim = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0).card.privacy
    assert claim is not None
    assert f"multiples of {2.0**-10:g}," in claim.mechanism  # 3 * 0.5 is between 1 and 2
