"""The plan: what a cell's key depends on, and what stops an audit before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ddaudit.audits import AuditConfig, Given, Plan, make_plan
from ddaudit.audits.run import run_info
from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.errors import BadInput
from ddaudit.models import Arch, build


def config(**changes: object) -> AuditConfig:
    values = {
        "subjects": ["random"], "auditors": ["utility"], "baselines": [], "victims": 1, "ipc": 1,
        "device": "cpu", "arch": "ConvNetD2W8",
    }  # fmt: skip
    return AuditConfig(**{**values, **changes})


def cells(plan: Plan) -> dict[tuple[str | None, str | None, int], str]:
    return {(c.subject, c.auditor, c.seed): c.key for c in plan.cells}


def keys(**changes: object) -> set[str]:
    return set(cells(make_plan(config(**changes))).values())


def test_every_subject_is_asked_by_every_auditor_at_every_seed_and_each_instrument_once() -> None:
    planned = cells(
        make_plan(
            config(subjects=["random", "herding"], auditors=["utility", "calibration"], seeds=2)
        )
    )
    subjects, auditors = ("random", "herding"), ("utility", "calibration")
    assert set(planned) == {
        *((s, a, seed) for s in subjects for a in auditors for seed in (0, 1)),
        *((None, a, 0) for a in auditors),
    }
    assert len(set(planned.values())) == len(planned)


@pytest.mark.parametrize(
    "change",
    [
        {"victims": 2},
        {"arch": "ConvNetD2W8BN"},
        {"settings": {"utility": {"bootstrap": 50}}},
        {"data": "digits-noisy"},
    ],
)
def test_what_a_number_depends_on_changes_every_key(change: dict[str, object]) -> None:
    assert keys().isdisjoint(keys(**change))


def test_what_no_number_depends_on_changes_no_key() -> None:
    assert keys() == keys(jobs=3, out="elsewhere", settings={"calibration": {"bins": 10}})
    assert keys() < keys(seeds=2)
    assert keys() < keys(subjects=["random", "herding"])


def test_data_given_in_memory_are_known_by_their_content(tiny) -> None:
    def planned(data) -> set[str]:
        return set(cells(make_plan(config(), given=Given(data=data))).values())

    flipped = replace(tiny.test, labels=tiny.test.labels.flip(0))
    copy = replace(tiny, train=replace(tiny.train, images=tiny.train.images.clone()))
    assert planned(tiny) == planned(copy)
    assert planned(tiny).isdisjoint(planned(replace(tiny, test=flipped)))
    assert planned(tiny).isdisjoint(planned(replace(tiny, std=(0.3, 0.3, 0.3))))


def bias_keys(data: Dataset) -> dict[str, str]:
    """Label -> key of every cell of an audit that may read the paired test set."""
    made = make_plan(config(auditors=["bias", "utility"]), given=Given(data))
    return {cell.label: cell.key for cell in (*made.preparations, *made.cells)}


def test_another_paired_test_set_is_another_bias_cell_and_no_other() -> None:
    data = load_data("digits-colored")
    paired = data.extra["test_paired"]
    one_less = paired.subset(paired.labels.new_tensor(range(1, len(paired))))
    before = bias_keys(data)
    after = bias_keys(replace(data, extra={"test_paired": one_less}))
    changed = {label for label, key in before.items() if after[label] != key}
    assert changed == {"bias: instrument checks", "random: bias (seed 0)"}
    assert bias_keys(replace(data, extra=dict(data.extra))) == before


def test_without_the_paired_set_the_key_is_another() -> None:
    data = load_data("digits-colored")
    before, after = bias_keys(data), bias_keys(replace(data, extra={}))
    assert before["random: bias (seed 0)"] != after["random: bias (seed 0)"]
    assert before["random: utility (seed 0)"] == after["random: utility (seed 0)"]


class Net(nn.Sequential):
    pass


def test_a_module_is_known_by_its_class_and_weights(tiny) -> None:
    def planned(module: nn.Module) -> str:
        plan = make_plan(config(subjects=[]), given=Given(tiny, {"mine": module}))
        return cells(plan)["mine", "utility", 0]

    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    same = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert planned(module) != planned(same)
    same.load_state_dict(module.state_dict())
    assert planned(module) == planned(same)
    other_class = Net(nn.Flatten(), nn.Linear(192, 4))
    other_class.load_state_dict(module.state_dict())
    assert planned(module) != planned(other_class)
    curved, flat = (nn.Sequential(*module, act, nn.Linear(4, 4)) for act in (nn.Tanh(), nn.ReLU()))
    flat.load_state_dict(curved.state_dict())
    assert planned(curved) != planned(flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subjects": []}, "none is given"),
        ({"subjects": ["randon"]}, "unknown method.*random"),
        ({"subjects": ["gone.pt"]}, "no such file"),
        ({"auditors": ["utilty"]}, "unknown auditor.*utility"),
        ({"settings": {"utilty": {}}}, "unknown auditor.*utility"),
        ({"options": {"loop.nothing": 1}}, "is an option of none"),
        ({"epsilon": 1.0}, "none of the audited recipes is private"),
        ({"arch": "ConvNetX9"}, "unknown architecture suffix"),
        ({"device": "toaster"}, "unknown device"),
        ({"subjects": ["dm+fair"]}, "needs a protected attribute"),
    ],
)
def test_what_the_user_can_mend_stops_the_plan(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_plan(config(**change))


def test_an_architecture_of_ones_own_that_cannot_be_made_stops_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("class Net:\n    def __init__(self, size): ...\n")
    with pytest.raises(BadInput, match=r"wants the argument 'size'\. It may take: num_classes"):
        make_plan(config(arch=f"{file}:Net"))


def test_the_random_baseline_is_drawn_several_times_but_not_by_auditors_that_redistil() -> None:
    changes = {"subjects": ["dm"], "baselines": ["full", "random"], "seeds": 1}
    names = ["utility", "adversarial", "membership"]
    planned = cells(make_plan(config(auditors=names, **changes)))
    seeds = {
        (s, a): [seed for (t, b, seed) in planned if (s, a) == (t, b)]
        for s in ("dm", "full", "random") for a in names
    }  # fmt: skip
    assert seeds.pop(("random", "utility")) == list(range(10))  # it only asks the victims
    assert seeds.pop(("random", "adversarial")) == list(range(5))
    assert set(map(tuple, seeds.values())) == {(0,)}
    own = cells(make_plan(config(subjects=["random"], seeds=1)))  # as a subject: as often as others
    assert len(own) == 2


def test_a_quick_audit_of_large_images_asks_heavy_auditors_less(tiny) -> None:
    """A draw of the random subset, no other baseline unless it is asked for, settings of their own below the user's."""

    def grown(part: ImageData) -> ImageData:
        return replace(part, images=part.images.repeat_interleave(2, 2).repeat_interleave(2, 3))

    parts = ("train", "validation", "test")
    large = replace(tiny, **{name: grown(getattr(tiny, name)) for name in parts})
    rows = ["full", "random", "herding"]

    def planned(data: Dataset, **changes: object) -> Plan:
        asked = {"subjects": ["dm"], "baselines": rows, "auditors": ["utility", "adversarial"]}
        return make_plan(config(**{**asked, **changes}), given=Given(data))

    def counts(plan: Plan, auditor: str) -> dict[str, int]:
        named = [c.subject for c in plan.cells if c.auditor == auditor and not c.left_out]
        return {name: named.count(name) for name in ("dm", *rows)}

    def images(plan: Plan) -> int:
        return plan.auditors["adversarial"][1].images

    few, all_of = planned(large), planned(tiny)
    assert counts(few, "adversarial") == {"dm": 1, "full": 0, "random": 1, "herding": 0}
    assert counts(few, "utility") == {"dm": 1, "full": 1, "random": 3, "herding": 1}
    assert counts(all_of, "adversarial") == {"dm": 1, "full": 1, "random": 5, "herding": 1}
    assert images(few) < images(all_of)
    assert {(c.subject, c.auditor) for c in few.cells if c.left_out} == {
        ("full", "adversarial"), ("herding", "adversarial")
    }  # fmt: skip
    asked_for = planned(large, subjects=["dm", "herding"])
    assert counts(asked_for, "adversarial")["herding"] == 1
    assert images(planned(large, settings={"adversarial": {"images": 7}})) == 7
    assert set(planned(large, baselines=None).subjects) == {"dm", "full", "random"}
    assert set(planned(tiny, baselines=None).subjects) == {"dm", *rows}
    standard = planned(large, preset="standard")
    assert counts(standard, "adversarial") == {"dm": 3, "full": 3, "random": 5, "herding": 3}
    assert images(standard) == images(planned(tiny, preset="standard"))


def test_instruments_that_no_subject_needs_are_not_checked(tiny) -> None:
    plan = make_plan(config(auditors=["utility", "noise"]), given=Given(tiny))
    assert [c.auditor for c in plan.cells if c.subject is None] == ["utility"]
    assert ("random", "noise", 0) in cells(plan)  # which says why it has no answer


def test_a_run_says_that_the_full_data_have_no_draw() -> None:
    asked = config(auditors=["utility"], subjects=["dm"], baselines=["full", "random"])
    entries = run_info(make_plan(asked), asked)["subjects"]
    assert {s["id"]: s["drawn"] for s in entries} == {"dm": True, "full": False, "random": True}


def test_two_sets_of_weights_in_one_file_are_two_subjects(tmp_path: Path) -> None:
    data = load_data("digits")
    known = {"shape": data.shape, "num_classes": 10, "mean": data.mean, "std": data.std}
    nets = [build(Arch.parse("ConvNetD2W8"), seed=seed, **known) for seed in (0, 1)]
    path = tmp_path / "net#1.pth"
    torch.save({"model": nets[0].body.state_dict(), "ema": nets[1].body.state_dict()}, path)
    with pytest.raises(
        BadInput, match=r"2 sets of weights that fit: model, ema\..*net#1\.pth#model"
    ):
        make_plan(config(subjects=[str(path)]))
    plan = make_plan(config(subjects=[f"{path}#model", f"{path}#ema"]))
    assert list(plan.subjects) == ["net#1.pth#model", "net#1.pth#ema"]
    for (entry, subject), net in zip(plan.subjects.items(), nets, strict=True):
        assert subject.path == path
        assert torch.equal(subject.network.body.classifier.weight, net.body.classifier.weight)
        assert f"entry '{entry.rpartition('#')[2]}'" in subject.notes[0]
    planned = cells(plan)
    assert planned["net#1.pth#model", "utility", 0] != planned["net#1.pth#ema", "utility", 0]
    torch.save(nets[0].body.state_dict(), path)
    with pytest.raises(BadInput, match="no such weights"):
        make_plan(config(subjects=[f"{path}#ema"]))
