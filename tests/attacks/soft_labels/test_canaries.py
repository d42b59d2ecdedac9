"""Canaries, what is recalled of them, and the statistics, against outside answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import stats

from ddaudit.attacks.soft_labels.canaries import (
    Marked,
    chance,
    mark,
    plant,
    planted_margin,
    recalled,
)
from ddaudit.attacks.soft_labels.results import binomial_p, difference, fisher_p
from ddaudit.attacks.soft_labels.students import HARD, RELEASED, shuffle_in_class, versions
from ddaudit.data import Dataset, ImageData
from ddaudit.errors import NotEnoughData


def marked(planted: list[int], truth: list[int], classes: int = 4) -> Marked:
    records = ImageData(
        images=torch.zeros(len(planted), 1, 2, 2, dtype=torch.uint8),
        labels=torch.tensor(planted),
        class_names=tuple(map(str, range(classes))),
    )
    return Marked(records, torch.tensor(truth))


def hits(k: int, n: int) -> torch.Tensor:
    return torch.arange(n) < k


def test_the_true_class_does_not_count() -> None:
    """Both students say class 0, the truth; their second thought decides."""
    canaries = marked([2, 2], [0, 0])
    logits = torch.tensor([[9.0, 0.0, 1.0, 0.5], [9.0, 3.0, 1.0, 0.5]])
    assert recalled([logits], canaries).tolist() == [True, False]
    expected = 1.0 - torch.logsumexp(torch.tensor([0.0, 0.5]).double(), 0)
    assert float(planted_margin([logits], canaries)[0]) == pytest.approx(float(expected))


def test_students_vote_with_their_log_probabilities() -> None:
    canaries = marked([2], [0])
    sure = torch.tensor([[0.0, 0.0, 6.0, 0.0]])
    unsure = torch.tensor([[0.0, 2.0, 0.0, 0.0]])
    assert recalled([sure, unsure], canaries).item()
    assert not recalled([unsure], canaries).item()


def test_whoever_knows_nothing_recalls_at_chance(tiny: Dataset) -> None:
    """Even a network that favours one class and knows every truth: 4 standard errors of 20 000."""
    g = torch.Generator().manual_seed(0)
    many = tiny.train.subset(torch.randint(len(tiny.train), (20_000,), generator=g))
    canaries = mark(many, g)
    logits = torch.randn(20_000, 4, generator=g)
    logits[:, 3] += 2.0
    logits[torch.arange(20_000), canaries.truth] += 10.0
    rate = float(recalled([logits], canaries).double().mean())
    assert rate == pytest.approx(chance(4), abs=4 * (2 / 9 / 20_000) ** 0.5)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ],
)
def test_the_interval_of_a_difference_is_newcombes(
    a: tuple[int, int], b: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe 1998, table II, method 10."""
    found = difference(hits(*a), hits(*b))
    assert found.low == pytest.approx(low, abs=6e-5)
    assert found.high == pytest.approx(high, abs=6e-5)
    assert found.value == pytest.approx(a[0] / a[1] - b[0] / b[1])


def test_exact_tests() -> None:
    assert binomial_p(hits(3, 3), 1 / 9) == pytest.approx(1 / 729)
    assert binomial_p(hits(0, 3), 1 / 9) == 1.0
    assert binomial_p(hits(25, 100), 1 / 9) == pytest.approx(stats.binom.sf(24, 100, 1 / 9))
    # the lady tasting tea, 3 of 4 right
    assert fisher_p(hits(3, 4), hits(1, 4)) == pytest.approx(17 / 70)


def test_canaries_are_apart_from_each_other_and_from_the_base(tiny: Dataset) -> None:
    numbered = replace(tiny.train, groups=torch.arange(len(tiny.train)))
    strangers = replace(tiny.test, groups=1000 + torch.arange(len(tiny.test)))
    planted = plant(
        numbered, strangers, count=50, unseen=40, generator=torch.Generator().manual_seed(1)
    )
    assert [len(planted.shown), len(planted.hidden), len(planted.unseen)] == [25, 25, 40]
    parts = [planted.base, planted.shown.records, planted.hidden.records]
    seen = torch.cat([p.groups for p in parts if p.groups is not None])
    assert torch.equal(torch.sort(seen).values, torch.arange(len(tiny.train)))
    pixels, hidden, unseen = (
        planted.pixels.groups,
        planted.hidden.records.groups,
        planted.unseen.records.groups,
    )
    assert pixels is not None
    assert hidden is not None
    assert unseen is not None
    assert not torch.isin(hidden, pixels).any()
    assert int(unseen.min()) >= 1000
    assert len(planted.everything) == len(tiny.train)
    for canaries, source in ((planted.hidden, numbered), (planted.unseen, strangers)):
        index = canaries.records.groups
        assert index is not None
        at = index % 1000 if source is strangers else index
        assert torch.equal(canaries.truth, source.labels[at])
        assert not (canaries.records.labels == canaries.truth).any()
    assert torch.equal(planted.base.labels, tiny.train.labels[planted.base.groups])


def test_wrong_labels_are_uniform(tiny: Dataset) -> None:
    g = torch.Generator().manual_seed(3)
    canaries = mark(tiny.train.subset(torch.arange(240).repeat(10)), g)
    shift = (canaries.records.labels - canaries.truth) % 4
    counts = torch.bincount(shift, minlength=4)
    assert int(counts[0]) == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-3


def test_at_most_a_quarter_of_the_records_become_canaries(tiny: Dataset) -> None:
    g = torch.Generator().manual_seed(0)
    planted = plant(tiny.train, tiny.test, count=10_000, unseen=10_000, generator=g)
    assert len(planted.base) == 180
    assert len(planted.unseen) == len(tiny.test)


def test_what_cannot_be_planted_is_said(tiny: Dataset) -> None:
    g = torch.Generator().manual_seed(0)
    few = tiny.train.subset(torch.arange(100))
    two = ImageData(tiny.train.images, tiny.train.labels % 2, ("a", "b"))
    for train, strangers, why in (
        (few, tiny.test, "cannot spare"),
        (tiny.train, tiny.test.subset(torch.arange(5)), "held-out"),
        (two, two, "three classes"),
    ):
        with pytest.raises(NotEnoughData, match=why):
            plant(train, strangers, count=100, unseen=100, generator=g)


def test_versions_of_labels() -> None:
    logits = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.softmax(logits / 4, dim=1)
    g = torch.Generator().manual_seed(0)
    made = {
        v.name: v
        for v in versions(labels, temperature=4.0, temperatures=(1.0, 4.0), top=(1, 2, 5), shuffled=g)
    }  # fmt: skip
    assert list(made) == [RELEASED, "temperature 1", "top 2", "shuffled in class", HARD]
    torch.testing.assert_close(made["temperature 1"].labels, torch.softmax(logits, dim=1))
    assert torch.equal(made[HARD].labels.argmax(1), logits.argmax(1))
    assert made[HARD].labels.sum() == 30
    assert [v.name for v in versions(labels)] == [RELEASED, HARD]


def test_shuffling_keeps_the_labels_of_a_class_and_moves_them() -> None:
    labels = torch.softmax(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    dealt = shuffle_in_class(labels, torch.Generator().manual_seed(1))
    assert torch.equal(dealt.argmax(1), labels.argmax(1))
    assert torch.equal(dealt[:, 0].sort().values, labels[:, 0].sort().values)
    assert float((dealt == labels).all(1).float().mean()) < 0.3
