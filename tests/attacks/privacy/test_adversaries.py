"""Scores from published images and networks, on sets whose leak is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ddaudit.attacks.privacy.adversaries import (
    score_final_set,
    score_nearest_copy,
    score_victims,
)
from ddaudit.attacks.privacy.canaries import Canaries, plant
from ddaudit.data import Dataset, ImageData
from ddaudit.models import Arch, Network, build
from ddaudit.sets import Card, DistilledSet
from ddaudit.stats import auc


@pytest.fixture(scope="module")
def networks(tiny: Dataset) -> list[Network]:
    arch = Arch.parse("ConvNetD2W32")
    return [
        build(arch, shape=tiny.shape, num_classes=4, seed=i, mean=tiny.mean, std=tiny.std).eval()
        for i in range(6)
    ]


@pytest.fixture(scope="module")
def canaries(tiny: Dataset) -> Canaries:
    g = torch.Generator().manual_seed(0)
    return plant(tiny.train, count=60, kinds=("mislabelled",), generator=g)


def _released(data: ImageData) -> DistilledSet:
    return DistilledSet(data.pixels(), data.labels, data.num_classes, Card())


def test_verbatim_release_is_seen_by_both_image_attacks(
    canaries: Canaries, networks: list[Network]
) -> None:
    released = _released(canaries.pool)
    found = score_final_set(released, canaries.records, canaries.base, networks=networks)
    assert auc(found, canaries.included).value > 0.95
    copies = score_nearest_copy(released, canaries.records, canaries.base)
    assert auc(copies, canaries.included).value == 1.0


def test_release_without_canaries_says_nothing(canaries: Canaries, networks: list[Network]) -> None:
    """60 canaries: sd of the AUC is 0.075."""
    released = _released(canaries.base)
    found = score_final_set(released, canaries.records, canaries.base, networks=networks)
    assert abs(auc(found, canaries.included).value - 0.5) < 4 * 0.075
    copies = score_nearest_copy(released, canaries.records, canaries.base)
    assert torch.equal(copies, torch.zeros(60))


def test_soft_labels_count_by_their_weight(canaries: Canaries, networks: list[Network]) -> None:
    hard = _released(canaries.pool)
    soft = DistilledSet(hard.images, F.one_hot(hard.labels, 4).float(), 4, Card())
    arguments = (canaries.records, canaries.base)
    a = score_final_set(hard, *arguments, networks=networks[:2])
    b = score_final_set(soft, *arguments, networks=networks[:2])
    torch.testing.assert_close(a, b)


def test_a_class_without_images_is_no_evidence(canaries: Canaries, networks: list[Network]) -> None:
    pool = canaries.pool
    released = _released(pool.subset(pool.labels != 2))
    found = score_final_set(released, canaries.records, canaries.base, networks=networks[:2])
    missing = canaries.records.labels == 2
    assert torch.isfinite(found).all()
    assert float(found[missing].std()) < 1e-3
    assert torch.isfinite(score_nearest_copy(released, canaries.records, canaries.base)).all()


def test_victim_score_is_the_logit_of_the_label_probability() -> None:
    g = torch.Generator().manual_seed(1)
    logits = [torch.randn(20, 5, generator=g) for _ in range(3)]
    labels = torch.randint(5, (20,), generator=g)
    p = [z.double().softmax(1).gather(1, labels[:, None]).squeeze(1) for z in logits]
    expected = torch.stack([torch.log(q / (1 - q)) for q in p]).mean(0)
    torch.testing.assert_close(
        score_victims(logits, labels).double(), expected, rtol=1e-5, atol=1e-5
    )


def test_victim_score_survives_certainty() -> None:
    logits = [torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])]
    assert score_victims(logits, torch.zeros(2, dtype=torch.int64)).tolist() == [1000.0, -1000.0]
