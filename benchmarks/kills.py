"""Kill a tiny audit at random moments, run it again, and compare with a run that nobody disturbed.

    python benchmarks/kills.py [--kills 30] [--seed 0] [--markdown FILE]

In turn: the parent of a run with one job (which has no workers), the parent of one with two, one of the workers of
one with two. Each is a SIGKILL at a moment drawn evenly over the progress of a run, counted in files that it has
finished, so that other work on the machine moves no kill beyond the end of its run; one that comes too late for its
target all the same is drawn again. After it:

- gone: no process of the audit is left 2 s after its parent's end.
- finished: the same command, run again, ends with 0.
- equal: every cell holds the same numbers as an undisturbed run's of as many jobs (seconds aside), and there are as
  many. Runs of one and of two jobs differ in the eighth digit: their processes have different numbers of threads.
- clean: no temporary file is left in the run folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ddaudit.audits
import ddaudit.measures.calibration
import ddaudit.measures.utility  # noqa: F401
from ddaudit.cli import main

COMMAND = [
    "audit", "dm", "--data", "digits", "--ipc", "1", "--seeds", "2", "--auditors", "utility,calibration",
    "--baselines", "none", "--arch", "ConvNetD1W4", "--device", "cpu", "--set", "loop.iterations=5",
]  # fmt: skip


def run() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    coins = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        rows = _trials(Path(folder), options.kills, coins)
    text = _table(rows)
    print(text)
    if options.markdown:
        options.markdown.write_text(text)
    sys.exit(0 if all(all(row[c] for c in CHECKS) for row in rows) else 1)


CHECKS = ("gone", "finished", "equal", "clean")
KINDS = ((1, "parent"), (2, "parent"), (2, "worker"))
"""(jobs, whom it hits)."""


def _trials(folder: Path, kills: int, coins: random.Random) -> list[dict[str, Any]]:
    expected, files, lasts = {}, {}, {}
    for jobs in (1, 2):
        began, out = time.monotonic(), folder / f"whole-{jobs}"
        assert _start(out, jobs).wait() == 0
        lasts[jobs] = time.monotonic() - began
        expected[jobs], files[jobs] = _numbers(out), _progress(out)
    rows: list[dict[str, Any]] = []
    while len(rows) < kills:
        jobs, victim = KINDS[len(rows) % len(KINDS)]
        out = folder / f"run-{len(rows)}"
        total = files[jobs]
        row = _kill(out, jobs, victim, coins.randrange(total), coins.random() * lasts[jobs] / total)
        if row is not None:
            row["finished"] = _start(out, jobs).wait() == 0
            row["equal"] = _numbers(out) == expected[jobs]
            row["clean"] = not [p for p in out.rglob("*") if p.is_file() and _temporary(p)]
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
        shutil.rmtree(out, ignore_errors=True)
    return rows


def _kill(out: Path, jobs: int, victim: str, files: int, wait: float) -> dict[str, Any] | None:
    """Start an audit, kill it or one of its workers, and wait until it has ended; None when it had ended by then.

    Args:
        files: how many files it has finished when the moment comes.
        wait: seconds after that.
    """
    parent, began = _start(out, jobs), time.monotonic()
    while parent.poll() is None and _progress(out) < files:
        time.sleep(0.01)
    time.sleep(wait)
    workers = _children(parent.pid)
    while victim == "worker" and not workers and parent.poll() is None:
        time.sleep(0.01)
        workers = _children(parent.pid)
    if parent.poll() is not None:
        return None
    done = len(list((out / "cells").glob("*.json")))
    os.kill(
        random.Random(wait).choice(workers) if victim == "worker" else parent.pid, signal.SIGKILL
    )
    after = time.monotonic() - began
    code = parent.wait()
    family = {*workers, parent.pid}
    gone = _until(lambda: not any(map(_alive, family)), 2)
    return {
        "jobs": jobs,
        "killed": victim,
        "after": round(after, 1),
        "cells": done,
        "exit": code,
        "gone": gone,
    }


def _progress(out: Path) -> int:
    """Finished files of a run: sets, victims, cells, and what says how it was asked for."""
    return sum(p.is_file() and not _temporary(p) for p in out.rglob("*")) if out.exists() else 0


class _start:
    """The command in a forked process, which need not import anything again; its workers start afresh."""

    def __init__(self, out: Path, jobs: int) -> None:
        argv = [*COMMAND, "--jobs", str(jobs), "--out", str(out)]
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            sys.argv = ["ddaudit", *argv]
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            try:
                main()
            except SystemExit as end:
                os._exit(int(end.code or 0))
            os._exit(70)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.02)
        assert self.code is not None
        return self.code


def _numbers(out: Path) -> dict[str, Any]:
    """Every cell of a run without what two equal runs differ in."""
    cells = {}
    for file in (out / "cells").glob("*.json"):
        cells[file.name] = {k: v for k, v in json.loads(file.read_text()).items() if k != "seconds"}
    return cells


def _temporary(file: Path) -> bool:
    return file.name.endswith((".part", ".tmp"))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_children(child)]
    except OSError:
        pass
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _table(rows: list[dict[str, Any]]) -> str:
    load = os.getloadavg()[0]
    head = (
        f"{len(rows)} kills of a tiny audit (`python benchmarks/kills.py`), {platform.machine()}, {os.cpu_count()} "
        f"cores, load {load:.0f} at the end.\n\n"
        "| jobs | killed | trials | cells there at the kill | exit of the killed run | "
        + " | ".join(CHECKS)
        + " |\n|---|---|---|---|---|" + "---|" * len(CHECKS) + "\n"
    )  # fmt: skip
    lines = []
    for jobs in (1, 2):
        for victim in ("parent", "worker"):
            mine = [r for r in rows if (r["jobs"], r["killed"]) == (jobs, victim)]
            if not mine:
                continue
            cells = f"{min(r['cells'] for r in mine)} to {max(r['cells'] for r in mine)}"
            codes = ", ".join(str(c) for c in sorted({r["exit"] for r in mine}))
            held = " | ".join(f"{sum(r[c] for r in mine)} of {len(mine)}" for c in CHECKS)
            lines.append(f"| {jobs} | {victim} | {len(mine)} | {cells} | {codes} | {held} |")
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    run()
