"""Inverting sums and sets: closed forms, exact releases, and attackers that must not peek."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from ddaudit.attacks._common.releases import Observed
from ddaudit.attacks.reconstruction.clues import (
    Log,
    NoisySums,
    SumClue,
    set_clues,
    sum_clue,
    unexplained,
)
from ddaudit.attacks.reconstruction.inversion import (
    Case,
    Prior,
    class_prior,
    invert,
    low_rank_normal,
    score,
    stack,
)
from ddaudit.attacks.reconstruction.known_answers import attack_sums, small_network
from ddaudit.auditing import stratified
from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.distillation import distill_many, resolve
from ddaudit.distillation.targets import ByClass
from ddaudit.sets import Card, DistilledSet

CPU = torch.device("cpu")
QUICK = {"steps": 100, "batch": 4, "releases": 12}
SAMPLED = {"steps": 120, "batch": 4}


def _case(pool: ImageData, *, each: int = 1, inside: bool = True) -> Case:
    """``each`` targets of every class, in the data or left out."""
    targets = torch.cat(
        [(pool.labels == c).nonzero().squeeze(1)[:each] for c in range(pool.num_classes)]
    )
    members = torch.ones(len(pool), dtype=torch.bool)
    members[targets] = inside
    return Case(pool, members, torch.sort(targets).values)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return stratified(load_data("digits").train, 120)


# ---- closed forms --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Linear:
    """y = A x + noise of standard deviation ``sd``."""

    a: Tensor
    y: Tensor
    sd: float

    def surprise(self, images: Tensor, which: Tensor) -> Tensor:
        off = self.y[which] - images.flatten(1) @ self.a.T
        return 0.5 * off.square().sum(1) / self.sd**2


@pytest.mark.parametrize("independent", [True, False])
def test_linear_clues_give_the_posterior_mean_of_linear_regression(independent: bool) -> None:
    """Posterior mean = m + (S^-1 + n A^T A / sd^2)^-1 n A^T (y - A m) / sd^2, n clues counting as n or as 1."""
    g = torch.Generator().manual_seed(0)
    mean = torch.full((1, 1, 2, 3), 0.5)
    b = 0.05 * torch.randn(8, 6, generator=g)
    prior = Prior(mean, low_rank_normal(b, floor=1e-3))
    truth = 0.5 + prior.spread.sample(1, g)
    sd, clues = 0.1, []
    for _ in range(4):
        a = torch.randn(5, 6, generator=g)
        clues.append(_Linear(a, truth @ a.T + sd * torch.randn(1, 5, generator=g), sd))
    found = invert(
        clues, prior, independent=independent, steps=400, batch=4, starts=2, lr=0.05, generator=g
    )
    share = 1.0 if independent else 1 / 4
    precision = torch.linalg.inv(1e-3 * torch.eye(6) + b.T @ b)
    pull = torch.zeros(6)
    for clue in clues:
        precision = precision + share * clue.a.T @ clue.a / sd**2
        pull = pull + share * clue.a.T @ (clue.y[0] - clue.a @ mean.flatten()) / sd**2
    expected = mean.flatten() + torch.linalg.solve(precision, pull)
    torch.testing.assert_close(found.flatten(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_the_likelihood_of_a_noisy_sum_is_the_textbook_mixture(rate: float) -> None:
    g = torch.Generator().manual_seed(0)
    rows, rest = torch.randn(2, 4, generator=g), torch.randn(3, 4, generator=g)
    weights, sd = torch.tensor([1.0, 0.5, 0.25]), 0.8
    clue = SumClue(
        signal=lambda x, _: x.flatten(1),
        labels=torch.zeros(3, dtype=torch.int64),
        rest=rest,
        weights=weights,
        rates=torch.full((3,), rate),
        noise=stack([low_rank_normal(rows, floor=sd**2)] * 3),
    )
    x = torch.rand(6, 1, 2, 2, generator=g)
    which = torch.tensor([0, 1, 2, 2, 1, 0])
    density = multivariate_normal(np.zeros(4), sd**2 * np.eye(4) + (rows.T @ rows).numpy())
    expected = []
    for image, j in zip(x, which.tolist(), strict=True):
        inside = density.logpdf((rest[j] - weights[j] * image.flatten()).numpy())
        outside = density.logpdf(rest[j].numpy())
        with np.errstate(divide="ignore"):
            parts = [np.log(rate) + inside, np.log(1 - rate) + outside]
        expected.append(-logsumexp(parts) + density.logpdf(np.zeros(4)))
    torch.testing.assert_close(
        clue.surprise(x, which), torch.tensor(np.array(expected), dtype=torch.float32)
    )


# ---- exact and hopeless releases -----------------------------------------------------------------


def test_exact_sums_give_the_record_back_and_sums_without_it_do_not(digits: ImageData) -> None:
    inside = attack_sums(_case(digits), sigma=0.0, **QUICK)
    assert bool(inside.success.all())
    assert float(inside.ratio.max()) < 0.2
    outside = attack_sums(_case(digits, inside=False), sigma=0.0, **QUICK)
    assert float(outside.success.double().mean()) <= 0.3
    assert float(outside.ratio.median()) > 0.9


def test_noise_takes_the_record_away_step_by_step(digits: ImageData) -> None:
    found = [
        float(attack_sums(_case(digits), sigma=s, **QUICK).ratio.median()) for s in (0.05, 5.0)
    ]
    assert 0.05 < found[0] < 0.9 < found[1] < 1.1


def test_records_that_are_in_some_sums_only_are_still_found(digits: ImageData) -> None:
    """Every record is in about half of 24 sums, and nobody knows which."""
    inside = attack_sums(_case(digits), sigma=0.0, rate=0.5, releases=24, **SAMPLED)
    assert float(inside.success.double().mean()) >= 0.7
    outside = attack_sums(_case(digits, inside=False), sigma=0.0, rate=0.5, releases=24, **SAMPLED)
    assert float(outside.success.double().mean()) <= 0.3


def _as_set(records: ImageData) -> DistilledSet:
    return DistilledSet(records.pixels(), records.labels, records.num_classes, Card())


def test_a_set_with_the_same_class_means_gives_the_record_back(digits: ImageData) -> None:
    """The set is the records themselves, so its means are exact; contrast has to come from the prior."""
    networks = [small_network(digits, seed=i) for i in range(8)]
    for inside in (True, False):
        case = _case(digits, inside=inside)
        clues = set_clues(_as_set(digits.subset(case.members)), case, ByClass(), networks)
        prior = class_prior(case, device=CPU)
        g = torch.Generator().manual_seed(0)
        found = invert(clues, prior, independent=False, steps=100, batch=4, starts=1, generator=g)
        result = score(found, case, prior)
        assert (float(result.ratio.median()) < 0.4) == inside
        assert (float(result.success.double().mean()) > 0.5) == inside


def test_the_unexplained_image_of_a_coreset_is_the_record(digits: ImageData) -> None:
    case = _case(digits)
    for image, truth in zip(unexplained(_as_set(digits), case), case.truth, strict=True):
        assert image is not None
        torch.testing.assert_close(image, truth)
    without = _case(digits, inside=False)
    here = _as_set(digits.subset(without.members))
    assert unexplained(here, without) == [None] * 10
    blurred = replace(_as_set(digits), images=0.9 * digits.pixels())
    assert unexplained(blurred, case) == [None] * 10


def test_a_class_that_the_set_lacks_says_nothing(digits: ImageData) -> None:
    case = _case(digits)
    released = _as_set(digits.subset(digits.labels != 3))
    clue = set_clues(released, case, ByClass(), [small_network(digits, seed=0)])[0]
    surprise = clue.surprise(case.truth, torch.arange(10))
    assert surprise[case.labels == 3].tolist() == [0.0]
    assert bool((surprise[case.labels != 3] > 0).all())


def test_soft_labels_weigh_the_images(digits: ImageData) -> None:
    """One-hot soft labels are hard labels."""
    case, networks = _case(digits), [small_network(digits, seed=0)]
    hard = _as_set(digits)
    soft = replace(hard, labels=torch.nn.functional.one_hot(hard.labels, 10).float())
    a, b = (set_clues(s, case, ByClass(), networks)[0] for s in (hard, soft))
    torch.testing.assert_close(a.rest, b.rest)


# ---- attackers must not peek ---------------------------------------------------------------------


def _disguised(case: Case) -> Case:
    """The same case with every target's pixels replaced by noise."""
    images = case.pool.images.clone()
    g = torch.Generator().manual_seed(5)
    shape = images[case.targets].shape
    images[case.targets] = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    return Case(replace(case.pool, images=images), case.members, case.targets)


def test_the_prior_does_not_know_the_targets(digits: ImageData) -> None:
    case = _case(digits)
    a, b = (class_prior(c, device=CPU) for c in (case, _disguised(case)))
    torch.testing.assert_close(a.means, b.means)
    torch.testing.assert_close(a.spread.energy, b.spread.energy)
    # The class mean of the known records, by hand.
    own = (digits.labels == 4) & (torch.arange(len(digits)) != case.targets[case.labels == 4])
    torch.testing.assert_close(
        a.means[int((case.labels == 4).nonzero())], digits.pixels(own).mean(0)
    )


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_clues_depend_on_a_target_through_the_release_alone(digits: ImageData, rate: float) -> None:
    """With the release held fixed, other pixels of the target change nothing: they are added and taken off again."""
    case = _case(digits)
    other = _disguised(case)
    network = small_network(digits, seed=0, norm="none")
    with torch.no_grad():
        z = network.embed(digits.pixels())
        sums = rate * ByClass().rows(digits, torch.arange(len(digits))) @ z
        shift = network.embed(other.truth) - network.embed(case.truth)

    def seen(sums: Tensor) -> NoisySums:
        return NoisySums(
            lambda x, _: network.embed(x),
            sums,
            lambda r: ByClass().rows(r, torch.arange(len(r))),
            torch.full((10,), rate),
            0.1,
            1.0,
        )

    honest, disguised = sum_clue(seen(sums), case), sum_clue(seen(sums), other)
    torch.testing.assert_close(honest.rest, disguised.rest, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(honest.noise.energy, disguised.noise.energy)
    moved = sum_clue(seen(sums + rate * shift[torch.argsort(case.labels)]), other)
    assert not torch.allclose(moved.rest, honest.rest, atol=1e-3)

    released = _as_set(digits.subset(torch.arange(0, len(digits), 2)))
    a2, b2 = (set_clues(released, c, ByClass(), [network])[0] for c in (case, other))
    torch.testing.assert_close(a2.rest, b2.rest, atol=1e-4, rtol=1e-4)


def test_weights_below_one_are_taken_into_account(tiny: Dataset) -> None:
    """A record that enters its sum with weight 1/2 is found all the same."""

    @dataclass(frozen=True)
    class Halves:
        def rows(self, data: ImageData, index: Tensor) -> Tensor:
            return ByClass().rows(data, index) * torch.where(index % 2 == 0, 0.5, 1.0)

    pool = tiny.train
    case = _case(pool)
    rule, clues = Halves(), []
    every = torch.arange(len(pool))
    for t in range(8):
        network = small_network(pool, seed=t, norm="none")
        with torch.no_grad():
            sums = rule.rows(pool, every) @ network.embed(pool.pixels())
        seen = NoisySums(
            lambda x, _, net=network: net.embed(x),  # type: ignore[misc]
            sums,
            lambda r: rule.rows(r, torch.arange(len(r))),
            torch.ones(4),
            0.0,
            1.0,
        )
        clues.append(sum_clue(seen, case))
    prior = class_prior(case, device=CPU)
    g = torch.Generator().manual_seed(0)
    found = invert(clues, prior, independent=True, steps=300, batch=4, starts=1, generator=g)
    assert float(score(found, case, prior).ratio.median()) < 0.3


def test_scores_by_hand() -> None:
    pool = ImageData(
        torch.tensor([0, 51, 102, 255], dtype=torch.uint8).view(4, 1, 1, 1),
        torch.zeros(4, dtype=torch.int64),
        ("only",),
    )
    case = Case(pool, torch.ones(4, dtype=torch.bool), torch.tensor([1]))
    prior = class_prior(case, device=CPU)
    mean = (0 + 0.4 + 1.0) / 3
    found = score(torch.full((1, 1, 1, 1), 0.3), case, prior)
    assert float(found.blind) == pytest.approx(mean - 0.2, abs=1e-6)
    assert float(found.nearest) == pytest.approx(0.2, abs=1e-6)
    assert float(found.rebuilt) == pytest.approx(0.1, abs=1e-6)
    assert bool(found.success)
    assert float(found.ratio) == pytest.approx(0.1 / (mean - 0.2), abs=1e-6)
    assert not bool(score(torch.full((1, 1, 1, 1), 0.45), case, prior).success)
    assert math.isclose(float(score(case.truth, case, prior).ratio), 1e-3)


@pytest.mark.parametrize("name", ["ndpdc", "dm+dp", "ncfm+dp", "datadam+dp"])
def test_the_signal_that_is_inverted_is_the_one_that_was_released(tiny: Dataset, name: str) -> None:
    """Every subclass of the mean embedding measures something else; the attack inverted plain features."""
    options = {
        "loop.iterations": 1,
        "networks.width": 8,
        "reader.clip": 1.0,
        "reader.delta": 1e-3,
        "reader.batch": 5,
    }
    recipe = resolve(name, profile="small", options=options)
    pool, released, log = tiny.train.subset(torch.arange(60)), [], Log(4)

    def watch(asked):
        released.append(asked.signals(pool))
        log(asked)

    everyone = torch.ones(1, len(pool), dtype=torch.bool)
    watched = replace(recipe, reader=Observed(recipe.reader, watch))
    distill_many(watched, pool, everyone, data=tiny, ipc=1, seed=0)
    assert log.blind is None
    signal = log.of(everyone[0])[0].signal
    torch.testing.assert_close(
        signal(pool.pixels(), pool.labels), released[0], rtol=1e-4, atol=1e-6
    )
