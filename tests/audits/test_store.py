"""The run store: whole files or none, damaged ones are no results, other people's code never runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from ddaudit.audits import RunStore
from ddaudit.errors import BadInput
from ddaudit.findings import Finding, Metric
from ddaudit.models import Arch, build

FINDING = Finding(subject="a", auditor="b", metrics=[Metric(name="b.x", value=0.5)], seed=1)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def test_what_is_saved_comes_back(store: RunStore) -> None:
    assert store.cell("k") is None
    assert store.read_info() is None
    assert store.names("cells") == []
    store.save_cell("k", FINDING)
    store.write_info({"format": 1})
    assert store.cell("k") == FINDING
    assert store.read_info() == {"format": 1}
    assert store.exists("cells/k.json")


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(
    store: RunStore, monkeypatch
) -> None:
    store.save_cell("k", FINDING)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ddaudit.files.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save_cell("k", FINDING.model_copy(update={"subject": "new"}))
    assert store.cell("k") == FINDING
    assert [f.name for f in (store.folder / "cells").iterdir()] == ["k.json"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"subject": "a"}',
        b'{"subject": "a", "auditor": "b", "surprise": 1}',
        b'{"subject": "a", "auditor": "b", "status": "splendid"}',
        FINDING.model_dump_json().encode()[:-2],
        pickle.dumps({"subject": "a"}),
    ],
)
def test_a_damaged_cell_is_no_cell(store: RunStore, damage: bytes) -> None:
    store.write("cells/k.json", damage)
    assert store.cell("k") is None


def test_a_damaged_run_json_is_refused(store: RunStore) -> None:
    store.write("run.json", b'{"format": 1')
    with pytest.raises(BadInput, match="not valid JSON"):
        store.read_info()


def test_victims_come_back_and_damaged_or_foreign_ones_are_trained_again(
    store: RunStore, tiny
) -> None:
    arch = Arch.parse("ConvNetD2W8")
    nets = [
        build(arch, shape=tiny.shape, num_classes=4, seed=s, mean=tiny.mean, std=tiny.std).eval()
        for s in (0, 1)
    ]
    store.save_networks("v", nets)
    read = store.load_networks("v", arch, tiny)
    assert read is not None
    x = tiny.test.pixels(slice(0, 3))
    for one, other in zip(nets, read, strict=True):
        assert torch.equal(one(x), other(x))
    content = store.read("victims/v.safetensors") or b""
    store.write("victims/v.safetensors", content[:-50])
    assert store.load_networks("v", arch, tiny) is None
    store.write("victims/v.safetensors", pickle.dumps([1]))
    assert store.load_networks("v", arch, tiny) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="cannot be written"):
        RunStore(str(tmp_path / "run")).save_cell("k", FINDING)


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(BadInput, match="cannot be written"):
        RunStore(str(tmp_path / "run")).save_cell("k", FINDING)
