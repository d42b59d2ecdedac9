"""A publishable report depends on the training records through private releases alone, in every byte."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ddaudit.audits import AuditConfig, RunStore, run_audit
from ddaudit.audits.plan import Given
from ddaudit.data import Dataset, load_data
from ddaudit.data.files import STATISTICS_NOTE
from ddaudit.distillation import distill, resolve
from ddaudit.errors import BadInput
from ddaudit.findings import Finding, Metric
from ddaudit.reports import FORMATS, Report, gallery, write_report
from ddaudit.reports.labels import brief
from ddaudit.reports.runs import report_of
from ddaudit.sets import load, save

DATA = "digits-colored"
PRIVATE = {"reader.delta": 1e-4, "reader.epsilon": 3.0, "loop.iterations": 2, "networks.width": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """One released set, audited by two holders whose training and validation records differ in every pixel."""
    folder = tmp_path_factory.mktemp("publishable")
    data = load_data(DATA)
    made = distill(resolve("dm+dp", options=PRIVATE), data.train, data=data, ipc=1, seed=0)
    file = save(made, folder / "set.safetensors")
    assert data.train.groups is not None
    train = replace(
        data.train, images=255 - data.train.images, groups=data.train.groups.roll(1)
    ).subset(range(700))  # type: ignore[arg-type]
    validation = replace(data.validation, images=255 - data.validation.images)
    out = []
    for name, own in (("a", data), ("b", replace(data, train=train, validation=validation))):
        config = AuditConfig(
            subjects=[str(file), "random"], data=DATA, auditors=["utility", "calibration", "bias"],
            baselines=[], victims=1, jobs=1, device="cpu", ipc=1, arch="ConvNetD2W8", out=str(folder / name),
            settings={
                "bias": {"bootstrap": 20, "simulations": 20, "paired_limit": 50},
                "calibration": {"bootstrap": 20, "simulations": 5},
            },
        )  # fmt: skip
        run_audit(config, given=Given(data=own))
        _reads_records(RunStore(config.out), own)
        out.append(str(folder / name))
    return out[0], out[1]


def _reads_records(store: RunStore, data: Dataset) -> None:
    """An auditor of another package, which says nothing of what it reads, shows a record and says how bright it is."""
    info = store.read_info() or {}
    record = gallery(data.train.pixels()[:1], data.train.labels[:1], name="the nearest record")
    for subject in [*info["subjects"], {"id": None}]:
        key = f"foreign-{subject['id']}"
        metric = Metric(name="foreign.mean", value=float(data.train.pixels().mean()), headline=True)
        found = Finding(
            subject=subject["id"] or "",
            auditor="foreign",
            seed=0,
            metrics=[metric],
            images=[record],
        )
        store.save_cell(key, found)
        info["cells"].append(
            {"subject": subject["id"], "auditor": "foreign", "seed": 0, "key": key}
        )
    info["auditors"].append({"name": "foreign", "title": "Foreign"})
    store.write_info(info)


def _written(report: Report, folder: Path) -> dict[str, bytes]:
    paths = write_report(report, folder, list(FORMATS))
    cards = b"".join(p.read_bytes() for p in sorted(paths.pop("card").glob("*/README.md")))
    return {**{k: p.read_bytes() for k, p in paths.items()}, "card": cards}


def _text(name: str, content: bytes) -> str:
    if name == "parquet":
        return str(pq.read_table(io.BytesIO(content)).to_pylist())
    return content.decode()


def test_other_training_records_change_no_byte(runs: tuple[str, str], tmp_path: Path) -> None:
    whole = [_written(report_of([r]), tmp_path / "whole") for r in runs]
    assert all(whole[0][k] != whole[1][k] for k in FORMATS if k != "card"), "this test can fail"
    assert whole[0]["card"] == whole[1]["card"], "a card never has private numbers"
    shown = [_written(report_of([r], publishable=True), tmp_path / "shown") for r in runs]
    assert shown[0] == shown[1]


def test_what_it_leaves_out_and_says(runs: tuple[str, str], tmp_path: Path) -> None:
    data = load_data(DATA)
    whole, shown = report_of([runs[0]]), report_of([runs[0]], publishable=True)
    texts = {k: _text(k, v) for k, v in _written(shown, tmp_path).items()}
    both = {k: _text(k, v) for k, v in _written(whole, tmp_path).items()}
    secrets = [data.train.fingerprint, str(Path(runs[0]).parent), "the nearest record"]
    secrets += [p.png_base64 for f in whole.findings for p in f.images]
    secrets += [p.png_base64 for s in whole.subjects if s.id == "random" for p in s.gallery]
    assert len(secrets) > 4
    for secret in secrets:
        assert any(secret in v for v in both.values())
        assert not any(secret in v for v in texts.values())
    (picture,) = re.findall(r"base64,([A-Za-z0-9+/=]+)", texts["html"])
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert [p.png_base64 for s in shown.subjects for p in s.gallery] == [picture]
    assert [s.id for s in shown.subjects] == ["set.safetensors"]
    assert {f.auditor: f.status for f in shown.findings}["foreign"] == "skipped"
    kept = {m.name for f in shown.findings for m in f.metrics}
    assert {"utility.accuracy", "calibration.ece", "bias.deo_m"} <= kept
    assert not {n for n in kept if n.startswith(("foreign.", "bias.aligned", "bias.conflicting"))}
    assert "calibration.temperature" not in kept
    assert set(shown.run.data_facts) == {"shape", "classes", "groups", "test", "untested"}
    assert shown.claims[0].state == "not shown"
    assert shown.claims[0].lower_bound is None
    (promise,) = [a.text for a in shown.alerts if a.text.startswith("Publishable")]
    assert "from 1 private release " in promise
    epsilon = brief(shown.claims[0].epsilon)
    assert f"keeps ε = {epsilon} at δ = 1e-4 (add-or-remove-one given the class counts)" in promise
    assert "Left out: subjects without a claim (random)" in promise
    for text in texts.values():
        assert "test records are not covered" in text.replace("\\_", "_")
    assert not any("Confidential: shows" in a.text for a in shown.alerts)
    assert any("Confidential: shows" in a.text for a in whole.alerts)


def test_data_whose_normalisation_comes_from_its_images_are_refused(
    runs: tuple[str, str], tmp_path: Path
) -> None:
    """Victims see images normalised by them, and no claim counts that."""
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    store = RunStore(str(folder))
    info = store.read_info()
    store.write_info({**info, "data": {**info["data"], "notes": [STATISTICS_NOTE]}})
    with pytest.raises(BadInput, match="normalised by statistics of the training images"):
        report_of([str(folder)], publishable=True)


def test_a_claim_that_is_broken_or_absent_cannot_be_kept(
    runs: tuple[str, str], tmp_path: Path
) -> None:
    file = Path(runs[0]).parent / "set.safetensors"
    value = load(file)
    assert value.card.privacy is not None
    for name, privacy, why in (
        ("open", value.card.privacy.model_copy(update={"noise_seed_published": True}), "void"),
        ("none", None, "no subject claims privacy"),
    ):
        card = value.card.model_copy(update={"privacy": privacy})
        other = save(replace(value, card=card), tmp_path / f"{name}.safetensors")
        config = AuditConfig(
            subjects=[str(other)], data=DATA, auditors=["utility"], baselines=[], victims=1, jobs=1, device="cpu",
            ipc=1, arch="ConvNetD2W8", out=str(tmp_path / name),
        )  # fmt: skip
        run_audit(config, here=True)
        with pytest.raises(BadInput, match=why):
            report_of([config.out], publishable=True)
