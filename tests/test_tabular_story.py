"""A CSV file of one's own through distil (plain, fair, private), audit and report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import ddaudit
from ddaudit.errors import DDAuditError
from ddaudit.sets import load

FEW = ["--set", "loop.iterations=8"]
CALM = ("--set", "loop.lr=0.1")
"""At its own step size dm+dp diverges on tables (docs/data.md), and auditors then say so in place of numbers."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 loans: two numbers, two categories, an identifier, a protected column, some holes."""
    r = np.random.RandomState(4)
    path = tmp_path_factory.mktemp("table") / "loans.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "age", "income", "job", "city", "sex", "repaid"])
        for i in range(600):
            woman = r.rand() < 0.4
            good = r.rand() < (0.35 if woman else 0.6)
            age, income = (
                38 + 12 * good + 8 * r.randn(),
                20_000 * np.exp(0.7 * good + 0.3 * r.randn()),
            )
            job = r.choice(
                ["office", "field", "other"], p=[0.7, 0.2, 0.1] if good else [0.2, 0.6, 0.2]
            )
            hole = i % 60 == 0
            out.writerow(
                [i, f"{age:.0f}", "" if hole else f"{income:.2f}", job, r.choice(["A", "B"]),
                 "F" if woman else "M", "yes" if good else "no"]
            )  # fmt: skip
    return path


def spec(table: Path, more: str = "") -> str:
    return f"csv:path={table},target=repaid,group=sex,drop=id,missing=drop{more}"


def test_missing_cells_and_private_constants_stop_before_any_work(run, table, tmp_path):
    out = tmp_path / "x.safetensors"
    unsaid = f"csv:path={table},target=repaid,group=sex,drop=id"
    code, _, said = run("distill", "dm", "--data", unsaid, "--out", out)
    assert code == 2
    assert "10 of 600 records have no value in column 'income'" in said[-1]
    code, _, said = run("distill", "dm+dp", "--data", spec(table), "--delta", "1e-4", "--out", out)
    assert code == 2
    assert "constants=public" in said[-1]
    assert not out.exists()


def test_a_distilled_table_says_what_it_is(run, table, tmp_path):
    out = tmp_path / "fair.safetensors"
    size = ("--ipc", 3, "--profile", "small")
    code, _, said = run("distill", "dm+fair", "--data", spec(table), *size, *FEW, "--out", out)
    assert code == 0, said
    made = load(out)
    assert (made.shape, made.card.modality, made.card.space) == ((1, 1, 7), "tabular", "standard")
    assert any("MLP" in deviation for deviation in made.card.deviations)
    code, printed, _ = run("inspect", out)
    assert code == 0
    assert "tabular, standardised" in printed
    assert "outside [0, 1]" not in printed


def audit(run, table: Path, out: Path, auditors: str | None) -> dict[tuple[str, str], dict]:
    """(subject, auditor) -> finding of a report on plain, fair and private sets."""
    chosen = [] if auditors is None else ["--auditors", auditors]
    code, _, said = run(
        "audit", "dm", "dm+fair", "dm+dp", "random", "--data", spec(table, ",constants=public"),
        "--epsilon", 50, "--delta", "1e-4", "--ipc", 3, "--jobs", 1, "--baselines", "none", "--out", out,
        *FEW, *CALM, *chosen,
    )  # fmt: skip
    assert code == 0 or any("not finite" in line for line in said), said
    code, _, said = run("report", out, "--format", "html,json,md", "--out", out / "report")
    assert code == 0, said
    report = json.loads((out / "report" / "report.json").read_text())
    assert all(not subject.get("gallery") for subject in report["subjects"])
    return {(f["subject"], f["auditor"]): f for f in report["findings"]}


def test_audit_and_report_of_a_table(run, table, tmp_path):
    found = audit(run, table, tmp_path / "run", "backdoor,bias,utility")
    for subject in ("dm", "dm+fair", "dm+dp", "random"):
        assert found[subject, "backdoor"]["status"] == "skipped"
        assert "triggers are pixels" in found[subject, "backdoor"]["reason"]
        assert found[subject, "bias"]["status"] == "ok", found[subject, "bias"]["reason"]
        assert found[subject, "utility"]["status"] == "ok", found[subject, "utility"]["reason"]
    metrics = found["random", "utility"]["metrics"]
    (accuracy,) = [m for m in metrics if m["name"] == "utility.accuracy"]
    assert accuracy["low"] > 0.5


@pytest.mark.slow
def test_no_auditor_fails_on_a_table(run, table, tmp_path):
    found = audit(run, table, tmp_path / "run", None)
    # Of eight steps on half the records some private set may diverge: then the reason stands in place of a number.
    failed = {pair: f["reason"] for pair, f in found.items() if f["status"] == "failed"}
    assert all(pair[0] == "dm+dp" and "not finite" in why for pair, why in failed.items()), failed
    skipped = {auditor for (_, auditor), f in found.items() if f["status"] == "skipped"}
    pixels = {"backdoor", "corruption", "shift"}
    assert skipped == pixels | {"backdoor-scan", "noise", "soft-labels", "tail"}


def test_values_that_run_away_are_divergence_before_they_overflow() -> None:
    """DM at the step of images on a table of numbers ended at 10^25, finite, and was saved as a set."""
    with pytest.raises(
        DDAuditError, match=r"diverged at iteration \d+\. .*of tables, steps of about 0\.1"
    ):
        ddaudit.distill("dm", data="breast-cancer", ipc=1, device="cpu", quiet=True)
    made = ddaudit.distill(
        "dm", data="breast-cancer", ipc=1, device="cpu", quiet=True,
        options={"loop.lr": 0.1, "loop.iterations": 100},
    )  # fmt: skip
    assert float(made.images.abs().max()) < 10
