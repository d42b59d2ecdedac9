"""The ``backdoor`` auditor: a planted backdoor is found, a clean network shows none, a lost one reads zero."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
import torch

from ddaudit.attacks._common.trigger import SquareTrigger
from ddaudit.attacks.backdoor import known_answers
from ddaudit.attacks.backdoor.attempt import effect, variants_of
from ddaudit.attacks.backdoor.auditor import Backdoor
from ddaudit.attacks.backdoor.known_answers import controls, stamp_check
from ddaudit.attacks.backdoor.outcomes import Outcome, gain, outcome
from ddaudit.auditing import PRESETS, Context, Preset, Subject, recipe_subject
from ddaudit.distillation import resolve
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Finding
from ddaudit.models import Arch, build
from ddaudit.sets import Card, DistilledSet
from ddaudit.stats import Resamples
from ddaudit.stats.resampling import unpack
from ddaudit.training import PROTOCOLS

PRESET = Preset(name="test", seeds=1, victims=2, protocol="short", profile="small", test_limit=None)


@pytest.fixture(scope="module", autouse=True)
def short_protocol():
    """The quick protocol cut to a third, so that this file trains its dozen networks in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            PROTOCOLS, "short", replace(PROTOCOLS["quick"], name="short", epochs_plain=100)
        )
        yield


@pytest.fixture(scope="module")
def ctx(tiny) -> Context:
    return Context(data=tiny, preset=PRESET, arch=Arch.parse("ConvNetD2W8"), ipc=5)


def audit(ctx: Context, recipe: str, *ratios: float) -> Finding:
    auditor = Backdoor()
    subject = Subject(id=recipe, kind="recipe", recipe=resolve(recipe), identity=recipe)
    return auditor.run(subject, ctx, auditor.configure("quick", {"poison_ratios": ratios}), 0)


@pytest.fixture(scope="module")
def full(ctx) -> Finding:
    return audit(ctx, "full", 0.3)


def test_backdoor_in_the_full_training_set_is_found(full):
    """The known answer: without distillation, 30 % of stamped and relabelled images are a working backdoor."""
    assert full.metric("backdoor.cta").value > 0.9
    assert full.metric("backdoor.asr", variant="exclusive").value > 0.9
    assert full.metric("backdoor.asr_clean", variant="exclusive").value < 0.1
    assert full.metric("backdoor.asr_gain").value > 0.8
    assert (
        full.metric("backdoor.poisoned_released").value == 72
    )  # 30 % of 240, all released as they are


def test_metric_names_params_and_intervals(full):
    assert {m.name for m in full.metrics} == {
        "backdoor.cta", "backdoor.cta_clean", "backdoor.asr", "backdoor.asr_clean", "backdoor.asr_gain",
        "backdoor.poisoned_released", "backdoor.trigger_linf", "backdoor.trigger_l2", "backdoor.trigger_pixels",
    }  # fmt: skip
    assert {m.params["variant"] for m in full.metrics if m.name == "backdoor.asr"} == {
        "inclusive",
        "exclusive",
    }
    assert [(m.name, m.params["variant"]) for m in full.metrics if m.headline] == [
        ("backdoor.asr", "exclusive"),
        ("backdoor.asr_gain", "exclusive"),
    ]
    assert len({m.key for m in full.metrics}) == len(full.metrics)
    assert {m.params.get("attack", "naive") for m in full.metrics} == {"naive"}
    rates = [m for m in full.metrics if m.unit == "fraction" and "trigger" not in m.name]
    assert all(m.low <= m.value <= m.high and m.low < m.high for m in rates)
    assert (
        full.metric("backdoor.asr", variant="exclusive").n == 120
    )  # three of four classes of 160 images


def test_clean_perfect_classifier_has_the_known_inclusive_rate(full):
    # A classifier that ignores the trigger and is right everywhere hits exactly the share of the target class.
    clean = full.metric("backdoor.asr_clean", variant="inclusive")
    assert full.metric("backdoor.cta_clean").value == pytest.approx(1.0, abs=0.05)
    assert clean.value == pytest.approx(0.25, abs=0.05)


def test_picture_and_caveats_state_the_setting(full):
    assert base64.b64decode(full.images[0].png_base64).startswith(b"\x89PNG")
    text = " ".join(full.caveats)
    for part in (
        "naive (faithful",
        "72 records (0.3 of all",
        "target 'class 0'",
        "moves 1 pixels",
        "clamp",
    ):
        assert part in text


def test_larger_ratio_is_the_headline_and_both_are_reported(ctx):
    finding = audit(ctx, "random", 0.1, 0.01)
    asr = [
        m
        for m in finding.metrics
        if m.name == "backdoor.asr" and m.params["variant"] == "exclusive"
    ]
    assert [(m.params["ratio"], m.headline) for m in asr] == [(0.01, False), (0.1, True)]


@pytest.mark.parametrize("kind", ["file", "checkpoint"])
def test_finished_results_cannot_be_poisoned(ctx, tiny, kind):
    made = DistilledSet(tiny.train.pixels()[:4], tiny.train.labels[:4], 4, Card())
    net = build(ctx.arch, shape=tiny.shape, num_classes=4, seed=0, mean=tiny.mean, std=tiny.std)
    subject = Subject(
        id="x",
        kind=kind,
        set=made if kind == "file" else None,
        network=net if kind == "checkpoint" else None,
    )
    with pytest.raises(Unsupported, match=f"before distillation.*a {kind} is the finished result"):
        Backdoor().run(subject, ctx, Backdoor().configure("quick"), 0)


def test_target_class_must_exist(ctx):
    with pytest.raises(BadInput, match="class 7 does not exist"):
        Backdoor().checks(ctx, Backdoor().configure("quick", {"target": 7}))
    with pytest.raises(BadInput, match="ratio"):
        Backdoor().configure("quick", {"poison_ratios": []})


# ---- the instrument -------------------------------------------------------------------------------


def test_controls_pass_on_separable_images(ctx):
    assert [c.name for c in (*controls(ctx, 0), stamp_check()) if not c.passed] == []


def test_positive_control_goes_red_when_the_trigger_is_not_put_on_test_images(ctx, monkeypatch):
    real = known_answers.outcome

    def blind(ctx, victims, test, trigger, target):
        off = SquareTrigger(side=1, margin=1, value=0)
        return real(ctx, victims, test, off, target)

    monkeypatch.setattr(known_answers, "outcome", blind)
    monkeypatch.setattr(known_answers, "CONTROL_STEPS", 40)
    assert not controls(ctx, 0)[0].passed


def test_negative_control_goes_red_when_everything_is_classified_as_the_target(ctx, monkeypatch):
    def always(ctx, victims, test, trigger, target):
        hit = torch.ones(len(victims), len(test), dtype=torch.bool)
        return Outcome(hit, hit, test.labels != target)

    monkeypatch.setattr(known_answers, "outcome", always)
    monkeypatch.setattr(known_answers, "CONTROL_STEPS", 4)
    positive, negative = controls(ctx, 0)
    assert not negative.passed
    assert not positive.passed  # a universal patch is not a backdoor: the gain is zero


def test_stamp_check_goes_red_when_the_trigger_moves(monkeypatch):
    monkeypatch.setattr(
        SquareTrigger, "window", lambda self, h, w: (slice(h - 2, h), slice(w - 2, w))
    )
    assert not stamp_check().passed


def test_outcome_of_scripted_networks(ctx, tiny):
    """One network answers the target always, one never: known rates in both variants."""
    test = tiny.test
    scripted = Context(data=tiny, preset=PRESET, arch=ctx.arch)
    answers = {"always": 0, "never": 3}
    scripted.predict = lambda net, images: torch.eye(4)[torch.full((len(images),), answers[net])]  # type: ignore[method-assign]
    got = outcome(scripted, ["always", "never"], test, SquareTrigger(side=1), 0)  # type: ignore[list-item]
    assert got.hit.double().mean(1).tolist() == [1.0, 0.0]
    assert got.exclusive.shape == (2, 120)
    assert got.correct.double().mean(1).tolist() == [0.25, 0.25]


def test_gain_is_paired_and_keeps_width_when_all_agree():
    other = torch.ones(50, dtype=torch.bool)
    none, every = torch.zeros(2, 50, dtype=torch.bool), torch.ones(2, 50, dtype=torch.bool)
    clean, attacked = Outcome(every, none, other), Outcome(every, every, other)
    best = gain(attacked, clean)
    assert best.value == 1.0
    assert 0.85 < best.low < 1.0
    zero = gain(clean, clean)
    assert zero.value == 0.0
    assert zero.low < 0 < zero.high


def test_presets_share_the_published_ratio():
    for name in PRESETS:
        assert 0.01 in Backdoor().configure(name).poison_ratios


def test_headline_rates_can_be_paired_on_the_images_of_other_classes() -> None:
    g = torch.Generator().manual_seed(0)
    correct, clean, stamped = (
        torch.rand(3, 2, 300, generator=g) < torch.tensor([0.9, 0.2, 0.7])[:, None, None]
    )
    other = torch.arange(300) % 3 > 0
    outcomes = [Outcome(correct, hit, other) for hit in (stamped, clean)]
    shared = Resamples("images", 200)
    found = {m.name: m for m in effect(*outcomes, {"ratio": 0.1}, shared) if m.headline}
    rate, gain = found["backdoor.asr"], found["backdoor.asr_gain"]
    assert rate.resampled is not None
    assert gain.resampled is not None
    assert sum(gain.resampled.networks) / 2 == pytest.approx(gain.value)
    base = shared.means(clean[:, other])  # on the same resamples, replicate by replicate
    gained = unpack(rate.resampled.replicates) - base
    assert torch.allclose(unpack(gain.resampled.replicates), gained, atol=1e-6)
    assert not any(m.headline or m.resampled for m in effect(*outcomes, {"ratio": 0.1}, None))


# ---- several attacks ------------------------------------------------------------------------------


def test_attacks_stand_beside_each_other_and_a_refusal_is_said(ctx):
    auditor = Backdoor()
    subject = recipe_subject(resolve("random"))
    settings = auditor.configure(
        "quick",
        {
            "attacks": ("naive", "doorping", "simple-trigger"),
            "poison_ratios": (0.1,),
            "options": ("simple-trigger.ratio=0.3", "simple-trigger.opacity=1"),
            "full_victims": 1,
        },
    )
    assert auditor.work(subject, ctx, settings).distillations == 3
    found = auditor.run(subject, ctx, settings, 0)
    assert {m.params["attack"] for m in found.metrics if m.name == "backdoor.asr"} == {
        "naive",
        "simple-trigger",
    }
    assert any(
        "doorping was not carried out" in c and "random asks none" in c for c in found.caveats
    )
    assert [i.name for i in found.images] == ["trigger of naive", "trigger of simple-trigger"]
    # A white image in every place of the picture: a network of the poisoned records must have learned it.
    assert (
        found.metric("backdoor.asr_full", attack="simple-trigger", variant="exclusive").value > 0.9
    )
    assert found.metric("backdoor.cta_full", attack="simple-trigger").value > 0.9
    assert found.metric("backdoor.trigger_pixels", attack="simple-trigger").value > 60
    with pytest.raises(BadInput, match="unknown injection"):
        auditor.run(subject, ctx, auditor.configure("quick", {"attacks": ("doorpin",)}), 0)
    with pytest.raises(BadInput, match=r"ATTACK.KEY=VALUE of a chosen attack"):
        auditor.run(subject, ctx, auditor.configure("quick", {"options": ("doorping.alpha=3",)}), 0)


def test_a_file_can_be_poisoned_on_its_way(ctx, tiny):
    index = torch.cat([(tiny.train.labels == c).nonzero()[:5, 0] for c in range(4)])
    made = DistilledSet(tiny.train.pixels(index), tiny.train.labels[index], 4, Card())
    subject = Subject(id="x", kind="file", set=made, identity="x")
    auditor = Backdoor()
    quick = tuple(
        f"poisoned-distillation.{k}={v}"
        for k, v in {"steps": 2, "paths": 1, "path_steps": 2, "kept": 2, "invert_steps": 1}.items()
    )
    settings = auditor.configure(
        "quick", {"attacks": ("naive", "poisoned-distillation"), "options": quick}
    )
    found = auditor.run(subject, ctx, settings, 0)
    assert "ratio" not in found.metric("backdoor.asr", attack="poisoned-distillation").params
    assert any("naive was not carried out" in c for c in found.caveats)


def test_hits_are_counted_on_the_trigger_s_own_class_too(ctx, tiny):
    scripted = Context(data=tiny, preset=PRESET, arch=ctx.arch)
    # Calls images of class 2 the target, whatever they carry.
    scripted.predict = lambda net, images: torch.eye(4)[  # type: ignore[method-assign]
        torch.where(tiny.test.labels == 2, 0, 1)
    ]
    got = outcome(scripted, ["net"], tiny.test, SquareTrigger(side=1), 0, source_class=2)  # type: ignore[list-item]
    rates = {k: float(v.double().mean()) for k, v in variants_of(got).items()}
    assert rates == {"inclusive": 0.25, "exclusive": pytest.approx(1 / 3), "source": 1.0}
    # The gain, and the headline with it, is read where the trigger is meant to work.
    clean = replace(got, hit=torch.zeros_like(got.hit))
    assert gain(got, clean).value == 1.0
    shared = Resamples("records", int(got.meant.sum()))
    led = {m.name: m.params["variant"] for m in effect(got, clean, {}, shared) if m.headline}
    assert led == {"backdoor.asr": "source", "backdoor.asr_gain": "source"}
