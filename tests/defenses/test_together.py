"""Defenses beside one another: none may undo what another is there for, and what cannot be together is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from ddaudit.data import Dataset, load_data
from ddaudit.distillation import resolve
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.lessons import Adjusted, Even
from ddaudit.distillation.loops import Job
from ddaudit.distillation.targets import ByClass, Joint, Reduced, Weighted, innermost, swapped
from ddaudit.errors import BadInput
from ddaudit.models import Arch
from ddaudit.training import PROTOCOLS, Extras, train_many


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ncfm+adversarial+dp", "random networks in the place of those"),
        ("ncfm+guard+dp", "random networks in the place of those"),
        ("ncfm+logit-adjusted+dp", "random networks in the place of those"),
        ("ncfm+unbiased+dp", "random networks in the place of those"),
        ("dm+fair+pseudo-groups", "targets by the protected groups"),
        ("dm+barycentre+pseudo-groups", "targets by the protected groups"),
        ("msda-dd+soft", "labels of the domain that has none"),
        ("msda-dd+cleaned", "labels of the domain that has none"),
        ("msda-dd+fkd", "loop of its own"),
        ("kip+fkd", "loop of its own"),
        ("ndpdc+guard", "networks on private records"),
        ("psg+cvar", "networks on private records"),
        ("dm-experts+dp", "networks on private records"),
    ],
)
def test_what_would_be_lost_is_refused_at_once_and_by_its_whole_name(name: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as caught:
        resolve(name)
    assert caught.value.where == name


def test_fair_and_balanced_reach_records_and_teachers() -> None:
    fair = resolve("random+fkd+fair")
    assert (fair.networks.lesson, fair.loop.by_group) == (Even(by_group=True), True)
    both = resolve("random+fkd+fair+balanced")
    assert (both.networks.lesson, both.loop.by_group) == (Even(by_group=True), True)
    whole = resolve("full+fkd+balanced")
    assert (whole.networks.lesson, whole.loop.even) == (Even(), True)
    assert resolve("full+fkd+fair").networks.lesson == Even(by_group=True)
    with pytest.raises(BadInput, match="nothing to change on the full training set"):
        resolve("full+fair")


@pytest.mark.parametrize(
    ("name", "lesson"),
    [
        ("dm+soft", None), ("dm+fair+soft", Even(by_group=True)), ("dm+balanced+soft", Even()),
        ("random+fair+soft", Even(by_group=True)), ("dm+barycentre+soft", Even(by_group=True)),
        ("mtt+logit-adjusted+soft", Adjusted()),
    ],
)  # fmt: skip
def test_a_teacher_of_labels_is_taught_as_the_set_is_made(name: str, lesson: object) -> None:
    """Its labels would bring back the bias that the images were freed of."""
    assert resolve(name).labels.lesson == lesson


def test_networks_that_another_defense_brings_in_learn_under_attack_too() -> None:
    training = resolve("dc+adversarial+cvar").networks.training
    assert training.risk is not None
    assert training.robust == resolve("idc+adversarial").networks.training.robust


def test_labels_of_a_teacher_that_learns_under_attack() -> None:
    assert resolve("dm+soft").labels.robust is None
    assert resolve("dm+adversarial+soft").labels.robust == resolve("dm+adversarial").networks.robust


@pytest.mark.parametrize(
    "name", ["dm+guard+soft", "mtt+curvature+soft", "dc+adversarial+soft", "idc+adversarial+soft"]
)
def test_the_teacher_of_labels_is_there_in_the_small_profile_too(name: str) -> None:
    robust = resolve(name, profile="small").labels.robust
    assert robust is not None
    assert (robust.attack is not None) == ("adversarial" in name)


def test_labels_taught_evenly_free_a_set_of_its_bias() -> None:
    """Nine in ten images of a class have its colour; of images in another colour the fair teacher knows more."""
    data = load_data("digits-colored")
    other = data.test.labels != data.test.groups
    right = {}
    for name in ("dm+soft", "dm+fair+soft"):
        model = resolve(
            name, profile="small", options={"labels.epochs": 5, "labels.width": 16}
        ).labels
        labels, _ = model.relabel(
            data.test.pixels(), data.test.labels, train=data.train, data=data, seed=0,
            device=torch.device("cpu"),
        )  # fmt: skip
        hits = labels.argmax(1) == data.test.labels
        right[name] = float(hits[other].double().mean())
    assert right["dm+fair+soft"] > right["dm+soft"] + 0.1


def test_what_labels_were_adjusted_by_stands_on_the_card(tiny: Dataset) -> None:
    from ddaudit.distillation import distill

    recipe = resolve("random+soft+adsa", profile="small", options={"labels.epochs": 1})
    made = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    assert any("adjusted for the records' imbalance by tau" in note for note in made.card.notes)


@dataclass(frozen=True)
class Half:
    even = False


def test_the_innermost_rule_changes_and_what_weighs_it_stays() -> None:
    """dcc+density lost its weights while it warmed up class by class."""
    composed = Weighted(Reduced(Joint(), "max"), Half())
    assert innermost(composed) == Joint()
    assert swapped(composed, ByClass()) == Weighted(Reduced(ByClass(), "max"), Half())
    assert swapped(Joint(), ByClass()) == ByClass()


def test_a_classifier_that_experts_end_with_is_taught_by_group_too(tiny: Dataset) -> None:
    for lesson, head in ((Even(by_group=True), Even(by_group=True)), (None, Even())):
        paths = ExpertPaths("ConvNetD2W8", count=1, epochs=1, head=1, lesson=lesson)
        job = Job(
            tiny.train, torch.ones(1, len(tiny.train), dtype=torch.bool), tiny, 1, 0,
            torch.device("cpu"),
        )  # fmt: skip
        stages = list(paths._stages(job, tiny.train, torch.zeros(1), torch.ones(1)))
        assert [s[2] for s in stages] == [lesson, head]


@pytest.mark.parametrize("strategy", ["loop", "stacked", "auto"])
def test_constants_on_logits_are_used_whatever_the_strategy(tiny: Dataset, strategy: str) -> None:
    def logits(extra: Extras) -> torch.Tensor:
        (net, _) = train_many(
            [(tiny.train.images, tiny.train.labels)] * 2, arch=Arch.parse("ConvNetD2W8"),
            num_classes=tiny.num_classes, mean=tiny.mean, std=tiny.std, seeds=[0, 1],
            protocol=replace(PROTOCOLS["quick"], epochs_plain=2, augment=""), extras=[extra] * 2, strategy=strategy,
        )  # fmt: skip
        return net(tiny.test.pixels()).detach()

    shift = torch.linspace(-3, 3, tiny.num_classes)
    apart = logits(Extras(shift=shift)) - logits(Extras())
    assert float(apart.abs().max()) > 0.1


def test_groups_without_names_are_domains_too() -> None:
    from ddaudit.distillation import distill

    data = load_data("digits-colored")
    bare = replace(data.train, group_names=())
    recipe = resolve("msda-dd", profile="small", options={"loop.iterations": 1})
    made = distill(recipe, bare, data=replace(data, train=bare), ipc=1, seed=0)
    assert len(made.images) == 10
