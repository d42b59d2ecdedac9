"""A claim is not lost with the file that carried it, and no private set is silently made a second time."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddaudit.audits import AuditConfig, RunStore, run_audit
from ddaudit.data import load_data
from ddaudit.distillation import distill, resolve
from ddaudit.errors import BadInput
from ddaudit.reports import apply, load_policy
from ddaudit.reports.runs import report_of
from ddaudit.sets import load, save
from ddaudit.sets.releases import log_release, read_releases

PRIVATE = {
    "reader.delta": 1e-4,
    "reader.epsilon": 3.0,
    "loop.iterations": 2,
    "networks.width": 4,
}


def config(out: Path, **changes: Any) -> AuditConfig:
    values: dict[str, Any] = {
        "subjects": ["random"],
        "data": "digits",
        "auditors": ["utility"],
        "baselines": [],
        "victims": 1,
        "jobs": 1,
        "device": "cpu",
        "ipc": 1,
        "arch": "ConvNetD2W8",
        "out": str(out),
    }
    return AuditConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private set file, and a policy that asks only for its accuracy."""
    folder = tmp_path_factory.mktemp("private")
    data = load_data("digits")
    made = distill(resolve("dm+dp", options=PRIVATE), data.train, data=data, ipc=1, seed=0)
    return save(made, folder / "set.safetensors")


def _gate(run: Path, tmp_path: Path) -> dict[str, bool]:
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules:\n- {metric: utility.accuracy, min: 0}\n")
    return {r.rule: r.holds for r in apply(load_policy(policy), report_of([str(run)]))}


CLAIM = "claimed epsilon is neither refuted nor void"
FILE = "what was audited is what is there"


def test_the_claim_of_a_file_that_moved_stays_in_the_run_and_the_gate_says_so(
    private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "set.safetensors"
    here.write_bytes(private.read_bytes())
    monkeypatch.chdir(tmp_path)
    run_audit(config(tmp_path / "run", subjects=["set.safetensors"]))
    run = tmp_path / "run"
    assert FILE not in _gate(run, tmp_path)
    # From another working directory the relative name means nothing, and the file is still found.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert FILE not in _gate(run, tmp_path)
    assert CLAIM in _gate(run, tmp_path)
    os.rename(here, tmp_path / "moved.safetensors")
    report = report_of([str(run)])
    assert [c.epsilon for c in report.claims] == [pytest.approx(3.0, rel=0.02)]
    assert report.subjects[0].gallery, "the picture is of the run's own copy"
    assert _gate(run, tmp_path)[FILE] is False
    assert any("no longer at" in a.text for a in report.alerts)


def test_a_file_that_was_replaced_fails_the_gate(private: Path, tmp_path: Path) -> None:
    here = tmp_path / "set.safetensors"
    here.write_bytes(private.read_bytes())
    run_audit(config(tmp_path / "run", subjects=[str(here)]))
    value = load(here)
    save(
        type(value)(
            value.images,
            value.labels,
            value.num_classes,
            value.card.model_copy(update={"privacy": None}),
        ),
        here,
    )
    result = _gate(tmp_path / "run", tmp_path)
    assert result[FILE] is False
    assert CLAIM in result, "the claim that was audited is still known"


def test_a_copy_in_the_run_folder_that_was_changed_fails_the_gate(
    private: Path, tmp_path: Path
) -> None:
    run_audit(config(tmp_path / "run", subjects=[str(private)]))
    assert FILE not in _gate(tmp_path / "run", tmp_path)
    (copy,) = (tmp_path / "run" / "sets").glob("file-*.safetensors")
    raw = bytearray(copy.read_bytes())
    raw[-3] ^= 0x01  # in the last pixel
    copy.write_bytes(raw)
    assert _gate(tmp_path / "run", tmp_path)[FILE] is False


def _private_run(out: Path) -> tuple[RunStore, Path]:
    made = config(out, subjects=["dm+dp"], epsilon=3.0, delta=1e-4, options={"loop.iterations": 2})
    run_audit(made)
    (file,) = (out / "sets").glob("*.safetensors")
    return RunStore(str(out)), file


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_private_set_is_not_made_again(tmp_path: Path, damage: str) -> None:
    _, file = _private_run(tmp_path / "run")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    else:
        file.unlink()
    again = config(
        tmp_path / "run",
        subjects=["dm+dp"],
        epsilon=3.0,
        delta=1e-4,
        options={"loop.iterations": 2},
        victims=2,
    )
    with pytest.raises(BadInput, match="second release"):
        run_audit(again)
    assert not file.exists() or file.stat().st_size == 200
    # The claim is known from the run itself, and the gate does not open.
    report = report_of([str(tmp_path / "run")])
    assert [c.epsilon for c in report.claims] == [pytest.approx(3.0, rel=0.02)]
    assert _gate(tmp_path / "run", tmp_path)[FILE] is False
    # A new folder is a new release, and both are on record.
    _private_run(tmp_path / "other")
    assert len(read_releases(tmp_path)) == 2


def test_a_plain_set_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    run_audit(config(tmp_path))
    (file,) = (tmp_path / "sets").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    run_audit(config(tmp_path, victims=2))
    assert file.read_bytes() == whole or len(file.read_bytes()) == len(whole)


def test_releases_are_logged_beside_a_file_and_an_overwritten_one_stays_on_record(
    private: Path, tmp_path: Path
) -> None:
    value = load(private)
    log_release(value.card, tmp_path / "set.safetensors")
    log_release(value.card, tmp_path / "set.safetensors")
    assert len(read_releases(tmp_path)) == 1, "the same set twice is one release"
    other = value.card.model_copy(
        update={"privacy": value.card.privacy.model_copy(update={"release": "another"})}  # type: ignore[union-attr]
    )
    log_release(other, tmp_path / "set.safetensors")
    assert {r.claim.release for r in read_releases(tmp_path)} == {
        "another",
        value.card.privacy.release,  # type: ignore[union-attr]
    }
    assert not read_releases(tmp_path)[0].model_dump_json().count("fingerprint")


def test_a_private_set_saved_from_python_is_on_record_and_a_plain_one_is_not(
    private: Path, tmp_path: Path
) -> None:
    value = load(private)
    save(value, tmp_path / "set.safetensors")
    (record,) = read_releases(tmp_path)
    assert (record.name, record.claim) == ("set.safetensors", value.card.privacy)
    plain = replace(value, card=value.card.model_copy(update={"privacy": None}))
    save(plain, tmp_path / "plain" / "set.safetensors")
    assert not read_releases(tmp_path / "plain")


def test_a_record_that_cannot_be_read_stops_the_sum(private: Path, tmp_path: Path) -> None:
    log_release(load(private).card, tmp_path / "set.safetensors")
    (record,) = (tmp_path / "releases").glob("*.json")
    record.write_text(json.dumps({"made": "x"}))
    with pytest.raises(BadInput, match="not a readable record"):
        read_releases(tmp_path)
    with pytest.raises(BadInput, match="is no folder"):
        read_releases(tmp_path / "nowhere")
