"""``ddaudit gate``: what it says at the end, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ddaudit.audits import RunStore
from ddaudit.findings import Finding, Metric


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of one subject: utility was measured, calibration is planned and was never computed."""
    store = RunStore(str(tmp_path / "run"))
    metric = Metric(name="utility.accuracy", value=0.5, low=0.4, high=0.6)
    store.save_cell("a", Finding(subject="dm", auditor="utility", metrics=[metric], seed=0))
    entry = {"id": "dm", "kind": "recipe", "identity": "x", "set_keys": [], "path": None}
    store.write_info(
        {
            "data": {"name": "digits", "fingerprint": "t"},
            "seeds": [0],
            "subjects": [entry],
            "auditors": [{"name": "utility"}, {"name": "calibration"}],
            "cells": [
                {"subject": "dm", "auditor": "utility", "seed": 0, "key": "a"},
                {"subject": "dm", "auditor": "calibration", "seed": 0, "key": "b"},
            ],
        }
    )
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("rules", "code", "said"),
    [
        ("- {metric: utility.accuracy, min: 0.3}", 0, "1 rule, 1 number checked, 0 claims checked"),
        ("- {metric: utility.accuracy, min: 0.7}", 1, "VIOLATED dm: utility.accuracy = 0.500"),
        ("- {metric: calibration.ece, max: 0.7}", 1, "not measured (calibration: not run yet"),
        ("- {metric: calibration.ece, max: 0.7, missing: ignore}", 1, "not run yet"),
        ("- {metric: bias.deo_m, max: 0.7, missing: ignore}", 2, "checked nothing"),
        ("- {claim: tested}", 1, "nobody claims privacy"),
        ("- {claim: tested, missing: ignore}", 2, "checked nothing"),
        ("- {metric: bias.deo_n, max: 0.7, missing: ignore}", 2, "Did you mean"),
        ("[]", 2, "is empty"),
    ],
)
def test_exit_codes(
    run: Callable[..., tuple[int, str, list[str]]],
    folder: Path,
    tmp_path: Path,
    rules: str,
    code: int,
    said: str,
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"rules: {rules}\n" if rules == "[]" else f"rules:\n{rules}\n")
    got, out, err = run("gate", folder, "--policy", policy)
    assert got == code
    assert said in (err[-1] if code == 2 else out)
    if code < 2:
        assert "partly run: 1 of 2 cells are not run yet\n1 rule, " in out


def _second(folder: Path, value: float) -> Path:
    """The same run with another accuracy, and a subject of its own."""
    store = RunStore(str(folder.parent / "other"))
    for name in ("dm", "dc"):
        metric = Metric(name="utility.accuracy", value=value, low=value - 0.1, high=value + 0.1,
                        headline=True, direction="higher")  # fmt: skip
        store.save_cell(name, Finding(subject=name, auditor="utility", metrics=[metric], seed=0))
    entries = [
        {"id": n, "kind": "recipe", "identity": n, "set_keys": [], "path": None}
        for n in ("dm", "dc")
    ]
    cells = [{"subject": n, "auditor": "utility", "seed": 0, "key": n} for n in ("dm", "dc")]
    store.write_info(
        {"data": {"name": "digits", "fingerprint": "t"}, "seeds": [0], "subjects": entries,
         "auditors": [{"name": "utility"}], "cells": cells}
    )  # fmt: skip
    return folder.parent / "other"


@pytest.fixture
def headline(folder: Path) -> Path:
    """The run, its accuracy a headline number."""
    store = RunStore(str(folder))
    metric = Metric(
        name="utility.accuracy", value=0.5, low=0.4, high=0.6, headline=True, direction="higher"
    )
    store.save_cell("a", Finding(subject="dm", auditor="utility", metrics=[metric], seed=0))
    return folder


def test_compare_shows_both_numbers_and_what_only_one_has(
    run: Callable[..., tuple[int, str, list[str]]], headline: Path
) -> None:
    other = _second(headline, 0.2)
    code, out, _ = run("compare", headline, other)
    assert code == 0
    assert "dm: accuracy = 0.200, before 0.500: −0.300 " in out
    assert f"only in {other}: dc" in out
    assert f"only in {headline}: auditor calibration" in out
    code, out, _ = run("compare", headline, other, "--json")
    (row,) = json.loads(out)
    assert (row["subject"], row["before"], row["after"]) == ("dm", 0.5, 0.2)


@pytest.mark.parametrize(
    ("form", "starts"), [("junit", "<?xml"), ("sarif", "{"), ("github", "::error")]
)
def test_other_formats_have_standard_output_to_themselves(
    run: Callable[..., tuple[int, str, list[str]]], headline: Path, form: str, starts: str
) -> None:
    code, out, err = run("gate", headline, "--against", _second(headline, 0.2), "--format", form)
    assert code == 1  # dc is gone
    assert out.startswith(starts)
    assert "numbers checked" not in out
    assert any("1 number checked" in line for line in err)


def test_a_gate_needs_something_to_hold_the_run_against(
    run: Callable[..., tuple[int, str, list[str]]], headline: Path
) -> None:
    assert run("gate", headline)[0] == 2
    assert (
        "Known: text, junit"
        in run("gate", headline, "--policy", "ci-smoke", "--format", "xml")[2][-1]
    )


def test_a_leaderboard_says_what_it_keeps_apart(
    run: Callable[..., tuple[int, str, list[str]]], folder: Path, tmp_path: Path
) -> None:
    other = _second(folder, 0.6)
    site = tmp_path / "site"
    code, out, err = run("leaderboard", folder, other, "--out", site)
    assert code == 0
    assert out == f"{site / 'index.html'}\n"
    assert [line for line in err if "kept apart" in line] == []
    assert {p.parent.name for p in site.rglob("report.html")} == {"run", "other"}
    store = RunStore(str(other))
    store.write_info({**(store.read_info() or {}), "preset": {"name": "full"}})
    code, _, err = run("leaderboard", folder, other, "--out", site)
    assert (code, err[-1]) == (0, "other is kept apart from run: another preset: full, not unknown")
    assert run("leaderboard", folder, "--out", folder / "cells" / "a.json")[0] == 2
