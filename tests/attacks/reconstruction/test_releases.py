"""Observing a private recipe changes nothing, keeps what was released, and can be differentiated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddaudit.attacks._common.releases import Observed
from ddaudit.attacks.reconstruction.clues import Log, sum_clue
from ddaudit.attacks.reconstruction.inversion import Case, class_prior, invert, score
from ddaudit.data import Dataset, ImageData
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch, MeanEmbedding
from ddaudit.distillation.parts import Opening, Query, Source
from ddaudit.distillation.targets import ByClass, Joint
from ddaudit.training.augment import AugmentParams

CPU = torch.device("cpu")


def _opening(rule: Any, queries: int) -> Opening:
    half = torch.full((3, 1, 1), 0.5)
    return Opening(rule, half, half, queries, 0, CPU)


def _reader(**change: Any) -> PoissonGaussian:
    return PoissonGaussian(
        **{"sigma": 1e-3, "clip": 1.0, "sampling": "full", "noise_seed": 1, **change}
    )


def _query(
    name: str, objective: Any, seed: int, augment: AugmentParams | None = None, arch: str = "MLP"
) -> Query:
    net = Fresh(arch).make(shape=(3, 8, 8), num_classes=4, seed=seed, device=CPU)
    return Query(name, objective, net, (augment,) * 4)


def _runs(pool: ImageData, targets: Tensor) -> Tensor:
    members = torch.ones(2, len(pool), dtype=torch.bool)
    members[1, targets] = False
    return members


TARGETS = torch.tensor([0, 5, 10, 15])
"""One record of every class of the tiny data."""


def test_the_answers_are_those_of_the_reader_inside(tiny: Dataset) -> None:
    members, log = _runs(tiny.train, TARGETS), Log(10)
    plain = _reader(sigma=1.0).open(tiny.train, members, _opening(ByClass(), 3))
    seen = Observed(_reader(sigma=1.0), log).open(tiny.train, members, _opening(ByClass(), 3))
    for i in range(3):
        query = _query(f"q{i}", MeanEmbedding(), i)
        torch.testing.assert_close(plain.targets(query).values, seen.targets(query).values)
    assert plain.claims()[0] == seen.claims()[0]
    assert seen.layout.names == plain.layout.names


def test_each_question_is_kept_once_and_no_more_than_asked_for(tiny: Dataset) -> None:
    members, log = _runs(tiny.train, TARGETS), Log(2)
    source = Observed(_reader(), log).open(tiny.train, members, _opening(ByClass(), 4))
    for name in ("a", "a", "b", "c", "a"):
        source.targets(_query(name, MeanEmbedding(), 0))
    assert log.asked == 3
    assert [len(log.of(m)) for m in members] == [2, 2]
    assert log.of(~members[1]) == []
    assert log.blind is None


def test_sums_noise_and_rates_are_what_the_gate_used(tiny: Dataset) -> None:
    members, log = _runs(tiny.train, TARGETS), Log(1)
    reader = _reader(sampling="per-class", batch=20, sigma=0.25)
    source = Observed(reader, log).open(tiny.train, members, _opening(ByClass(), 1))
    released = source.targets(_query("a", MeanEmbedding(), 0)).values
    for k, own in enumerate(members):
        seen = log.of(own)[0]
        count = torch.bincount(tiny.train.labels[own], minlength=4)
        # The smallest class of either run (59 records) sets the rate of both.
        torch.testing.assert_close(seen.rates, torch.full((4,), 20 / 59))
        torch.testing.assert_close(seen.sums, released[k] * (seen.rates * count)[:, None])
        assert (seen.noise, seen.clip) == (0.25, 1.0)
        norms = seen.signal(tiny.train.pixels(TARGETS), tiny.train.labels[TARGETS]).norm(dim=1)
        assert float(norms.max()) <= 1 + 1e-4


def test_the_network_is_kept_as_it_was_when_it_was_asked(tiny: Dataset) -> None:
    members, log = _runs(tiny.train, TARGETS), Log(1)
    source = Observed(_reader(), log).open(tiny.train, members, _opening(ByClass(), 1))
    query = _query("a", MeanEmbedding(), 0)
    source.targets(query)
    x, y = tiny.train.pixels(TARGETS), tiny.train.labels[TARGETS]
    before = log.of(members[0])[0].signal(x, y)
    assert query.net is not None
    with torch.no_grad():
        for p in query.net.parameters():
            p.add_(1.0)
    torch.testing.assert_close(log.of(members[0])[0].signal(x, y), before)


@dataclass(frozen=True)
class _Opaque:
    """Signals that no gradient passes through."""

    shareable: bool = True

    def signals(self, net: Any, x: Tensor, y: Tensor) -> Tensor:
        return (x.flatten(1) > 0).float()


class _Elsewhere:
    """A private reader whose noise is made somewhere else."""

    private = True

    def check(self, data: Any) -> None: ...

    def open(self, data: Any, members: Any, opening: Any) -> Source:
        inner = _reader().open(data, members, opening)
        source: Any = type("Bare", (), {"layout": inner.layout, "clip": 1.0})()
        source.targets = inner.targets
        return source


@pytest.mark.parametrize(
    ("reader", "objective", "why"),
    [(_reader(), _Opaque(), "followed back"), (_Elsewhere(), MeanEmbedding(), "does not say")],
)
def test_what_cannot_be_attacked_is_said(
    reader: Any, objective: Any, why: str, tiny: Dataset
) -> None:
    members, log = _runs(tiny.train, TARGETS), Log(5)
    source = Observed(reader, log).open(tiny.train, members, _opening(ByClass(), 1))
    source.targets(_query("a", objective, 0))
    assert log.of(members[0]) == []
    assert log.blind is not None
    assert why in log.blind


@pytest.mark.parametrize(
    ("objective", "rule", "augment"),
    [
        (MeanEmbedding(), ByClass(), AugmentParams("flip", torch.ones(1, 1))),
        (GradientMatch(), Joint(), None),
    ],
)
def test_releases_without_noise_give_the_record_back(
    objective: Any, rule: Any, augment: AugmentParams | None, tiny: Dataset
) -> None:
    """Clipped embeddings under an augmentation, and per-example gradients in one joint sum."""
    pool = tiny.train.subset(torch.arange(40))
    members, log = _runs(pool, TARGETS), Log(6)
    source = Observed(_reader(), log).open(pool, members, _opening(rule, 6))
    for i in range(6):
        source.targets(_query(f"q{i}", objective, i, augment))
    for own, found_it in zip(members, (True, False), strict=True):
        case = Case(pool, own, TARGETS)
        clues = [sum_clue(seen, case) for seen in log.of(own)]
        prior = class_prior(case, device=CPU)
        g = torch.Generator().manual_seed(0)
        found = invert(clues, prior, independent=True, steps=80, batch=2, starts=1, generator=g)
        result = score(found, case, prior)
        assert (float(result.ratio.median()) < 0.3) == found_it
        assert (int(result.success.sum()) >= 3) == found_it


def test_records_keep_their_weights_under_the_fair_rule(tiny: Dataset) -> None:
    """The barycentre weighs groups unequally; the sums are those of the rule."""
    from ddaudit.defenses.fairness.fairdd import Barycentre

    pool = tiny.train
    members, log = _runs(pool, TARGETS), Log(1)
    source = Observed(_reader(), log).open(pool, members, _opening(Barycentre(), 1))
    source.targets(_query("a", MeanEmbedding(), 0))
    case = Case(pool, members[0], TARGETS)
    clue = sum_clue(log.of(members[0])[0], case)
    weights = Barycentre().rows(pool, torch.arange(len(pool)))
    torch.testing.assert_close(clue.weights, weights[pool.labels[TARGETS], TARGETS])
    truth = clue.weights[:, None] * clue.signal(case.truth, case.labels)
    torch.testing.assert_close(clue.rest, truth, atol=0.02, rtol=0)


def test_a_replaced_reader_is_still_described_without_its_log() -> None:
    from ddaudit.distillation import resolve

    recipe = resolve("ndpdc", profile="small")
    watched = replace(recipe, reader=Observed(recipe.reader, Log(1)))  # type: ignore[arg-type]
    assert "observer" not in watched.describe()["reader"]
    assert watched.reader is not None
    assert watched.reader.private
