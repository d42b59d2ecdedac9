"""Groups one by one: their accuracies, majority versions of images, confidence; hand tables and planted gaps."""

from __future__ import annotations

import pytest
import torch

from ddaudit.data import ImageData
from ddaudit.measures import deo, gaps, subgroups
from ddaudit.stats import Resamples

from .groups import by_name, grid, grouped


def _paired(k: int, per_class: int, g: int) -> ImageData:
    labels = torch.arange(k).repeat_interleave(per_class * g)
    return grouped(labels, torch.arange(g).repeat(k * per_class), k, g)


def _right(data: ImageData, hits: torch.Tensor) -> gaps.Answers:
    return gaps.Answers.of(
        torch.where(hits, data.labels, (data.labels + 1) % data.num_classes)[None], data
    )


def test_gaps_of_a_hand_table() -> None:
    """Two classes, two groups, TPR by (group, class): (4/4, 3/4) and (2/4, 1/4)."""
    data = grid(2, 2, 4)
    rank = torch.arange(4).repeat(4)
    hits = rank < torch.tensor([[4, 3], [2, 1]])[data.groups, data.labels]
    answers = _right(data, hits)
    assert float(deo.deo_m(answers.rates)) == 0.5
    assert float(deo.deo_a(answers.rates)) == 0.5
    assert float(deo.worst_group(answers.rates, answers.counts)) == 3 / 8
    assert float(deo.worst_cell(answers.rates)) == 1 / 4
    # Class 1 against the rest: FPR 0 in group 0 and 2/4 in group 1; class 0: 1/4 and 3/4. TPR gaps are 1/2, too.
    assert float(deo.equalized_odds(answers.rates, answers.counts)) == 0.5
    # Class 0 is predicted for 5 of 8 and for 5 of 8 images.
    assert float(deo.demographic_parity(answers.rates, answers.counts)) == 0.0


def test_the_majority_version_of_an_image_against_its_others() -> None:
    data = _paired(3, 8, 3)
    majority = torch.tensor([1, 2, 0])
    aligned = data.groups == majority[data.labels]
    first = (
        torch.arange(len(data)) // 3 % 8 < 2
    )  # two images of each class are known whatever the group
    got = by_name(
        subgroups.alignment_metrics(_right(data, aligned | first), majority, test="paired")
    )
    assert got["bias.aligned_accuracy"].value == 1
    assert got["bias.conflicting_accuracy"].value == pytest.approx(0.25)
    assert got["bias.conflict_gap"].value == pytest.approx(0.75)
    assert got["bias.conflict_gap"].n == 24
    assert got["bias.conflict_gap"].params == {"test": "paired"}


def test_a_majority_is_twice_the_next_group_or_half_of_the_class() -> None:
    def train(rows: list[list[int]]) -> ImageData:
        cells = [(k, g) for k, row in enumerate(rows) for g, n in enumerate(row) for _ in range(n)]
        labels, groups = torch.tensor(cells).T
        return grouped(labels, groups, len(rows), len(rows[0]))

    assert subgroups.majority_groups(train([[4, 2, 2, 2], [2, 2, 2, 4]])).tolist() == [0, 3]
    assert subgroups.majority_groups(train([[3, 2, 2, 2], [2, 2, 2, 4]])) is None
    assert subgroups.majority_groups(train([[5, 4], [4, 5]])).tolist() == [0, 1]


@pytest.mark.parametrize("test", ["standard", "paired"])
def test_a_planted_difference_in_confidence_is_read_and_none_is_at_its_floor(test) -> None:
    """Confidence 0.8 everywhere, right on 0.8 of each group; then 0.3 more confidence on group 1."""
    data = _paired(4, 100, 3)
    g = torch.Generator().manual_seed(0)
    hits = torch.rand(len(data), generator=g) < 0.8
    answers = _right(data, hits)
    n = len(data) // 3 if test == "paired" else len(data)
    over = (0.8 - hits.double())[None]

    def read(errors: torch.Tensor):
        return subgroups.calibration_gap(
            answers, errors, test=test, n_sim=400, generator=g, resamples=Resamples("x", n, 100)
        )

    fair, planted = read(over), read(over + 0.3 * (data.groups == 1).double())
    by_group = [float(over[0, data.groups == k].mean()) for k in range(3)]
    assert fair.value == pytest.approx(max(by_group) - min(by_group))
    # Range of three means of 400, standard deviation 0.02 each: 1.69 * 0.02 on average.
    assert fair.floor == pytest.approx(1.69 * 0.02, rel=0.25)
    assert fair.value < 2.5 * fair.floor
    assert planted.value == pytest.approx(0.3, abs=0.06)
    assert planted.low > 0.2


def test_group_accuracies_add_up() -> None:
    data = grid(3, 4, 5)
    answers = _right(data, torch.arange(len(data)) % 2 == 0)
    got = subgroups.group_metrics(answers)
    assert [m.params["group"] for m in got] == ["g0", "g1", "g2", "g3"]
    mean = sum(m.value for m in got) / 4
    assert mean == pytest.approx(float(answers.correct.mean()))


def test_aligned_images_are_those_of_the_training_majority() -> None:
    train = grouped(
        torch.tensor([0] * 10 + [1] * 10), torch.tensor([1] * 9 + [0] + [0] * 9 + [1]), 2, 2
    )
    majority = subgroups.majority_groups(train)
    assert majority.tolist() == [1, 0]
    test = grid(2, 2, 5)
    reader = gaps.Answers.of((1 - test.groups)[None], test)  # predicts the class by its group
    got = by_name(subgroups.alignment_metrics(reader, majority))
    assert (got["bias.aligned_accuracy"].value, got["bias.conflicting_accuracy"].value) == (1, 0)


def test_no_majority_no_alignment() -> None:
    assert subgroups.majority_groups(grid(3, 3, 4)) is None  # balanced
    one = grouped(torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64), 2, 1)
    assert subgroups.majority_groups(one) is None  # one group for all
    assert (
        subgroups.alignment_metrics(
            gaps.Answers.of(grid(2, 2, 2).labels[None], grid(2, 2, 2)), None
        )
        == []
    )
