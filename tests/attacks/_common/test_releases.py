"""Observing a private recipe changes nothing and sees exactly what its ledger lists."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.attacks._common.releases import Observed, Release
from ddaudit.attacks.privacy.adversaries import IntermediateEvidence
from ddaudit.attacks.privacy.canaries import Canaries, plant
from ddaudit.data import Dataset
from ddaudit.distillation import Recipe, distill, resolve
from ddaudit.sets import DistilledSet
from ddaudit.stats import auc


@pytest.fixture(scope="module")
def canaries(tiny: Dataset) -> Canaries:
    g = torch.Generator().manual_seed(0)
    return plant(tiny.train, count=60, kinds=("mislabelled",), generator=g)


def _recipe(name: str = "ndpdc", **options: object) -> Recipe:
    loop = {"loop.iterations": 30, "networks.width": 32, "reader.batch": 20}
    return resolve(name, profile="small", options={**loop, **options})


def _run(recipe: Recipe, canaries: Canaries, tiny: Dataset) -> DistilledSet:
    return distill(recipe, canaries.pool, data=tiny, ipc=2, seed=0)


def _observe(recipe: Recipe, observer) -> Recipe:  # type: ignore[no-untyped-def]
    assert recipe.reader is not None
    return replace(recipe, reader=Observed(recipe.reader, observer))


def test_observing_changes_nothing(canaries: Canaries, tiny: Dataset) -> None:
    recipe = _recipe(**{"reader.noise_seed": 5})
    observer = IntermediateEvidence(canaries.records, canaries.base, most=None)
    plain = _run(recipe, canaries, tiny)
    observed = _run(_observe(recipe, observer), canaries, tiny)
    torch.testing.assert_close(plain.images, observed.images)
    assert plain.card.privacy == observed.card.privacy


def test_every_query_in_the_ledger_is_seen_and_no_more(canaries: Canaries, tiny: Dataset) -> None:
    seen: list[Release] = []
    released = _run(_observe(_recipe(), seen.append), canaries, tiny)
    assert released.card.privacy is not None
    assert len(seen) == sum(e.count for e in released.card.privacy.ledger) == 30


@pytest.mark.parametrize("name", ["ndpdc", "psg"])
def test_signals_are_clipped_as_the_gate_clips(
    name: str, canaries: Canaries, tiny: Dataset
) -> None:
    seen: list[Release] = []

    def observer(release: Release) -> None:
        if len(seen) < 2:
            seen.append(release)
            norms.append(release.signals(canaries.records).norm(dim=1))

    norms: list[torch.Tensor] = []
    options = {"loop.iterations": 1, "loop.outer": 1, "loop.repeats": 2}
    recipe = _recipe(name, **options)
    _run(_observe(recipe, observer), canaries, tiny)
    clip = recipe.reader.clip  # type: ignore[union-attr]
    assert all(float(n.max()) <= clip * (1 + 1e-4) for n in norms)
    assert seen[0].rows(canaries.records).shape == (seen[0].values.shape[1], 60)


def test_noiseless_sums_give_the_coins_away_and_drowned_ones_do_not(
    canaries: Canaries, tiny: Dataset
) -> None:
    """The sd of the AUC of 60 canaries is 0.075; 4 are allowed."""
    found = {}
    for sigma in (0.02, 1000.0):
        observer = IntermediateEvidence(canaries.records, canaries.base, most=None)
        _run(
            _observe(_recipe(**{"reader.sigma": sigma, "reader.noise_seed": 1}), observer),
            canaries,
            tiny,
        )
        scores = observer.scores()
        assert scores is not None
        assert observer.used == 30
        found[sigma] = auc(scores, canaries.included).value
    assert found[0.02] > 0.8
    assert abs(found[1000.0] - 0.5) < 4 * 0.075


def test_most_limits_the_work(canaries: Canaries, tiny: Dataset) -> None:
    observer = IntermediateEvidence(canaries.records, canaries.base, most=4)
    assert observer.scores() is None
    _run(_observe(_recipe(), observer), canaries, tiny)
    assert (observer.used, observer.seen) == (4, 30)
