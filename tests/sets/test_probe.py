"""Which files count as sets, and sets as bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddaudit.errors import BadInput
from ddaudit.sets import DistilledSet, from_bytes, is_set_file, save, to_bytes

Make = Callable[..., DistilledSet]


def test_bytes_are_those_of_the_file(tmp_path: Path, make_set: Make) -> None:
    x = make_set(soft=True, notes=["a"])
    assert to_bytes(x) == save(x, tmp_path / "a.safetensors").read_bytes()
    back = from_bytes(to_bytes(x))
    assert torch.equal(back.images, x.images)
    assert torch.equal(back.labels, x.labels)
    assert back.card == x.card


def test_invalid_sets_have_no_bytes(make_set: Make) -> None:
    with pytest.raises(BadInput, match="out of range"):
        to_bytes(replace(make_set(), num_classes=1))
    with pytest.raises(BadInput, match="truncated"):
        from_bytes(to_bytes(make_set())[:-1])


def test_sets_and_damaged_sets_count(tmp_path: Path, make_set: Make) -> None:
    path = save(make_set(), tmp_path / "a.safetensors")
    assert is_set_file(path)
    empty_header = b"\x02" + bytes(7) + b"{}"
    for content in (path.read_bytes()[:40], b"", b"\x80\x02text and more", empty_header):
        path.write_bytes(content)
        assert is_set_file(path)


def test_other_files_do_not_count(tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    save_file({"body.conv.weight": torch.zeros(2)}, str(weights))
    (tmp_path / "a.pt").touch()
    assert not any(map(is_set_file, (weights, tmp_path / "a.pt", tmp_path, tmp_path / "none")))
