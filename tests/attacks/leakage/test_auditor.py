"""The leakage auditor end to end, on sets whose copies are known."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddaudit.attacks.leakage import auditor as module
from ddaudit.attacks.leakage.auditor import Leakage, LeakageSettings, closest_pairs
from ddaudit.auditing import AUDITORS, PRESETS, Context, Subject
from ddaudit.data import Dataset
from ddaudit.distillation import resolve
from ddaudit.errors import Unsupported
from ddaudit.findings import Finding
from ddaudit.models import Arch
from ddaudit.sets import Card, DistilledSet


def context(data: Dataset) -> Context:
    return Context(data=data, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"), ipc=4)


def audit(data: Dataset, images: torch.Tensor, **card: Any) -> Finding:
    labels = torch.arange(len(images)) % data.num_classes
    made = DistilledSet(images, labels, data.num_classes, Card(**card))
    subject = Subject(id="file", kind="file", set=made, identity="file")
    return Leakage().run(subject, context(data), LeakageSettings(), 0)


def value(found: Finding, name: str, **params: Any) -> float:
    got = found.metric(name, **params).value
    assert got is not None
    return got


def test_it_is_registered() -> None:
    assert isinstance(AUDITORS.get("leakage"), Leakage)


def test_instrument_checks_pass_and_a_blunt_rule_fails_them(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LeakageSettings()
    assert all(c.passed for c in Leakage().checks(context(tiny), settings))
    blunt = module.copy_test

    def everything_is_near(*args: Any) -> Any:
        found = blunt(*args)
        return replace(found, near=found.ratio < 1.5)

    monkeypatch.setattr(module, "copy_test", everything_is_near)
    assert [c.passed for c in Leakage().checks(context(tiny), settings)] == [True, False, False]


@pytest.mark.parametrize(("released", "low", "high"), [(32, 1.0, 1.0), (16, 0.4, 0.6), (0, 0, 0.1)])
def test_copy_rate_counts_planted_copies(
    tiny: Dataset, released: int, low: float, high: float
) -> None:
    g = torch.Generator().manual_seed(0)
    copies = tiny.train.pixels(torch.arange(released))
    averages = tiny.train.pixels().view(-1, 6, 3, 8, 8).mean(1)[: 32 - released]
    found = audit(
        tiny, torch.cat([copies, averages + 0.05 * torch.randn(averages.shape, generator=g)])
    )
    assert low <= value(found, "leakage.copy_rate", space="pixels") <= high
    assert value(found, "leakage.exact_copy_rate") == pytest.approx(released / 32)
    headlines = {m.name for m in found.metrics if m.headline}
    assert headlines == {"leakage.copy_rate", "leakage.nearest_ratio"}


def test_a_coreset_is_one_hundred_percent_copies(tiny: Dataset) -> None:
    subject = Subject(id="random", kind="recipe", recipe=resolve("random"), identity="random")
    found = Leakage().run(subject, context(tiny), LeakageSettings(), 0)
    for space in module.SPACES:
        assert value(found, "leakage.copy_rate", space=space) == 1.0
        assert value(found, "leakage.nearest_ratio", space=space) == pytest.approx(0, abs=1e-3)
    assert value(found, "leakage.p_value", space="pixels") < 0.01
    Finding.model_validate_json(found.model_dump_json())


def test_copies_of_validation_records_are_copies_of_what_others_trained_on(tiny: Dataset) -> None:
    """Unless the set says that it was made from our training records: then they are none of its own."""
    images = tiny.validation.pixels(torch.arange(8))
    foreign = audit(tiny, images)
    assert value(foreign, "leakage.exact_copy_rate") == 1.0
    assert value(foreign, "leakage.held_out_copy_rate") == 0.0
    own = audit(tiny, images, source_fingerprint=tiny.train.fingerprint)
    assert value(own, "leakage.exact_copy_rate") == 0.0
    assert value(own, "leakage.held_out_copy_rate") == 1.0


def test_large_sets_are_sampled_and_said_to_be(tiny: Dataset) -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    made = DistilledSet(tiny.train.pixels(torch.arange(100)), labels, 4, Card())
    subject = Subject(id="f", kind="file", set=made, identity="f")
    found = Leakage().run(subject, context(tiny), LeakageSettings(images=30, pairs=0), 0)
    assert found.metric("leakage.copy_rate").n == 30
    assert any("random 30" in c for c in found.caveats)
    assert found.images == []


def test_other_data_and_checkpoints(tiny: Dataset) -> None:
    images = tiny.train.pixels(torch.arange(4))
    other = audit(tiny, images, source_fingerprint="f" * 16)
    assert any("made from other data" in c for c in other.caveats)
    assert not any("real records as they are" in c for c in other.caveats)
    real = audit(tiny, images, contains_real_pixels=True)
    assert any("real records as they are" in c for c in real.caveats)
    network: Any = torch.nn.Identity()
    with pytest.raises(Unsupported, match="distilled set"):
        Leakage().run(
            Subject(id="c", kind="checkpoint", network=network), context(tiny), LeakageSettings(), 0
        )


def test_too_few_held_out_records_are_unsupported(tiny: Dataset) -> None:
    few = tiny.test.subset(torch.arange(5))
    with pytest.raises(Unsupported, match="20 held-out"):
        audit(replace(tiny, test=few, validation=few), tiny.train.pixels(torch.arange(4)))


@pytest.mark.parametrize(("count", "checks"), [(39, 2), (40, 3)])
def test_a_check_that_few_held_out_records_leave_out_is_said(
    tiny: Dataset, count: int, checks: int
) -> None:
    none = torch.arange(0)
    data = replace(
        tiny, validation=tiny.train.subset(none), test=tiny.test.subset(torch.arange(count))
    )
    assert len(Leakage().checks(context(data), LeakageSettings())) == checks
    found = audit(data, data.train.pixels(torch.arange(4)))
    assert any("too few to check" in c for c in found.caveats) == (checks == 2)


def test_the_picture_shows_the_closest_pairs_first() -> None:
    released = torch.stack([torch.full((1, 4, 4), v) for v in (0.0, 1.0, 1.5)])
    nearest = torch.stack([torch.full((1, 4, 4), v) for v in (0.2, 0.8, 0.4)])
    picture = closest_pairs(released, nearest, torch.tensor([0.9, 0.1, 0.5]), pairs=2)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.png_base64))))
    assert shown.shape == (56, 2 * (2 * 56 + 2) + 14, 3)
    assert shown[28, 28].tolist() == [255] * 3  # ratio 0.1 comes first
    assert shown[28, 56 + 2 + 28].tolist() == [204] * 3
    assert shown[28, 128 + 28].tolist() == [255] * 3  # 1.5 is clipped for display
    assert shown[28, 128 + 58 + 28].tolist() == [102] * 3
    assert "do not publish" in picture.caption
