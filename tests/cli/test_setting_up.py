"""``ddaudit init`` writes a configuration that holds every option; ``ddaudit doctor`` finds what is broken."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torchvision
from typer.testing import CliRunner

from ddaudit.audits.config import AuditConfig, make_config
from ddaudit.cli import setting_up
from ddaudit.cli.app import app
from ddaudit.errors import BadInput

RUN = CliRunner()


def test_a_new_configuration_names_every_option_with_its_default(tmp_path: Path):
    file = tmp_path / "audit.yaml"
    done = RUN.invoke(app, ["init", str(file), "--subjects", "dm,dm+fair", "--data", "wine"])
    assert done.exit_code == 0
    config = make_config({}, file=file)
    assert config == AuditConfig(subjects=["dm", "dm+fair"], data="wine")
    names = re.findall(r"^#?(\w+): ", file.read_text(), re.M)
    assert sorted(names) == sorted(AuditConfig.model_fields)
    file.write_text(re.sub(r"^#(\w+: )", r"\1", file.read_text(), flags=re.M))
    rows = ["full", "random", "herding"]  # what None means for small images
    assert make_config({}, file=file) == config.model_copy(update={"baselines": rows})


def test_no_file_is_written_over_and_no_unknown_data_is_named(tmp_path: Path):
    file = tmp_path / "audit.yaml"
    file.write_text("mine")
    for wrong in (["init", str(file)], ["init", str(tmp_path / "b.yaml"), "--data", "digitz"]):
        assert isinstance(RUN.invoke(app, wrong).exception, BadInput)
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


def doctor(*options: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = RUN.invoke(app, ["doctor", "--json", *options])
    return done.exit_code, {line["what"]: line for line in json.loads(done.stdout)}


def test_a_working_machine_is_called_so(tmp_path: Path):
    (tmp_path / "FashionMNIST" / "raw").mkdir(parents=True)
    code, lines = doctor("--data-root", str(tmp_path))
    assert code == 0
    assert lines["torch"]["found"] == version("torch")
    assert lines["data fashion-mnist"]["state"] == "ok"
    assert lines["data svhn"]["state"] == "absent"
    assert lines["device cpu"]["state"] == "ok"


def test_what_is_broken_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def mismatched(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    needs = ["scipy>=999", "no-such-package>=1", "ray>=2; extra == 'ray'"]
    monkeypatch.setattr(setting_up, "requires", lambda name: needs)
    monkeypatch.setattr(torchvision.ops, "nms", mismatched)
    code, lines = doctor("--data-root", str(tmp_path / "absent"))
    assert code == 2
    broken = {what for what, line in lines.items() if line["state"] == "broken"}
    assert broken == {"scipy", "no-such-package", "torchvision", "data root"}
    assert "nms does not exist" in lines["torchvision"]["found"]
