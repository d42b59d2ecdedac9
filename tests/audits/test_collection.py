"""Several runs in one report: what they do not have in common is refused or said."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from ddaudit.audits import RunStore, collect
from ddaudit.errors import BadInput
from ddaudit.findings import Check, Finding, Metric
from ddaudit.reports.build import build_report


def _run(folder: Path, subjects: list[str], value: float = 0.5, **changes: Any) -> str:
    """A run folder of one seed and the auditors given, without anything having been measured."""
    info: dict[str, Any] = {
        "data": {"name": "digits", "fingerprint": "t", "test_fingerprint": "e"},
        "arch": "a",
        "protocol": {"name": "dc"},
        "preset": {"name": "quick", "victims": 2, "test_limit": None, "profile": "small"},
        "config": {"ipc": 10},
        "versions": {"ddaudit": "1"},
        "seeds": [0],
        "auditors": [{"name": "membership", "settings": {"shadows": 8}, "version": 2}],
        "kind": "recipe",
        **changes,
    }
    kind = info.pop("kind")
    store = RunStore(str(folder))
    cells = []
    for auditor in info["auditors"]:
        for name in subjects:
            key = f"{name}-{auditor['name']}-{value}"
            metric = Metric(name="membership.auc", value=value)
            found = Finding(subject=name, auditor=auditor["name"], seed=0, metrics=[metric])
            store.save_cell(key, found)
            cells.append({"subject": name, "auditor": auditor["name"], "seed": 0, "key": key})
    entries = [
        {"id": n, "kind": kind, "identity": n, "set_keys": [], "path": None} for n in subjects
    ]
    store.write_info({**info, "subjects": entries, "cells": cells})
    return str(folder)


def _auditor(name: str = "membership", *, shadows: int = 8, version: int = 2) -> dict[str, Any]:
    return {"name": name, "settings": {"shadows": shadows}, "version": version}


def test_like_runs_merge_without_a_word(tmp_path: Path) -> None:
    both = collect([_run(tmp_path / "a", ["dm"]), _run(tmp_path / "b", ["dm", "mtt"])])
    assert [c.subject for c in both.cells] == ["dm", "mtt"]
    assert both.info["notes"] == []
    assert all(c.caveats == [] for c in both.cells)


def test_what_one_run_has_planned_and_another_has_finished_is_there(tmp_path: Path) -> None:
    """In either order: a run that was stopped hid what was measured elsewhere."""
    a, b = _run(tmp_path / "a", ["dm", "dc"]), _run(tmp_path / "b", ["dm"])
    (lost,) = (p for p in (tmp_path / "a").rglob("*") if p.is_file() and "dm-membership" in p.name)
    lost.unlink()
    for runs in ([a, b], [b, a]):
        both = collect(runs)
        assert sorted((c.subject, c.status) for c in both.cells) == [("dc", "ok"), ("dm", "ok")]
        assert both.info["missing"] == []
        assert len(both.keys) == 2


def test_a_cell_that_waits_still_waits_where_the_other_run_measured_otherwise(
    tmp_path: Path,
) -> None:
    a = _run(tmp_path / "a", ["dm", "dc"])
    b = _run(tmp_path / "b", ["dm"], auditors=[_auditor(shadows=64)])
    (lost,) = (p for p in (tmp_path / "a").rglob("*") if p.is_file() and "dm-membership" in p.name)
    lost.write_text("{")
    (alone,) = (c for c in collect([a]).cells if c.subject == "dm")
    assert alone.reason == "not run yet: its file is damaged, run the same audit again"
    lost.unlink()
    both = collect([a, b])
    assert {c.subject: c.status for c in both.cells} == {"dc": "ok", "dm": "skipped"}
    assert [c["subject"] for c in both.info["missing"]] == ["dm"]


def test_instrument_checks_that_one_run_has_not_made_yet_are_those_of_another(
    tmp_path: Path,
) -> None:
    """Parts of one audit in folders of their own: one of them has the checks."""
    done = Check(name="planted", passed=True, expected="x")
    urls = []
    for name, there in (("a", True), ("b", False)):
        url = _run(tmp_path / name, ["dm"])
        store = RunStore(url)
        (info,) = store.read_infos()
        key = {"subject": None, "auditor": "membership", "seed": None, "key": f"checks-{there}"}
        store.write_info({**info, "cells": [*info["cells"], key]})
        if there:
            store.save_cell("checks-True", Finding(subject="", auditor="membership", checks=[done]))
        urls.append(url)
    for runs in (urls, urls[::-1]):
        both = collect(runs)
        assert both.info["missing"] == []
        checks = both.checks["membership"]
        assert [(c.name, c.passed) for c in checks] == [("planted", True)]
    (alone,) = collect(urls[1:]).checks["membership"]
    assert (alone.name, alone.passed) == ("instrument checks ran", False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"auditors": [_auditor(shadows=64)]}, "membership.shadows 64 instead of 8"),
        ({"auditors": [_auditor(version=3)]}, "version of membership 3 instead of 2"),
        ({"preset": {"victims": 5, "profile": "small"}}, "victims 5 instead of 2"),
        ({"preset": {"victims": 2, "profile": "paper"}}, "profile paper instead of small"),
        ({"config": {"ipc": 50}}, "images per class 50 instead of 10"),
        ({"versions": {"ddaudit": "2"}}, "ddaudit 2 instead of 1"),
    ],
)
def test_other_conditions_are_said_where_the_number_stands_and_in_the_report(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    a, b = _run(tmp_path / "a", ["dm"]), _run(tmp_path / "b", ["mtt"], **changes)
    both = collect([a, b])
    caveats = {c.subject: c.caveats for c in both.cells}
    assert caveats["dm"] == []
    assert len(caveats["mtt"]) == 1
    assert said in caveats["mtt"][0]
    assert "membership of mtt" in caveats["mtt"][0]
    report = build_report(both)
    assert [
        s.text for s in report.summary if said in s.text + s.detail and s.tone == "warning"
    ] != []


def test_a_sweep_has_names_for_its_sizes_and_all_records_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["dm", "full"]
    a = _run(tmp_path / "a", names)
    runs = [a] + [
        _run(tmp_path / f"b{k}", names, 0.6, config={"ipc": ipc}) for k, ipc in ((1, 50), (2, 50))
    ]
    inside = importlib.import_module("ddaudit.audits.collection")
    honest = inside._one

    def sized(store: RunStore, info: dict[str, Any]) -> Any:
        part = honest(store, info)
        ipc = info["config"]["ipc"]
        for entry in part.subjects:
            entry |= {"identity": f"{entry['id']}-ipc{ipc}", "drawn": entry["id"] != "full"}
            entry["card"] = {"ipc": ipc}
        return part

    monkeypatch.setattr(inside, "_one", sized)
    both = collect(runs)
    assert [s["id"] for s in both.subjects] == ["dm", "full", "dm (IPC 50)"]
    assert [c.subject for c in both.cells] == ["dm", "full", "dm (IPC 50)"]
    assert both.info["notes"] == []  # the size is said by each set
    assert all(c.caveats == [] for c in both.cells)


@pytest.mark.parametrize(("releases", "seeds", "names"), [
    (("r1", "r2"), ([0], [0]), ["dm+dp", "dm+dp (b)"]),  # noise drawn twice: two releases, whose costs add up
    (("r1", "r1"), ([0], [0]), ["dm+dp"]),
    (("r1", "r2"), ([0], [1]), ["dm+dp"]),  # another seed of one subject, counted as a release by its seeds
])  # fmt: skip
def test_a_private_set_that_was_made_twice_is_two_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, releases: Any, seeds: Any, names: list[str]
) -> None:
    a, b = (_run(tmp_path / x, ["dm+dp"], seeds=s) for x, s in zip("ab", seeds, strict=True))
    inside = importlib.import_module("ddaudit.audits.collection")
    honest = inside._one

    def one(store: RunStore, info: dict[str, Any]) -> Any:
        url, part = store.url, honest(store, info)
        release = releases[url == b]
        part.subjects[0]["card"] = {"privacy": {"epsilon": 1.0, "delta": 1e-5, "release": release}}
        return part

    monkeypatch.setattr(inside, "_one", one)
    assert [s["id"] for s in collect([a, b]).subjects] == names


def test_an_auditor_that_only_one_run_has_is_no_difference(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", ["dm"])
    b = _run(tmp_path / "b", ["dm"], auditors=[_auditor("bias", shadows=1)])
    both = collect([a, b])
    assert [(c.subject, c.auditor) for c in both.cells] == [("dm", "membership"), ("dm", "bias")]
    assert both.info["notes"] == []


def test_the_third_run_is_held_against_the_first_that_has_the_auditor(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", ["dm"])
    b = _run(tmp_path / "b", ["dm"], auditors=[_auditor("bias")])
    c = _run(tmp_path / "c", ["mtt"], auditors=[_auditor("bias", shadows=3)])
    (note,) = collect([a, b, c]).info["notes"]
    assert "bias.shadows 3 instead of 8" in note
    assert b in note


def test_what_two_runs_measured_differently_is_named(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", ["random", "dm"], 0.5)
    b = _run(tmp_path / "b", ["random", "dm", "mtt"], 0.6, auditors=[_auditor(shadows=64)])
    both = collect([a, b])
    values = {c.subject: c.metrics[0].value for c in both.cells}
    assert values == {"random": 0.5, "dm": 0.5, "mtt": 0.6}
    assert any(
        "random × membership, dm × membership" in n and f"Shown are those of {a}" in n
        for n in both.info["notes"]
    )


def test_an_option_that_an_earlier_version_did_not_have_was_off_there(tmp_path: Path) -> None:
    one = _run(tmp_path / "a", ["dm"])
    collect([one, _run(tmp_path / "b", ["mtt"], protocol={"name": "dc", "adjust": 0.0})])
    with pytest.raises(BadInput, match="another protocol"):
        collect([one, _run(tmp_path / "c", ["mtt"], protocol={"name": "dc", "adjust": 1.0})])


def test_other_test_records_are_refused(tmp_path: Path) -> None:
    a = _run(tmp_path / "a", ["dm"])
    other = {"name": "digits", "fingerprint": "t", "test_fingerprint": "z"}
    with pytest.raises(BadInput, match="not the same test records"):
        collect([a, _run(tmp_path / "b", ["mtt"], data=other)])
    old = {"name": "digits", "fingerprint": "t"}  # written before run.json named them
    assert collect([a, _run(tmp_path / "c", ["mtt"], data=old)]).info["notes"] == []


def test_a_file_with_another_card_is_another_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images under another privacy claim: the claim that is shown must be the one tested."""
    a, b = (_run(tmp_path / x, ["s"], v, kind="file") for x, v in (("a", 0.5), ("b", 0.6)))
    inside = importlib.import_module("ddaudit.audits.collection")  # its function hides the module
    honest = inside._one

    def one(store: RunStore, info: dict[str, Any]) -> Any:
        url, part = store.url, honest(store, info)
        part.subjects[0]["card"]["privacy"] = {"epsilon": 1.0 if url == a else 0.1, "delta": 1e-5}
        return part

    monkeypatch.setattr(inside, "_one", one)
    assert [s["id"] for s in collect([a, b]).subjects] == ["s", "s (ε 0.1)"]
