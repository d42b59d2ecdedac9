"""Format 2: label stores, outliers and the card's newer fields; sets without them stay in format 1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.sets import (
    DistilledSet,
    LabelStore,
    StorageBytes,
    describe,
    fingerprint,
    inspect,
    load,
    save,
)

Make = Callable[..., DistilledSet]
WRITTEN_BEFORE = "6f02514885946afbf635e002ec4298023efc4e5594aade93aebf5cc8d7ee4b3f"
EPOCHS, SIZE, CLASSES = 3, 8, 4


def store(*, mixed: bool = True, **change: Tensor | None) -> LabelStore:
    g = torch.Generator().manual_seed(2)
    start = torch.rand(EPOCHS, SIZE, 2, generator=g) / 2
    parts: dict[str, Tensor | None] = {
        "boxes": torch.cat([start, torch.full_like(start, 0.5)], 2),
        "flips": torch.rand(EPOCHS, SIZE, generator=g) < 0.5,
        "logits": torch.randn(EPOCHS, SIZE, CLASSES, generator=g).half(),
        "partners": torch.randint(SIZE, (EPOCHS, SIZE), generator=g).int() if mixed else None,
        "patches": torch.tensor([1, 2, 3, 4], dtype=torch.int16).expand(EPOCHS, SIZE, 4)
        if mixed
        else None,
    }
    return LabelStore(**{**parts, **change})  # type: ignore[arg-type]


def _format(path: Path) -> str:
    with safe_open(str(path), framework="pt") as file:
        return str(file.metadata()["ddaudit.format"])


@pytest.mark.parametrize("mixed", [True, False])
def test_a_store_and_outliers_come_back_bit_by_bit(
    tmp_path: Path, make_set: Make, mixed: bool
) -> None:
    x = replace(make_set(), store=store(mixed=mixed), outliers=torch.rand(5, 3, 8, 8))
    path = save(x, tmp_path / "a.safetensors")
    back = load(path)
    assert _format(path) == back.card.format_version == "2"
    assert back.store is not None
    assert x.store is not None
    assert (back.store.partners is None) == (not mixed)
    wrote, read = x.store.tensors(), back.store.tensors()
    assert wrote.keys() == read.keys()
    for name in wrote:
        assert read[name].dtype == wrote[name].dtype
        assert torch.equal(read[name], wrote[name])
    assert back.outliers is not None
    assert x.outliers is not None
    assert torch.equal(back.outliers, x.outliers)
    assert fingerprint(back) == fingerprint(x)
    assert load_file(str(path)).keys() == {"images", "labels", "outliers", *wrote}  # second reader


def test_sets_without_new_parts_are_written_as_before(tmp_path: Path, make_set: Make) -> None:
    """Older versions refuse unknown fields of a card: an old set must not gain any."""
    path = save(make_set(method="dm"), tmp_path / "a.safetensors")
    with safe_open(str(path), framework="pt") as file:
        card = json.loads(file.metadata()["ddaudit.card"])
    assert _format(path) == card["format_version"] == "1"
    assert not {"bytes", "contains_real_pixels", "learned_lr"} & set(card)
    # Byte for byte what the code before format 2 wrote for this set.
    assert hashlib.sha256(path.read_bytes()).hexdigest() == WRITTEN_BEFORE


@pytest.mark.parametrize(
    "fields",
    [
        {"contains_real_pixels": True},
        {"learned_lr": 0.02},
        {"bytes": StorageBytes(images=10, labels=4)},
    ],
)
def test_new_card_fields_say_format_2(
    tmp_path: Path, make_set: Make, fields: dict[str, object]
) -> None:
    path = save(make_set(**fields), tmp_path / "a.safetensors")
    assert _format(path) == "2"
    ((name, value),) = fields.items()
    assert getattr(load(path).card, name) == value


def test_the_fingerprint_covers_what_networks_are_trained_on(make_set: Make) -> None:
    plain = make_set()
    kept = [
        plain,
        replace(plain, store=store()),
        replace(plain, store=store(mixed=False)),
        replace(plain, outliers=torch.zeros(1, 3, 8, 8)),
        replace(plain, outliers=torch.ones(1, 3, 8, 8)),
    ]
    assert len({fingerprint(x) for x in kept}) == len(kept)


BAD: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "too few images": ({"flips": torch.zeros(EPOCHS, 7, dtype=torch.bool)}, "flips are bool (3, 7)"),
    "no epoch": ({"boxes": torch.zeros(0, SIZE, 4)}, "has 0 epochs"),
    "a scalar": ({"boxes": torch.zeros(())}, "has 0 epochs"),
    "epochs differ": ({"logits": torch.zeros(2, SIZE, CLASSES).half()}, "logits are float16 (2, 8"),
    "classes differ": ({"logits": torch.zeros(EPOCHS, SIZE, 5).half()}, "expected float16 (3, 8, 4)"),
    "wide labels": ({"logits": torch.zeros(EPOCHS, SIZE, CLASSES)}, "logits are float32"),
    "nan": ({"logits": torch.full((EPOCHS, SIZE, CLASSES), torch.nan).half()}, "NaN or infinity"),
    "box outside": ({"boxes": torch.full((EPOCHS, SIZE, 4), 0.7)}, "a box leaves its image"),
    "box empty": ({"boxes": torch.zeros(EPOCHS, SIZE, 4)}, "a box leaves its image or is empty"),
    "box nan": ({"boxes": torch.full((EPOCHS, SIZE, 4), torch.nan)}, "a box leaves its image"),
    "partner unknown": ({"partners": torch.full((EPOCHS, SIZE), 8).int()}, "a partner is not one"),
    "partner negative": ({"partners": torch.full((EPOCHS, SIZE), -1).int()}, "a partner is not"),
    "patch outside": (
        {"patches": torch.full((EPOCHS, SIZE, 4), 30000, dtype=torch.int16)}, "rectangle leaves",
    ),
    "no patches": ({"patches": None}, "partners without patches"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_misshapen_store_is_one_line(tmp_path: Path, make_set: Make, case: str) -> None:
    change, message = BAD[case]
    made = store(**change)
    path = tmp_path / "a.safetensors"
    with pytest.raises(BadInput) as caught:
        save(replace(make_set(), store=made), path)
    assert message in str(caught.value)
    # The same content in a file that somebody else wrote.
    good = save(replace(make_set(), store=store()), path)
    with safe_open(str(good), framework="pt") as file:
        header = dict(file.metadata())
    tensors = {n: t for n, t in load_file(str(good)).items() if not n.startswith("store.")}
    parts = {n: t.contiguous() for n, t in made.tensors().items()}
    save_file({**tensors, **parts}, str(path), metadata=header)
    for read in (load, inspect):
        with pytest.raises(BadInput) as caught:
            read(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_half_a_store_is_refused_and_left_alone_in_format_1(tmp_path: Path, make_set: Make) -> None:
    path = save(replace(make_set(), store=store()), tmp_path / "a.safetensors")
    with safe_open(str(path), framework="pt") as file:
        header = dict(file.metadata())
    tensors = load_file(str(path))
    del tensors["store.logits"]
    save_file(tensors, str(path), metadata=header)
    with pytest.raises(BadInput, match="label store without its logits"):
        load(path)
    save_file(tensors, str(path), metadata={**header, "ddaudit.format": "1"})
    assert load(path).store is None
    assert "store.boxes" in inspect(path).other_tensors


@pytest.mark.parametrize(
    "outliers",
    [
        torch.zeros(2, 1, 8, 8),
        torch.zeros(0, 3, 8, 8),
        torch.zeros(3, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.float64),
        torch.full((2, 3, 8, 8), torch.inf),
    ],
)
def test_outliers_that_do_not_fit_are_one_line(make_set: Make, outliers: Tensor) -> None:
    with pytest.raises(BadInput, match="outliers"):
        replace(make_set(), outliers=outliers).check()


def test_bytes_are_counted_and_shown(tmp_path: Path, make_set: Make) -> None:
    budget = StorageBytes(images=4 * 4 * 192, labels=64 + 312, decoder=768, outliers=768)
    x = make_set(ipc=2, bytes=budget, contains_real_pixels=True)
    x = replace(x, store=store(mixed=False), outliers=torch.zeros(1, 3, 8, 8))
    i = inspect(save(x, tmp_path / "a.safetensors"))
    # 24 views of 4 floats, 1 flip and 4 halves.
    assert (i.store_epochs, i.store_bytes) == (3, 24 * (16 + 1 + 8))
    assert (i.num_outliers, i.outlier_bytes) == (1, 768)
    # One image is 768 bytes, 4 classes: (3072 + 768 decoder + 600 store + 768 outliers) / 3072.
    assert i.ipc_equivalent == pytest.approx((3072 + 768 + 600 + 768) / 3072, abs=1e-3)
    text = "\n".join(describe(i))
    for words in ("3 epochs of views", "images 3.07 kB", "decoder 768 B", "pieces of real records"):
        assert words in text
    assert any("releases pieces of real records" in w for w in i.warnings)
    plain = inspect(save(make_set(ipc=2), tmp_path / "b.safetensors"))
    assert plain.ipc_equivalent == 2.0
    soft = inspect(save(make_set(ipc=2, soft=True), tmp_path / "c.safetensors"))
    assert soft.ipc_equivalent == pytest.approx(2 + 8 * 4 * 4 / 3072, abs=1e-3)


def test_a_private_claim_over_real_pixels_cannot_hold(tmp_path: Path, make_set: Make) -> None:
    x = make_set(contains_real_pixels=True, privacy={"epsilon": 1, "delta": 1e-5})
    problems = inspect(save(x, tmp_path / "a.safetensors")).claim_problems
    assert "claims privacy and releases real records: the claim cannot hold" in problems


@pytest.mark.parametrize("lr", [0.0, -1.0, float("inf"), float("nan"), 1e9])
def test_a_learned_rate_is_a_rate(make_set: Make, lr: float) -> None:
    with pytest.raises(ValueError, match="learned_lr"):
        make_set(learned_lr=lr)
