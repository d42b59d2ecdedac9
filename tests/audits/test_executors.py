"""Local workers: they end with the process that started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, pathlib, sys, time
from ddaudit.audits.executors import run_tasks

def sleeper(path):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(300)

if __name__ == "__main__":
    list(run_tasks(sleeper, sys.argv[1:], jobs=2))
"""


def alive(pid: int) -> bool:
    """Whether a process runs (a dead one that nobody waited for does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(holds, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_killed_parent(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    marks = [tmp_path / "first", tmp_path / "second"]
    parent = subprocess.Popen([sys.executable, script, *marks])
    workers: list[int] = []
    try:
        assert until(lambda: all(m.exists() and m.read_text() for m in marks), 120)
        workers = [int(m.read_text()) for m in marks]
        assert all(map(alive, workers))
        parent.send_signal(end)
        parent.wait(30)
        assert until(lambda: not any(map(alive, workers)), 30)
    finally:
        parent.kill()
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)
