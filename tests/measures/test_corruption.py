"""The ``corruption`` auditor: known answers of networks that ignore, or read only, what a corruption changes."""

from __future__ import annotations

import pytest
import torch

from ddaudit.auditing import PRESETS, Context, Subject
from ddaudit.errors import BadInput
from ddaudit.measures.corruption import Corruption, CorruptionSettings
from ddaudit.models import Arch


@pytest.fixture
def ctx(tiny) -> Context:
    made = Context(data=tiny, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD1W8"))
    made.victims = lambda subject, seed: ["network"]  # type: ignore[method-assign]
    return made


def audit(ctx, predict, **settings):
    ctx.predict = predict
    auditor = Corruption()
    chosen = auditor.configure("quick", {"images": 40, **settings})
    return auditor.run(Subject(id="s", kind="recipe"), ctx, chosen, 0)


def test_a_constant_answer_loses_nothing(ctx):
    def always_two(net, images):
        return torch.nn.functional.one_hot(torch.full((len(images),), 2), 4).float()

    finding = audit(ctx, always_two)
    values = {m.name: m.value for m in finding.metrics}
    share = float((ctx.test(40).labels == 2).double().mean())
    assert list(values.values()) == pytest.approx([share] * len(values))
    assert len([m for m in finding.metrics if m.name == "corruption.type_accuracy"]) == 15
    assert any("C-lite" in c for c in finding.caveats)
    (curve,) = finding.curves
    assert curve.x == [0, 1, 2, 3, 4, 5]


def test_a_network_that_reads_brightness_fails_on_brightness_alone(ctx):
    """It answers the label while the mean is where it was, and a wrong class once it has moved."""
    clean = ctx.test(40)
    means = clean.images.float().mean((1, 2, 3))

    def by_mean(net, images):
        moved = (images.float().mean((1, 2, 3)) - means).abs() > 8
        answer = torch.where(moved, (clean.labels + 1) % 4, clean.labels)
        return torch.nn.functional.one_hot(answer, 4).float()

    finding = audit(ctx, by_mean, types=("brightness", "contrast"))
    by_type = {
        m.params["type"]: m.value for m in finding.metrics if m.name == "corruption.type_accuracy"
    }
    assert by_type["contrast"] == 1.0
    assert by_type["brightness"] < 0.5
    assert finding.metric("corruption.worst_type_accuracy").value == by_type["brightness"]
    assert finding.metric("corruption.accuracy").value == pytest.approx(sum(by_type.values()) / 2)
    assert finding.metric("corruption.clean_accuracy").value == 1.0


def test_instrument_checks_are_green(ctx):
    assert [c.name for c in Corruption().checks(ctx, CorruptionSettings()) if not c.passed] == []


def test_instrument_checks_go_red_on_a_corruption_that_does_nothing(ctx, monkeypatch):
    from ddaudit.measures import corruption

    monkeypatch.setattr(corruption, "corrupt", lambda images, kind, level: images)
    assert sum(not c.passed for c in Corruption().checks(ctx, CorruptionSettings())) == 2


def test_unknown_types_are_one_line():
    with pytest.raises(BadInput, match="unknown corruption fogg"):
        Corruption().configure("quick", {"types": ["fogg"]})


def test_a_type_of_other_files_is_one_line(ctx):
    """C-lite has no shear, MNIST-C has."""
    settings = Corruption().configure("quick", {"types": ["shear"]})
    with pytest.raises(BadInput, match=r"has no shear here\. There are gaussian_noise, "):
        Corruption().run(Subject(id="s", kind="recipe"), ctx, settings, 0)
