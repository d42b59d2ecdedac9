"""The front door: version, completion, options that are refused before any work, places that cannot be written."""

import errno
import json
import os
import subprocess
import sys

import pytest

import ddaudit
from ddaudit.auditing import AUDITORS
from ddaudit.audits.run import Outcome

SMALL = ("--data", "digits", "--ipc", 1, "--set", "loop.iterations=2", "--set", "networks.width=8")
PRIVATE = ("distill", "dm+dp", *SMALL, "--delta", 1e-4)
FEW = ("--auditors", "utility", "--baselines", "none", "--ipc", 1, "--jobs", 1)


def test_version_is_the_package_s(run):
    code, out, _ = run("--version")
    assert (code, out) == (0, f"ddaudit {ddaudit.__version__}\n")


def test_python_dash_m_is_the_command():
    argv = [sys.executable, "-m", "ddaudit", "audit", "dmm"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean dm" in done.stderr


def test_the_shell_completes_commands():
    env = {
        **os.environ,
        "_DDAUDIT_COMPLETE": "complete_bash",
        "COMP_WORDS": "ddaudit dist",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['ddaudit']; import ddaudit.cli as c; c.main()",
        ],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "distill" in done.stdout.split()


QUICK = """
import contextlib, io, sys
from ddaudit.catalogue import KINDS, builtin
from ddaudit.cli import main

def run(*argv):
    sys.argv = ["ddaudit", *argv]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()
    assert "torch" not in sys.modules, argv

run("--help")
run("audit", "--help")
run("--version")
run("distil")
run("audit", "dm", "--auditors", "")
run("audit", "dm", "--setting", "nonsense")
run("distill", "dm", "--seed", "-1", "--out", "x")
run("distill", "dm", "--out", ".")
run("report", "x", "--out", sys.executable)
for kind, argv in {
    "method": ["audit", "dmm"],
    "defense": ["audit", "dm+fiar"],
    "dataset": ["audit", "dm", "--data", "mnits"],
    "auditor": ["audit", "dm", "--auditors", "utilty"],
    "format": ["import", "x", "--format", "dd", "--out", "y.safetensors"],
}.items():
    if builtin(KINDS[kind]) is not None:  # a catalogue that is out of date is not used
        run(*argv)
"""


def test_what_needs_no_torch_does_not_import_it(tmp_path):
    """Help, version, refusals and unknown names: torch alone costs more than a second."""
    done = subprocess.run(
        [sys.executable, "-c", QUICK], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("audit", "dm", "--auditors", ""), '--auditors "": names nothing'),
        (("audit", "dm", "--auditors", " , "), "names nothing"),
        (("audit", "dm", "--setting", "membership.shadow=3"), "Did you mean shadows"),
        (("audit", "dm", "--setting", "membreship.shadows=3"), "Did you mean membership"),
        (("audit", "dm", "--setting", "utility.bootstrap=many"), "utility.bootstrap: bad value"),
        (("audit", "dm", "--setting", "utility.bootstrap"), "is not AUDITOR.KEY=VALUE"),
        (("audit", "dm", "--setting", "bootstrap=3"), "is not AUDITOR.KEY=VALUE"),
        (("audit", "dm", "--setting", "utility.bootstrap={"), "is not YAML"),
        (("audit", "dm", "--seeds", 10**12), "--seeds"),
        (("audit", "dm", "--jobs", 10**12), "--jobs"),
        (("audit", "dm+fair+dp+fair", "--data", "digits-colored"), "names 'fair' more than once"),
        (("distill", "dm+dp+dp", "--out", "x.safetensors"), "names 'dp' more than once"),
        (("distill", "dm", "--seed", -1, "--out", "x.safetensors"), "--seed"),
        (("distill", "dm", "--seed", 10**30, "--out", "x.safetensors"), "--seed"),
        (("report", "x", "--format", ""), "names nothing"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(run, tmp_path, monkeypatch, argv, expected):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*argv)
    assert (code, len(err)) == (2, 1), err
    assert expected in err[0]
    assert list(tmp_path.iterdir()) == []


def _nothing_works(*_, **__):
    raise AssertionError("the place was not checked before the work")


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("folder", "is a folder"),
        ("file/x.safetensors", "is a file"),
        ("n" * 300 + ".safetensors", "too long"),
        ("a\0b", "null byte"),
        ("pipe", "no regular file"),
    ],
)
def test_a_set_s_place_is_checked_first(run, tmp_path, monkeypatch, out, expected):
    monkeypatch.setattr("ddaudit.distillation.distill_sizes", _nothing_works)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    code, _, err = run("distill", "dm", *SMALL, "--out", f"{tmp_path}/{out}")
    assert (code, len(err)) == (2, 1), err
    assert expected in err[0]


@pytest.mark.parametrize("command", ["audit", "report", "demo"])
def test_a_folder_s_place_is_checked_first(run, tmp_path, monkeypatch, command):
    monkeypatch.setattr("ddaudit.audits.run_audit", _nothing_works)
    (tmp_path / "file").touch()
    subject = {"audit": ["random"], "report": [tmp_path], "demo": []}[command]
    for out in ("file", "file/below"):
        code, _, err = run(command, *subject, "--out", tmp_path / out)
        assert (code, len(err)) == (2, 1), err
        assert "file" in err[0]


def test_a_folder_without_permission_and_a_full_disk_are_refused(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "access", lambda *_: False
        )  # tests may run as root, who may write anywhere
        code, _, err = run("audit", "random", "--out", tmp_path / "run")
    assert (code, len(err)) == (2, 1)
    assert "no permission" in err[0]
    with monkeypatch.context() as patch:
        patch.setattr("ddaudit.cli.places.shutil.disk_usage", lambda _: _Full())
        code, _, err = run("distill", "dm", *SMALL, "--out", tmp_path / "s.safetensors")
    assert (code, len(err)) == (2, 1)
    assert "the disk is full" in err[0]


class _Full:
    total, free = 10**9, 0


def test_a_disk_that_fills_up_during_an_audit_is_one_line_and_leaves_no_parts(
    run, tmp_path, monkeypatch
):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ddaudit.files.os.fsync", full)
    code, _, err = run("audit", "random", *FEW, "--out", tmp_path / "run")
    assert code == 2
    assert "No space left on device" in err[-1]
    assert [f for f in (tmp_path / "run").rglob("*") if f.is_file()] == []


def test_a_private_release_is_not_overwritten(run, tmp_path):
    path = tmp_path / "s.safetensors"
    assert run("distill", "dm", *SMALL, "--out", path)[0] == 0
    assert run(*PRIVATE, "--out", path)[0] == 0  # a plain set can be made again
    before = path.read_bytes()
    for again in (PRIVATE, ("distill", "dm", *SMALL)):
        code, _, err = run(*again, "--out", path)
        assert (code, len(err)) == (2, 1)
        assert "holds a private release" in err[0]
    assert path.read_bytes() == before
    assert run(*PRIVATE, "--out", path, "--overwrite")[0] == 0
    assert path.read_bytes() != before
    path.write_bytes(before[:-10])  # damaged: may have been a release
    assert run(*PRIVATE, "--out", path)[0] == 2


def test_one_private_file_of_several_sizes_stops_all(run, tmp_path):
    assert run(*PRIVATE, "--out", tmp_path / "s-ipc2.safetensors")[0] == 0
    argv = ["2,3" if a == 1 else a for a in PRIVATE]
    code, _, err = run(*argv, "--out", tmp_path / "s.safetensors")
    assert code == 2
    assert "s-ipc2.safetensors" in err[0]
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_default_privacy_target_is_said(run, tmp_path):
    from ddaudit.defenses.privacy.reader import PoissonGaussian

    _, _, err = run(*PRIVATE, "--out", tmp_path / "s.safetensors")
    assert "privacy target of dm+dp: epsilon 10 at delta 0.0001 (--epsilon by default)" in err
    assert not any(
        "privacy target" in line
        for line in run("distill", "dm", *SMALL, "--out", tmp_path / "p")[2]
    )
    for command in ("distill", "audit"):
        text = " ".join(run(command, "--help")[1].replace("│", " ").split())
        assert f"the recipe's own, {PoissonGaussian().epsilon:g} for most" in text
        assert f"the recipe's own, {PoissonGaussian().delta:.0e}".replace("e-0", "e-") in text


def test_an_audit_says_its_default_privacy_target_and_an_empty_one(run, tmp_path, monkeypatch):
    monkeypatch.setattr("ddaudit.audits.run_audit", lambda *_, **__: Outcome("", 0, 0, (), 0.0))
    argv = ("audit", "dm+dp", "--delta", "1e-4", "--out", tmp_path)
    _, _, err = run(*argv)
    assert "privacy target of dm+dp: epsilon 10 at delta 0.0001 (--epsilon by default)" in err
    assert not any("promises nothing" in line for line in err)
    _, _, err = run(*argv, "--epsilon", "1e6")
    assert not any("privacy target" in line for line in err)
    assert any("warning: dm+dp: epsilon 1e+06 promises nothing: above 100" in line for line in err)


def test_a_distilled_set_says_that_its_epsilon_is_empty(run, tmp_path):
    file = tmp_path / "s.safetensors"
    code, out, err = run(*PRIVATE, "--epsilon", "1e6", "--out", file)
    assert code == 0
    for lines in (err, out.splitlines(), run("inspect", file)[1].splitlines()):
        assert any("epsilon 1e+06 promises nothing" in line for line in lines)


def test_a_setting_reaches_its_auditor_on_top_of_the_file(run, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "subjects: [random]\nsettings: {utility: {bootstrap: 50, cross_architectures: [MLP]}}\n"
    )
    code, _, err = run(
        "audit", "--config", config, *FEW, "--arch", "ConvNetD2W8", "--out", tmp_path / "run",
        "--setting", "utility.bootstrap=20",
    )  # fmt: skip
    assert code == 0, err
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    used = {a["name"]: a["settings"] for a in info["auditors"]}["utility"]
    assert used == {"bootstrap": 20, "cross_architectures": ["MLP"], "ranking": False}


def test_a_dry_run_counts_cells_and_writes_nothing(run, tmp_path):
    argv = ("audit", "random", "herding", *FEW, "--seeds", 2, "--out", tmp_path / "run")
    argv += ("--arch", "ConvNetD2W8")
    code, out, _ = run(*argv, "--dry-run")
    assert code == 0
    assert not (tmp_path / "run").exists()
    table = [line.split()[:4] for line in out.splitlines()]
    assert ["random", "utility", "2", "0"] in table
    assert ["(checks)", "utility", "1", "0"] in table
    assert "0 are there, 5 to compute" in out
    assert out.splitlines()[-2].startswith("estimate: about ")
    one = ("audit", "random", *FEW, "--arch", "ConvNetD2W8", "--out", tmp_path / "run")
    assert run(*one)[0] == 0
    _, out, _ = run(*argv, "--dry-run")
    assert ["random", "utility", "2", "1"] in [line.split()[:4] for line in out.splitlines()]
    assert "2 are there, 3 to compute" in out
    facts = json.loads(run(*argv, "--dry-run", "--json")[1])
    assert facts["missing"] == sum(r["cells"] - r["there"] for r in facts["cells"] if r["auditor"])
    assert facts["cpu_seconds"] >= sum(r["cpu_seconds"] for r in facts["cells"])
    assert run(*argv, "--json")[0] == 2


def test_an_audit_says_what_it_costs_before_it_starts(run, tmp_path):
    _, _, err = run("audit", "random", *FEW, "--arch", "ConvNetD2W8", "--out", tmp_path / "run")
    assert err[0].startswith("estimate: about ")
    assert err[1].startswith("[1/")


def test_a_dry_run_has_no_shards(run, tmp_path):
    code, _, lines = run("audit", "dm", "--dry-run", "--shard", "2/3", "--out", tmp_path / "run")
    assert (code, len(lines)) == (2, 1)
    assert "--shard: has no dry run" in lines[0]


def test_a_dry_run_of_distil_says_what_it_costs_and_writes_nothing(run, tmp_path):
    argv = ("distill", "dm", "--ipc", "1,10", "--out", tmp_path / "dm.safetensors", "--dry-run")
    code, out, _ = run(*argv)
    assert code == 0
    assert [line.split(":")[0].split("/")[-1] for line in out.splitlines()] == [
        "dm-ipc1.safetensors",
        "dm-ipc10.safetensors",
    ]
    rows = json.loads(run(*argv, "--json")[1])
    assert 0 < rows[0]["cpu_seconds"] <= rows[1]["cpu_seconds"]
    assert not any(tmp_path.iterdir())


def test_columns_of_lists_have_names_and_a_wrong_kind_its_neighbour(run):
    assert run("list", "settings")[1].split("\n")[0].split() == [
        "name", "type", "quick", "standard", "full", "meaning",
    ]  # fmt: skip
    assert run("list", "metrics")[1].startswith("name ")
    assert "MLPD1 is logistic regression" in run("list", "archs")[1]
    code, _, error = run("list", "method")
    assert code == 2
    assert error == ["ddaudit: method: cannot be listed. Did you mean methods?"]


def test_settings_are_listed_with_their_presets(run):
    rows = {r["name"]: r for r in json.loads(run("list", "settings", "--json")[1])}
    assert len(rows) == sum(len(a.settings.model_fields) for _, a in AUDITORS.items())
    shadows = rows["membership.shadows"]
    assert shadows["type"] == "int"
    assert shadows["full"] == AUDITORS.get("membership").configure("full").shadows
    assert shadows["description"].startswith("Re-distillations of a recipe")
    assert rows["utility.cross_architectures"]["type"] == "list of str"


def test_architectures_that_do_not_fit_the_images_are_refused_by_name_before_any_work(
    run, tmp_path
):
    out = tmp_path / "run"
    argv = ("audit", "random", *FEW, "--out", out)
    code, _, err = run(*argv, "--archs", "ConvNet,ResNet18,VGG11,AlexNet")
    assert code == 2
    assert len(err) == 1
    assert "ResNet18, VGG11: do not fit images of 1x8x8" in err[0]
    code, _, err = run(*argv, "--archs", "MLP,VGG11")
    assert code == 2
    assert "VGG11: needs larger images than 8x8" in err[0]
    code, _, err = run(*argv, "--archs", "MLP", "--setting", "utility.cross_architectures=LeNet")
    assert code == 2
    assert "--archs" in err[0]
    assert not out.exists()


def test_archs_gives_rows_of_other_architectures(run, tmp_path):
    out = tmp_path / "run"
    code, _, _ = run("audit", "random", *FEW, "--out", out, "--archs", "ConvNetD2W8,MLPW16")
    assert code == 0
    run("report", out, "--format", "json")
    report = json.loads((out / "report.json").read_text())
    (finding,) = report["findings"]
    rows = [m for m in finding["metrics"] if m["name"] == "utility.cross_architecture_accuracy"]
    assert [m["params"]["arch"] for m in rows] == ["ConvNetD2W8", "MLPW16"]
    assert all(m["low"] <= m["value"] <= m["high"] for m in rows)


def test_an_audit_speaks_json_or_not_at_all(run, tmp_path):
    args = ("audit", "random", *FEW, "--out", tmp_path / "run", "--arch", "ConvNetD2W8")
    code, _, err = run(*args, "--log-format", "json")
    lines = [json.loads(line) for line in err]
    assert code == 0
    assert lines[0]["event"] == "start"
    assert [x["done"] for x in lines] == list(range(len(lines)))
    assert lines[-1]["done"] == lines[-1]["total"]
    assert {"utility"} <= {x.get("auditor") for x in lines}
    assert run(*args, "--quiet")[2] == []


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_part_of_no_whole_is_refused(run, text):
    code, _, err = run("audit", "random", *FEW, "--shard", text)
    assert code == 2
    assert err[0].startswith(f"ddaudit: --shard {text}: is not K/N")
