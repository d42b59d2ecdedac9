"""The door: what is no regular file, what unpacks to too much, and what the system refuses is one line."""

from __future__ import annotations

import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ddaudit.containers import ParquetFile, open_picture, read_idx
from ddaudit.data import load_data
from ddaudit.errors import BadInput
from ddaudit.files import (
    OverBudget,
    budget,
    files_below,
    kind_of,
    parse_json,
    parse_yaml,
    read_bytes,
    sweep,
    write_bytes,
)
from ddaudit.sets import import_set
from ddaudit.sets.formats._safe import load_npz, load_torch


def _fifo(path: Path) -> Path:
    os.mkfifo(path / "f.pt")
    return path / "f.pt"


def _device(path: Path) -> Path:
    (path / "f.pt").symlink_to("/dev/zero")
    return path / "f.pt"


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path / "f.pt"))
    return path / "f.pt"


def _folder(path: Path) -> Path:
    (path / "f.pt").mkdir()
    return path / "f.pt"


def _loop(path: Path) -> Path:
    (path / "f.pt").symlink_to("f.pt")
    return path / "f.pt"


def _sparse(path: Path) -> Path:
    with (path / "f.pt").open("wb") as file:
        file.truncate(2**40)
    return path / "f.pt"


ODD = [
    _fifo,
    _device,
    _socket,
    _folder,
    _loop,
    _sparse,
    lambda p: p / ("x" * 300),
    lambda p: p / "\0",
]


@pytest.mark.parametrize("make", ODD)
def test_only_regular_files_of_a_sane_size_are_read(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path)
    for read in (
        read_bytes,
        load_torch,
        read_idx_of_images,
        ParquetFile,
        lambda p: open_picture(p, p),
    ):
        with pytest.raises(BadInput):
            read(path)


def read_idx_of_images(path: Path) -> torch.Tensor:
    return read_idx(path, axes=3)


@pytest.mark.parametrize("command", ["inspect", "report", "gate", "audit", "import"])
def test_commands_refuse_what_is_no_file_of_theirs(command: str, run, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("rules: [{metric: utility.accuracy, min: 0.1}]")
    (tmp_path / "text").write_text("no file of ours")
    rest = {
        "gate": ["--policy", tmp_path / "policy.yaml"],
        "import": ["--out", tmp_path / "o.safetensors"],
        "audit": ["--out", tmp_path / "run"],
    }.get(command, [])
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("pipe.json", "text", "x" * 300, "half\udc80name", "/dev/zero", "text/below"):
        code, _, err = run(command, tmp_path / name, *rest)
        assert (code, len(err)) == (2, 1), (name, err)


def test_the_budget_is_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert budget() == 256 * 2**20
    (tmp_path / "f").write_bytes(b"x" * 2**20 + b"x")
    monkeypatch.setenv("DDAUDIT_BUDGET", "1")
    with pytest.raises(OverBudget, match="DDAUDIT_BUDGET=2"):
        read_bytes(tmp_path / "f")
    monkeypatch.setenv("DDAUDIT_BUDGET", "2")
    assert len(read_bytes(tmp_path / "f")) == 2**20 + 1
    monkeypatch.setenv("DDAUDIT_BUDGET", "-1")
    with pytest.raises(BadInput, match="not a number of MB"):
        budget()


# ---- small files that stand for much -----------------------------------------------------------------------


def test_a_stored_scalar_that_poses_as_a_huge_tensor(tmp_path: Path) -> None:
    torch.save(
        {"images": torch.zeros(1).expand(10**9), "labels": torch.zeros(1)}, tmp_path / "a.pt"
    )
    with pytest.raises(OverBudget, match="of tensors"):
        load_torch(tmp_path / "a.pt")


def test_a_deflated_torch_file(tmp_path: Path) -> None:
    torch.save(torch.zeros(10**6), tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(BadInput, match="compressed archive"):
        load_torch(tmp_path / "b.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_millions_of_lists(tmp_path: Path, zipped: bool) -> None:
    torch.save([[] for _ in range(10**6)], tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match="pickled lists"):
        load_torch(tmp_path / "a.pt")


def test_an_array_of_deflated_zeros(tmp_path: Path) -> None:
    head = np.lib.format.header_data_from_array_1_0(np.zeros(1))
    head["shape"] = (10**9,)
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w") as archive,
        archive.open("images.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, head)
    with pytest.raises(OverBudget, match="'images'"):
        load_npz(tmp_path / "a.npz", ("images",))


def test_labels_of_a_thousand_million(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 1, 4, 4)) + 0.5, labels=np.array([0, 10**9]))
    with pytest.raises(BadInput, match="classes"):
        import_set(tmp_path / "a.npz", format="npz")
    arrays = {f"{s}_images": np.zeros((2, 4, 4), np.uint8) for s in ("train", "val", "test")}
    arrays |= {f"{s}_labels": np.array([0, 10**9]) for s in ("train", "val", "test")}
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(BadInput, match="over 100,000"):
        load_data(f"medmnist:file={tmp_path / 'm.npz'}")


def test_parquet_of_compressed_zeros(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": pa.array([bytes(2**20)] * 300), "label": [0] * 300})
    pq.write_table(table, tmp_path / "train.parquet", compression="zstd", use_dictionary=False)
    pq.write_table(table, tmp_path / "one.parquet", compression="zstd")  # one value, 300 times
    assert max(f.stat().st_size for f in tmp_path.iterdir()) < 10**5
    for name in ("train.parquet", "one.parquet"):
        with pytest.raises(OverBudget):
            ParquetFile(tmp_path / name).read(("image", "label"))


def test_a_picture_below_pillows_limit(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(OverBudget, match="of pixels"):
        open_picture(png, "a.png")


def test_postscript_is_nobodys_picture() -> None:
    with pytest.raises(BadInput, match="not a picture"):
        open_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "a.png")


def test_a_folder_of_more_files_than_the_budget_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(2100):
        (tmp_path / f"{number}.png").touch()
    assert len(files_below(tmp_path, ".png", depth=1)) == 2100
    monkeypatch.setenv("DDAUDIT_BUDGET", "1")
    with pytest.raises(OverBudget, match="file names"):
        files_below(tmp_path, ".png", depth=1)


# ---- texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nb: [*x, *x]", "alias"),
        ("[" * 5000, "levels deep"),
        ("a: 2001-13-45", "cannot be read"),
        ("a: !!int x", "cannot be read"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("? [1]\n: 2", "not YAML"),
        ("a: !!python/object/apply:os.system [true]", "not YAML"),
        ('a: "\\ud800"', "surrogate"),
        ("a: b\n" * 10**5, "more than"),
    ],
)
def test_yaml_that_no_configuration_is(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        parse_yaml(text, "c.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[" * 10**5, "not valid JSON"), ('"\\ud800"', "surrogate"), ("[" + "{}," * 10**6 + "{}]", "JSON values"),
     ("9" * 5000, "not valid JSON")],
)  # fmt: skip
def test_json_that_no_report_is(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_json(text, "r.json")


def test_a_run_of_thousands_of_subjects_is_refused_before_it_is_compared(tmp_path: Path) -> None:
    from ddaudit.audits import RunStore
    from ddaudit.reports.runs import report_of

    subjects = [{"id": f"s{i}", "kind": "recipe", "identity": str(i)} for i in range(4201)]
    auditors = [{"name": "utility"}, {"name": "bias"}]
    info = {"data": {"name": "d"}, "subjects": subjects, "auditors": auditors, "cells": []}
    RunStore(str(tmp_path)).write_info(info)
    with pytest.raises(OverBudget, match="findings"):
        report_of([str(tmp_path)])


# ---- writing -----------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_bytes(tmp_path / "f", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddaudit.files.os.fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        write_bytes(tmp_path / "f", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"
    assert kind_of(tmp_path / "f") == "file"


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "cells").mkdir()
    host = socket.gethostname()
    host = "".join(c if c.isascii() and c.isalnum() else "_" for c in host)[:40]
    dead, living = (
        tmp_path / "cells" / f".ddaudit-{host}-{pid}-ab.part" for pid in (2**22 + 9, os.getpid())
    )
    dead.touch()
    living.touch()
    sweep(tmp_path)
    assert (dead.exists(), living.exists()) == (False, True)
