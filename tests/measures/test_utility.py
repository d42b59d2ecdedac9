"""The utility auditor: constructed predictors, honest means, other architectures."""

from __future__ import annotations

import pytest
import torch

from ddaudit.auditing import AUDITORS
from ddaudit.errors import BadInput
from ddaudit.measures.utility import Utility, UtilitySettings, accuracy_metrics
from ddaudit.stats import clopper_pearson


def _one_hot(labels: torch.Tensor, k: int) -> torch.Tensor:
    return 5.0 * torch.nn.functional.one_hot(labels, k).float()


def test_a_constructed_predictor_reads_its_accuracy(tiny, known, subject, answering) -> None:
    test = tiny.test
    predicted = test.labels.clone()
    predicted[test.labels == 2] = 0  # class 2 never right, the others always
    ctx = known(tiny, [answering(_one_hot(predicted, 4), test.images)])
    finding = Utility().run(subject, ctx, UtilitySettings(), 0)
    accuracy = finding.metric("utility.accuracy")
    exact = clopper_pearson(120, 160)
    assert (accuracy.value, accuracy.low, accuracy.high) == (0.75, exact.low, exact.high)
    assert accuracy.n == 160
    assert accuracy.headline
    assert finding.metric("utility.balanced_accuracy").value == pytest.approx(0.75)
    assert finding.metric("utility.worst_class_accuracy").value == 0.0
    assert finding.metric("utility.class_std").value == pytest.approx(
        (3 * 0.0625 + 0.5625) ** 0.5 / 2
    )
    by_class = [
        finding.metric("utility.class_accuracy", **{"class": f"class {k}"}) for k in range(4)
    ]
    assert [m.value for m in by_class] == [1, 1, 0, 1]
    assert any("One network" in c for c in finding.caveats)


def test_several_victims_are_averaged_never_selected(tiny, known, subject, answering) -> None:
    test = tiny.test
    good = answering(_one_hot(test.labels, 4), test.images)
    bad = answering(_one_hot((test.labels + 1) % 4, 4), test.images)
    finding = Utility().run(subject, known(tiny, [good, bad]), UtilitySettings(), 0)
    accuracy = finding.metric("utility.accuracy")
    assert accuracy.value == 0.5
    assert accuracy.low == 0.0  # 1.0 and 0.0 say nothing about a third network
    assert accuracy.high == 1.0


def test_balanced_accuracy_weighs_classes_not_images() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    correct = torch.cat([torch.ones(90), torch.zeros(10)])[None].double()
    got = accuracy_metrics(correct, labels, ("a", "b"), generator=torch.Generator().manual_seed(0))
    by_name = {m.name: m for m in got}
    assert by_name["utility.accuracy"].value == pytest.approx(0.9)
    assert by_name["utility.balanced_accuracy"].value == pytest.approx(0.5)


def test_equal_classes_sit_at_the_floor_of_their_spread() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(10).repeat_interleave(100)
    spreads, floors = [], []
    for _ in range(20):
        correct = (torch.rand(1, 1000, generator=g) < 0.8).double()
        m = accuracy_metrics(correct, labels, tuple("abcdefghij"), n_boot=20, generator=g)[3]
        assert m.name == "utility.class_std"
        spreads.append(m.value)
        floors.append(m.floor)
    # std of 10 binomial rates of 100 at 0.8: 0.04 (divided by K: 0.0372 on average), SE 0.002.
    assert sum(spreads) / 20 == pytest.approx(sum(floors) / 20, abs=0.006)


def test_classes_without_test_images_are_left_out() -> None:
    labels = torch.tensor([0, 0, 2, 2])
    got = accuracy_metrics(
        torch.ones(2, 4).double(), labels, ("a", "b", "c"), generator=torch.Generator()
    )
    names = [m.params["class"] for m in got if m.name == "utility.class_accuracy"]
    assert names == ["a", "c"]
    assert all(m.value is not None and m.value == m.value for m in got)


def test_checkpoints_say_why_other_architectures_were_not_tried(tiny, known, subject, answering):
    ctx = known(tiny, [answering(_one_hot(tiny.test.labels, 4), tiny.test.images)])
    settings = UtilitySettings(cross_architectures=("MLP",))
    finding = Utility().run(subject, ctx, settings, 0)
    assert finding.status == "ok"
    assert any("MLP" in c and "without its distilled set" in c for c in finding.caveats)


def test_end_to_end_with_another_architecture(audit, random_subset) -> None:
    settings = UtilitySettings(cross_architectures=("MLP", "NoSuchNet"))
    finding = Utility().run(random_subset, audit, settings, 0)
    chance = 1 / audit.data.num_classes
    assert finding.metric("utility.accuracy").low > chance
    assert finding.metric("utility.cross_architecture_accuracy", arch="MLP").low > chance
    assert finding.status == "partial"
    assert "NoSuchNet" in finding.reason
    finding.model_dump_json()


def test_checks_pass_and_are_wired(audit) -> None:
    auditor = AUDITORS.get("utility")
    assert all(c.passed for c in auditor.checks(audit, auditor.configure("quick")))
    assert auditor.configure("standard").cross_architectures == ("MLP", "LeNet")
    with pytest.raises(BadInput, match="cross_architectures"):
        auditor.configure("quick", {"no_such_knob": 1})


def test_checks_fail_when_rates_are_read_wrong(audit, monkeypatch) -> None:
    from ddaudit.measures import utility

    honest = utility.crossed_rate

    def best_victim(correct, confidence=0.95):
        best = correct if correct.ndim == 1 else correct[correct.mean(1).argmax()]
        return honest(best, confidence)

    monkeypatch.setattr(utility, "crossed_rate", best_victim)
    checks = Utility().checks(audit, UtilitySettings())
    assert [c.passed for c in checks] == [True, True, False]
