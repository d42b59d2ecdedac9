"""The command line as a contract: exit codes, one line per error, nothing left behind by a refusal."""

import json
import pickle

import pytest
import safetensors.torch
import torch


def set_file(path, *, images=None, labels=None, card="{}", classes="10"):
    images = torch.rand(10, 1, 8, 8) if images is None else images
    labels = torch.arange(len(images)) % 10 if labels is None else labels
    metadata = {"ddaudit.card": card, "ddaudit.format": "1", "ddaudit.num_classes": classes}
    safetensors.torch.save_file(
        {"images": images.contiguous(), "labels": labels}, path, metadata=metadata
    )
    return path


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def truncated(tmp_path):
    path = set_file(tmp_path / "t.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    return path


def bomb(tmp_path):
    path = tmp_path / "bomb.pt"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    return path


def disguised_bomb(tmp_path):
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    return path


def nan_images(tmp_path):
    x = torch.rand(10, 1, 8, 8)
    x[3, 0, 0, 0] = torch.nan
    return set_file(tmp_path / "nan.safetensors", images=x)


NASTY = {
    "truncated file": (truncated, "incomplete|truncated|damaged"),
    "pickle bomb": (bomb, "."),
    "pickle bomb as safetensors": (disguised_bomb, "."),
    "NaN images": (nan_images, "1 of 10 images contain NaN"),
    "label out of range": (
        lambda p: set_file(p / "l.safetensors", labels=torch.arange(10) + 3),
        "label 12 is out of range",
    ),
    "wrong channel count": (
        lambda p: set_file(p / "c.safetensors", images=torch.rand(10, 5, 8, 8)),
        "5 channels",
    ),
    "colour set, grey data": (
        lambda p: set_file(p / "rgb.safetensors", images=torch.rand(10, 3, 8, 8)),
        r"\(3, 8, 8\)",
    ),
    "empty set": (
        lambda p: set_file(p / "e.safetensors", images=torch.rand(0, 1, 8, 8)),
        "no images",
    ),
    "missing file": (lambda p: p / "nowhere.safetensors", "no such file"),
}


@pytest.mark.parametrize("case", NASTY)
def test_nasty_subjects_are_one_line_and_exit_2(run, tmp_path, case):
    make, expected = NASTY[case]
    code, out, err = run("audit", make(tmp_path), "--data", "digits", "--out", tmp_path / "run")
    assert code == 2
    assert len(err) == 1
    assert out == ""
    import re

    assert re.search(expected, err[0]), err[0]
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("audit", "dmm"), "dmm: unknown method. Did you mean"),
        (("audit", "dm+fiar"), "fiar: unknown defense. Did you mean fair"),
        (("audit", "dm", "--auditors", "utilty"), "utilty: unknown auditor. Did you mean utility"),
        (("audit", "dm", "--data", "imagenet"), "imagenet: unknown dataset"),
        (("audit", "dm", "--data", "mnist", "--data-root", "/nonexistent"), "/nonexistent"),
        (("audit", "dm", "--data", "digits-colored:bias=2"), "bias"),
        (("audit", "dm+fair", "--data", "digits"), "protected attribute"),
        (("audit", "dm+dp", "--epsilon", "0"), "--epsilon 0: must be positive"),
        (("audit", "dm+dp", "--epsilon", "inf"), "--epsilon inf: must be positive and finite"),
        (("audit", "dm", "--setting", "privacy.release_megapixels=inf"), "finite number"),
        (
            ("audit", "dm", "--auditors", "utility", "--setting", "membership.shadows=4"),
            "--setting membership: is a setting of an auditor that is not asked",
        ),
        (("audit", "dm", "--ipc", "0"), "ipc"),
        (("audit", "dm", "--set", "loop.itertions=3"), "loop.itertions"),
        (("audit", "dm", "--epsilon", "1"), "none of the audited recipes is private"),
        (("audit",), "subjects"),
        (("audit", "dm", "--device", "tpu9"), "tpu9"),
        (("distill", "dm+dp", "--epsilon", "-1", "--out", "x.safetensors"), "must be positive"),
        (("distill", "dm+dp", "--delta", "0.5", "--out", "x.safetensors"), "delta"),
        (("distill", "dm", "--epsilon", "1", "--out", "x.safetensors"), "no privacy part"),
        (("distill", "dm", "--set", "loop.steps=1", "--out", "x.safetensors"), "no option 'steps'"),
        (("distill", "dm", "--set", "nonsense", "--out", "x.safetensors"), "PART.OPTION=VALUE"),
        (("distill", "dm"), "--out"),
        (("distill", "dm", "--out", "x.pt"), "Take x.safetensors"),
        (("audit",), "subjects: none is given"),
        (("inspect", "nowhere.safetensors"), "no such file"),
        (("report", "nowhere"), "no run folder"),
        (("gate", "nowhere", "--policy", "nowhere.yaml"), "nowhere.yaml"),
        (("import", "nowhere.pt", "--format", "dc", "--out", "x.safetensors"), "no such file"),
        (("list", "everything"), "everything"),
        (("frobnicate",), "frobnicate"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(run, tmp_path, monkeypatch, argv, expected):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*argv)
    assert code == 2
    assert len(err) == 1, err
    assert expected in err[0]
    assert list(tmp_path.iterdir()) == []


def test_distill_inspect_and_audit_of_the_file(run, tmp_path):
    path = tmp_path / "s.safetensors"
    code, out, _ = run(
        "distill",
        "dm+dp",
        "--data",
        "digits",
        "--ipc",
        1,
        "--epsilon",
        4,
        "--delta",
        1e-4,
        "--set",
        "loop.iterations=10",
        "--set",
        "networks.width=8",
        "--out",
        path,
    )
    assert code == 0
    assert "epsilon" in out
    code, out, _ = run("inspect", path, "--json")
    privacy = json.loads(out)["privacy"]
    assert code == 0
    assert privacy["epsilon"] <= 4
    assert privacy["delta"] == 1e-4
    assert privacy["relation"] == "add-or-remove-one"
    assert {"query", "sigma", "q", "count"} <= set(privacy["ledger"][0])
    assert privacy["ledger"][0]["count"] == 10
    code, _, err = run(
        "audit",
        path,
        "--data",
        "digits",
        "--auditors",
        "utility,backdoor",
        "--baselines",
        "none",
        "--arch",
        "ConvNetD2W8",
        "--jobs",
        1,
        "--out",
        tmp_path / "run",
    )
    assert code == 0, err
    code, out, _ = run(
        "report", tmp_path / "run", "--format", "json,md", "--out", tmp_path / "report"
    )
    assert code == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    by_auditor = {f["auditor"]: f for f in report["findings"]}
    assert by_auditor["utility"]["status"] == "ok"
    assert by_auditor["backdoor"]["status"] == "skipped"
    assert by_auditor["backdoor"]["reason"]
    assert report["subjects"][0]["card"]["privacy"]["epsilon"] == privacy["epsilon"]


def test_several_sizes_and_what_publishing_them_costs(run, tmp_path):
    quick = ["--data", "digits", "--epsilon", 4, "--delta", 1e-4, "--set", "loop.iterations=10"]
    quick += ["--set", "networks.width=8"]
    code, _, err = run(
        "distill", "ndpdc", *quick, "--ipc", "1,2", "--out", tmp_path / "s.safetensors"
    )
    assert code == 0, err
    made = sorted(tmp_path.glob("*.safetensors"))
    assert [f.name for f in made] == ["s-ipc1.safetensors", "s-ipc2.safetensors"]
    code, out, _ = run("inspect", *made)
    assert code == 0
    one_budget = float(out.split("publishing all: epsilon ")[1].split()[0])
    assert one_budget <= 4
    assert "(1 release" in out
    other = tmp_path / "other.safetensors"
    assert run("distill", "ndpdc", *quick, "--ipc", 1, "--out", other)[0] == 0
    code, out, _ = run("inspect", *made, other)
    assert float(out.split("publishing all: epsilon ")[1].split()[0]) > 1.2 * one_budget
    assert "(2 release" in out
    code, out, _ = run("inspect", *made, "--json")
    assert [c["ipc"] for c in json.loads(out)] == [1, 2]
    code, out, err = run("inspect", made[0], set_file(tmp_path / "open.safetensors"))
    assert "publishing all: no guarantee, 1 of these sets" in out


@pytest.mark.parametrize("ipc", ["0", "1,1", "ten", "1,,2"])
def test_bad_sizes_are_one_line(run, tmp_path, ipc):
    code, _, err = run("distill", "dm", "--ipc", ipc, "--out", tmp_path / "s.safetensors")
    assert (code, len(err)) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_gate_exit_codes(run, tmp_path):
    run(
        "audit",
        "random",
        "--auditors",
        "utility",
        "--baselines",
        "none",
        "--arch",
        "ConvNetD2W8",
        "--ipc",
        1,
        "--jobs",
        1,
        "--out",
        tmp_path / "run",
    )
    policy = tmp_path / "p.yaml"
    policy.write_text("rules:\n  - {metric: utility.accuracy, min: 0.05}\n")
    assert run("gate", tmp_path / "run", "--policy", policy)[0] == 0
    policy.write_text("rules:\n  - {metric: utility.accuracy, min: 0.999}\n")
    code, out, _ = run("gate", tmp_path / "run", "--policy", policy)
    assert code == 1
    assert "utility.accuracy" in out


@pytest.mark.parametrize("what", ["methods", "auditors", "datasets", "formats"])
def test_list_has_text_and_json(run, what):
    code, text, _ = run("list", what)
    _, raw, _ = run("list", what, "--json")
    rows = json.loads(raw)
    assert code == 0
    assert len(rows) >= 6
    assert all(r["name"] in text and r["description"] for r in rows)


def test_a_failed_cell_is_exit_3(run, tmp_path, monkeypatch):
    from ddaudit.auditing import AUDITORS

    monkeypatch.setattr(type(AUDITORS.get("utility")), "run", lambda *_: 1 / 0)
    code, _, err = run(
        "audit",
        "random",
        "--auditors",
        "utility",
        "--baselines",
        "none",
        "--jobs",
        1,
        "--ipc",
        1,
        "--arch",
        "ConvNetD2W8",
        "--out",
        tmp_path / "run",
    )
    assert code == 3
    assert any("random: utility" in line and "ZeroDivisionError" in line for line in err)


def test_an_interrupt_keeps_finished_cells(run, tmp_path, monkeypatch):
    from ddaudit.auditing import AUDITORS

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(AUDITORS.get("utility")), "run", interrupted)
    code, _, err = run(
        "audit",
        "random",
        "--auditors",
        "utility",
        "--baselines",
        "none",
        "--jobs",
        1,
        "--ipc",
        1,
        "--arch",
        "ConvNetD2W8",
        "--out",
        tmp_path / "run",
    )
    assert code == 130
    assert "finished cells are kept" in err[-1]
    assert (
        len(list((tmp_path / "run" / "cells").iterdir())) == 1
    )  # the instrument checks, which came first
