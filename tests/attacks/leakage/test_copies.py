"""The nearest-copy test: exact rule, false alarms by simulation, disguises in their spaces."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from ddaudit.attacks._common.features import exact_copies
from ddaudit.attacks.leakage import copies
from ddaudit.errors import NotEnoughData


def images(n: int, seed: int) -> torch.Tensor:
    """Smooth random 8x8 RGB images in [0, 1]: neighbouring pixels alike, as in photographs."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=g)
    return torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")


@pytest.fixture(scope="module")
def sides() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    train, holdout = images(600, 0), images(300, 1)
    return (
        train,
        holdout,
        copies.chance_ratios(train, holdout, generator=torch.Generator().manual_seed(0)),
    )


Sides = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def test_copies_are_noticed_and_non_members_are_not(sides: Sides) -> None:
    train, holdout, by_chance = sides
    near = copies.copy_test(train[:50], train, holdout, by_chance)
    assert bool(near.near.all())
    assert near.ratio.tolist() == [0.0] * 50
    assert near.train_index.tolist() == list(range(50))
    fresh = copies.copy_test(images(400, 2), train, holdout, by_chance)
    # 1 % of non-members by construction; more than 12 of 400 happen once in 2000 tries
    assert int(fresh.near.sum()) <= 12
    own = copies.copy_test(holdout[:50], train, holdout, by_chance)
    assert not bool(own.near.any())
    assert bool(torch.isinf(own.ratio).all())
    assert own.p_value > 0.99


def test_slightly_noised_copies_are_near_and_not_exact(sides: Sides) -> None:
    train, holdout, by_chance = sides
    g = torch.Generator().manual_seed(3)
    noised = train[:50] + 0.03 * torch.randn(50, 3, 8, 8, generator=g)
    found = copies.copy_test(noised, train, holdout, by_chance)
    assert bool(found.near.all())
    assert not bool(exact_copies(found.to_train, pixels=192).any())
    rounded = (train[:50] * 255).round() / 255
    exact = copies.copy_test(rounded, train, holdout, by_chance)
    assert bool(exact_copies(exact.to_train, pixels=192).all())


def test_a_brightened_copy_hides_in_pixels_but_not_in_structure(sides: Sides) -> None:
    train, holdout, by_chance = sides
    disguised = 0.35 * train[:50] + 0.6
    assert float(copies.copy_test(disguised, train, holdout, by_chance).near.double().mean()) < 0.1
    rows = [copies.contrast_normalised(part) for part in (disguised, train, holdout)]
    ratios = copies.chance_ratios(rows[1], rows[2], generator=torch.Generator().manual_seed(0))
    assert bool(copies.copy_test(*rows, ratios).near.all())


def test_structure_distance_is_correlation() -> None:
    a, b = images(2, 4)
    rows = copies.contrast_normalised(torch.stack([a, b]))
    flat = [(x - x.mean((1, 2), keepdim=True)).flatten() for x in (a, b)]
    r = float(torch.corrcoef(torch.stack(flat))[0, 1])
    distance = float((rows[0] - rows[1]).norm())
    assert distance == pytest.approx((2 - 2 * r) ** 0.5, abs=1e-5)


def test_chance_ratio_skips_the_record_itself(sides: Sides) -> None:
    train, holdout, by_chance = sides
    i = 7
    others = torch.cat([holdout[:i], holdout[i + 1 :]]).flatten(1)
    expected = float(torch.cdist(holdout[i][None].flatten(1), train.flatten(1)).min())
    expected /= float(torch.cdist(holdout[i][None].flatten(1), others).min())
    assert float(by_chance[i]) == pytest.approx(expected, rel=1e-4)


def _sign_p(released: torch.Tensor, train: torch.Tensor, holdout: torch.Tensor) -> float:
    return copies.copy_test(released, train, holdout, torch.ones(20)).p_value


def test_sign_test_keeps_its_level_when_released_images_share_neighbours() -> None:
    """300 sets that know neither side, each with 5 near-duplicates of every image. At level 5 %
    more than 27 alarms happen once in 1000; a binomial over images overshoots by far."""
    ours = binomial = 0
    for seed in range(300):
        pooled = images(60, 1000 + seed).flatten(1)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        train, holdout = pooled[order[:40]], pooled[order[40:]]
        released = images(8, 5000 + seed).flatten(1).repeat(5, 1)
        ours += _sign_p(released, train, holdout) < 0.05
        nearest = torch.cdist(released, torch.cat([train, holdout])).argmin(1)
        hits = int((nearest < 40).sum())
        binomial += stats.binomtest(hits, 40, 40 / 60, alternative="greater").pvalue < 0.05
    assert ours <= 27
    assert binomial > 40


def test_sign_test_is_the_hypergeometric_tail() -> None:
    """8 distinct nearest records, all of them training records, of 30 + 20 pooled."""
    p = copies.sign_test(
        torch.zeros(8), torch.arange(8), torch.ones(8), torch.zeros(8, dtype=torch.int64),
        train=30, holdout=20,
    )  # fmt: skip
    by_hand = 1.0
    for i in range(8):
        by_hand *= (30 - i) / (50 - i)
    assert p == pytest.approx(by_hand)


def test_non_members_are_a_random_sample_of_class_sorted_records() -> None:
    """Image folders are read class by class, and classes differ in dimension: the first 500 held-out
    records are of wide classes only, and 17 % of a set without copies were flagged."""
    g = torch.Generator().manual_seed(0)

    def of_class(c: int, n: int) -> torch.Tensor:
        dimensions = 2 + 6 * (9 - c)
        x = torch.zeros(n, 64)
        x[:, :dimensions] = torch.randn(n, dimensions, generator=g) / dimensions**0.5
        x[:, 60] = 20.0 * c
        return x

    train, held, fresh = (torch.cat([of_class(c, n) for c in range(10)]) for n in (300, 150, 100))
    by_chance = copies.chance_ratios(
        train, held, generator=torch.Generator().manual_seed(1), limit=500
    )
    assert len(by_chance) == 500
    rate = float(copies.copy_test(fresh, train, held, by_chance).near.double().mean())
    assert rate < 0.03  # 1 % stated; the threshold rests on 5 of 500 non-members


def test_duplicates_between_splits_are_not_called_copies(sides: Sides) -> None:
    train, holdout, _ = sides
    both = torch.cat([holdout, train[:5]])
    by_chance = copies.chance_ratios(train, both, generator=torch.Generator().manual_seed(0))
    found = copies.copy_test(train[:5], train, both, by_chance)
    assert not bool(found.near.any())


def test_too_few_held_out_records_are_refused(sides: Sides) -> None:
    train, holdout, by_chance = sides
    with pytest.raises(NotEnoughData, match="20 held-out"):
        copies.copy_test(train[:3], train, holdout[:10], by_chance)
