"""Runs the steps of documents in one process: ``python run_steps.py < steps.json``, one JSON line a result.

A process of its own, because blocks register methods and auditors, which other tests would see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shlex
import sys
import time
import traceback
from pathlib import Path

STEPS = 20


def python(text: str) -> int:
    """Run a block as a script."""
    exec(compile(text, "<block>", "exec", dont_inherit=True), {"__name__": "block"})
    return 0


def command(text: str) -> int:
    """Run a ddaudit command; returns its exit code."""
    from ddaudit.cli import main

    sys.argv = shlex.split(text)
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def hurry() -> None:
    """Cut the quick protocol short: documents must run, not learn."""
    from ddaudit.training import PROTOCOLS

    PROTOCOLS["quick"] = dataclasses.replace(PROTOCOLS["quick"], max_steps=STEPS)


def main() -> None:
    """Run every step, also after one that fails."""
    hurry()
    root = Path.cwd()
    for step in json.load(sys.stdin):
        os.chdir(root / step["folder"])
        said = io.StringIO()
        started = time.process_time()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = {"python": python, "command": command}[step["kind"]](step["text"])
        except Exception:
            code = -1
            said.write(traceback.format_exc())
        seconds = round(time.process_time() - started, 1)
        print(
            json.dumps({**step, "code": code, "said": said.getvalue()[-2000:], "seconds": seconds}),
            flush=True,
        )


if __name__ == "__main__":
    main()
