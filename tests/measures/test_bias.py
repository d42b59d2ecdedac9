"""The bias auditor: perfect and group-reading victims, paired data, caveats, checks that can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS
from ddaudit.data import ImageData
from ddaudit.errors import Unsupported
from ddaudit.measures import bias
from ddaudit.measures.bias import Bias, BiasSettings

SETTINGS = BiasSettings(bootstrap=100, simulations=200)


def _one_hot(labels: torch.Tensor) -> torch.Tensor:
    return 5.0 * torch.nn.functional.one_hot(labels, 4).float()


@pytest.fixture(scope="module")
def paired(tiny):
    """The tiny data with a paired test set: image i as group 0 in record 2 i, as group 1 in 2 i + 1."""
    n = len(tiny.test)
    images = tiny.test.images.repeat_interleave(2, dim=0).clone()
    images[:, 0, 0, 0] = torch.arange(2).repeat(n).to(torch.uint8)
    twice = ImageData(
        images=images,
        labels=tiny.test.labels.repeat_interleave(2),
        class_names=tiny.test.class_names,
        groups=torch.arange(2).repeat(n),
        group_names=tiny.test.group_names,
    )
    return replace(tiny, extra={"test_paired": twice})


def test_a_perfect_victim_has_no_gap(tiny, known, subject, answering) -> None:
    ctx = known(tiny, [answering(_one_hot(tiny.test.labels), tiny.test.images)])
    finding = Bias().run(subject, ctx, SETTINGS, 0)
    for name in ("bias.deo_m", "bias.deo_a", "bias.equalized_odds_difference"):
        assert finding.metric(name).value == 0
    assert finding.metric("bias.worst_cell_accuracy").value == 1
    assert finding.metric("bias.deo_m").params == {"test": "standard"}
    finding.model_dump_json()


def test_a_group_reading_victim_has_the_full_gap(tiny, known, subject, answering) -> None:
    test = tiny.test
    predicted = torch.where(test.groups == 0, test.labels, (test.labels + 1) % 4)
    ctx = known(tiny, [answering(_one_hot(predicted), test.images)])
    finding = Bias().run(subject, ctx, SETTINGS, 0)
    assert finding.metric("bias.deo_m").value == 1
    assert finding.metric("bias.deo_a").value == 1
    assert finding.metric("bias.group_accuracy", group="group 0").value == 1
    assert finding.metric("bias.group_accuracy", group="group 1").value == 0
    assert not any("no evidence" in c for c in finding.caveats)


def test_gaps_at_the_floor_are_called_no_evidence(tiny, known, subject, answering) -> None:
    test = tiny.test
    hits = torch.rand(len(test), generator=torch.Generator().manual_seed(1)) < 0.7
    predicted = torch.where(hits, test.labels, (test.labels + 1) % 4)
    ctx = known(tiny, [answering(_one_hot(predicted), test.images)])
    finding = Bias().run(subject, ctx, SETTINGS, 0)
    assert finding.metric("bias.deo_a").value <= finding.metric("bias.deo_a_floor95").value
    assert any("DEO_A" in c and "no evidence" in c for c in finding.caveats)
    assert any("smallest (group, class) cell" in c for c in finding.caveats)


def test_the_paired_test_set_is_scored_too(paired, known, subject, answering) -> None:
    extra = paired.extra["test_paired"]
    of_test = answering(_one_hot(paired.test.labels), paired.test.images)
    of_pair = answering(_one_hot(torch.where(extra.groups == 0, extra.labels, 0)), extra.images)
    ctx = known(paired, [lambda x: of_test(x) + of_pair(x)])
    finding = Bias().run(subject, ctx, SETTINGS, 0)
    assert finding.status == "ok"
    assert finding.metric("bias.deo_m", test="standard").value == 0
    got = finding.metric("bias.deo_a", test="paired")
    assert got.value == pytest.approx(0.75)  # class 0 is right in both groups
    assert got.n == len(paired.test)


def test_a_paired_set_in_another_order_makes_the_answer_partial(
    paired, known, subject, answering
) -> None:
    extra = paired.extra["test_paired"]
    mixed = extra.subset(torch.randperm(len(extra), generator=torch.Generator().manual_seed(0)))
    data = replace(paired, extra={"test_paired": mixed})
    ctx = known(data, [answering(_one_hot(data.test.labels), data.test.images)])
    finding = Bias().run(subject, ctx, SETTINGS, 0)
    assert finding.status == "partial"
    assert "in turn" in finding.reason
    assert finding.metric("bias.deo_m", test="standard").value == 0


def test_data_without_groups_are_unsupported(tiny, known, subject) -> None:
    plain = replace(tiny, test=replace(tiny.test, groups=None))
    with pytest.raises(Unsupported, match="no protected attribute"):
        Bias().run(subject, known(plain, []), SETTINGS, 0)
    assert Bias().checks(known(plain, []), SETTINGS) == []


def test_end_to_end(audit, random_subset) -> None:
    auditor = AUDITORS.get("bias")
    finding = auditor.run(random_subset, audit, auditor.configure("quick"), 0)
    assert finding.status == "ok"
    headlines = [m.name for m in finding.metrics if m.headline]
    assert headlines == ["bias.deo_a", "bias.worst_group_accuracy"]
    for m in finding.metrics:
        if m.low is not None:
            assert 0 <= m.low <= m.value <= m.high <= (2 if m.name == "bias.calibration_gap" else 1)


def test_checks_pass_and_can_fail(audit, monkeypatch) -> None:
    assert all(c.passed for c in Bias().checks(audit, SETTINGS))
    honest = bias.deo.true_positive_rates
    monkeypatch.setattr(bias.deo, "true_positive_rates", lambda r: honest(r) * 0.8 + 0.01)
    failed = [c.name for c in Bias().checks(audit, SETTINGS) if not c.passed]
    assert any("right for one group" in name for name in failed)
    assert any("fairlearn" in name for name in failed)
