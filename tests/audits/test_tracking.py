"""Trackers get each finished cell's headline metrics with intervals, and never cost an audit anything.

TensorBoard's own reader reads back what was written (2.21 was tried), MLflow's client what its server would hold
(mlflow-skinny 3.17 was tried); without them a stand-in takes the calls.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

from ddaudit import audit
from ddaudit.audits import RunStore
from ddaudit.audits.plan import Cell
from ddaudit.audits.tracking import tracked
from ddaudit.cli.app import app
from ddaudit.errors import BadInput
from ddaudit.findings import Finding, Metric

METRICS = [
    Metric(name="membership.auc", value=0.6, low=0.55, high=0.65, headline=True),
    Metric(name="membership.tpr_at_fpr", value=0.02, params={"fpr": 0.01}, headline=True),
    Metric(name="membership.accuracy", value=0.5),
    Metric(name="membership.bound", value=None, low=0.0, headline=True),
]
WANTED = {
    "membership/auc": 0.6,
    "membership/auc.low": 0.55,
    "membership/auc.high": 0.65,
    "membership/tpr_at_fpr.fpr_0.01": 0.02,
    "membership/bound.low": 0.0,
}
CELLS = [Cell("dm+fair", "membership", seed, f"k{seed}") for seed in (0, 1)]


def run(tracker: str, out: Path) -> list[str]:
    """An audit's events, with two cells that succeed, one that fails, a preparation and an instrument check."""
    store, heard = RunStore(str(out)), []
    for cell in CELLS:
        store.save_cell(cell.key, Finding(subject="dm+fair", auditor="membership", metrics=METRICS))
    store.save_cell("bad", Finding(subject="dm", auditor="membership", status="failed"))
    store.save_cell("check", Finding(subject="", auditor="membership", metrics=METRICS))
    others = [
        ("start", None),
        ("done", Cell("dm+fair", None, 0, "set")),
        ("failed: no", Cell("dm", "membership", 0, "bad")),
        ("done", Cell(None, "membership", 0, "check")),
        *(("done", cell) for cell in CELLS),
    ]
    with tracked(tracker, str(out), lambda what, cell, done, total: heard.append(what)) as tell:
        for done, (what, cell) in enumerate(others):
            tell(what, cell, done, len(others))
    return heard


HEARD = ["start", "done", "failed: no", "done", "done", "done"]


def test_tensorboard_holds_what_the_cells_hold(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run("tensorboard", tmp_path) == HEARD
    assert [p.name for p in (tmp_path / "tensorboard").iterdir()] == ["dm+fair"]
    read = EventAccumulator(str(tmp_path / "tensorboard" / "dm+fair"))
    read.Reload()
    assert set(read.Tags()["scalars"]) == set(WANTED)
    for name, value in WANTED.items():
        assert [e.step for e in read.Scalars(name)] == [0, 1]
        assert read.Scalars(name)[0].value == pytest.approx(value)


def test_mlflow_holds_what_the_cells_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "server").as_uri())
    assert run("mlflow", tmp_path / "run") == HEARD
    client = mlflow.MlflowClient()
    (made,) = client.search_runs(["0"])
    assert made.info.run_name == "dm+fair"
    assert made.info.status == "FINISHED"
    assert made.data.tags["ddaudit.run"] == str(tmp_path / "run")
    assert made.data.metrics == pytest.approx(WANTED)
    assert [m.step for m in client.get_metric_history(made.info.run_id, "membership/auc")] == [0, 1]


class Writer:
    """In place of a SummaryWriter."""

    made: list[Writer]

    def __init__(self, folder: str) -> None:
        self.folder, self.scalars, self.closed = folder, [], False
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def test_what_tensorboard_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Writer.made = []
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    assert run("tensorboard", tmp_path) == HEARD
    (writer,) = Writer.made
    assert writer.folder == f"{tmp_path}/tensorboard/dm+fair"
    assert writer.closed
    assert writer.scalars == [(n, v, step) for step in (0, 1) for n, v in WANTED.items()]


def stand_in_for_mlflow(calls: list[object], fails: bool = False) -> ModuleType:
    module = ModuleType("mlflow")

    @contextmanager
    def start_run(run_id=None, run_name=None, nested=False, tags=None):
        assert nested  # a run of the user's own may be open
        calls.append((run_id, run_name, tags))
        yield SimpleNamespace(info=SimpleNamespace(run_id=run_id or f"id of {run_name}"))

    def log_metrics(numbers, step):
        calls.append((numbers, step))
        if fails:
            raise ConnectionError("the server\nhas gone")

    module.start_run, module.log_metrics = start_run, log_metrics
    return module


def test_what_mlflow_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setitem(sys.modules, "mlflow", stand_in_for_mlflow(calls))
    assert run("mlflow", tmp_path) == HEARD
    first, again = (None, "dm+fair", {"ddaudit.run": str(tmp_path)}), ("id of dm+fair", None, None)
    assert calls == [first, (WANTED, 0), again, (WANTED, 1)]


def test_a_tracker_that_fails_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setitem(sys.modules, "mlflow", stand_in_for_mlflow(calls, fails=True))
    with pytest.warns(
        UserWarning, match=r"--track mlflow stopped \(ConnectionError: the server has gone\)"
    ):
        assert run("mlflow", tmp_path) == HEARD
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("tracker", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")]
)
def test_a_missing_tracker_is_one_line(
    tracker: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        BadInput, match=rf"--track {tracker}: needs .* pip install 'ddaudit\[{tracker}\]'"
    ):
        run(tracker, tmp_path)
    with pytest.raises(BadInput, match="Known: tensorboard, mlflow"):
        run("paper", tmp_path)


def test_without_a_tracker_nothing_stands_between(tmp_path: Path) -> None:
    def then(*_: object) -> None: ...

    with tracked(None, str(tmp_path), then) as tell:
        assert tell is then


def test_an_audit_tells_its_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setitem(sys.modules, "mlflow", stand_in_for_mlflow(calls))
    done = audit(
        "random", auditors="utility", arch="ConvNetD2W8", victims=1, ipc=1, baselines=(), jobs=1, device="cpu",
        out=tmp_path, track="mlflow", quiet=True,
    )  # fmt: skip
    (accuracy,) = (m for m in done.findings[0].metrics if m.name == "utility.accuracy")
    numbers, seed = calls[1]
    assert (numbers["utility/accuracy"], seed) == (accuracy.value, 0)
    wrong = CliRunner().invoke(
        app, ["audit", "random", "--out", str(tmp_path / "b"), "--track", "paper"]
    )
    assert "--track paper: is no tracker" in str(wrong.exception)
    assert not (tmp_path / "b").exists()
