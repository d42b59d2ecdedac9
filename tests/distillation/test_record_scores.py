"""What training says of single records: the authors' counts, closed forms, planted records, and who shares it."""

import math
from dataclasses import replace

import pytest
import torch

from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.curriculum import el2n
from ddaudit.distillation.record_scores import (
    Study,
    early_errors,
    forgetting_counts,
    forgotten,
)
from ddaudit.distillation.selection import highest, k_means

SMALL = {"loop.arch": "ConvNetD2W8", "loop.feature_epochs": 1, "loop.score_epochs": 2}


class Counting:
    """A store in memory that counts what is put into it."""

    def __init__(self):
        self.held = {}

    def get(self, key):
        return self.held.get(key)

    def put(self, key, tensors):
        assert key not in self.held
        self.held[key] = {n: t.clone() for n, t in tensors.items()}


def study(data, train=None, *, seed=0, store=None):
    return Study(train or data.train, data, "ConvNetD2W8", seed, torch.device("cpu"), store)


def test_forgetting_counts_are_the_authors():
    """compute_forgetting_statistics and sort_examples_by_forgetting of mtoneva/example_forgetting,
    order_examples_by_forgetting.py at d51c1aa, on the same table; record 3 is never learned, record 5 never
    forgotten."""
    right = torch.tensor(
        [
            [1, 0, 1, 0, 0, 1, 0],
            [0, 1, 0, 0, 1, 1, 1],
            [0, 0, 1, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 1, 1],
            [0, 0, 1, 0, 1, 1, 0],
            [1, 0, 0, 0, 0, 1, 1],
        ]
    ).bool()
    assert forgotten(right).tolist() == [2, 2, 3, 6, 2, 0, 2]


def test_error_norms_against_closed_forms():
    logits = torch.tensor([[50.0, 0, 0, 0], [0, 50.0, 0, 0], [0, 0, 0, 0], [math.log(3), 0, 0, 0]])
    got = el2n(logits[None], torch.tensor([0, 0, 1, 0]))
    # Sure and right; sure and wrong; no idea among four; probabilities 1/2 and three sixths.
    wanted = [0.0, math.sqrt(2), math.sqrt(3) / 2, math.sqrt(1 / 4 + 3 / 36)]
    assert got.tolist() == pytest.approx(wanted, abs=1e-6)


def test_mislabelled_records_are_the_hardest(tiny):
    labels = tiny.train.labels.clone()
    wrong = [5, 50, 111, 200]
    labels[wrong] = (labels[wrong] + 1) % 4
    planted = replace(tiny.train, labels=labels)
    errors = early_errors(study(tiny, planted), epochs=8, networks=2)
    assert set(errors.topk(4).indices.tolist()) == set(wrong)
    counts = forgetting_counts(study(tiny, planted), epochs=8)
    assert set(counts.topk(4).indices.tolist()) == set(wrong)
    for name in ("el2n", "forgetting"):
        options = {**SMALL, "loop.keep": "hard", "loop.score_epochs": 8}
        recipe = resolve(name, profile="small", options=options)
        made = distill(recipe, planted, data=tiny, ipc=1, seed=0)
        assert set(made.card.member_indices) == set(wrong)
        easy = resolve(name, profile="small", options={**options, "loop.keep": "easy"})
        kept = distill(easy, planted, data=tiny, ipc=20, seed=0).card.member_indices
        assert not set(kept) & set(wrong)


def test_k_means_takes_a_record_of_every_cluster_once():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    z = centres.repeat(20, 1) + 0.3 * noise
    z[:3] = centres  # the middles themselves stand there, nearly where the clusters' means are
    chosen = k_means(z, 3, torch.Generator().manual_seed(0))
    assert sorted((chosen % 3).tolist()) == [0, 1, 2]
    for i in chosen.tolist():
        mean = z[i % 3 :: 3].mean(0)
        assert int((z - mean).norm(dim=1).argmin()) == i
    same = torch.zeros(5, 2)
    assert sorted(k_means(same, 5, torch.Generator()).tolist()) == [0, 1, 2, 3, 4]
    assert len(k_means(z[:4], 10, torch.Generator())) == 10


def test_ties_are_broken_at_random_and_scores_decide_the_rest():
    scores = torch.tensor([[1.0], [0.0], [1.0], [3.0], [0.0], [1.0]])
    draws = {
        tuple(highest(scores, 2, torch.Generator().manual_seed(s)).tolist()) for s in range(40)
    }
    assert draws == {(3, 0), (3, 2), (3, 5)}
    assert len(highest(scores, 8, torch.Generator())) == 8


def test_methods_and_sizes_of_a_seed_share_one_network(tiny):
    store = Counting()
    alone = {}
    for name in ("herding", "k-center", "k-means"):
        recipe = resolve(name, profile="small", options=SMALL)
        for ipc in (1, 3):
            made = distill(recipe, tiny.train, data=tiny, ipc=ipc, seed=4, store=store)
            alone[name, ipc] = distill(recipe, tiny.train, data=tiny, ipc=ipc, seed=4)
            assert made.card.member_indices == alone[name, ipc].card.member_indices
    assert len(store.held) == 1
    distill(resolve("herding", options=SMALL), tiny.train, data=tiny, ipc=1, seed=5, store=store)
    assert len(store.held) == 2
    for name in ("el2n", "forgetting"):
        for ipc in (1, 3):
            recipe = resolve(name, profile="small", options=SMALL)
            distill(recipe, tiny.train, data=tiny, ipc=ipc, seed=4, store=store)
    assert len(store.held) == 4


@pytest.mark.parametrize("name", ["k-means", "forgetting", "el2n"])
def test_scores_are_those_of_the_records_that_may_be_seen(tiny, name):
    members = torch.zeros(2, len(tiny.train), dtype=torch.bool)
    members[0, :120], members[1, 120:] = True, True
    store, recipe = Counting(), resolve(name, profile="small", options=SMALL)
    sets = distill_many(recipe, tiny.train, members, data=tiny, ipc=2, seed=0, store=store)
    for row, made in zip(members, sets, strict=True):
        assert bool(row[torch.tensor(made.card.member_indices)].all())
    assert len(store.held) == 2


def test_steps_of_the_embedding_end_where_they_are_said_to(tiny, monkeypatch):
    """Large data: 5 epochs of 60 000 records were 500 steps, and more epochs changed nothing."""
    asked = []

    def train(self, protocol, seeds):
        asked.append(protocol.schedule(60_000).steps)
        return [self.network()]

    monkeypatch.setattr(Study, "trained", train)
    for options, steps in (({}, 500), ({"feature_steps": "none"}, 6 * 235)):
        recipe = resolve("herding", options={f"loop.{k}": v for k, v in options.items()})
        distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
        assert asked.pop() == steps
    assert any("500 steps" in text for text in resolve("herding").deviations)
