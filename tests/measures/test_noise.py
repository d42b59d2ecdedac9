"""The noise auditor: victims that repeat, ignore or follow mistakes, early stopping, crossing, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS, Context
from ddaudit.data import load_data
from ddaudit.data.noise import TRUE_TRAIN, TRUE_VALIDATION, noisy_dataset
from ddaudit.errors import Unsupported
from ddaudit.measures import early, noise
from ddaudit.measures.early import early_stopped
from ddaudit.measures.noise import Noise, NoiseSettings, WrongLabels, chance_of_repeating
from ddaudit.models import Arch

SETTINGS = NoiseSettings(records=500, rates=())


@pytest.fixture(scope="module")
def noisy(tiny):
    """The tiny data with three of ten training labels wrong."""
    return noisy_dataset(tiny, rate=0.3, kind="pair", seed=0, where="tiny")


def _by_image(splits, labels):
    """A victim that gives each known image this label, and class 0 else."""
    table = {
        image.numpy().tobytes(): int(label)
        for split, chosen in zip(splits, labels, strict=True)
        for image, label in zip(split.images, chosen, strict=True)
    }
    return lambda images: torch.nn.functional.one_hot(
        torch.tensor([table.get(i.numpy().tobytes(), 0) for i in images]), 4
    ).float()


@pytest.fixture
def without_training(monkeypatch):
    """Full training that is right on every other test image."""

    def half(self, ctx, noisy, seed):
        return (torch.arange(len(ctx.test())) % 2).double().expand(2, -1)

    monkeypatch.setattr(Noise, "_full", half)


def test_what_victims_repeat_and_correct(noisy, known, subject, without_training) -> None:
    train, test = noisy.train, noisy.test
    true = noisy.extra[TRUE_TRAIN].labels
    wrong = true != train.labels
    for victim, memorised, corrected, floor in (
        (_by_image([train, test], [train.labels, test.labels]), 1, 0, 0),
        (_by_image([train, test], [true, test.labels]), 0, 1, 0),
        # Every image gets the next class: the rule of the mistakes, and no memory of any.
        (_by_image([train, test], [(true + 1) % 4, test.labels]), 1, 0, 1),
    ):
        finding = Noise().run(subject, known(noisy, [victim, victim]), SETTINGS, 0)
        got = finding.metric("noise.memorised")
        assert (got.value, got.floor, got.n) == (memorised, floor, int(wrong.sum()))
        assert finding.metric("noise.corrected").value == corrected
        assert finding.metric("noise.rate").value == pytest.approx(float(wrong.double().mean()))
        gain = finding.metric("noise.gain")
        assert gain.value == pytest.approx(0.5)
        assert gain.low < 0.5 < gain.high
        assert [m.name for m in finding.metrics if m.headline] == ["noise.memorised", "noise.gain"]


def test_the_chance_of_repeating_is_read_from_a_table() -> None:
    """Class 0 is called 1 once in four, class 1 is called 2 twice in two."""
    said = torch.tensor([[0, 0, 0, 1, 2, 2]])
    true = torch.tensor([0, 0, 0, 0, 1, 1])
    of, wrong = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 2, 0])
    assert chance_of_repeating(said, true, of, wrong) == pytest.approx((0.25 + 0 + 1 + 0) / 4)


def test_noise_is_drawn_again_at_another_rate_to_the_same_classes() -> None:
    g = torch.Generator().manual_seed(0)
    true = torch.arange(8000) % 4
    given = torch.where((true < 2) & (torch.rand(8000, generator=g) < 0.2), 3 - true, true)
    drawn = WrongLabels.of(true, given, 4).again(true, 0.3, g)
    assert float((drawn != true).double().mean()) == pytest.approx(0.3, abs=5 * 0.005)
    assert set(zip(true[drawn != true].tolist(), drawn[drawn != true].tolist(), strict=True)) == {
        (0, 3), (1, 2),
    }  # fmt: skip
    assert torch.equal(WrongLabels.of(true, given, 4).again(true, 0.0, g), true)


def test_data_without_known_noise_are_refused(tiny, noisy, known, subject) -> None:
    with pytest.raises(Unsupported, match="nobody knows"):
        Noise().run(subject, known(tiny, []), SETTINGS, 0)
    clean = replace(noisy, train=noisy.extra[TRUE_TRAIN])
    with pytest.raises(Unsupported, match="no training label is wrong"):
        Noise().run(subject, known(clean, []), SETTINGS, 0)
    fewer = replace(noisy, train=noisy.train.subset(torch.arange(50)))
    with pytest.raises(Unsupported, match="of other records"):
        Noise().run(subject, known(fewer, []), SETTINGS, 0)


def test_noisy_data_keep_their_true_labels_beside_what_the_base_keeps() -> None:
    data, base = load_data("noisy:base=digits-colored"), load_data("digits-colored")
    assert torch.equal(data.extra[TRUE_TRAIN].labels, base.train.labels)
    assert torch.equal(data.extra[TRUE_VALIDATION].labels, base.validation.labels)
    assert data.extra["test_paired"].fingerprint == base.extra["test_paired"].fingerprint


@pytest.fixture
def small(audit, noisy):
    preset = audit.preset.model_copy(update={"victims": 1})
    return replace(
        audit, data=noisy, preset=preset, arch=Arch.parse("ConvNetD1W8"), _victims={}, _sets={}
    )


def test_early_stopping_keeps_the_best_pass(small, monkeypatch) -> None:
    """Three passes, of which the second is right on the most held-out records; the others' parameters are lost."""
    target = small.random_network("target")

    def train_many(sets, *, after_pass, **_):
        for k in range(3):
            source = target if k == 1 else small.random_network("pass", k)
            after_pass(0, 60 * k, dict(source.body.named_parameters()))

    held = small.data.validation
    held = replace(held, labels=small.predict(target, held.images).argmax(1))
    monkeypatch.setattr(early, "train_many", train_many)
    (kept,) = early_stopped(small, small.data.train, held, 0)
    assert torch.equal(small.predict(kept, held.images), small.predict(target, held.images))
    with pytest.raises(Unsupported, match="no validation records"):
        early_stopped(small, small.data.train, held.subset(torch.arange(0)), 0)


def test_end_to_end_with_other_rates(small, random_subset) -> None:
    auditor = AUDITORS.get("noise")
    settings = auditor.configure("quick", {"rates": (0.6,)})
    finding = auditor.run(random_subset, small, settings, 0)
    assert finding.status == "ok"
    assert finding.metric("noise.full_accuracy").value > 0.5
    (own, full) = finding.curves
    assert own.x == full.x == pytest.approx([finding.metric("noise.rate").value, 0.6], abs=0.05)
    assert own.x[1] != 0.6, "what the labels are, not what was asked for"
    crossing = [m for m in finding.metrics if m.name == "noise.crossing"]
    assert crossing or any("No crossing" in c for c in finding.caveats)
    assert auditor.work(random_subset, small, settings).distillations == 1
    for m in finding.metrics:
        if m.low is not None:
            assert m.low <= m.value <= m.high


def test_a_rate_that_no_set_can_be_made_at_costs_no_other_number(
    small, random_subset, monkeypatch
) -> None:
    honest = Context.answers

    def answers(ctx, subject, seed, **how):
        if ctx is not small:
            raise Unsupported("diverged")
        return honest(ctx, subject, seed, **how)

    monkeypatch.setattr(Context, "answers", answers)
    auditor = AUDITORS.get("noise")
    settings = auditor.configure("quick", {"rates": (0.6,)})
    finding = auditor.run(random_subset, small, settings, 0)
    assert finding.status == "partial"
    assert "of the labels wrong: diverged" in finding.reason
    assert finding.metric("noise.memorised").value is not None
    assert any("No crossing" in c for c in finding.caveats)


@pytest.mark.parametrize(
    ("ahead", "at"), [([-0.2, -0.1, 0.1], 0.3), ([0.1, 0.2, 0.3], None), ([-0.1, -0.1, -0.1], None)]
)
def test_the_crossing_lies_where_lines_between_rates_change_sign(ahead, at) -> None:
    line = torch.tensor(ahead)
    got = noise._crossing([0.0, 0.2, 0.4], line, line[:, None].expand(-1, 20).double(), 10)
    assert (got is None) == (at is None)
    if got is not None:
        assert got.value == pytest.approx(at)


def test_checks_pass_and_can_fail(audit, monkeypatch) -> None:
    assert all(c.passed for c in Noise().checks(audit, SETTINGS))
    honest = noise.chance_of_repeating
    monkeypatch.setattr(noise, "chance_of_repeating", lambda *a: honest(*a) / 2 + 0.1)
    monkeypatch.setattr(noise, "_crossing", lambda *a: None)
    monkeypatch.setattr(WrongLabels, "again", lambda self, true, rate, g: self.given)
    assert not any(c.passed for c in Noise().checks(audit, SETTINGS))
