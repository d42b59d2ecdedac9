"""Evaluation protocols: published schedule, caps, keys."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ddaudit.errors import BadInput
from ddaudit.training import PROTOCOLS, EvaluationProtocol

DSA = "color_crop_cutout_flip_scale_rotate"


def test_dc_has_the_published_constants() -> None:
    dc = PROTOCOLS["dc"]
    assert (dc.lr, dc.momentum, dc.weight_decay, dc.batch_size) == (0.01, 0.9, 5e-4, 256)
    assert (dc.epochs, dc.epochs_plain, dc.decay) == (1000, 300, 0.1)


@pytest.mark.parametrize(
    ("augment", "size", "steps", "decay_at"),
    [
        # The released loop runs passes 0 .. E and cuts after pass E // 2 + 1.
        (DSA, 100, 1001, 502),
        ("", 100, 301, 152),
        (DSA, 500, 2002, 1004),
        ("", 256, 301, 152),
        ("", 257, 602, 304),
    ],
)
def test_dc_schedule_is_the_released_loop(
    augment: str, size: int, steps: int, decay_at: int
) -> None:
    schedule = PROTOCOLS["dc"].for_data(augment).schedule(size)
    assert (schedule.steps, schedule.decay_at) == (steps, decay_at)


def test_large_sets_are_capped_and_the_cut_moves_along() -> None:
    schedule = PROTOCOLS["dc"].for_data(DSA).schedule(60_000)
    assert schedule.steps == 20_000
    assert schedule.decay_at == pytest.approx(20_000 * 502 / 1001, abs=1)
    assert PROTOCOLS["quick"].for_data(DSA).schedule(60_000).steps == 500
    assert PROTOCOLS["quick"].for_data(DSA).schedule(100).steps == 301


def test_augmentation_is_resolved_once() -> None:
    dc = PROTOCOLS["dc"]
    assert dc.for_data("crop_flip").augment == "crop_flip"
    assert replace(dc, augment="").for_data("crop_flip").augment == ""
    with pytest.raises(ValueError, match="for_data"):
        dc.schedule(100)
    with pytest.raises(BadInput, match="unknown augmentation"):
        dc.for_data("blur")


def test_keys_tell_trainings_apart() -> None:
    dc = PROTOCOLS["dc"]
    variants = [dc, PROTOCOLS["quick"], dc.for_data(""), dc.for_data(DSA), replace(dc, lr=0.02)]
    assert len({p.key for p in variants}) == len(variants)
    assert dc.for_data(DSA).key == replace(dc, augment=DSA, deviations=()).key
    assert dc.key.startswith("dc-")


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"max_steps": 0}]
)
def test_impossible_protocols_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="is not positive"):
        EvaluationProtocol(name="x", **change)  # type: ignore[arg-type]


def test_deviations_from_the_published_protocol_are_said() -> None:
    assert all(PROTOCOLS[name].deviations for name in ("dc", "quick"))
