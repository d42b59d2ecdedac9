"""The dp-teacher recipe: only the teacher reads records, and the rest follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ddaudit.data import load_data
from ddaudit.defenses.privacy import teacher as module
from ddaudit.defenses.privacy.source import PrivateSource
from ddaudit.defenses.privacy.teacher import FromTeacher
from ddaudit.distillation import distill, distill_many, distill_sizes, resolve
from ddaudit.distillation.loops import Job
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Arch
from ddaudit.training import PROTOCOLS, predict, train_many

FAST = {
    "loop.steps": 30,
    "loop.iterations": 60,
    "networks.width": 8,
    "reader.batch": 60,
    "reader.delta": 1e-3,
    "reader.noise_seed": 1,
}


def recipe(**options):
    return resolve("dp-teacher", profile="small", options={**FAST, **options})


def made(data, *, ipc=3, seed=0, **options):
    return distill(recipe(**options), data.train, data=data, ipc=ipc, seed=seed)


@pytest.fixture
def teachers(monkeypatch):
    """The networks that were trained, in order."""
    kept = []
    honest = module.train_private

    def spy(*args, **kwargs):
        kept.append(honest(*args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(module, "train_private", spy)
    return kept


def test_the_set_is_what_the_card_says(tiny):
    found = made(tiny)
    assert found.images.shape == (12, 3, 8, 8)
    assert 0 <= float(found.images.min()) < float(found.images.max()) <= 1
    torch.testing.assert_close(found.labels.sum(1), torch.ones(12))
    claim = found.card.privacy
    assert claim is not None
    assert claim.epsilon <= 10.0
    assert [e.count for e in claim.ledger] == [30]
    assert claim.ledger[0].q == 60 / 240
    assert found.card.source_fingerprint is None
    assert any("baseline of ours" in d for d in found.card.deviations)
    assert any("loop.steps = 30 (source: 1000)" in d for d in found.card.deviations)


def test_hard_labels_are_the_classes_that_were_asked_for(tiny):
    hard, soft = made(tiny, **{"loop.labels": "hard"}), made(tiny)
    assert hard.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert torch.equal(hard.images, soft.images)


def test_the_teacher_sees_in_the_images_what_was_asked_for(tiny, teachers):
    """Far below the cross-entropy of the noise that the images started from."""
    found = made(tiny)
    y = torch.arange(4).repeat_interleave(3)
    noise = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)).tanh()
    with torch.no_grad():
        dreamt = teachers[0].body((found.images - 0.5) / 0.5)
        ours, theirs = F.cross_entropy(dreamt, y), F.cross_entropy(teachers[0].body(noise), y)
    assert float(ours) < 0.5 * float(theirs)
    assert bool((dreamt.argmax(1) == y).all())
    # soft labels are the teacher's own probabilities, flattened by the temperature
    torch.testing.assert_close(found.labels, (dreamt / 3.0).softmax(1), atol=1e-4, rtol=1e-3)


def test_nothing_but_the_releases_reaches_the_set(tiny, monkeypatch):
    """With every release replaced by the same noise, two different private sets give one and the same output."""

    def deaf(self, query_id, signals, rows):
        width = signals(torch.arange(2)).shape[1]
        g = torch.Generator().manual_seed(len(query_id))
        self.count += 1
        return torch.randn(1, 1, width, generator=g)

    monkeypatch.setattr(PrivateSource, "noisy_sum", deaf)
    other = replace(
        tiny,
        train=replace(tiny.train, images=255 - tiny.train.images, labels=tiny.train.labels.flip(0)),
    )
    first, second = made(tiny), made(other)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)


def test_records_reach_the_set_through_the_teacher_alone(tiny):
    """The control of the test above: undisturbed, other records give other labels."""
    other = replace(tiny, train=replace(tiny.train, labels=(tiny.train.labels + 1) % 4))
    assert not torch.allclose(made(tiny).labels, made(other).labels, atol=1e-2)


def test_one_teacher_serves_several_sizes(tiny, teachers):
    sets = distill_sizes(recipe(), tiny.train, [1, 4], data=tiny, seed=0)
    assert [len(s) for s in sets] == [4, 16]
    first, second = (torch.cat([p.flatten() for p in t.body.parameters()]) for t in teachers)
    assert torch.equal(first, second)
    claims = [s.card.privacy for s in sets]
    assert claims[0] == claims[1]
    assert [e.count for e in claims[0].ledger] == [30]


def test_shadows_have_teachers_of_their_own(tiny, teachers):
    members = torch.rand(2, 240, generator=torch.Generator().manual_seed(0)) < 0.5
    sets = distill_many(recipe(), tiny.train, members, data=tiny, ipc=1, seed=0)
    assert len(teachers) == len(sets) == 2
    assert not torch.equal(sets[0].images, sets[1].images)
    chosen = recipe()
    with pytest.raises(DDAuditError, match="one run at a time"):
        chosen.loop.run(chosen, Job(tiny.train, members, tiny, 1, 0, torch.device("cpu")))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("synthesis.init", "real", "starts from real images"),
        ("normalise", "data", "constants of the private data"),
        ("networks.arch", "ConvNetBN", "batch normalisation"),
        ("loop.labels", "both", "'soft' or 'hard'"),
        ("loop.steps", 0, "at least 1"),
        ("loop.momentum", 1.0, "momentum"),
        ("loop.average", 1.5, "average"),
        ("loop.temperature", 0.0, "positive"),
        ("loop.tv", -1.0, "negative"),
    ],
)
def test_what_breaks_the_claim_or_the_loop_is_refused(tiny, option, value, words):
    with pytest.raises(BadInput, match=words):
        made(tiny, **{option: value})


def test_it_trains_a_student_better_than_chance(tiny):
    """Four classes: a student of the dreamt images is right far more often than one in four."""
    found = made(tiny, ipc=10)
    protocol = replace(PROTOCOLS["quick"], epochs=60, epochs_plain=60).for_data("")
    (net,) = train_many(
        [(found.images, found.labels)], arch=Arch.parse("ConvNetD2W16"), num_classes=4,
        mean=tiny.mean, std=tiny.std, protocol=protocol, seeds=[0],
    )  # fmt: skip
    right = predict(net, tiny.test.images).argmax(1) == tiny.test.labels
    assert float(right.float().mean()) > 0.5


def test_loops_know_what_they_ask():
    loop = FromTeacher(steps=17)
    assert loop.queries(10) == 17
    assert loop.reusable(recipe(), 10)
    assert not loop.shareable(recipe(), 10)


@pytest.mark.slow
def test_digits_at_epsilon_10():
    """0.75 +- 0.04 over six networks on three teachers when this was written; a teacher reaches 0.95."""
    data = load_data("digits")
    options = {"reader.delta": 1e-4, "reader.noise_seed": 0}
    found = distill(
        resolve("dp-teacher", profile="small", options=options),
        data.train,
        data=data,
        ipc=10,
        seed=0,
    )
    (net,) = train_many(
        [(found.images, found.labels)], arch=Arch.parse("ConvNetD2W32"), num_classes=10,
        mean=data.mean, std=data.std, protocol=PROTOCOLS["quick"].for_data(data.augment), seeds=[0],
    )  # fmt: skip
    right = predict(net, data.test.images).argmax(1) == data.test.labels
    assert float(right.float().mean()) > 0.6
