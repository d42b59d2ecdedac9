"""The shift auditor: networks that read colour alone, or nothing; other domains; checks that can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS
from ddaudit.data import load_data
from ddaudit.errors import BadInput, Unsupported
from ddaudit.measures import shift
from ddaudit.measures.shift import Shift, ShiftSettings

SETTINGS = ShiftSettings(images=60)


def test_a_network_that_knows_images_by_one_channel_fails_in_other_colours(
    tiny, known, subject
) -> None:
    """It is right where the second channel is that of a test image it knows."""
    pairs = zip(tiny.test.images, tiny.test.labels, strict=True)
    seen = {image[1].numpy().tobytes(): int(label) for image, label in pairs}

    def by_green(images):
        said = [seen.get(image[1].numpy().tobytes(), 0) for image in images]
        return torch.nn.functional.one_hot(torch.tensor(said), 4).float()

    finding = Shift().run(subject, known(tiny, [by_green, by_green]), SETTINGS, 0)
    clean = finding.metric("shift.clean_accuracy").value
    colour = finding.metric("shift.accuracy", kind="colour")
    assert clean == 1
    assert colour.value < 0.6
    drop = finding.metric("shift.drop", kind="colour")
    assert drop.value == pytest.approx(clean - colour.value)
    assert drop.n == 60
    types = {m.params["type"] for m in finding.metrics if m.name == "shift.type_accuracy"}
    assert {"rotation 15", "rotation -45", "grey", "inverted", "channels turned"} <= types
    assert [m.params["kind"] for m in finding.metrics if m.headline] == ["rotation", "colour"]
    assert any("shift.domain" in c for c in finding.caveats)
    (curve,) = finding.curves
    assert curve.x == [0, 15, 30, 45]


def test_a_constant_answer_loses_nothing(tiny, known, subject) -> None:
    always = lambda x: torch.tensor([[0.0, 0, 1, 0]]).repeat(len(x), 1)  # noqa: E731
    finding = Shift().run(subject, known(tiny, [always]), SETTINGS, 0)
    for kind in ("rotation", "colour"):
        got = finding.metric("shift.drop", kind=kind)
        assert (got.value, got.floor) == (0, 0)
    test = replace(tiny.test, images=tiny.test.images[:, :1])
    grey = replace(tiny, train=test, test=test, mean=(0.4,), std=(0.25,))
    finding = Shift().run(subject, known(grey, [always]), SETTINGS, 0)
    colours = [
        m.params["type"] for m in finding.metrics
        if m.name == "shift.type_accuracy" and "rotation" not in m.params["type"]
    ]  # fmt: skip
    assert colours == ["inverted"]


def test_another_domain_has_the_same_classes_in_the_shape_of_the_data(known, subject) -> None:
    data = load_data("digits-colored")
    seven = lambda x: torch.nn.functional.one_hot(torch.full((len(x),), 7), 10).float()  # noqa: E731
    ctx = known(data, [seven])
    finding = Shift().run(subject, ctx, ShiftSettings(images=100, domain="digits"), 0)
    got = finding.metric("shift.accuracy", kind="domain")
    assert (got.value, got.n) == (pytest.approx(0.1), 100)
    named = ShiftSettings(images=100, domain="digits")
    assert set(Shift().inputs(ctx, named)) == {"digits"}  # its content is part of the cell's key
    # Coloured digits are no other domain of digits.
    assert Shift().inputs(ctx, ShiftSettings()) == {}
    other = known(replace(data, origin="mnist"), [seven])
    assert set(Shift().inputs(other, ShiftSettings())) == {"digits"}
    with pytest.raises(BadInput, match="classes are not those"):
        Shift().run(subject, ctx, ShiftSettings(images=20, domain="wine"), 0)
    with pytest.raises(BadInput, match=r"shift.domain=nowhere: unknown"):
        Shift().inputs(ctx, ShiftSettings(domain="nowhere"))


def test_tables_are_refused(known, subject) -> None:
    with pytest.raises(Unsupported, match="pixels"):
        Shift().run(subject, known(load_data("wine"), []), SETTINGS, 0)


def test_end_to_end(audit, random_subset) -> None:
    auditor = AUDITORS.get("shift")
    finding = auditor.run(random_subset, audit, auditor.configure("quick", {"images": 40}), 0)
    for m in finding.metrics:
        assert m.low <= m.value <= m.high


def test_checks_pass_and_can_fail(audit, monkeypatch) -> None:
    assert all(c.passed for c in Shift().checks(audit, SETTINGS))
    monkeypatch.setattr(shift, "rotated", lambda x, d: x)
    monkeypatch.setattr(shift, "turned_channels", lambda x: x.flip(1))
    assert not any(c.passed for c in Shift().checks(audit, SETTINGS))
