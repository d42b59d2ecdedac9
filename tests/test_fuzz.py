"""Damaged files of every kind that a user names: what comes out is a result or one line, soon and in little memory.

Small valid files are damaged by seeded coins: bits, cuts, doubled and missing pieces, and for files with a JSON part
also values of other types and extreme numbers in it. 2 000 cases run always, 10 000 where slow tests do.
"""

from __future__ import annotations

import io
import json
import random
import resource
import shutil
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ddaudit.audits import RunStore, make_config
from ddaudit.data import load_data
from ddaudit.errors import BadInput
from ddaudit.findings import Check, Curve, Finding, Metric
from ddaudit.models import Arch, build, load_checkpoint, save_checkpoint
from ddaudit.reports import apply, load_policy, read_report
from ddaudit.reports._csv import to_csv
from ddaudit.reports._json import to_json
from ddaudit.reports._markdown import to_markdown
from ddaudit.reports.runs import report_of
from ddaudit.sets import (
    Card,
    DistilledSet,
    describe,
    detect,
    import_set,
    inspect,
    is_set_file,
    save,
)
from ddaudit.sets._types import LedgerEntry, PrivacyClaim
from ddaudit.sets.releases import log_release, read_releases

CASES, SLOW_CASES = 2_000, 10_000
MOST_SECONDS, MOST_BYTES = 20, 10**9

Reader = Callable[[Path], object]

POLICY = """rules:
  - metric: utility.accuracy
    min: 0.2
  - metric: membership.auc
    subject: "d*"
    max: 0.6
    use: high
"""
CONFIG = """subjects: [dm, "dm+fair"]
data: digits
seeds: 2
ipc: 10
settings: {membership: {shadows: 8}}
options: {loop.iterations: 5, lr: 1.5e-3}
"""


# ---- valid files, and who reads them --------------------------------------------------------------------------------


def _set() -> DistilledSet:
    claim = PrivacyClaim(
        epsilon=3.0,
        delta=1e-5,
        ledger=[
            LedgerEntry(query="sum", sigma=2.0, q=0.1, count=50),
            LedgerEntry(query="count", sigma=5.0, q=1.0, count=1),
        ],
    )
    card = Card(
        method="dm+dp", ipc=2, data="digits", privacy=claim, mean=[0.5], std=[0.5], notes=["n"]
    )
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return DistilledSet(images, torch.arange(10).repeat_interleave(2), 10, card)


def _images() -> tuple[torch.Tensor, torch.Tensor]:
    made = _set()
    return made.images.repeat(1, 3, 1, 1), made.labels


def _png(value: int, *, size: int = 8) -> bytes:
    held = io.BytesIO()
    pixels = np.random.RandomState(value).randint(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(held, "PNG" if value % 2 else "JPEG")
    return held.getvalue()


def _set_file(path: Path) -> Path:
    return save(_set(), path / "a.safetensors")


def _tensors(path: Path) -> Path:
    images, labels = _images()
    save_file({"images": images, "labels": labels}, path / "a.safetensors")
    return path / "a.safetensors"


def _dc(path: Path, *, zipped: bool) -> Path:
    file = path / "res_DM_CIFAR10_ConvNet_2ipc.pt"
    content = {"data": [list(_images())], "accs_all_exps": {"ConvNet": [np.float64(0.5), 0.25]}}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


def _npz(path: Path) -> Path:
    images, labels = _images()
    np.savez(path / "a.npz", images=images.numpy(), labels=labels.numpy())
    return path / "a.npz"


def _medmnist(path: Path) -> Path:
    rng = np.random.RandomState(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.randint(0, 256, (12, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.randint(0, 3, (12, 1))
    np.savez_compressed(path / "a.npz", **arrays)
    return path / "a.npz"


def _idx(path: Path) -> Path:
    raw = path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for name in ("train", "t10k"):
        images, labels = rng.randint(0, 256, (30, 28, 28)), np.arange(30) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (raw / f"{name}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())
    return raw / "train-labels-idx1-ubyte"


def _parquet(path: Path, *names: str) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    hub = {"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}
    for name in names:
        table = pa.table(
            {
                "image": [{"bytes": _png(i), "path": None} for i in range(6)],
                "label": pa.array([i % 3 for i in range(6)], pa.int64()),
            }
        ).replace_schema_metadata({"huggingface": json.dumps(hub)})
        pq.write_table(table, path / name)
    return path / names[0]


def _folder(path: Path) -> Path:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (path / split / name).mkdir(parents=True)
            for i in (0, 1):
                (path / split / name / f"{i}.png").write_bytes(_png(i))
    return path / "train" / "a" / "1.png"


def _table(path: Path) -> Path:
    rows = ["age,job,who,target"]
    rows += [f"{20 + i},{'xy'[i % 2]},{'mw'[i % 2]},{'no' if i % 3 else 'yes'}" for i in range(60)]
    (path / "a.csv").write_text("\n".join(rows))
    return path / "a.csv"


def _text(path: Path, name: str, content: str) -> Path:
    (path / name).write_text(content)
    return path / name


def _checkpoint(path: Path, suffix: str) -> Path:
    net = build(
        Arch.parse("ConvNetD1W4"), shape=(1, 8, 8), num_classes=3, seed=0, mean=[0.5], std=[0.5]
    )
    file = path / f"net{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": net.state_dict(), "epoch": 3}, file)
    else:
        save_checkpoint(file, net)
    return file


def _run(path: Path) -> Path:
    store = RunStore(str(path))
    cells, found = [], []
    for subject in ("random", "dm"):
        for seed in (0, 1):
            metrics = [
                Metric(name="utility.accuracy", value=0.5, low=0.4, high=0.6, n=100, headline=True,
                       basis=True, chance=0.1, direction="higher"),
                Metric(name="membership.auc", value=0.6, floor=0.5, two_sided=True, headline=True, params={"x": 1}),
                Metric(name="privacy.epsilon_lower_bound", value=0.4, merge="bound", best_of={1: 0.4, 2: 0.3}),
            ]  # fmt: skip
            curve = Curve(
                plot="roc",
                label="l",
                x=[0.0, 1.0],
                y=[0.0, 1.0],
                low=[0, 1],
                high=[0, 1],
                counts=[1, 2],
            )
            check = Check(name="c", passed=True, expected="e", value=0.1, p_value=0.4)
            finding = Finding(subject=subject, auditor="utility", seed=seed, metrics=metrics, curves=[curve],
                              checks=[check], caveats=["c"])  # fmt: skip
            key = f"{subject}-{seed}"
            store.save_cell(key, finding)
            found.append(finding)
            cells.append({"subject": subject, "auditor": "utility", "seed": seed, "key": key})
    card = _set().card.model_dump(mode="json")
    store.write_info(
        {
            "data": {"name": "digits", "fingerprint": "t", "test_fingerprint": "e", "notes": ["n"]},
            "arch": "ConvNet", "protocol": {"name": "dc"}, "preset": {"name": "quick", "profile": "small"},
            "config": {"ipc": 10}, "versions": {"ddaudit": "1"}, "seeds": [0, 1], "started": "2026-01-01",
            "auditors": [{"name": "utility", "settings": {"victims": 2}, "version": 2, "title": "Utility"}],
            "subjects": [
                {"id": "random", "kind": "recipe", "baseline": True, "identity": "a", "set_keys": ["s"], "card": card},
                {"id": "dm", "kind": "recipe", "identity": "b", "set_keys": [], "card": None},
            ],
            "cells": cells,
        }
    )  # fmt: skip
    return path / "run.json"


def _report(path: Path) -> Path:
    _run(path / "run")
    return _text(path, "report.json", to_json(report_of([str(path / "run")])))


def _release(path: Path) -> Path:
    log_release(_set().card, path / "a.safetensors")
    return next((path / "releases").iterdir())


def _look(path: Path) -> object:
    is_set_file(path)
    return describe(inspect(path))


def _import(format_: str, **options: str) -> Reader:
    def read(path: Path) -> object:
        detect(path)
        return import_set(path, format=format_, options=options)

    return read


def _loaded(spec: str, up: int = 0) -> Reader:
    return lambda path: load_data(spec.format(path if not up else path.parents[up - 1]))


def _shown(report: Any, folder: Path) -> object:
    policy = _text(folder, "policy.yaml", POLICY)
    return [
        to_csv(report),
        to_json(report),
        to_markdown(report),
        apply(load_policy(policy), report),
    ]


def _weights(path: Path) -> object:
    return load_checkpoint(
        path, arch=Arch.parse("ConvNetD1W4"), shape=(1, 8, 8), num_classes=3, mean=[0.5], std=[0.5]
    )


KINDS: dict[str, tuple[Callable[[Path], Path], Reader]] = {
    "set": (_set_file, _look),
    "tensors": (_tensors, _import("tensors")),
    "dc": (lambda p: _dc(p, zipped=True), _import("dc", zca="false", range="normalised")),
    "dc-old": (lambda p: _dc(p, zipped=False), _import("dc", zca="false", range="normalised")),
    "npz": (_npz, _import("npz")),
    "medmnist": (_medmnist, _loaded("medmnist:file={}")),
    "idx": (_idx, lambda path: load_data("mnist", root=path.parents[2])),
    "hub": (lambda p: _parquet(p, "a.parquet"), _import("huggingface")),
    "parquet": (lambda p: _parquet(p, "train.parquet", "test.parquet"), _loaded("parquet:path={}", 1)),
    "images": (_folder, _loaded("image-folder:path={}", 3)),
    "table": (_table, _loaded("csv:path={},target=target,group=who")),
    "policy": (lambda p: _text(p, "p.yaml", POLICY), load_policy),
    "config": (lambda p: _text(p, "c.yaml", CONFIG), lambda path: make_config({}, file=path)),
    "checkpoint": (lambda p: _checkpoint(p, ".safetensors"), _weights),
    "checkpoint-pt": (lambda p: _checkpoint(p, ".pt"), _weights),
    "run": (_run, lambda path: _shown(report_of([str(path.parent)]), path.parent)),
    "cell": (lambda p: _run(p).parent / "cells" / "dm-0.json",
             lambda path: _shown(report_of([str(path.parents[1])]), path.parent)),
    "report": (_report, lambda path: _shown(read_report(path), path.parent)),
    "release": (_release, lambda path: read_releases(path.parents[1])),
}  # fmt: skip


# ---- damage ---------------------------------------------------------------------------------------------------------

EXTREMES: list[Any] = [
    None, True, -1, 0, 10**9, 10**30, -(2**63), 1e308, -1e308, 1e-300, float("nan"), float("inf"), "", "x", "\ud800",
    "\0", "../../x", "a" * 5000, [], {}, [[]], [None], {"a": {}}, ["a"] * 50, {"": None}, "NaN", "1e999",
]  # fmt: skip
TOKENS = [b"99999999999999999999", b"-1", b"1e999", b"\xff\xff\xff\xff", b"\x00" * 8, b"\x7f" * 8, b"null", b"[" * 300,
          b"*a", b"&a ", b"2001-99-99", b"\xed\xa0\x80", b"!!int x", b"{", b"\n", b"=", b"\xfe"]  # fmt: skip


def damaged(raw: bytes, coins: random.Random) -> bytes:
    """One to three damages, one after the other."""
    for _ in range(coins.choice([1, 1, 1, 2, 3])):
        raw = coins.choice(
            [_bits, _bits, _cut, _doubled, _removed, _token, _token, _json, _json, _json]
        )(raw, coins)
    return raw


def _span(raw: bytes, coins: random.Random) -> tuple[int, int]:
    start = coins.randrange(len(raw) + 1)
    return start, min(len(raw), start + coins.choice([1, 2, 8, 64, 500]))


def _bits(raw: bytes, coins: random.Random) -> bytes:
    made = bytearray(raw)
    # Half of the damage goes where formats keep their structure: to the start and the end.
    places = [len(made), min(len(made), 300)]
    for _ in range(coins.choice([1, 2, 8])):
        if made:
            at = coins.randrange(coins.choice(places))
            made[at if coins.random() < 0.7 else len(made) - 1 - at] ^= 1 << coins.randrange(8)
    return bytes(made)


def _cut(raw: bytes, coins: random.Random) -> bytes:
    return raw[: coins.randrange(len(raw) + 1)]


def _doubled(raw: bytes, coins: random.Random) -> bytes:
    a, b = _span(raw, coins)
    return raw[:b] + raw[a:b] * coins.choice([1, 1, 20]) + raw[b:]


def _removed(raw: bytes, coins: random.Random) -> bytes:
    a, b = _span(raw, coins)
    return raw[:a] + raw[b:]


def _token(raw: bytes, coins: random.Random) -> bytes:
    a, b = _span(raw, coins)
    return (
        raw[:a] + coins.choice(TOKENS) + raw[b:]
        if coins.random() < 0.5
        else raw[:a] + coins.choice(TOKENS) + raw[a:]
    )


def _json(raw: bytes, coins: random.Random) -> bytes:
    """Another value somewhere in a JSON file, a safetensors header, or the card in it."""
    size = int.from_bytes(raw[:8], "little")
    try:
        if raw[:1] == b"{":
            return json.dumps(_other(json.loads(raw), coins)).encode()
        if 0 < size < len(raw):
            head = json.loads(raw[8 : 8 + size])
            meta = head.get("__metadata__", {})
            if "ddaudit.card" in meta and coins.random() < 0.7:
                meta["ddaudit.card"] = json.dumps(_other(json.loads(meta["ddaudit.card"]), coins))
            else:
                head = _other(head, coins)
            text = json.dumps(head).encode()
            text += b" " * (-len(text) % 8)
            return len(text).to_bytes(8, "little") + text + raw[8 + size :]
    except (ValueError, AttributeError, RecursionError, TypeError):
        pass
    return _bits(raw, coins)


def _other(value: Any, coins: random.Random) -> Any:
    """The value with one part somewhere in it gone or replaced."""
    if not isinstance(value, dict | list) or not value or coins.random() < 0.1:
        # Mostly of its own kind: another kind is soon noticed.
        alike = [v for v in EXTREMES if type(v) is type(value)]
        if isinstance(value, float):
            alike += [v for v in EXTREMES if type(v) is int] + [None]
        return coins.choice(alike if alike and coins.random() < 0.7 else EXTREMES)
    key = coins.choice(list(value)) if isinstance(value, dict) else coins.randrange(len(value))
    made = dict(value) if isinstance(value, dict) else list(value)
    what = coins.random()
    if what < 0.1:
        del made[key]
    elif what < 0.15 and isinstance(made, list):
        made.append(made[key])
    else:
        made[key] = _other(value[key], coins)
    return made


# ---- the hunt -------------------------------------------------------------------------------------------------------


def hunt(kind: str, cases: range, folder: Path, reader: Reader | None = None) -> list[str]:
    """What came out of damaged files of a kind besides results and :class:`BadInput`, with the case's number."""
    make, read = KINDS[kind]
    read = reader or read
    folder.mkdir()
    target = make(folder)
    read(target)  # the undamaged file is good
    pristine = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bad = []
    for case in cases:
        coins = random.Random(f"{kind} {case}")
        target.write_bytes(damaged(pristine[target], coins))
        began = time.process_time()
        try:
            read(target)
        except BadInput as error:
            if "\n" in str(error) or not str(error).isprintable():
                bad.append(f"{kind} {case}: not one line: {error}")
        except Exception as error:
            bad.append(f"{kind} {case}: {type(error).__name__}: {str(error)[:150]}")
        if time.process_time() - began > MOST_SECONDS:
            bad.append(f"{kind} {case}: took {time.process_time() - began:.0f} s")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
        if grown > MOST_BYTES:
            bad.append(f"{kind} {case}: took {grown / 1e9:.1f} GB")
            break
    shutil.rmtree(folder)
    return bad


def _share(total: int, kind: str) -> range:
    first = 0 if total == CASES else 10**6  # other cases than the fast ones
    return range(first, first + -(-total // len(KINDS)))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_a_result_or_one_line(kind: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert hunt(kind, _share(CASES, kind), tmp_path / "files") == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_more_damaged_files_end_in_a_result_or_one_line(kind: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert hunt(kind, _share(SLOW_CASES, kind), tmp_path / "files") == []


def test_the_hunt_finds_a_reader_that_lets_an_error_out(tmp_path: Path) -> None:
    """A planted defect: it trusts that a key is there, as the run folder's reader once did."""

    def trusting(path: Path) -> object:
        try:
            return json.loads(path.read_bytes())["cells"][0]["key"]
        except ValueError:
            raise BadInput(path, "is not JSON") from None

    found = hunt("run", range(200), tmp_path / "files", trusting)
    assert any("KeyError" in line or "TypeError" in line for line in found)
