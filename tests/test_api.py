"""The Python front door: names twice, names or objects, scripts without a guard, notebooks that show themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import ddaudit
from ddaudit import BadInput, Check, DistilledSet, Finding, Metric
from ddaudit.models import Arch, build

EVERYTHING = """
import importlib, inspect, pkgutil, sys
import ddaudit
def walk(name):
    module = importlib.import_module(name)
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if info.name != "__main__":
            walk(f"{name}.{info.name}")
for name in ("ddaudit", "ddaudit.attacks", "ddaudit.defenses", "ddaudit.reports"):
    walk(name)
for _ in range(2):
    for name in ddaudit.__all__:
        thing = getattr(ddaudit, name)
        assert callable(thing), name
        assert not inspect.ismodule(thing), name
        assert f"ddaudit.{name}" not in sys.modules, f"{name} is also a module"
assert set(ddaudit.__all__) <= set(dir(ddaudit))
for _ in range(2):
    assert len(ddaudit.distill("random", data="digits", ipc=1, device="cpu")) == 10
"""
QUICK = {
    "auditors": "utility", "arch": "ConvNetD2W8", "victims": 1, "ipc": 1, "baselines": (), "device": "cpu",
}  # fmt: skip


def python(code: str, *, cwd: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_works_twice_after_every_module_is_imported(tmp_path: Path) -> None:
    python(EVERYTHING, cwd=tmp_path)


def test_importing_ddaudit_does_not_import_torch(tmp_path: Path) -> None:
    code = "import sys, ddaudit; dir(ddaudit); print('torch' in sys.modules)"
    assert python(code, cwd=tmp_path).strip() == "False"


def test_distill_takes_names_and_objects_and_checks_both() -> None:
    by_name = ddaudit.distill("random", data="digits", ipc=1, device="cpu")
    data = ddaudit.load_data("digits")
    recipe = ddaudit.resolve("random")
    by_object = ddaudit.distill(recipe, data.train, data=data, ipc=1, device="cpu")
    assert torch.equal(by_name.images, by_object.images)
    for asked in ("dm+fair", ddaudit.resolve("dm+fair")):
        with pytest.raises(BadInput, match="needs a protected attribute"):
            ddaudit.distill(asked, data=data)
    with pytest.raises(BadInput, match="--epsilon and --delta mean nothing"):
        ddaudit.distill("dm", epsilon=1.0)
    with pytest.raises(BadInput, match="is a recipe already"):
        ddaudit.distill(recipe, profile="small")
    with pytest.raises(BadInput, match="is no recipe"):
        ddaudit.distill(3)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"got \(int, str\), not a set and where to write it"):
        ddaudit.save(3, "x.safetensors")  # type: ignore[arg-type]


SCRIPT = """
import pathlib, sys
import ddaudit
with open("started", "a") as file:
    file.write("once\\n")
made = ddaudit.distill("random", data="digits", ipc=1)
for cell in range(2):  # a notebook cell that runs twice
    run = ddaudit.audit(
        ["random", made], data="digits", auditors="utility", arch="ConvNetD2W8", victims=1, ipc=1,
        baselines=(), device="cpu", jobs=2, out="run",
    )
    print(run.computed, run.reused, run.failed)
"""


def test_a_script_without_a_guard_runs_once_with_two_jobs(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["3 0 ()", "0 3 ()"]
    assert (tmp_path / "started").read_text() == "once\n"


class Own(nn.Module):
    """A network of no known architecture, on pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.flatten(1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """A run over a set in memory, a network of a known architecture, and one of none."""
    digits = ddaudit.load_data("digits")
    known = build(
        Arch.parse("MLP"),
        shape=digits.shape,
        num_classes=10,
        seed=0,
        mean=digits.mean,
        std=digits.std,
    )
    known.train()
    subjects = {
        "mine": ddaudit.distill("random", data=digits, ipc=1, device="cpu"),
        "an MLP": known,
        "<b>own</b>": Own(),
    }
    out = tmp_path_factory.mktemp("run")
    with pytest.warns(UserWarning, match="no known architecture: it is audited in this process"):
        made = ddaudit.audit(subjects, "digits", out=out, **QUICK)
    assert known.training  # the caller's own object is left alone
    return made, subjects, out


def test_sets_and_modules_in_memory_are_subjects(run) -> None:
    made, subjects, _ = run
    assert made.failed == ()
    assert {f.subject for f in made.findings} == set(subjects)
    digits = ddaudit.load_data("digits")
    for name in ("an MLP", "<b>own</b>"):
        finding = next(f for f in made.findings if f.subject == name)
        net = subjects[name].eval()
        right = (net(digits.test.pixels()).argmax(1) == digits.test.labels).float().mean()
        assert finding.metric("utility.accuracy").value == pytest.approx(float(right), abs=1e-6)


def test_other_weights_need_another_name_and_the_same_are_found_again(run) -> None:
    _, subjects, out = run
    with pytest.warns(UserWarning, match="in this process"):
        again = ddaudit.audit(subjects, "digits", out=out, **QUICK)
    assert (again.computed, again.reused) == (0, 4)
    with (
        pytest.warns(UserWarning, match="in this process"),
        pytest.raises(BadInput, match="holds something else under this name"),
    ):
        ddaudit.audit({**subjects, "<b>own</b>": Own()}, "digits", out=out, **QUICK)
    with pytest.warns(UserWarning, match="in this process"):
        other = ddaudit.audit({**subjects, "another": Own()}, "digits", out=out, **QUICK)
    assert (other.computed, other.reused) == (1, 4)


def test_a_run_reports_frames_and_shows_itself(run, tmp_path: Path) -> None:
    made, subjects, _ = run
    files = made.report(["json", "md"], out=tmp_path)
    assert files["json"].exists()
    assert files["md"].exists()
    frame = made.to_frame()
    assert len(frame) == sum(len(f.metrics) for f in made.findings)
    row = frame[(frame.subject == "mine") & (frame.metric == "utility.accuracy")].iloc[0]
    assert row.low < row.value < row.high
    html = made._repr_html_()
    assert "&lt;b&gt;own&lt;/b&gt;" in html
    assert "<b>own" not in html
    assert "utility" in made.findings[0]._repr_html_()
    shown = subjects["mine"]._repr_html_()
    assert "data:image/png;base64," in shown
    forged = subjects["mine"].card.model_copy(update={"method": "<script>"})
    mine = subjects["mine"]
    assert "<script>" not in DistilledSet(mine.images, mine.labels, 10, forged)._repr_html_()


def test_printed_results_are_one_line_each(run) -> None:
    made, subjects, _ = run
    shown = repr(subjects["mine"])
    assert "'random'" in shown
    assert "10 of 1x8x8" in shown
    for text in (shown, *map(repr, made.findings), *map(str, made.findings)):
        assert "\n" not in text
        assert len(text) < 300
    finding = made.findings[0]
    best = finding.metric("utility.accuracy")
    assert f"{best.value:.3f} [{best.low:.3f}, {best.high:.3f}]" in repr(finding)


def test_a_notebook_greys_what_a_failed_check_affects_and_names_what_is_missing() -> None:
    number = Metric(name="x.rate", value=0.5, params={"class": "3"}, headline=True)
    other = Metric(name="y.rate", value=0.5, headline=True)
    check = Check(name="known answer", passed=False, expected="1", affects=["x."])
    finding = Finding(subject="s", auditor="a", metrics=[number, other], checks=[check])
    assert "x.rate (class 3) 0.500 (check failed), y.rate 0.500)" in repr(finding)
    html = finding._repr_html_()
    assert html.count("(check failed)") == 1
    assert "x.rate (class 3)" in html
    skipped = Finding(subject="s", auditor="a", status="skipped", reason="needs groups")
    assert repr(skipped) == "Finding('s', 'a', skipped: needs groups)"


def test_a_run_shows_skipped_cells_with_their_reason(tmp_path: Path) -> None:
    quick = {**QUICK, "auditors": "bias"}
    shown = ddaudit.audit("random", "digits", out=tmp_path, jobs=1, **quick)._repr_html_()
    assert "random" in shown
    assert "bias skipped for random:" in shown


def test_an_audit_says_what_it_does_unless_asked_to_be_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {**QUICK, "out": tmp_path, "jobs": 1}
    ddaudit.audit("random", **given)
    assert "random: utility (seed 0): done" in capsys.readouterr().err
    ddaudit.audit("full", quiet=True, **given)
    assert capsys.readouterr().err == ""


def test_a_set_made_again_finds_its_numbers(tmp_path: Path) -> None:
    made = ddaudit.distill("random", data="digits", ipc=1, device="cpu")
    given = {**QUICK, "out": tmp_path, "jobs": 1}
    assert ddaudit.audit(made, **given).computed == 2
    slower = replace(made, card=made.card.model_copy(update={"seconds": 1e3}))
    assert ddaudit.audit(slower, **given).computed == 0
    renamed = replace(made, card=made.card.model_copy(update={"method": "other"}))
    with pytest.raises(BadInput, match="holds something else under this name"):
        ddaudit.audit({"random (set)": renamed}, **given)


def test_without_pandas_the_frame_says_what_it_needs(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BadInput, match="needs pandas"):
        run[0].to_frame()


def test_data_in_memory_are_audited_in_this_process(tiny, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="data set was given in memory"):
        made = ddaudit.audit("random", tiny, out=tmp_path, **QUICK)
    assert made.failed == ()
    assert made.computed == 2


def test_what_a_notebook_registers_is_audited_although_no_worker_knows_it(tmp_path: Path) -> None:
    code = (
        "import dataclasses, ddaudit, warnings\nwarnings.simplefilter('ignore')\n"
        "for cell in range(2):\n"
        "    ddaudit.register(dataclasses.replace(ddaudit.resolve('random'), name='mine'))\n"
        f"run = ddaudit.audit('mine', out='run', jobs=2, **{QUICK!r})\n"
        "print(run.computed, run.failed, run.notes)"
    )
    said = python(code, cwd=tmp_path)
    assert said.startswith("2 () (\"method 'mine' exists in this process only")


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (3, "cannot be audited"),
        (nn.Flatten(), "not logits of 10 classes"),
        (nn.Linear(3, 10), "fails on images of 'digits'"),
    ],
)
def test_what_is_no_subject_is_refused_before_any_work(
    subject, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        ddaudit.audit([subject], out=tmp_path / "run", **{**QUICK, "jobs": 1})
    with pytest.raises(BadInput, match=r"settings\['membership'\]: belongs to an auditor that is"):
        ddaudit.audit("random", auditors="utility", settings={"membership": {}}, out=tmp_path)
    with pytest.raises(BadInput, match="none is given"):
        ddaudit.audit([], out=tmp_path / "run", **QUICK)


def test_subjects_whose_names_differ_in_punctuation_are_two(tmp_path: Path) -> None:
    from ddaudit.api import _subjects

    one, two = (
        ddaudit.distill("random", data="digits", ipc=1, seed=k, device="cpu") for k in (0, 1)
    )
    texts, names, _ = _subjects({"m 1": one, "m-1": two, "m_1": one}, str(tmp_path))
    assert len(set(texts)) == len(names) == 3
    with pytest.raises(BadInput, match="is given twice"):
        _subjects({"a": "x.safetensors", "b": "x.safetensors"}, str(tmp_path))
