"""The tail auditor: parts by training records, known recalls, uneven test sets, balanced data, checks that can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS
from ddaudit.data import load_data
from ddaudit.data.longtail import long_tail_counts
from ddaudit.errors import Unsupported
from ddaudit.measures import tail
from ddaudit.measures.tail import Parts, Tail, TailSettings
from ddaudit.models import Arch


def _answers(predicted: torch.Tensor, k: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(predicted, k).float()


def test_parts_of_ten_classes_are_three_four_three_whatever_the_class_order() -> None:
    """Counts of Fashion-MNIST-LT at imbalance 100, as published."""
    counts = torch.tensor(long_tail_counts(6000, 10, imbalance=100))
    assert counts.tolist() == [6000, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60]
    parts = Parts.of(counts)
    assert [p.tolist() for p in parts.classes.values()] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]
    assert parts.imbalance == 100
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    moved = Parts.of(counts[order])
    for name, classes in parts.classes.items():
        assert order[moved.classes[name]].tolist() == classes.tolist()
    assert list(Parts.of(torch.tensor([9, 3])).classes) == ["head", "tail"]


def test_known_recalls_are_read_from_counts_not_from_class_numbers(
    known, subject, answering
) -> None:
    """digits-lt in permuted order: a victim that is right on all head classes and on none of the tail."""
    data = load_data("digits-lt:order=permuted")
    test, parts = data.test, Parts.of(data.train.class_counts())
    assert parts.classes["head"].tolist() != [0, 1, 2]
    lost = torch.isin(test.labels, parts.classes["tail"])
    first = (torch.arange(len(test)) % 2) == 0
    middle = torch.isin(test.labels, parts.classes["medium"]) & first
    said = torch.where(lost | middle, (test.labels + 1) % 10, test.labels)
    finding = Tail().run(
        subject, known(data, [answering(_answers(said, 10), test.images)]), TailSettings(), 0
    )
    values = {m.params["part"]: m.value for m in finding.metrics if m.name == "tail.accuracy"}
    share = 1 - float(middle.sum()) / float(torch.isin(test.labels, parts.classes["medium"]).sum())
    assert values == {"head": 1.0, "medium": pytest.approx(share), "tail": 0.0}
    gap = finding.metric("tail.gap")
    assert gap.low < gap.value == gap.high == 1.0
    assert finding.metric("tail.imbalance_factor").value == pytest.approx(
        float(data.train.class_counts().max()) / float(data.train.class_counts().min())
    )
    assert [m.params["part"] for m in finding.metrics if m.headline] == ["tail"]
    recalls = [m for m in finding.metrics if m.name == "tail.class_recall"]
    assert len(recalls) == 10
    assert {m.n for m in recalls} == {40}
    (curve,) = finding.curves
    assert curve.x == sorted(curve.x)


def test_recall_is_averaged_over_classes_where_the_test_set_is_uneven(
    known, subject, answering
) -> None:
    """Tail of three classes with 40, 40 and 8 test images and recalls 1, 1 and 0: 2/3, not 80/88."""
    data = load_data("digits-lt")
    keep = torch.ones(len(data.test), dtype=torch.bool)
    keep[(data.test.labels == 9).nonzero()[8:, 0]] = False
    data = replace(data, test=data.test.subset(keep))
    said = torch.where(data.test.labels == 9, 0, data.test.labels)
    finding = Tail().run(
        subject,
        known(data, [answering(_answers(said, 10), data.test.images)]),
        TailSettings(),
        0,
    )
    got = finding.metric("tail.accuracy", part="tail")
    assert got.value == pytest.approx(2 / 3)
    assert got.low < 2 / 3 < got.high
    assert got.n == 88


def test_balanced_data_have_no_tail_and_no_numbers(tiny, known, subject) -> None:
    with pytest.raises(Unsupported, match=r"no tail: .* has 1 times"):
        Tail().run(subject, known(tiny, []), TailSettings(), 0)


def test_end_to_end(audit, random_subset) -> None:
    keep = torch.ones(len(audit.data.train), dtype=torch.bool)
    keep[(audit.data.train.labels == 2).nonzero()[12:, 0]] = False
    ctx = replace(
        audit,
        data=replace(audit.data, train=audit.data.train.subset(keep)),
        preset=audit.preset.model_copy(update={"victims": 1}),
        arch=Arch.parse("ConvNetD1W8"),
        _sets={},
        _victims={},
    )
    auditor = AUDITORS.get("tail")
    finding = auditor.run(random_subset, ctx, auditor.configure("quick"), 0)
    assert finding.status == "ok"
    for m in finding.metrics:
        if m.low is not None:
            assert m.low <= m.value <= m.high


def test_checks_pass_and_can_fail(audit, monkeypatch) -> None:
    assert all(c.passed for c in Tail().checks(audit, TailSettings()))
    honest = torch.argsort
    by_number = lambda x, **k: torch.arange(len(x))  # noqa: E731 - parts by class number, not by count
    monkeypatch.setattr(tail.torch, "argsort", by_number)
    failed = [c.name for c in Tail().checks(audit, TailSettings()) if not c.passed]
    monkeypatch.setattr(tail.torch, "argsort", honest)
    assert failed == ["the same classes under other numbers"]
