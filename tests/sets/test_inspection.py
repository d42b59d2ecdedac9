"""Inspection: measured facts, the JSON contract, and warnings that a careful reader would raise."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddaudit.errors import BadInput
from ddaudit.sets import (
    Card,
    DistilledSet,
    LedgerEntry,
    PrivacyClaim,
    StorageBytes,
    describe,
    fingerprint,
    inspect,
    save,
)

Make = Callable[..., DistilledSet]
_KNOWN = {"method": "dm", "data": "digits", "mean": [0.5] * 3, "std": [0.25] * 3}


def _claim(**change: object) -> PrivacyClaim:
    ledger = [
        LedgerEntry(query="class sums", sigma=1.25, q=0.01, count=5000),
        LedgerEntry(query="labels", sigma=40, q=1, count=1),
    ]
    claim = PrivacyClaim(
        epsilon=8, delta=1e-5, ledger=ledger, cross_checks={"rdp": 7.5, "prv": 7.96}, clip=1.0
    )
    return claim.model_copy(update=change)


def _warnings(path: Path, x: DistilledSet) -> list[str]:
    return inspect(save(x, path / "a.safetensors")).warnings


def test_facts_are_measured(tmp_path: Path, make_set: Make) -> None:
    x = make_set(**_KNOWN)
    x.images[0, 0, 0, 0], x.images[1, 2, 3, 4] = -0.5, 1.75
    path = save(x, tmp_path / "a.safetensors")
    i = inspect(path)
    assert (i.num_images, i.shape, i.num_classes) == (8, (3, 8, 8), 4)
    assert (i.pixel_min, i.pixel_max) == (-0.5, 1.75)
    assert i.pixel_outside == pytest.approx(2 / (8 * 3 * 64))
    assert i.images_per_class == [2, 2, 2, 2]
    assert (i.label_kind, i.dtype) == ("hard", "float32")
    assert (i.image_bytes, i.label_bytes) == (8 * 3 * 64 * 4, 8 * 8)
    assert i.file_bytes == path.stat().st_size
    assert i.fingerprint == fingerprint(x)


def test_soft_labels_are_counted_by_their_largest_entry(tmp_path: Path) -> None:
    labels = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    x = DistilledSet(torch.rand(3, 1, 4, 4), labels, 2, Card())
    i = inspect(save(x, tmp_path / "a.safetensors"))
    assert (i.label_kind, i.images_per_class) == ("soft", [2, 1])


def test_json_is_the_card_with_its_privacy_ledger(tmp_path: Path, make_set: Make) -> None:
    path = save(make_set(**_KNOWN, privacy=_claim()), tmp_path / "a.safetensors")
    shown = json.loads(json.dumps(inspect(path).to_json(), allow_nan=False))
    privacy = shown["privacy"]
    assert (privacy["epsilon"], privacy["delta"]) == (8, 1e-5)
    assert (privacy["relation"], privacy["accountant"]) == ("add-or-remove-one", "pld")
    assert privacy["ledger"][0] == {"query": "class sums", "sigma": 1.25, "q": 0.01, "count": 5000}
    assert (shown["method"], shown["data"]) == ("dm", "digits")
    assert shown["inspection"]["num_images"] == 8
    assert shown["inspection"]["warnings"] == []


def test_json_without_a_claim(tmp_path: Path, make_set: Make) -> None:
    shown = inspect(save(make_set(), tmp_path / "a.safetensors")).to_json()
    assert shown["privacy"] is None


def test_a_sound_set_has_no_warnings(tmp_path: Path, make_set: Make) -> None:
    assert _warnings(tmp_path, make_set(**_KNOWN, privacy=_claim())) == []


def test_warns_of_pixels_outside(tmp_path: Path, make_set: Make) -> None:
    x = make_set(**_KNOWN)
    x.images[0] -= 2
    (text,) = _warnings(tmp_path, x)
    assert "12.5% of pixel values lie outside [0, 1]" in text
    assert "un-normalised" not in text
    (text,) = _warnings(tmp_path, replace(x, images=x.images * 5 + 2))
    assert "were the images un-normalised with the right mean and std?" in text


def test_warns_of_constant_images(tmp_path: Path, make_set: Make) -> None:
    x = make_set(**_KNOWN)
    assert _warnings(tmp_path, replace(x, images=torch.zeros_like(x.images))) == [
        "all pixels have one value"
    ]


def test_warns_of_too_few_images(tmp_path: Path, make_set: Make) -> None:
    x = make_set(**_KNOWN)
    x.labels[:] = torch.tensor([0, 0, 0, 0, 2, 2, 1, 1])
    x = replace(x, card=x.card.model_copy(update={"ipc": 3}))
    found = _warnings(tmp_path, x)
    assert found[0] == "1 of 4 classes has no image"
    assert "3 of 4 classes have fewer than the 3 images per class" in found[1]


def test_asks_whether_labels_count_from_one_and_pixels_were_divided_twice(
    tmp_path: Path, make_set: Make
) -> None:
    x = make_set(**_KNOWN)
    x.labels[:] = torch.tensor([1, 1, 1, 2, 2, 2, 3, 3])
    text, _ = _warnings(tmp_path, x)
    assert text == "1 of 4 classes has no image, the first one: do labels count from 1?"
    (text,) = _warnings(tmp_path, replace(make_set(**_KNOWN), images=x.images.clamp(0, 1) / 255))
    assert text == "no pixel is above 0.0039: were they divided by 255 twice?"


def test_images_that_cost_nothing_are_not_believed(tmp_path: Path, make_set: Make) -> None:
    free = make_set(**_KNOWN, bytes=StorageBytes(images=0, labels=64))
    with pytest.raises(BadInput, match="the images take 0 bytes"):
        save(free, tmp_path / "a.safetensors")


def test_decoded_sets_may_have_more_images_than_ipc(tmp_path: Path, make_set: Make) -> None:
    x = make_set(classes=2, ipc=8)
    card = Card(**_KNOWN, ipc=2)
    assert _warnings(tmp_path, replace(x, card=card)) == []


def test_warns_of_what_the_card_leaves_out(tmp_path: Path, make_set: Make) -> None:
    found = " ".join(_warnings(tmp_path, make_set()))
    for words in ("no normalisation", "which data", "how it was made"):
        assert words in found


def test_warns_of_real_records(tmp_path: Path, make_set: Make) -> None:
    found = _warnings(tmp_path, make_set(**_KNOWN, member_indices=[4, 8, 15]))
    assert found == ["releases real records verbatim (3 training images)"]
    file = save(
        make_set(**_KNOWN, member_indices=[4], privacy=_claim()), tmp_path / "b.safetensors"
    )
    (problem,) = inspect(file).claim_problems
    assert "the claim cannot hold" in problem
    assert f"to publish: Nothing: the claim does not hold ({problem})." in describe(inspect(file))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise_seed_published": True}, "the claim is void"),
        ({"epsilon": float("inf")}, "infinite"),
        ({"epsilon": 100.1}, "epsilon 100.1 promises nothing"),
    ],
)
def test_warns_of_weak_claims(
    tmp_path: Path, make_set: Make, change: dict[str, object], words: str
) -> None:
    path = save(make_set(**_KNOWN, privacy=_claim(**change)), tmp_path / "a.safetensors")
    (text,) = [line for line in describe(inspect(path)) if line.startswith("warning: ")]
    assert words in text


def test_an_empty_promise_is_no_privacy_statement(tmp_path: Path, make_set: Make) -> None:
    """e^100 is about 10^43; at the line itself nothing is warned of."""
    for epsilon, empty in ((100.0, False), (1e6, True), (float("inf"), True)):
        path = tmp_path / f"{epsilon}.safetensors"
        save(make_set(**_KNOWN, privacy=_claim(epsilon=epsilon)), path)
        text = "\n".join(describe(inspect(path)))
        assert ("no privacy statement" in text) == empty
        assert ("warning: " in text) == empty


def test_names_tensors_that_it_does_not_know(tmp_path: Path, make_set: Make) -> None:
    x, path = make_set(**_KNOWN), tmp_path / "a.safetensors"
    header = {"ddaudit.card": x.card.model_dump_json(), "ddaudit.format": "1"}
    header["ddaudit.num_classes"] = "4"
    tensors = {"images": x.images, "labels": x.labels, "epoch_labels": torch.zeros(3)}
    save_file(tensors, str(path), header)
    assert inspect(path).other_tensors == ["epoch_labels"]
    assert inspect(path).warnings == ["further tensors, not read: epoch_labels"]


def test_description_prints_the_ledger_as_a_table(tmp_path: Path, make_set: Make) -> None:
    path = save(make_set(**_KNOWN, privacy=_claim()), tmp_path / "a.safetensors")
    lines = describe(inspect(path))
    start = next(
        i for i, line in enumerate(lines) if line.split() == ["query", "sigma", "q", "count"]
    )
    head, first, second = lines[start : start + 3]
    assert first.split() == ["class", "sums", "1.25", "0.01", "5000"]
    assert second.split() == ["labels", "40", "1", "1"]
    assert len(head) == len(first) == len(second)  # right-aligned columns end together
    assert head.index("sigma") + 5 == first.index("1.25") + 4
    rest = [line.split() for line in lines[start + 3 :]]
    assert ["accountant", "epsilon"] in rest
    assert ["pld", "(the", "claim)", "8"] in rest
    assert ["prv", "(by", "the", "card)", "7.96"] in rest
    assert ["rdp", "(by", "the", "card)", "7.5"] in rest
    assert any("add-or-remove-one" in line for line in lines)


def test_description_of_a_set_without_a_claim(tmp_path: Path, make_set: Make) -> None:
    x = make_set(**_KNOWN, notes=["odd"], class_names=["a", "b", "c", "d"], seed=3)
    lines = describe(inspect(save(x, tmp_path / "a.safetensors")))
    text = "\n".join(lines)
    assert lines[0] == str(tmp_path / "a.safetensors")
    assert "privacy: no claim" in lines
    for words in ("8 of 3 x 8 x 8", "2 images each", "digits", "a, b, c, d", "note      "):
        assert words in text
    assert "warning" not in text


def test_inspecting_a_bomb_does_not_set_it_off(tmp_path: Path, bomb: object, marker: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(bomb, 2))
    with pytest.raises(BadInput, match="refused"):
        inspect(path)
    assert not marker.exists()
