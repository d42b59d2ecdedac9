"""The run store and the runner: resume, atomic writes, failures that stay local, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS
from ddaudit.audits import (
    AuditConfig,
    RunStore,
    collect,
    make_config,
    make_plan,
    preview,
    run_audit,
)
from ddaudit.audits.estimates import slowest_first
from ddaudit.audits.executors import Executor
from ddaudit.audits.plan import Given
from ddaudit.audits.run import run_info
from ddaudit.data import load_data
from ddaudit.distillation import distill, resolve
from ddaudit.errors import BadInput, NotFinite, Unsupported
from ddaudit.findings import Finding
from ddaudit.reports import build_report
from ddaudit.sets import PrivacyClaim, save


def config(out, **changes):
    values = {
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


def test_a_second_run_computes_nothing(tmp_path):
    first = run_audit(config(tmp_path))
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}
    second = run_audit(config(tmp_path))
    assert (first.computed, first.reused) == (2, 0)
    assert (second.computed, second.reused) == (0, 2)
    assert written == {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}


def test_a_private_set_that_every_part_would_read_is_not_made_in_parts(tmp_path):
    asked = {
        "subjects": ["random", "dm+dp"],
        "auditors": ["adversarial"],
        "settings": {"adversarial": {"transfer": ["subjects"]}},
    }
    with pytest.raises(
        BadInput, match=r"--shard: several parts would make the private set of dm\+dp"
    ):
        run_audit(config(tmp_path, **asked), shard=(1, 2))
    assert not (tmp_path / "sets").exists()


def test_what_reads_a_module_runs_beside_it(tmp_path):
    """Workers know nothing of modules, and would find no such subject."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    few = {
        "transfer": ["mine"],
        "attacks": [],
        "images": 6,
        "check_images": 6,
        "autoattack_images": 4,
    }
    made = run_audit(
        config(tmp_path, auditors=["adversarial"], settings={"adversarial": few}),
        given=Given(modules={"mine": net}),
    )
    assert made.failed == ()
    (moved,) = [
        m
        for file in (tmp_path / "cells").iterdir()
        if (found := Finding.model_validate_json(file.read_text())).subject == "random"
        for m in found.metrics
        if m.name == "adversarial.transfer_accuracy"
    ]
    assert moved.params["source"] == "mine"


def test_parts_of_a_run_make_the_whole_and_no_set_twice(tmp_path):
    asked = {"subjects": ["random", "k-center"], "seeds": 2}
    run_audit(config(tmp_path / "whole", **asked))
    made = []
    for k in (1, 2, 3):
        assert (
            run_audit(config(tmp_path / "parts", **asked), shard=(k, 3)).computed
            == (2, 2, 1)[k - 1]
        )
        made.append({p.name for p in (tmp_path / "parts").rglob("*.safetensors")})
    assert made[0] < made[1] < made[2]
    assert made[2] == {p.name for p in (tmp_path / "whole").rglob("*.safetensors")}
    want, got = (collect([str(tmp_path / name)]) for name in ("whole", "parts"))
    numbers = [
        {(c.subject, c.auditor, c.seed): c.metrics for c in run.cells if c.status != "skipped"}
        for run in (want, got)
    ]
    assert numbers[0] == numbers[1]
    assert not [c for c in got.cells if c.not_run]


def machine_with(monkeypatch, gpus: int, visible: str = "") -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize(
    ("gpus", "visible", "device", "jobs", "workers", "shared"),
    [
        (0, "", "auto", None, os.cpu_count(), ()),
        (1, "", "auto", None, 1, ()),
        (3, "", "auto", None, 3, ("0", "1", "2")),
        (2, "4, 6", "auto", None, 2, ("4", "6")),
        (2, "4,6,-1,7", "auto", 5, 5, ("4", "6")),  # CUDA stops at the first that is none
        (3, "", "cuda:1", None, 1, ()),
        (3, "", "cuda", 2, 2, ()),
        (3, "", "cpu", 2, 2, ()),
    ],
)
def test_auto_uses_every_gpu(tmp_path, monkeypatch, gpus, visible, device, jobs, workers, shared):
    asked = []

    class Asked(Executor):
        def __init__(self, *, jobs, ray, gpus):
            super().__init__(jobs=jobs, ray=ray, gpus=gpus)
            self.given = (jobs, gpus)

        def run(self, function, tasks, *, kind):
            asked.extend((json.loads(t.config)["device"], *self.given) for t in tasks)
            return [(task, None) for task in tasks]

    machine_with(monkeypatch, gpus, visible)
    monkeypatch.setattr("ddaudit.audits.run.Executor", Asked)
    wanted = config(tmp_path, device=device, jobs=jobs)
    assert preview(wanted).jobs == workers
    run_audit(wanted)
    name = ("cuda" if gpus else "cpu") if device == "auto" else device
    assert set(asked) == {(name, workers, shared)}


def test_more_seeds_reuse_the_old_ones_and_new_settings_do_not(tmp_path):
    run_audit(config(tmp_path))
    more = run_audit(config(tmp_path, seeds=2))
    assert (more.computed, more.reused) == (1, 2)
    other = run_audit(config(tmp_path, victims=2))
    assert other.reused == 0


def test_keys_depend_on_what_numbers_depend_on(tmp_path):
    def key(**changes):
        return {c.key for c in make_plan(config(tmp_path, **changes)).cells if c.subject}

    base = key()
    for change in (
        {"ipc": 2},
        {"arch": "ConvNetD2W16"},
        {"data": "digits-lt"},
        {"subjects": ["herding"]},
        {"preset": "standard"},
    ):
        assert not base & key(**change), change
    assert base == key(jobs=2)


def test_an_unfinished_temporary_file_is_not_a_cell(tmp_path):
    store = RunStore(str(tmp_path))
    store.save_cell("k", Finding(subject="a", auditor="b"))
    (tmp_path / "cells" / "other.json.123.tmp").write_text("{")
    (tmp_path / "cells" / "torn.json").write_text('{"subject": "a", "audi')
    assert store.cell("k") is not None
    assert store.cell("torn") is None
    assert store.names("cells") == ["k.json", "torn.json"]


def test_a_run_may_live_behind_any_fsspec_url():
    store = RunStore("memory://ddaudit-test/run")
    store.save_cell("k", Finding(subject="a", auditor="b"))
    assert RunStore("memory://ddaudit-test/run").cell("k").subject == "a"
    with pytest.raises(BadInput, match="cannot be opened"):
        RunStore("nosuchprotocol://x")


def test_a_failing_cell_is_named_kept_and_tried_again(tmp_path, monkeypatch):
    auditor = AUDITORS.get("utility")
    monkeypatch.setattr(type(auditor), "run", lambda *_: 1 / 0)
    broken = run_audit(config(tmp_path))
    assert broken.failed == (("random: utility (seed 0)", "ZeroDivisionError: division by zero"),)
    assert collect([str(tmp_path)]).cells[0].status == "failed"
    monkeypatch.undo()
    mended = run_audit(config(tmp_path))
    assert (mended.computed, mended.reused, mended.failed) == (1, 1, ())


def test_checks_that_do_not_apply_are_left_out_and_a_network_of_nan_fails(tmp_path, monkeypatch):
    """Data without what an auditor asks for ended with exit code 3; a diverged network ended with 0 and no word."""
    auditor = AUDITORS.get("utility")

    def raises(error):
        return lambda *_: (_ for _ in ()).throw(error)

    monkeypatch.setattr(type(auditor), "checks", raises(Unsupported("no groups")))
    made = run_audit(config(tmp_path / "a"))
    assert made.failed == ()
    assert collect([str(tmp_path / "a")]).checks == {"utility": []}
    monkeypatch.undo()
    monkeypatch.setattr(type(auditor), "run", raises(NotFinite("logits are not finite")))
    made = run_audit(config(tmp_path / "b"))
    assert made.failed == (("random: utility (seed 0)", "logits are not finite"),)


def test_only_what_selects_everything_has_no_draws(tmp_path):
    """Batches of whole classes went by the same name, and reports said of wmdd that its interval covers draws."""
    made = config(tmp_path, subjects=["wmdd", "random", "full"])
    entries = run_info(make_plan(made), made)["subjects"]
    assert {e["id"]: e["drawn"] for e in entries} == {"wmdd": True, "random": True, "full": False}


def test_an_auditor_that_cannot_be_used_is_named_and_the_others_run(tmp_path, monkeypatch):
    monkeypatch.setattr(AUDITORS, "names", lambda: ["utility"])
    monkeypatch.setattr(AUDITORS, "problems", lambda: {"zoo/eel": "OSError: no GPU"})
    asked_for_all = run_audit(config(tmp_path, auditors=None))
    assert asked_for_all.left_out == ("auditor zoo/eel: OSError: no GPU",)
    assert asked_for_all.computed == 2
    assert run_audit(config(tmp_path)).left_out == ()


def test_workers_agree_with_this_process(tmp_path):
    run_audit(config(tmp_path / "a", subjects=["random", "full"], jobs=1))
    run_audit(config(tmp_path / "b", subjects=["random", "full"], jobs=2))
    a, b = (
        {
            (c.subject, c.auditor): c.metric("utility.accuracy").value
            for c in collect([str(tmp_path / x)]).cells
        }
        for x in "ab"
    )
    assert a == b


def test_kill_minus_nine_loses_only_running_cells(tmp_path):
    """Start an audit of several seeds, kill it after the first finished cell, run again: the cell is reused."""
    script = (
        "from ddaudit.audits import AuditConfig, run_audit; import sys, json\n"
        "if __name__ == '__main__': run_audit(AuditConfig(**json.loads(sys.argv[1])))"
    )
    made = config(tmp_path / "run", seeds=6)
    process = subprocess.Popen(
        [sys.executable, "-c", script, made.model_dump_json()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    cells = tmp_path / "run" / "cells"
    for _ in range(600):
        if cells.is_dir() and any(p.suffix == ".json" for p in cells.iterdir()):
            break
        time.sleep(0.1)  # waiting for another process to write, not for time to pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len([p for p in cells.iterdir() if p.suffix == ".json"])
    assert finished >= 1
    again = run_audit(made)
    assert again.reused == finished
    assert again.computed == 7 - finished


def test_collect_says_what_is_missing(tmp_path):
    run_audit(config(tmp_path))
    info = json.loads((tmp_path / "run.json").read_text())
    victim = next(c["key"] for c in info["cells"] if c["subject"])
    (tmp_path / "cells" / f"{victim}.json").unlink()
    cell = collect([str(tmp_path)]).cells[0]
    assert cell.status == "skipped"
    assert "not run yet" in cell.reason


def test_reports_of_several_runs_hide_nothing(tmp_path):
    a, b, c = (str(tmp_path / x) for x in "abc")
    run_audit(config(a, auditors=["utility", "utility"]))
    run_audit(config(b, ipc=2))
    run_audit(config(c, arch="ConvNetD2W16"))
    store = RunStore(b)
    key = next(x["key"] for x in store.read_info()["cells"] if x["subject"] is None)
    checks = store.cell(key)
    failing = [x.model_copy(update={"passed": False}) for x in checks.checks]
    store.save_cell(key, checks.model_copy(update={"checks": failing}))
    both = collect([a, b])
    assert [s["id"] for s in both.subjects] == ["random", "random (IPC 2)"]
    assert [x.subject for x in both.cells] == ["random", "random (IPC 2)"]
    assert len(both.checks["utility"]) == len(failing)
    assert not any(x.passed for x in both.checks["utility"])
    with pytest.raises(BadInput, match="another arch"):
        collect([a, c])


def test_a_file_changed_between_two_runs_is_read_again_and_needs_a_folder_of_its_own(tmp_path):
    data = load_data("digits")
    path = tmp_path / "s.safetensors"
    for ipc, out in ((1, "run"), (5, "fresh")):
        save(distill(resolve("random"), data.train, data=data, ipc=ipc, seed=0), path)
        assert run_audit(config(tmp_path / out, subjects=[str(path)])).computed == 2
    before = {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}
    with pytest.raises(BadInput, match=r"--out .*run: holds something else .*: s\.safetensors\."):
        run_audit(config(tmp_path / "run", subjects=[str(path)]))
    assert before == {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}
    one, two = (
        collect([str(tmp_path / x)]).cells[0].metric("utility.accuracy").value
        for x in ("run", "fresh")
    )
    assert one != two


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": "digits-lt"}, "audits other data .'digits-lt', not 'digits'"),
        ({"arch": "ConvNetD2W16"}, "another arch"),
        ({"ipc": 2}, "something else under this name .*: random"),
    ],
)
def test_an_audit_that_does_not_fit_into_its_folder_is_refused(tmp_path, changes, why):
    made = config(tmp_path)
    RunStore(str(tmp_path)).write_info(run_info(make_plan(made), made))
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    for start in (run_audit, preview):
        with pytest.raises(BadInput, match=why) as error:
            start(config(tmp_path, **changes))
        assert "\n" not in str(error.value)
    assert before == {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}


def test_two_audits_that_write_one_folder_at_once_lose_nothing(tmp_path):
    """The second one starts and ends while the first is under way, so each writes run.json over the other's."""
    other = config(tmp_path, subjects=["herding"], auditors=["calibration"])
    seen = []

    def meanwhile(what, cell, done, total):
        if cell is not None and not seen:
            seen.append(run_audit(other, here=True))

    run_audit(config(tmp_path, seeds=2), on_event=meanwhile, here=True)
    both = collect([str(tmp_path)])
    assert {s["id"] for s in both.subjects} == {"random", "herding"}
    assert {a["name"] for a in both.auditors} == {"utility", "calibration"}
    assert set(both.checks) == {"utility", "calibration"}
    assert both.info["notes"] == []
    report = build_report(both)
    states = {(f.subject, f.auditor): f.status for f in report.findings if not f.not_run}
    assert states == {("random", "utility"): "ok", ("herding", "calibration"): "ok"}
    assert report.run.cells_not_run == 0
    # The first command again: it finds its cells, and the other subject stays.
    assert run_audit(config(tmp_path, seeds=2)).computed == 0
    assert {s["id"] for s in collect([str(tmp_path)]).subjects} == {"random", "herding"}


def test_config_errors_are_one_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("subjects: [dm]\nsedes: 3\n")
    with pytest.raises(BadInput, match="sedes"):
        make_config({}, file=path)
    path.write_text("subjects: [dm]\nsettings: {utility: {nosuch: 1}}\n")
    with pytest.raises(BadInput, match=r"utility\.nosuch: unknown setting"):
        make_plan(make_config({"auditors": ["utility"]}, file=path))
    with pytest.raises(BadInput, match="unknown preset"):
        make_plan(config(tmp_path, preset="quickest"))
    with pytest.raises(BadInput, match="no run folder"):
        collect([str(tmp_path / "nowhere")])


def test_findings_on_a_file_depend_on_its_card(tmp_path):
    """The privacy audit tests what the card claims: the same images under another claim are another subject."""
    made = distill(
        resolve("random"), load_data("digits").train, data=load_data("digits"), ipc=1, seed=0
    )

    def keys(claim, name="mine.safetensors"):
        card = made.card.model_copy(update={"privacy": claim})
        save(replace(made, card=card), tmp_path / name)
        plan = make_plan(config(tmp_path / "run", subjects=[str(tmp_path / name)]))
        (subject,) = plan.subjects.values()
        return {c.key for c in plan.cells if c.subject}, subject.identity

    honest, identity = keys(PrivacyClaim(epsilon=1.0, delta=1e-5))
    false, same = keys(PrivacyClaim(epsilon=0.1, delta=1e-5))
    renamed, _ = keys(PrivacyClaim(epsilon=1.0, delta=1e-5), "copy.safetensors")
    assert honest.isdisjoint(false)
    assert honest.isdisjoint(renamed)
    assert identity == same  # victims are shared
    assert keys(PrivacyClaim(epsilon=1.0, delta=1e-5))[0] == honest


@pytest.mark.parametrize("first", ["good", "bad"])
def test_a_card_that_does_not_fit_the_data_ends_no_audit(tmp_path, first):
    """The estimate of one cell, whose clean sets cannot be made, ended the run of all subjects."""
    made = distill(
        resolve("random"), load_data("digits").train, data=load_data("digits"), ipc=1, seed=0
    )
    for name, method in (("good", "random"), ("bad", "dm+fair")):
        card = made.card.model_copy(update={"method": method})
        save(replace(made, card=card), tmp_path / f"{name}.safetensors")
    names = sorted(("good", "bad"), reverse=first == "good")
    subjects = [str(tmp_path / f"{n}.safetensors") for n in names]
    asked = config(tmp_path / "run", subjects=subjects, auditors=["utility", "backdoor-scan"])
    assert preview(asked).missing
    plan = make_plan(asked)
    assert len(slowest_first(plan, plan.cells, RunStore(str(tmp_path / "run")))) == len(plan.cells)


def test_a_private_set_is_kept_whatever_its_size(tmp_path, monkeypatch):
    """Made again it would be another release; anything else of that size is cheaper to make again."""
    monkeypatch.setattr("ddaudit.audits.store.LARGEST_SET_FLOATS", 1)
    digits = load_data("digits")
    made = distill(resolve("random"), digits.train, data=digits, ipc=1, seed=0)
    store = RunStore(str(tmp_path))
    store.save_set("plain", made)
    claim = PrivacyClaim(epsilon=1.0, delta=1e-5)
    private = replace(made, card=made.card.model_copy(update={"privacy": claim}))
    store.save_set("private", private)
    assert store.load_set("plain") is None
    assert store.load_set("private").card.privacy == claim


def test_an_unreadable_stored_set_is_made_again(tmp_path):
    run_audit(config(tmp_path))
    (stored,) = (tmp_path / "sets").iterdir()
    store, key = RunStore(str(tmp_path)), stored.stem
    whole = store.load_set(key)
    for file in (stored, *(tmp_path / "victims").iterdir()):
        file.write_bytes(file.read_bytes()[:-100])
    assert store.load_set(key) is None
    made = config(tmp_path, settings={"utility": {"bootstrap": 50}})
    assert run_audit(made).failed == ()
    assert store.load_set(key).images.equal(whole.images)
