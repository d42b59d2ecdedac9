"""The soft-labels auditor end to end, on teachers whose leak is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddaudit.attacks.soft_labels import known_answers
from ddaudit.attacks.soft_labels.auditor import (
    SoftLabels,
    SoftLabelsSettings,
    selection_caveats,
)
from ddaudit.attacks.soft_labels.students import HARD, PER_IMAGE, RELEASED, students, versions
from ddaudit.auditing import AUDITORS, PRESETS, Context, Subject
from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.distillation import Recipe, distill, resolve
from ddaudit.distillation.labels import TeacherLabels, harden
from ddaudit.distillation.loops import Job, Outcome
from ddaudit.errors import Unsupported
from ddaudit.findings import Finding
from ddaudit.models import Arch
from ddaudit.sets import Card, DistilledSet
from ddaudit.stats import auc
from ddaudit.training import PROTOCOLS, EvaluationProtocol

SETTINGS = SoftLabelsSettings(
    canaries=60, unseen=160, temperatures=(), top=(), shuffle=False, students=1, records=100
)


@pytest.fixture
def ctx(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Cheap students that learn by heart."""
    protocol = EvaluationProtocol(name="by heart", epochs_plain=40, batch_size=32, lr=0.05)
    monkeypatch.setitem(PROTOCOLS, "by heart", protocol)
    preset = PRESETS["quick"].model_copy(update={"victims": 1, "protocol": "by heart"})
    return Context(data=tiny, preset=preset, arch=Arch.parse("MLP"), ipc=4)


def subject(recipe: Recipe, name: str = "stub") -> Subject:
    return Subject(id=name, kind="recipe", recipe=recipe, identity=name)


def value(found: Finding, name: str, **params: Any) -> float:
    got = found.metric(name, **params).value
    assert got is not None
    return got


@dataclass(frozen=True)
class Fixed:
    """A loop that releases given images, whatever it is asked to read."""

    images: Tensor
    labels: Callable[[Tensor, ImageData], Tensor]
    """(images, records) -> labels."""

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        return False

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        return False

    def queries(self, ipc: int) -> int:
        return 0

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        return [Outcome(self.images, self.labels(self.images, job.train))]


@dataclass(frozen=True)
class Quoting:
    """A label model that looks images up among the records and quotes their labels; unknown images get any."""

    blind_to: int = 0
    """Records at the end that it does not look at: the auditor puts the hidden canaries there."""

    def relabel(
        self, images: Tensor, labels: Tensor, *, train: ImageData, **_: Any
    ) -> tuple[Tensor, tuple[str, ...]]:
        seen = train.subset(torch.arange(len(train) - self.blind_to))
        return one_hot(look_up(images, seen), train.num_classes), ()


def look_up(images: Tensor, records: ImageData) -> Tensor:
    same = (images[:, None] == records.pixels()[None]).flatten(2).all(2)
    return torch.where(same.any(1), records.labels[same.float().argmax(1)], 0)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return 0.9 * torch.nn.functional.one_hot(labels, classes).float() + 0.1 / classes


def hard_loop(data: Dataset) -> Fixed:
    return Fixed(data.train.pixels(), lambda x, _: torch.zeros(len(x), dtype=torch.int64))


def audit(ctx: Context, recipe: Recipe, settings: SoftLabelsSettings = SETTINGS) -> Finding:
    return SoftLabels().run(subject(recipe), ctx, settings, 0)


def test_it_is_registered_and_its_presets_are_settings() -> None:
    found = AUDITORS.get("soft-labels")
    assert isinstance(found, SoftLabels)
    assert found.configure("quick").canaries < found.configure("standard").canaries


def test_instrument_checks_pass(ctx: Context) -> None:
    checks = SoftLabels().checks(ctx, SETTINGS)
    assert len(checks) == 2
    assert [c.name for c in checks if not c.passed] == []


def test_a_blunt_instrument_fails_its_checks(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        known_answers, "recalled", lambda logits, m: torch.ones(len(m), dtype=torch.bool)
    )
    assert [c.passed for c in known_answers.published(ctx)] == [True, False]
    monkeypatch.setattr(
        known_answers, "recalled", lambda logits, m: torch.zeros(len(m), dtype=torch.bool)
    )
    assert [c.passed for c in known_answers.published(ctx)] == [False, False]


def test_a_teacher_that_publishes_canary_labels_is_found(ctx: Context, tiny: Dataset) -> None:
    """The set shows all training images, and its labels quote the teacher's records, canaries included."""
    found = audit(ctx, replace(resolve("random"), loop=hard_loop(tiny), labels=Quoting()))
    leak = found.metric("soft_labels.leakage", labels=RELEASED)
    assert leak.headline
    assert leak.low is not None
    assert leak.low > 0.3
    assert value(found, "soft_labels.p_value", test="binomial") < 1e-6
    assert value(found, "soft_labels.p_value", test="fisher") < 1e-6
    assert value(found, "soft_labels.canary_accuracy", canaries="teacher only") > 0.8
    assert value(found, "soft_labels.membership_auc", records="canaries") > 0.8
    assert value(found, "soft_labels.teacher_memory") == 1.0
    Finding.model_validate_json(found.model_dump_json())


def test_a_teacher_that_never_saw_them_leaks_nothing(ctx: Context, tiny: Dataset) -> None:
    """The same set, by a teacher that is blind to the hidden canaries: the shown ones are still found."""
    recipe = replace(resolve("random"), loop=hard_loop(tiny), labels=Quoting(blind_to=30))
    found = audit(ctx, recipe)
    leak = found.metric("soft_labels.leakage", labels=RELEASED)
    assert leak.low is not None
    assert leak.low < 0
    assert value(found, "soft_labels.p_value", test="binomial") > 1e-3
    shown = found.metric("soft_labels.canary_accuracy", canaries="teacher and images")
    assert shown.floor == pytest.approx(1 / 3)
    assert shown.value is not None
    assert shown.value > 0.8
    assert any("no memory of its canaries" in c for c in found.caveats)


def test_hidden_canaries_reach_the_teacher_and_no_pixel(
    ctx: Context, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, ImageData] = {}
    redistill, relabel = Context.redistill, TeacherLabels.relabel

    def watched(self: Context, s: Subject, train: ImageData, seed: int) -> DistilledSet:
        read["pixels"] = train
        return redistill(self, s, train, seed)

    def overheard(self: TeacherLabels, *args: Any, train: ImageData, **kwargs: Any) -> Tensor:
        read["teacher"] = train
        return relabel(self, *args, train=train, **kwargs)

    monkeypatch.setattr(Context, "redistill", watched)
    monkeypatch.setattr(TeacherLabels, "relabel", overheard)
    settings = SETTINGS.model_copy(update={"temperatures": (20.0,), "top": (2,), "shuffle": True})
    options = {"labels.width": 16, "labels.epochs": 20}
    found = audit(ctx, resolve("random+soft", options=options), settings)
    teacher, pixels = (read[k].images for k in ("teacher", "pixels"))
    apart = ~(teacher[:, None] == pixels[None]).flatten(2).all(2).any(1)
    assert int(apart.sum()) == 30
    assert len(read["teacher"]) == len(tiny.train)
    versions = {m.params["labels"] for m in found.metrics if m.name == "soft_labels.leakage"}
    assert versions == {RELEASED, "temperature 20", "top 2", "shuffled in class", HARD}
    assert {c.plot for c in found.curves} == {"Leak against accuracy", "Leak by temperature"}
    assert [m.name for m in found.metrics if m.headline] == ["soft_labels.leakage"]
    labels = [m.params["labels"] for m in found.metrics if m.name == "soft_labels.membership_auc"]
    assert labels == [RELEASED, RELEASED, HARD]
    Finding.model_validate_json(found.model_dump_json())


def test_labels_made_with_the_images_are_audited_together(ctx: Context, tiny: Dataset) -> None:
    loop = Fixed(tiny.train.pixels(), lambda x, records: one_hot(look_up(x, records), 4))
    found = audit(ctx, replace(resolve("random"), loop=loop))
    assert value(found, "soft_labels.canary_accuracy", canaries="read by the method") > 0.8
    assert value(found, "soft_labels.leakage", labels=HARD) > 0.3
    assert found.metric("soft_labels.leakage", labels=RELEASED).n == 60
    assert any("in one go" in c or "together" in c for c in found.caveats)
    with pytest.raises(KeyError):
        found.metric("soft_labels.teacher_memory")


class _Hard:
    """A label model that leaves labels as they are, as labels.image=hard does."""

    reads_records = False

    def relabel(self, images: Tensor, labels: Tensor, **_: Any) -> tuple[Tensor, tuple[str, ...]]:
        return labels, ()


def test_who_cannot_be_asked(ctx: Context, tiny: Dataset) -> None:
    with pytest.raises(Unsupported, match="hard"):
        audit(ctx, resolve("random"))
    hard = distill(resolve("random"), tiny.train, data=tiny, ipc=2, seed=0)
    with pytest.raises(Unsupported, match="hard"):
        SoftLabels().run(Subject(id="f", kind="file", set=hard, identity="f"), ctx, SETTINGS, 0)
    network: Any = torch.nn.Identity()
    with pytest.raises(Unsupported, match="distilled set"):
        SoftLabels().run(Subject(id="c", kind="checkpoint", network=network), ctx, SETTINGS, 0)
    kept = replace(resolve("random"), labels=TeacherLabels(epochs=1))
    hardened = replace(kept, labels=_Hard())
    with pytest.raises(Unsupported, match="hard"):
        audit(ctx, hardened)
    few = replace(tiny, train=tiny.train.subset(torch.arange(80)))
    with pytest.raises(Unsupported, match="cannot spare"):
        audit(replace(ctx, data=few), replace(resolve("random"), labels=TeacherLabels(epochs=1)))


def test_a_label_store_is_part_of_what_is_released(ctx: Context, tiny: Dataset) -> None:
    """Trained on one label an image, students missed most of what a set with a store says of its teacher."""
    small = {
        "networks.epochs": 1,
        "labels.epochs": 3,
        "networks.arch": "ConvNetD2W8BN",
        "networks.width": None,
    }
    recipe = resolve("random+fkd", profile="small", options=small)
    recipe = replace(recipe, protocol=replace(recipe.protocol, epochs=3, epochs_plain=3))
    found = audit(ctx, recipe)
    named = {m.params["labels"] for m in found.metrics if m.name == "soft_labels.leakage"}
    assert named == {RELEASED, PER_IMAGE, HARD}
    assert any("store of labels for many views" in c for c in found.caveats)
    seen: list[Any] = []
    real = type(ctx).train

    def watched(self: Context, sets: Any, **named: Any) -> Any:
        seen.extend(
            (s.store is not None, (named["protocol"] or self.protocol).labels) for s in sets
        )
        return real(self, sets, **named)

    made = distill(recipe, tiny.train, data=tiny, ipc=2, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ctx), "train", watched)
        students(made, versions(made.labels, stored=True), ctx, seed=0, others=1)
    assert sorted(seen) == [(False, "image"), (False, "image"), (True, "store")]


def test_a_file_gets_the_membership_of_its_students(ctx: Context, tiny: Dataset) -> None:
    """Without a recipe there are no canaries; what students tell of members is measured, soft and rounded."""
    images = tiny.train.pixels()
    labels = 0.6 * one_hot(tiny.train.labels, 4) + 0.4 / 4
    released = distill(resolve("random"), tiny.train, data=tiny, ipc=3, seed=0)
    card = released.card.model_copy(update={"member_indices": None})
    made = DistilledSet(images, labels, 4, card)
    found = SoftLabels().run(Subject(id="f", kind="file", set=made, identity="f"), ctx, SETTINGS, 0)
    assert found.status == "partial"
    assert "needs the recipe" in (found.reason or "")
    for version in (RELEASED, HARD):
        auc = found.metric("soft_labels.membership_auc", labels=version, records="ordinary")
        assert auc.low is not None
        assert auc.value is not None
        assert auc.floor == 0.5
        assert value(found, "soft_labels.student_accuracy", labels=version) > 0.9
    # Released records are no secret: they are left out, and here nothing is left.
    everything = card.model_copy(update={"member_indices": list(range(len(images)))})
    with pytest.raises(Unsupported, match="too few records"):
        SoftLabels().run(
            Subject(
                id="g", kind="file", set=replace(made, card=everything), identity="g"
            ),
            ctx, SETTINGS, 0,
        )  # fmt: skip


@pytest.mark.slow
def test_digits_soft_labels_leak_and_rounded_ones_do_not() -> None:
    """100 released digits: 149 canaries in none of them are recalled twice as often as chance."""
    data = load_data("digits")
    ctx = Context(data=data, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"), ipc=10)
    recipe = resolve("random+soft", options={"labels.width": 32, "labels.augment": ""})
    auditor = SoftLabels()
    found = auditor.run(subject(recipe), ctx, auditor.configure("quick"), 0)
    leak = found.metric("soft_labels.leakage", labels=RELEASED)
    rounded = found.metric("soft_labels.leakage", labels=HARD)
    assert leak.low is not None
    assert leak.low > 0.02
    assert rounded.low is not None
    assert rounded.low < 0
    assert value(found, "soft_labels.p_value", test="binomial") < 1e-3
    assert value(found, "soft_labels.teacher_memory") > 0.8


def test_how_far_a_selection_can_move_the_others_is_said(tiny: Dataset) -> None:
    """60 of 240 released: the worst case by hand is a score that ranks exactly those on top.

    Over all members it reads 1/2 (the rest lies low enough), over the rest 1/3 = 1/2 - 1/6.
    """
    images, labels = tiny.train.pixels(torch.arange(4)), tiny.train.labels[:4]
    card = Card(member_indices=list(range(60)))
    (said,) = selection_caveats(tiny.train, DistilledSet(images, labels, 4, card))
    assert "60 of 240 training records" in said
    assert "by 0.167 at the very most" in said
    strangers = torch.linspace(0, 1, 12_001, dtype=torch.float64)
    rest = torch.full((180,), 1 / 3, dtype=torch.float64)
    scores = torch.cat([torch.full((60,), 2.0, dtype=torch.float64), rest, strangers])
    members = torch.arange(len(scores)) < 240
    assert auc(scores, members).value == pytest.approx(0.5, abs=1e-3)
    assert auc(scores[60:], members[60:]).value == pytest.approx(0.5 - 1 / 6, abs=1e-3)
    for none in ([], list(range(240))):
        empty = DistilledSet(images, labels, 4, Card(member_indices=none))
        assert selection_caveats(tiny.train, empty) == []


def test_harden_is_what_the_hard_version_trains_on() -> None:
    assert harden(torch.tensor([[0.2, 0.8]])).tolist() == [[0.0, 1.0]]
