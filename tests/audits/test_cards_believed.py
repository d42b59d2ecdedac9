"""Whoever audits anything of a set is told what its card and its content say against it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ddaudit
from ddaudit.audits import AuditConfig, run_audit
from ddaudit.data import load_data
from ddaudit.errors import BadInput
from ddaudit.reports import Policy, apply, load_policy
from ddaudit.reports._card import dataset_card
from ddaudit.reports.gate import CLEAN
from ddaudit.reports.runs import report_of
from ddaudit.reports.schema import Report
from ddaudit.sets import Card, DistilledSet, LedgerEntry, Poison, PrivacyClaim, save

# One sum over all records at sigma 2 costs 1.99 at delta 1e-5 (Balle & Wang's analytic Gaussian).
_ONE = LedgerEntry(query="sums", sigma=2.0, q=1.0, count=1)
_CLAIMS: dict[str, tuple[dict[str, Any], str, str]] = {
    "true": ({}, "not tested", ""),
    "dear": ({"epsilon": 0.5}, "violated", "the ledger costs more than the 0.5 claimed"),
    "empty": ({"ledger": []}, "void", "without a ledger"),
    "plain": ({"ledger": [_ONE.model_copy(update={"sigma": 0.0})]}, "violated", "pld inf"),
    "one": ({"delta": 1.0}, "void", "must lie in (0, 1)"),
    "large": ({"delta": 0.01}, "void", "below 1 / n"),
    "other": ({"relation": "neighbours"}, "void", "unknown neighbouring relation"),
    "shuffled": ({"sampling": "shuffled epochs"}, "void", "not covered"),
    "seeded": ({"noise_seed_published": True}, "void", "whoever knows it"),
    "crossed": ({"cross_checks": {"prv": 9.0}}, "not tested", ""),
}


def config(folder: Path, files: list[str]) -> AuditConfig:
    return AuditConfig(
        subjects=files, data="digits", auditors=["utility"], baselines=[], victims=1, jobs=1,
        device="cpu", ipc=1, arch="ConvNetD1W8", out=str(folder / "run"), preset="quick", seeds=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An audit of accuracy alone: the same images under every claim."""
    folder = tmp_path_factory.mktemp("claims")
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    files = []
    for name, (change, _, _) in _CLAIMS.items():
        claim = PrivacyClaim(**{"epsilon": 2.0, "delta": 1e-5, "ledger": [_ONE], **change})
        card = Card(method="x", data="digits", mean=[0.3], std=[0.3], privacy=claim)
        made = DistilledSet(images, torch.arange(10), 10, card)
        files.append(str(save(made, folder / f"{name}.safetensors")))
    run_audit(config(folder, files))
    return str(folder / "run")


@pytest.fixture(scope="module")
def report(run: str) -> Report:
    return report_of([run])


@pytest.mark.parametrize("name", _CLAIMS)
def test_a_report_on_accuracy_repeats_no_false_claim(
    report: Report, name: str, tmp_path: Path
) -> None:
    _, state, words = _CLAIMS[name]
    subject = f"{name}.safetensors"
    (found,) = [c for c in report.claims if c.subject == subject]
    assert found.state == state
    assert words in found.reason
    told = [a for a in report.alerts if a.subjects == [subject] and "claims ε" in a.text]
    assert len(told) == bool(words)
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules:\n- {metric: utility.accuracy, min: 0}\n")
    rules = apply(load_policy(policy), report)
    (rule,) = [r for r in rules if r.subject == subject and "claimed epsilon" in r.rule]
    assert rule.holds == (not words)
    page = dataset_card(report, subject)
    assert ("-differentially private" in page) == (not words)


def test_what_must_be_known_of_a_files_content_is_said_first_and_a_poisoned_file_never_passes_a_gate(
    tmp_path: Path,
) -> None:
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[1] = images[0]
    poison = Poison(
        attack="doorping", status="faithful", threat_model="x", target=0, trigger="blend"
    )
    card = Card(method="x", mean=[0.3], std=[0.3], poison=poison, member_indices=[4])
    trigger = {"keep": torch.ones(1, 8, 8), "add": torch.zeros(1, 8, 8)}
    made = DistilledSet(images, torch.arange(10) % 9, 10, card, trigger=trigger)
    file = save(made, tmp_path / "s.safetensors")
    run_audit(config(tmp_path, [str(file)]))
    report = report_of([str(tmp_path / "run")])
    text = " ".join(a.text for a in report.alerts if a.subjects == [file.name])
    for words in ("1 of 10 images are copies", "1 of 10 classes has no image", "records verbatim"):
        assert words in text
    assert "poisoned on purpose" in report.answers[0].text
    results = apply(Policy(()), report)
    assert [(r.rule, r.holds) for r in results] == [(CLEAN, False)]


def test_a_second_run_with_a_file_of_the_same_name_changes_no_verdict(
    run: str, tmp_path: Path
) -> None:
    """One of the two is renamed in the report, and its checks with it."""
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    claim = PrivacyClaim(epsilon=0.5, delta=1e-5, ledger=[_ONE])
    card = Card(method="x", data="digits", mean=[0.3], std=[0.3], privacy=claim)
    made = DistilledSet(images, torch.arange(10), 10, card)
    file = save(made, tmp_path / "true.safetensors")
    run_audit(config(tmp_path, [str(file)]))
    both = report_of([run, str(tmp_path / "run")])
    states = {c.subject: c.state for c in both.claims if c.subject.startswith("true.safetensors")}
    assert sorted(states.values()) == ["not tested", "violated"]


def test_a_card_of_a_newer_version_in_a_run_folder_is_one_line(tmp_path: Path, run: str) -> None:
    there = tmp_path / "run"
    shutil.copytree(run, there)
    for path in [there / "run.json", *there.glob("configurations/*.json")]:
        info = json.loads(path.read_text())
        for entry in info["subjects"]:
            if entry.get("card"):
                entry["card"]["of_the_future"] = 1
        path.write_text(json.dumps(info))
    with pytest.raises(BadInput, match=r"the card of .* is damaged"):
        report_of([str(there)])


def test_nothing_of_it_is_publishable(run: str) -> None:
    with pytest.raises(BadInput, match="its claim is violated"):
        report_of([run], publishable=True)


def test_test_records_that_training_holds_and_classes_without_any_are_said(tmp_path: Path) -> None:
    data = load_data("digits")
    test = data.test.subset(data.test.labels != 7)
    twins = data.train.subset(data.train.labels != 7).subset(torch.arange(20))
    mixed = replace(
        test,
        images=torch.cat([test.images[20:], twins.images]),
        labels=torch.cat([test.labels[20:], twins.labels]),
    )
    run = ddaudit.audit(
        ["random"], data=replace(data, test=mixed), auditors="utility", baselines=(), victims=1, ipc=1,
        seeds=1, arch="ConvNetD1W8", out=tmp_path / "run", device="cpu", jobs=1, quiet=True,
    )  # fmt: skip
    told = {a.text: a.tone for a in run.read().alerts}
    (copied,) = [t for t in told if f"20 of {len(test)} test records are also training" in t]
    assert told[copied] == "bad"
    assert any(f"No test record is of class {data.test.class_names[7]}:" in t for t in told)
