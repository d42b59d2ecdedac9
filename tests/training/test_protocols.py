"""Evaluation protocols: published schedule, caps, keys."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ddaudit.errors import BadInput
from ddaudit.training import PROTOCOLS, EvaluationProtocol
from ddaudit.training.augment import operations, without

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


def test_cosine_has_no_extra_pass_and_no_cut() -> None:
    how = replace(PROTOCOLS["dc"], lr_schedule="cosine", augment=DSA, max_steps=None)
    schedule = how.schedule(300)
    assert (schedule.steps, schedule.decay_at, schedule.per_epoch) == (2000, 2000, 2)


def test_keys_of_older_protocols_are_what_they_were() -> None:
    """Victims cached before options were added must still be found."""
    assert PROTOCOLS["dc"].for_data(DSA).key == "dc-a7b69a26"
    assert PROTOCOLS["quick"].for_data("").key == "quick-087b8637"
    assert replace(PROTOCOLS["dc"], loss="mse").key != PROTOCOLS["dc"].key


RICH = EvaluationProtocol(
    name="rded", epochs=300, batch_size=50, lr=1e-3, weight_decay=0.01, augment="",
    optimiser="adamw", lr_schedule="cosine", loss="kl", temperature=20.0, crop=(0.08, 1.0),
    flip=True, cutmix=1.0, deviations=("shorter",),
)  # fmt: skip


def test_a_card_gives_back_the_protocol() -> None:
    for protocol in (RICH, *PROTOCOLS.values()):
        stored = json.loads(json.dumps(protocol.to_card()))
        assert EvaluationProtocol.from_card(stored) == protocol
    assert EvaluationProtocol.from_card({"name": "mine", "lr": 1}).lr == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warmup": 5}, "does not know: warmup"),
        ({"optimiser": "lamb"}, "'optimiser' is invalid"),
        ({"lr": "0.1"}, "'lr' is invalid"),
        ({"lr": float("nan")}, "lr nan is not within"),
        ({"lr": float("inf")}, "lr inf is not within"),
        ({"epochs": 10**9}, "epochs 1e[+]09 is not within 1 to 10000"),
        ({"epochs": 10.5}, "'epochs' is invalid"),
        ({"temperature": 0.0}, "temperature 0.0 is not positive"),
        ({"crop": [0.5, 0.2]}, "no range of areas"),
        ({"crop": [0.5]}, "'crop"),
        ({"cutmix": 1.5}, "cutmix 1.5 is not within"),
        ({"flip": "yes"}, "'flip' is invalid"),
        ({"augment": "blur"}, "unknown augmentation"),
        ({"labels": "store"}, "replays a label store and augments on top"),
        ({"name": "../../etc/passwd"}, "a name that no file can carry"),
        ({"name": 7}, "'name' is invalid"),
    ],
)
def test_what_a_card_may_not_state_is_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        EvaluationProtocol.from_card({**RICH.to_card(), **change}, where="a.safetensors")
    assert str(caught.value).startswith("a.safetensors: ")
    assert "\n" not in str(caught.value)


def test_unknown_choices_are_refused_in_python_too() -> None:
    with pytest.raises(BadInput, match="loss 'hinge' is not one of"):
        EvaluationProtocol(name="x", loss="hinge")  # type: ignore[arg-type]


def test_a_store_brings_its_own_augmentation() -> None:
    store = EvaluationProtocol(name="fkd", labels="store")
    assert store.for_data(DSA).augment == ""
    assert store.for_data(DSA).augmented


def test_a_card_s_protocol_mirrors_no_digits() -> None:
    idc = EvaluationProtocol(name="idc", augment="flip+color+crop+cutout", flip=True)
    digits = idc.for_data("crop_scale_rotate")
    assert "flip" not in operations(str(digits.augment))
    assert (digits.flip, idc.for_data("color_crop_flip")) == (False, idc)
    assert without("flip+color+crop_flip", "flip") == "color+crop"
