"""Local workers: they end with their parent, never run its script again, and a killed one costs nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ddaudit.audits import executors
from ddaudit.audits.executors import Executor
from ddaudit.errors import BadInput

TASKS = """
import os, pathlib, signal, time
from ddaudit.errors import BadInput

def note(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")

def sleep(path):
    note(path)
    time.sleep(300)

def die_once(path):
    note(path)
    if "victim" in path and len(pathlib.Path(path).read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    return os.path.basename(path)

def always_die(path):
    note(path)
    if "victim" in path:
        os._exit(7)
    return os.path.basename(path)

def complain(path):
    print("this is not an answer")
    if "odd" in path:
        class Local(Exception): pass
        raise Local(path)
    raise BadInput(path, "is wrong", "Mend it.")

def take_time(path):
    note(path)
    time.sleep(0.3)

def gpu_of(path):
    note(path)
    if "victim" in path and len(pathlib.Path(path).read_text().split()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.environ["CUDA_VISIBLE_DEVICES"]
"""
SLOW_IMPORT = "import time\ntime.sleep(300)\ndef never(path): pass\n"

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="needs /proc to see processes"
)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module of task functions that workers can import."""
    (tmp_path / "tasks_under_test.py").write_text(TASKS)
    (tmp_path / "slow_under_test.py").write_text(SLOW_IMPORT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tasks_under_test", raising=False)
    import tasks_under_test

    return tasks_under_test


def run(function: Callable, paths: list[Path]) -> dict[str, object]:
    with Executor(jobs=2) as executor:
        found = dict(executor.run(function, list(map(str, paths))))
    return {Path(k).name: v for k, v in found.items()}


def test_one_killed_worker_costs_no_task(tasks, tmp_path: Path) -> None:
    names = ["a", "victim", "b", "c"]
    assert run(tasks.die_once, [tmp_path / n for n in names]) == {n: n for n in names}
    assert len((tmp_path / "victim").read_text().split()) == 2


def test_a_task_that_kills_its_worker_twice_fails_alone(tasks, tmp_path: Path) -> None:
    names = ["victim", "a", "b"]
    found = run(tasks.always_die, [tmp_path / n for n in names])
    assert (found["a"], found["b"]) == ("a", "b")
    assert "killed its worker process 2 times: its process ended with code 7" in str(
        found["victim"]
    )
    assert len((tmp_path / "victim").read_text().split()) == 2


def test_errors_come_back_whole_and_what_is_printed_is_no_answer(tasks, tmp_path: Path) -> None:
    found = run(tasks.complain, [tmp_path / "even", tmp_path / "odd"])
    error = found["even"]
    assert isinstance(error, BadInput)
    assert (error.what, error.todo) == ("is wrong", "Mend it.")
    assert str(found["odd"]).startswith("Local: ")


def test_gpus_are_dealt_out_in_turn_and_a_worker_sees_one_alone(tasks, tmp_path: Path) -> None:
    names = ["victim", *map(str, range(11))]
    paths = [str(tmp_path / name) for name in names]
    with Executor(jobs=4, gpus=("5", "7", "GPU-8a")) as executor:
        found = dict(executor.run(tasks.gpu_of, paths))
    assert set(found.values()) <= {"5", "7", "GPU-8a"}
    # Three GPUs, four workers and one in place of the killed one: every process has met one GPU.
    seen: dict[str, set[object]] = {}
    for path in paths:
        seen.setdefault(Path(path).read_text().split()[-1], set()).add(found[path])
    assert all(len(gpus) == 1 for gpus in seen.values())


def test_the_kth_worker_has_the_kth_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Kept:
        alive = True

        def __init__(self, threads: int, variables: dict[str, str]) -> None:
            made.append(variables["CUDA_VISIBLE_DEVICES"])
            barrier.wait(30)

        def call(self, function: Callable, task: int) -> int:
            return task

        def close(self) -> int:
            return 0

    barrier = threading.Barrier(5)
    monkeypatch.setattr(executors, "Worker", Kept)
    with Executor(jobs=5, gpus=("0", "1")) as executor:
        assert len(dict(executor.run(int, range(9)))) == 9
    assert sorted(made) == ["0", "0", "0", "1", "1"]


def test_workers_stay_from_one_run_to_the_next(tasks, tmp_path: Path) -> None:
    with Executor(jobs=2) as executor:
        for n in range(2):
            dict(executor.run(tasks.take_time, [str(tmp_path / f"{n}{k}") for k in "abcd"]))
    assert len({f.read_text() for f in tmp_path.iterdir() if len(f.name) == 2}) == 2


def test_one_process_gets_what_shares_work(tasks, tmp_path: Path) -> None:
    """Each kind in one process, from one run to the next, as long as there is another kind for the other process."""
    with Executor(jobs=2) as executor:
        for n in "12":
            paths = [str(tmp_path / f"{kind}{n}{k}") for k in "abc" for kind in "xy"]
            dict(executor.run(tasks.take_time, paths, kind=lambda p: Path(p).name[0]))
    pids = {kind: {f.read_text() for f in tmp_path.glob(f"{kind}[12]*")} for kind in "xy"}
    assert [len(p) for p in pids.values()] == [1, 1]
    assert pids["x"] != pids["y"]


def test_no_process_is_idle_while_another_has_work_of_a_kind_waiting(tasks, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"x{k}") for k in range(4)]
    with Executor(jobs=2) as executor:
        dict(executor.run(tasks.take_time, paths, kind=lambda _: "x"))
    assert len({Path(p).read_text() for p in paths}) == 2


def test_what_another_process_has_begun_least_of_is_taken_from_it() -> None:
    pool = executors._Pool(2, ())
    pool._begun[0].update("xxy")
    assert pool._choose(1, ["x", "y", "x"]) == 1
    assert pool._choose(1, ["x", None, "z"]) == 1
    assert pool._choose(1, ["x", "y"]) == 1  # it is its own now
    assert pool._choose(0, ["z", "y", "x"]) == 2  # its own that nobody else has begun
    assert pool._choose(1, ["x", "z"]) == 1


def test_a_process_that_knows_every_kind_leaves_the_others_theirs() -> None:
    """One has made all instrument checks while the other trained: they share the kinds out, whoever asks first."""
    for first in (0, 1):
        pool = executors._Pool(2, ())
        pool._begun[1].update("mbul")
        waiting, taken = list("mmmbbbuuulll"), {0: "", 1: ""}
        for turn in range(len(waiting)):
            slot = (first + turn) % 2
            taken[slot] += waiting.pop(pool._choose(slot, waiting))
        assert sum(len(set(kinds)) for kinds in taken.values()) <= 5, taken


def test_a_single_task_goes_to_the_process_that_knows_its_kind(tasks, tmp_path: Path) -> None:
    with Executor(jobs=3) as executor:
        for names in (["x1", "y1", "z1"], ["y2"], ["x2", "z2"]):
            paths = [str(tmp_path / name) for name in names]
            dict(executor.run(tasks.take_time, paths, kind=lambda p: Path(p).name[0]))
    for kind in "xyz":
        assert len({f.read_text() for f in tmp_path.glob(f"{kind}[12]")}) == 1


@needs_proc
def test_a_process_that_dies_while_idle_costs_no_attempt(tasks, tmp_path: Path) -> None:
    with Executor(jobs=2) as executor:
        dict(executor.run(tasks.take_time, [str(tmp_path / n) for n in "ab"]))
        pids = [int((tmp_path / n).read_text()) for n in "ab"]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert until(lambda: not any(map(alive, pids)), 10)
        names = ["victim", "c"]
        found = dict(executor.run(tasks.die_once, [str(tmp_path / n) for n in names]))
    assert sorted(found.values()) == ["c", "victim"]
    assert len((tmp_path / "victim").read_text().split()) == 2


def test_a_run_that_is_given_up_ends_its_processes_and_takes_no_more(tasks, tmp_path: Path) -> None:
    with Executor(jobs=2) as executor:
        running = executor.run(tasks.take_time, [str(tmp_path / n) for n in "abc"])
        next(running)
        running.close()
        with pytest.raises(RuntimeError, match="closed"):
            dict(executor.run(tasks.take_time, [str(tmp_path / n) for n in "de"]))


@needs_proc
def test_an_interrupted_run_stops_its_workers(tasks, tmp_path: Path) -> None:
    paths = [tmp_path / n for n in ("a", "b", "c")]
    (tmp_path / "a").write_text("0\n")  # what the test waits for comes behind it
    with Executor(jobs=2) as executor:
        next(executor.run(tasks.die_once, list(map(str, paths))))
    pids = [int(p) for path in paths[:2] for p in path.read_text().split() if int(p)]
    assert pids
    assert until(lambda: not any(map(alive, pids)), 2)


def alive(pid: int) -> bool:
    """Whether a process runs (a dead one that nobody waited for does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children(pid: int) -> list[int]:
    return [
        int(c)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for c in (task / "children").read_text().split()
    ]


def until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@needs_proc
@pytest.mark.parametrize(
    ("end", "doing"),
    [
        (signal.SIGTERM, "tasks_under_test.sleep"),
        (signal.SIGKILL, "tasks_under_test.sleep"),
        (signal.SIGKILL, "slow_under_test.never"),
    ],
)
def test_workers_end_within_two_seconds_of_a_killed_parent(
    tasks, tmp_path: Path, end: signal.Signals, doing: str
) -> None:
    """Whether they compute or are still importing. The parent is a script without a guard."""
    module, function = doing.split(".")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom ddaudit.audits.executors import Executor\n"
        # A reference that only the worker resolves: importing the slow module takes for ever.
        f"import types; sys.modules['{module}'] = types.SimpleNamespace({function}=(f := lambda p: None))\n"
        f"f.__module__, f.__name__, f.__qualname__ = '{module}', '{function}', '{function}'\n"
        "list(Executor(jobs=2).run(f, sys.argv[1:]))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path / "first", tmp_path / "second"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    workers: list[int] = []
    try:
        assert until(lambda: len(children(parent.pid)) == 2, 120)
        workers = children(parent.pid)
        if module == "tasks_under_test":
            assert until(lambda: (tmp_path / "second").exists(), 120)
        assert all(map(alive, workers))
        parent.send_signal(end)
        parent.wait(30)
        assert until(lambda: not any(map(alive, workers)), 2)
    finally:
        parent.kill()
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)
