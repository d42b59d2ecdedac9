"""``ddaudit gate``: what it says at the end, and its exit codes."""

from __future__ import annotations

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
