"""Set files: what is written is what is read, and nothing damaged or dangerous gets through."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.torch import save_file

from ddaudit.errors import BadInput
from ddaudit.sets import (
    Card,
    DistilledSet,
    LedgerEntry,
    PrivacyClaim,
    fingerprint,
    is_set_file,
    load,
    save,
)

Make = Callable[..., DistilledSet]

_PIXELS = st.floats(-16, 16, width=32)
_CARDS = st.builds(
    Card,
    method=st.text(max_size=8),
    ipc=st.none() | st.integers(1, 50),
    seed=st.none() | st.integers(-(2**31), 2**63 - 1),
    seconds=st.none() | st.floats(0, 1e6),
    notes=st.lists(st.text(max_size=8), max_size=2),
    deviations=st.lists(st.text(max_size=8), max_size=2),
    versions=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    recipe=st.none() | st.dictionaries(st.text(max_size=4), st.integers() | st.text(), max_size=2),
    member_indices=st.none() | st.lists(st.integers(0, 10**6), max_size=3),
    privacy=st.none()
    | st.builds(
        PrivacyClaim,
        epsilon=st.floats(0, 100) | st.just(float("inf")),
        delta=st.floats(0, 1),
        ledger=st.lists(
            st.builds(
                LedgerEntry,
                query=st.text(max_size=4),
                sigma=st.floats(0, 100),
                q=st.floats(0, 1),
                count=st.integers(0, 10**6),
            ),
            max_size=2,
        ),
    ),
)


@st.composite
def _sets(draw: st.DrawFn) -> DistilledSet:
    classes = draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])), draw(st.integers(1, 3)), 2)
    images = torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=_PIXELS)))
    if draw(st.booleans()):
        raw = draw(hnp.arrays(np.float32, (shape[0], classes), elements=st.floats(0, 1, width=32)))
        labels = torch.from_numpy(raw).softmax(1)
    else:
        labels = torch.from_numpy(
            draw(hnp.arrays(np.int64, shape[:1], elements=st.integers(0, classes - 1)))
        )
    return DistilledSet(images, labels, classes, draw(_CARDS))


@given(_sets())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_round_trip_is_bit_exact(tmp_path_factory: pytest.TempPathFactory, x: DistilledSet) -> None:
    path = tmp_path_factory.mktemp("sets") / "a.safetensors"
    back = load(save(x, path))
    # Bytes, not values: -0.0 must stay -0.0 and subnormals must survive.
    assert back.images.numpy().tobytes() == x.images.numpy().tobytes()
    assert back.labels.numpy().tobytes() == x.labels.numpy().tobytes()
    assert (back.images.dtype, back.labels.dtype) == (torch.float32, x.labels.dtype)
    assert (back.images.shape, back.labels.shape) == (x.images.shape, x.labels.shape)
    assert (back.num_classes, back.card) == (x.num_classes, x.card)
    assert fingerprint(back) == fingerprint(x)


def test_safetensors_library_reads_what_is_written(tmp_path: Path, make_set: Make) -> None:
    x = make_set(soft=True, method="dm")
    save(x, tmp_path / "a.safetensors")
    with safe_open(str(tmp_path / "a.safetensors"), framework="pt") as file:
        header = file.metadata()
        assert torch.equal(file.get_tensor("images"), x.images)
        assert torch.equal(file.get_tensor("labels"), x.labels)
        assert set(file.keys()) == {"images", "labels"}
    assert header["ddaudit.format"] == "1"
    assert header["ddaudit.num_classes"] == "4"
    assert json.loads(header["ddaudit.card"])["method"] == "dm"


def test_what_the_safetensors_library_writes_is_read(tmp_path: Path, make_set: Make) -> None:
    x = make_set(method="dm")
    path = tmp_path / "a.safetensors"
    _write(path, x, {"ddaudit.later": "x"}, curvature=torch.zeros(2))
    back = load(path)
    assert torch.equal(back.images, x.images)
    assert back.card == x.card


def test_equal_sets_are_equal_files(tmp_path: Path, make_set: Make) -> None:
    for name in ("a", "b", "c"):
        save(make_set(notes=["a note"]), tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in ("a", "b", "c")}) == 1


@pytest.mark.parametrize("note", ["", "a", "ab", "ü€", "\x00", "abcdefgh"])
def test_tensors_are_aligned_whatever_the_card_says(
    tmp_path: Path, make_set: Make, note: str
) -> None:
    blob = save(make_set(notes=[note]), tmp_path / "a").read_bytes()
    assert int.from_bytes(blob[:8], "little") % 8 == 0
    assert load(tmp_path / "a").card.notes == [note]


def test_a_header_that_is_a_list_is_damaged_and_no_crash(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((7).to_bytes(8, "little") + b"[1,2,3]")
    assert is_set_file(path)
    with pytest.raises(BadInput):
        load(path)


def test_views_and_gradients_are_stored_by_value(tmp_path: Path) -> None:
    wide = torch.rand(3, 8, 8, 2)
    images = wide.permute(3, 0, 1, 2).requires_grad_()
    back = load(save(DistilledSet(images, torch.tensor([0, 1]), 2, Card()), tmp_path / "a"))
    assert torch.equal(back.images, images.detach())
    assert not back.images.requires_grad


def test_missing_folders_are_made(tmp_path: Path, make_set: Make) -> None:
    path = save(make_set(), tmp_path / "new" / "folder" / "a.safetensors")
    assert load(path).num_classes == 4


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_follow_the_umask(tmp_path: Path, make_set: Make) -> None:
    old = os.umask(0o027)
    try:
        path = save(make_set(), tmp_path / "a.safetensors")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# ---- failures leave things as they were --------------------------------------------------------


def test_invalid_set_is_not_written(tmp_path: Path, make_set: Make) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(BadInput, match="out of range"):
        save(replace(make_set(), num_classes=2), path)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file(
    tmp_path: Path, make_set: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(make_set(), tmp_path / "a.safetensors")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadInput, match="No space left"):
        save(make_set(ipc=3), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_overwritten(tmp_path: Path, make_set: Make) -> None:
    with pytest.raises(BadInput, match="is a folder"):
        save(make_set(), tmp_path)


# ---- files that must be refused, with one clear line each --------------------------------------


def _write(path: Path, x: DistilledSet, header: dict[str, str], **others: torch.Tensor) -> None:
    metadata = {
        "ddaudit.card": x.card.model_dump_json(),
        "ddaudit.format": "1",
        "ddaudit.num_classes": str(x.num_classes),
        **header,
    }
    metadata = {k: v for k, v in metadata.items() if v != "DROP"}
    tensors = {"images": x.images.contiguous(), "labels": x.labels.contiguous(), **others}
    save_file(tensors, str(path), metadata)


def _refused(path: Path, *words: str) -> str:
    with pytest.raises(BadInput) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


def test_missing_file(tmp_path: Path) -> None:
    _refused(tmp_path / "none.safetensors", "no such file")


def test_folder(tmp_path: Path) -> None:
    _refused(tmp_path, "is a folder")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.touch()
    _refused(path, "is empty", "again")


@pytest.mark.parametrize("keep", [4, 8, 60, 0.5, -1])
def test_truncated_file(tmp_path: Path, make_set: Make, keep: float) -> None:
    path = save(make_set(), tmp_path / "a.safetensors")
    blob = path.read_bytes()
    cut = int(len(blob) * keep) if isinstance(keep, float) else keep
    path.write_bytes(blob[:cut])
    _refused(path, "is truncated", "again")


def test_other_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"images,labels\n1,2\n")
    _refused(path, "not a safetensors file")


def test_header_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((8).to_bytes(8, "little") + b"{{{{{{{{" + bytes(64))
    _refused(path, "not a valid safetensors file")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle_bomb_renamed_to_safetensors(
    tmp_path: Path, bomb: object, marker: Path, protocol: int
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(bomb, protocol))
    _refused(path, "is a pickle", "refused")
    assert not marker.exists()


def test_torch_bomb_renamed_to_safetensors(tmp_path: Path, bomb: object, marker: Path) -> None:
    path = tmp_path / "a.safetensors"
    torch.save({"data": bomb}, path)
    _refused(path, "zip archive")
    assert not marker.exists()


def test_torch_file_gets_the_import_command(tmp_path: Path) -> None:
    path = tmp_path / "res_DM_MNIST_ConvNet_1ipc.pt"
    torch.save({"data": []}, path)
    _refused(path, f"ddaudit import {path} --format dc --out FILE")


def test_safetensors_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, str(path))
    _refused(path, "not a ddaudit set", "docs/formats.md")


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_missing_tensor(tmp_path: Path, make_set: Make, missing: str) -> None:
    x, path = make_set(), tmp_path / "a.safetensors"
    tensors = {"images": x.images, "labels": x.labels}
    del tensors[missing]
    save_file(tensors, str(path), {"ddaudit.card": "{}", "ddaudit.format": "1"})
    _refused(path, f"holds no tensor '{missing}'")


def test_missing_card(tmp_path: Path, make_set: Make) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, make_set(), {"ddaudit.card": "DROP"})
    _refused(path, "no 'ddaudit.card'")


@pytest.mark.parametrize("card", ["{", "", "[" * 100_000])
def test_card_is_no_json(tmp_path: Path, make_set: Make, card: str) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, make_set(), {"ddaudit.card": card})
    _refused(path, "card is not valid JSON")


def test_card_is_no_object(tmp_path: Path, make_set: Make) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, make_set(), {"ddaudit.card": "[1]"})
    _refused(path, "expected an object")


def test_card_field_of_wrong_type(tmp_path: Path, make_set: Make) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, make_set(), {"ddaudit.card": '{"privacy": {"epsilon": "a", "delta": 0.1}}'})
    _refused(path, "'privacy.epsilon' is invalid")


@pytest.mark.parametrize("claim", [(-1.0, 1e-5), (float("nan"), 1e-5), (1.0, 2.0)])
def test_impossible_claim(tmp_path: Path, make_set: Make, claim: tuple[float, float]) -> None:
    path = tmp_path / "a.safetensors"
    card = json.dumps({"privacy": {"epsilon": claim[0], "delta": claim[1]}})
    _write(path, make_set(), {"ddaudit.card": card})
    _refused(path, "card field 'privacy.")


def test_card_of_a_newer_version(tmp_path: Path, make_set: Make) -> None:
    path = tmp_path / "a.safetensors"
    card = {"method": "dm", "carbon": 3, "privacy": {"epsilon": 1, "delta": 0, "proof": ""}}
    card["versions"] = {"ddaudit": "9.1"}
    _write(path, make_set(), {"ddaudit.card": json.dumps(card)})
    _refused(path, "carbon", "privacy.proof", "written by ddaudit 9.1", "upgrade ddaudit")


def test_format_of_a_newer_version(tmp_path: Path, make_set: Make) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, make_set(), {"ddaudit.format": "3"})
    _refused(path, "is in format 3", "Upgrade ddaudit")


@pytest.mark.parametrize("text", ["one", "9" * 5000, "²"])
def test_format_is_no_number(tmp_path: Path, make_set: Make, text: str) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, make_set(), {"ddaudit.format": text})
    _refused(path, "header says format")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": torch.full((8, 3, 8, 8), float("nan"))}, ["8 of 8 images", "NaN", "diverged"]),
        ({"images": torch.zeros(8, 3, 8, 8).double()}, ["float64", "expected float32"]),
        ({"images": torch.zeros(8, 3, 8, 8).byte()}, ["uint8", "expected float32"]),
        ({"images": torch.zeros(8, 8, 8, 3)}, ["8 channels", "NHWC"]),
        ({"images": torch.zeros(8, 3, 8)}, ["shape (8, 3, 8)"]),
        ({"images": torch.zeros(8, 3, 0, 8)}, ["0 x 8 pixels"]),
        ({"images": torch.zeros(0, 3, 8, 8), "labels": torch.zeros(0).long()}, ["no images"]),
        ({"labels": torch.arange(8)}, ["label 7 is out of range for 4 classes"]),
        ({"labels": torch.arange(8) - 1}, ["label -1 is out of range"]),
        ({"labels": torch.zeros(8).int()}, ["int32", "expected int64"]),
        ({"labels": torch.zeros(8)}, ["hard labels are float32"]),
        ({"labels": torch.zeros(7).long()}, ["labels have shape (7,) for 8 images"]),
        ({"labels": torch.zeros(8, 4)}, ["not distributions", "softmax"]),
        ({"labels": torch.full((8, 4), float("nan"))}, ["soft labels contain NaN"]),
        ({"labels": torch.full((8, 5), 0.2)}, ["(8, 5)", "(8, 4)"]),
        ({"labels": torch.full((8, 4), 0.25).double()}, ["float64", "expected float32"]),
    ],
)
def test_content_that_is_invalid(
    tmp_path: Path, make_set: Make, change: dict[str, Any], words: list[str]
) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, replace(make_set(), **change), {})
    _refused(path, *words)


def test_card_that_does_not_fit_the_tensors(tmp_path: Path, make_set: Make) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, make_set(class_names=["a", "b"]), {})
    _refused(path, "card names 2 classes but the set has 4")
    _write(path, make_set(mean=[0.5], std=[0.5]), {})
    _refused(path, "1 values of mean for 3 channels")


# ---- the number of classes ---------------------------------------------------------------------


def test_number_of_classes_from_soft_labels(tmp_path: Path, make_set: Make) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, make_set(soft=True, classes=5), {"ddaudit.num_classes": "DROP"})
    assert load(path).num_classes == 5


def test_number_of_classes_from_names(tmp_path: Path, make_set: Make) -> None:
    path = tmp_path / "a.safetensors"
    names = [str(i) for i in range(7)]
    x = replace(make_set(), num_classes=7, card=Card(class_names=names))
    _write(path, x, {"ddaudit.num_classes": "DROP"})
    assert load(path).num_classes == 7


@pytest.mark.parametrize("text", ["DROP", "many", "0", "999999999"])
def test_number_of_classes_unknown_or_absurd(tmp_path: Path, make_set: Make, text: str) -> None:
    path = tmp_path / "a.safetensors"
    _write(path, make_set(), {"ddaudit.num_classes": text})
    _refused(path, "classes")


# ---- fingerprint -------------------------------------------------------------------------------


def test_fingerprint_is_a_sha256_of_the_content(make_set: Make) -> None:
    x = make_set(classes=2, ipc=1, shape=(1, 2, 2))
    raw = b"torch.float32(2, 1, 2, 2)" + x.images.numpy().tobytes()
    raw += b"torch.int64(2,)" + x.labels.numpy().tobytes()
    assert fingerprint(x) == hashlib.sha256(raw).hexdigest()[:16]


def test_fingerprint_sees_content_and_not_the_card(make_set: Make) -> None:
    x = make_set()
    assert fingerprint(replace(x, card=Card(notes=["other"]))) == fingerprint(x)
    images = x.images.clone()
    images[3, 1, 2, 2] += 1e-6
    assert fingerprint(replace(x, images=images)) != fingerprint(x)
    assert fingerprint(replace(x, labels=x.labels.flip(0))) != fingerprint(x)
