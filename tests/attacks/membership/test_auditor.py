"""The membership auditor end to end, with victims whose memory is known.

Victims here are made, not trained: ``Memory`` is certain of images it was given, ``Blind`` looks at
nothing but a fixed noise. So every reading has a known answer, and a run takes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddaudit.attacks.membership.attacks import out_references
from ddaudit.attacks.membership.auditor import GAME, Membership
from ddaudit.attacks.membership.settings import ATTACKS, FILE_ATTACKS, MembershipSettings
from ddaudit.attacks.membership.shadows import Trial, draw_halves, run_shadows
from ddaudit.auditing import AUDITORS, PRESETS, Context, Subject
from ddaudit.data import Dataset
from ddaudit.distillation import resolve
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Finding
from ddaudit.models import Arch
from ddaudit.sets import Card, DistilledSet, PrivacyClaim

ARCH = Arch.parse("ConvNetD2W32")


class Victim(nn.Module):
    """Base margin per image (its content hashed to noise), plus what the victim knows."""

    def __init__(self, given: Tensor | None, classes: int, seed: int) -> None:
        super().__init__()
        self.given, self.classes, self.seed = given, classes, seed

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.flatten(1).double()
        g = torch.Generator().manual_seed(self.seed)
        probe = torch.randn(flat.shape[1], generator=g, dtype=torch.float64)
        logits = torch.zeros(len(flat), self.classes, dtype=torch.float64)
        logits[:, 0] = (flat @ probe).sin() * 2
        if self.given is not None:
            near = torch.cdist(flat, self.given.flatten(1).double()).amin(1) < 1e-3
            logits = logits + 6.0 * near[:, None] * torch.arange(self.classes)
        return logits


@dataclass(eq=False)
class Made(Context):
    """A context whose victims are made: they remember their set, or do not look at it."""

    remember: bool = True

    def train(
        self, sets: Sequence[DistilledSet], *, seeds: Sequence[int], **_: object
    ) -> list[Any]:
        return [
            Victim(s.images if self.remember else None, self.data.num_classes, seed + 31 * i)
            for i, (s, seed) in enumerate(zip(sets, seeds, strict=True))
        ]

    def predict(self, network: Any, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        return network(pixels)


def top_class_only(data: Dataset) -> Dataset:
    """All labels the last class, so that Memory's certainty is certainty of the right answer."""

    def relabel(split: Any) -> Any:
        return replace(split, labels=torch.full_like(split.labels, data.num_classes - 1))

    return replace(data, train=relabel(data.train), validation=relabel(data.validation),
                   test=relabel(data.test))  # fmt: skip


def audit(
    data: Dataset, recipe: str, *, remember: bool, seed: int = 0, shadows: int = 6, **settings: Any
) -> Finding:
    """An audit without controls, unless asked for: those train networks (see test_control)."""
    ctx = Made(data=data, preset=PRESETS["quick"], arch=ARCH, ipc=2, remember=remember)
    subject = Subject(id=recipe, kind="recipe", recipe=resolve(recipe), identity=recipe)
    chosen = MembershipSettings(
        **{"shadows": shadows, "pool": 240, "victims_per_shadow": 1, "population": 200, "random_networks": 1,
           "control_runs": 0, **settings}
    )  # fmt: skip
    return Membership().run(subject, ctx, chosen, seed)


def test_it_is_registered_with_presets() -> None:
    got = AUDITORS.get("membership")
    assert isinstance(got, Membership)
    assert got.configure("quick").shadows == 8
    with pytest.raises(BadInput, match="shadows"):
        got.configure("quick", {"shadows": 1})


def test_victims_that_remember_everything_are_found_out(tiny: Dataset) -> None:
    found = audit(top_class_only(tiny), "full", remember=True)
    for attack in ("lira", "lira-offline", "rmia", "nearest"):
        assert found.metric("membership.auc", attack=attack).value == pytest.approx(1.0, abs=0.02)
    headline = found.metric("membership.tpr_at_fpr", attack="lira", fpr=0.01)
    assert headline.value is not None
    assert headline.value > 0.95
    assert headline.headline
    assert headline.floor == pytest.approx(0.01, abs=0.0015)  # (7 + 1) / (about 720 + 1)


def test_victims_that_know_nothing_read_one_half(tiny: Dataset) -> None:
    """12 audits of blind victims: 95 % intervals; more than 3 misses happen once in 500."""
    missed = 0
    for seed in range(12):
        found = audit(tiny, "random", remember=False, seed=seed)
        lira = found.metric("membership.auc", attack="lira")
        assert lira.low is not None
        assert lira.high is not None
        missed += not lira.low <= 0.5 <= lira.high
    assert missed <= 3


def test_released_records_are_a_group_of_their_own(tiny: Dataset) -> None:
    found = audit(tiny, "random", remember=False)
    released = found.metric("membership.auc", attack="nearest", group="released")
    rest = found.metric("membership.auc", attack="nearest", group="other")
    assert released.value == 1.0
    assert rest.low is not None
    assert rest.high is not None
    assert rest.low < 0.5 < rest.high
    # 8 of about 120 members a run are released: that share is exposed at 1 % FPR
    copies = found.metric("membership.tpr_at_fpr", attack="nearest", fpr=0.01)
    assert copies.value == pytest.approx(8 / 120 + 0.01, abs=0.03)
    assert copies.headline


def test_what_cannot_be_resolved_is_said(tiny: Dataset) -> None:
    found = audit(tiny, "full", remember=False, shadows=3)
    rare = found.metric("membership.tpr_at_fpr", attack="lira", fpr=0.001)
    assert rare.value is None
    assert any("1000 non-members" in c for c in found.caveats)
    rest = found.metric("membership.auc", attack="lira", group="other")
    assert rest.value is None
    assert any("group 'other'" in c for c in found.caveats)
    assert any("under one threshold" in c for c in found.caveats)


def test_curves_are_drawable_on_log_axes(tiny: Dataset) -> None:
    found = audit(tiny, "random", remember=False)
    assert [c.label for c in found.curves] == [
        "lira", "lira-offline", "rmia", "loss", "class-mean", "nearest",
    ]  # fmt: skip
    for curve in found.curves:
        assert curve.log_x
        assert curve.log_y
        assert curve.diagonal
        assert min(curve.x) > 0
        assert min(curve.y) > 0
        assert (curve.x[-1], curve.y[-1]) == (1.0, 1.0)
    Finding.model_validate_json(found.model_dump_json())


def test_a_run_repeats_exactly(tiny: Dataset) -> None:
    first, second = (audit(tiny, "random", remember=True) for _ in range(2))
    assert first.metrics == second.metrics


def test_a_false_privacy_claim_is_falsified(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full release under a claim of epsilon 0.5; then the same claim on sets that leak nothing."""
    claim = PrivacyClaim(epsilon=0.5, delta=1e-5)
    honest = Made.redistill_many

    def claiming(self: Made, *args: Any) -> list[DistilledSet]:
        sets = honest(self, *args)
        return [replace(s, card=s.card.model_copy(update={"privacy": claim})) for s in sets]

    def empty(self: Made, *args: Any) -> list[DistilledSet]:
        g = torch.Generator().manual_seed(0)
        noise = torch.rand(8, 3, 8, 8, generator=g)
        labels = torch.arange(8) % 4
        return [DistilledSet(noise, labels, 4, Card(privacy=claim)) for _ in range(6)]

    monkeypatch.setattr(Made, "redistill_many", claiming)
    _, broken = audit(tiny, "full", remember=True).checks
    assert not broken.passed
    assert broken.subject == "full"
    monkeypatch.setattr(Made, "redistill_many", empty)
    found = audit(tiny, "full", remember=False)
    assert found.checks[1].passed
    assert any(c.label.startswith("ceiling") for c in found.curves)


# ---- every attack is wired
# -----------------------------------------------------------------------


def test_every_attack_is_reachable_from_a_preset() -> None:
    for preset in ("standard", "full"):
        settings = Membership().configure(preset)
        assert settings.attacks == ATTACKS
        assert settings.file_attacks == FILE_ATTACKS
    # what a configuration file of the command line holds: plain lists of names
    chosen = Membership().configure("quick", {"attacks": ["entropy"], "file_attacks": ["domias"]})
    assert chosen.attacks == ("entropy",)
    with pytest.raises(BadInput, match="attacks"):
        Membership().configure("quick", {"attacks": ["telepathy"]})


def test_every_attack_on_a_recipe_runs_and_those_that_should_find_everything(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Victims that remember all of their members; LiRA's own spread is switched on at 5 shadows."""
    from ddaudit.attacks.membership import attacks

    monkeypatch.setattr(attacks, "OWN_SPREAD", 5)
    found = audit(
        top_class_only(tiny), "full", remember=True, shadows=5, attacks=ATTACKS, noise_draws=1
    )
    read = {
        m.params["attack"]: m.value
        for m in found.metrics
        if m.name == "membership.auc" and "group" not in m.params
    }
    assert tuple(read) == ATTACKS
    blind = {"class-mean", "domias", "label-only", "label-only-shifts"}
    assert all(v is not None and v > 0.9 for name, v in read.items() if name not in blind), read
    # a made victim recognises only the untouched record: one answer in four, or in nine, helps
    assert all((read[name] or 0) > 0.6 for name in ("label-only", "label-only-shifts")), read


def test_a_shared_spread_is_not_reported_twice(tiny: Dataset) -> None:
    """Below 64 shadows LiRA is the fixed-variance attack."""
    found = audit(tiny, "random", remember=False, attacks=("lira", "lira-fixed"))
    assert {m.params["attack"] for m in found.metrics if "attack" in m.params} == {
        "lira",
        "nearest",
    }
    assert any("one spread for all records" in c for c in found.caveats)


def test_offline_references_never_saw_the_record() -> None:
    p = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.8, 0.5], [0.4, 0.6, 0.5], [0.8, 0.4, 0.7]])
    members = torch.tensor(
        [[True, False, True], [False, True, True], [False, False, True], [False, True, True]]
    )
    two = out_references(p.log(), members, 2).exp()
    # record 0: runs 1 and 2; record 1: runs 0 and 2; record 2 was in all: all four
    assert two.tolist() == pytest.approx([0.3, 0.75, 0.55])
    one = out_references(p.log(), members, 1).exp()
    assert one.tolist() == pytest.approx([0.2, 0.9, 0.55])


# ---- files and checkpoints
# -------------------------------------------------------------------------


def _file(tiny: Dataset, **card: Any) -> Subject:
    images = tiny.train.pixels(torch.arange(8))
    made = DistilledSet(images, tiny.train.labels[:8], 4, Card(**card))
    return Subject(id="file", kind="file", set=made, identity="file")


def _settings(**changes: Any) -> MembershipSettings:
    return MembershipSettings(pool=240, population=200, random_networks=1, noise_draws=1, **changes)


def test_a_file_is_attacked_without_its_recipe(tiny: Dataset) -> None:
    ctx = Made(data=top_class_only(tiny), preset=PRESETS["quick"], arch=ARCH, ipc=2)
    found = Membership().run(_file(tiny), ctx, _settings(), 0)
    assert found.status == "partial"
    assert "re-distillation" in (found.reason or "")
    attacks = {m.params["attack"] for m in found.metrics}
    assert attacks == {
        "class-mean", "nearest", "domias", "loss", "modified-entropy", "quantile", "label-only",
    }  # fmt: skip
    assert "label-only-shifts" not in attacks
    for attack in ("nearest", "loss"):
        exposed = found.metric("membership.auc", attack=attack, group="released").value
        assert exposed is not None
        assert exposed > 0.95
    assert any("does not say which data" in c for c in found.caveats)
    assert any("distribution shift" in c for c in found.caveats)


def test_a_file_stands_beside_random_records_in_its_own_game(tiny: Dataset) -> None:
    """A file that is such records itself reads as they do; rows of recipes are of another game."""
    ctx = Made(data=tiny, preset=PRESETS["quick"], arch=ARCH, ipc=2)
    found = Membership().run(_file(tiny), ctx, _settings(), 0)
    control = {"control": "random", "ipc": 2, "attack": "nearest"}
    theirs, own = (
        found.metric("membership.control_auc", **control),
        found.metric("membership.auc", attack="nearest"),
    )
    assert theirs.value == pytest.approx(own.value, abs=0.03)
    assert {m.game for m in found.metrics} == {GAME}
    assert any("Random records of the same number (IPC 2)" in c for c in found.caveats)
    without = Membership().run(_file(tiny), ctx, _settings(control_runs=0), 0)
    assert not any("control" in m.params for m in without.metrics)


def test_every_attack_on_files_and_checkpoints_runs(tiny: Dataset) -> None:
    ctx = Made(data=top_class_only(tiny), preset=PRESETS["quick"], arch=ARCH, ipc=2)
    settings = _settings(file_attacks=FILE_ATTACKS, rmia_references=2)
    found = Membership().run(_file(tiny), ctx, settings, 0)
    assert tuple(dict.fromkeys(m.params["attack"] for m in found.metrics)) == FILE_ATTACKS
    # the eight released records are certain to a victim that remembers them, and to no reference
    for attack in ("rmia-offline", "confidence", "nearest-features"):
        exposed = found.metric("membership.auc", attack=attack, group="released").value
        assert exposed is not None
        assert exposed > 0.95
    network: Any = Victim(None, 4, 0)
    checkpoint = Subject(id="ckpt", kind="checkpoint", network=network)
    found = Membership().run(checkpoint, ctx, settings, 0)
    images_only = {"class-mean", "domias", "nearest", "nearest-features"}
    assert {m.params["attack"] for m in found.metrics} == set(FILE_ATTACKS) - images_only


def test_a_set_of_other_data_is_pointed_out(tiny: Dataset) -> None:
    ctx = Made(data=tiny, preset=PRESETS["quick"], arch=ARCH, ipc=2)
    other = Membership().run(_file(tiny, source_fingerprint="0" * 16), ctx, _settings(), 0)
    same = _file(tiny, source_fingerprint=tiny.train.fingerprint)
    ours = Membership().run(same, ctx, _settings(), 0)
    assert any("made from other data" in c for c in other.caveats)
    assert not any("made from other data" in c for c in ours.caveats)


def test_a_checkpoint_is_attacked_through_its_outputs_only(tiny: Dataset) -> None:
    ctx = Made(data=tiny, preset=PRESETS["quick"], arch=ARCH)
    network: Any = Victim(None, 4, 0)
    subject = Subject(id="ckpt", kind="checkpoint", network=network)
    found = Membership().run(subject, ctx, _settings(), 0)
    attacks = {m.params["attack"] for m in found.metrics}
    assert attacks == {"loss", "modified-entropy", "quantile", "label-only"}
    assert found.metric("membership.auc", attack="loss").headline
    assert any("checkpoint" in c for c in found.caveats)


def test_too_little_held_out_data_is_unsupported_not_a_crash(tiny: Dataset) -> None:
    few = tiny.test.subset(torch.arange(10))
    data = replace(tiny, test=few, validation=few)
    ctx = Made(data=data, preset=PRESETS["quick"], arch=ARCH)
    with pytest.raises(Unsupported, match="20 members"):
        Membership().run(_file(tiny), ctx, _settings(), 0)


# ---- shadows
# ---------------------------------------------------------------------------------------


def run(
    subject: Subject, ctx: Context, *, shadows: int, pool: int, victims: int, population: int
) -> Trial:
    halves = draw_halves(ctx, shadows=shadows, pool=pool, population=population, seed=0)
    return run_shadows(subject, ctx, halves, victims=victims, seed=0)


def test_shadow_sets_hold_members_only(tiny: Dataset) -> None:
    ctx = Made(data=tiny, preset=PRESETS["quick"], arch=ARCH, ipc=3)
    subject = Subject(id="random", kind="recipe", recipe=resolve("random"), identity="random")
    shadows = run(subject, ctx, shadows=4, pool=100, victims=2, population=50)
    readings, pool = shadows.readings, shadows.cohort.records
    assert len(pool) == 100  # 4 * 3 * 4 = 48 would do
    assert readings.phi.shape == readings.log_p.shape == (4, 100)
    assert readings.nonmember_log_p.shape == readings.nonmember_phi.shape == (4, 50)
    assert readings.correct.shape == (4, len(tiny.test))  # networks of one set count once
    for row, made in zip(shadows.members, shadows.sets, strict=True):
        inside = pool.pixels(row).flatten(1).double()
        assert (torch.cdist(made.images.flatten(1).double(), inside).amin(1) < 1e-4).all()


def test_a_small_pool_grows_with_the_set(tiny: Dataset) -> None:
    ctx = Made(data=tiny, preset=PRESETS["quick"], arch=ARCH, ipc=10)
    subject = Subject(id="random", kind="recipe", recipe=resolve("random"), identity="random")
    shadows = run(subject, ctx, shadows=3, pool=60, victims=1, population=50)
    assert len(shadows.cohort.records) == 160


# ---- the instrument
# --------------------------------------------------------------------------------


def test_known_answers_pass_and_a_broken_score_fails_them(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddaudit.attacks.membership import known_answers

    ctx = Context(data=tiny, preset=PRESETS["quick"], arch=ARCH)
    settings = MembershipSettings(control_runs=0)
    good = Membership().checks(ctx, settings)
    assert [c.passed for c in good] == [True] * 5, good
    monkeypatch.setattr(known_answers, "negative_loss", lambda z, y: -z.logsumexp(1) * 0 + y)
    monkeypatch.setattr(known_answers.lira, "online", lambda phi, fitted: phi)
    memory, gauss, *_ = Membership().checks(ctx, settings)
    assert not memory.passed
    assert not gauss.passed


def test_trained_victims_work_end_to_end(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real training on a real recipe, as short as it goes: the pipeline fits together."""
    from ddaudit.training import PROTOCOLS

    monkeypatch.setitem(PROTOCOLS, "quick", replace(PROTOCOLS["quick"], epochs=15, epochs_plain=15))
    ctx = Context(data=tiny, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"), ipc=2)
    subject = Subject(id="random", kind="recipe", recipe=resolve("random"), identity="random")
    settings = MembershipSettings(
        shadows=3, pool=120, victims_per_shadow=1, population=80, control_runs=0
    )
    found = Membership().run(subject, ctx, settings, 0)
    assert found.status == "ok"
    assert all(m.value is None or 0 <= m.value <= 1 for m in found.metrics)
    assert sum(m.headline for m in found.metrics) == 3
