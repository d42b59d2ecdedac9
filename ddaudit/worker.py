"""A worker process: runs functions that its parent names, and ends with its parent.

It is started afresh, so that the parent's main module (a script without a guard, a notebook) is never run again in
it. Only its parent talks to it, over two pipes of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

# Nothing heavy is imported here: the thread that watches for the parent's end must run before torch is loaded.

_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from ddaudit.worker import serve; serve()"


class WorkerLost(Exception):
    """The process ended before it answered: killed, out of memory, or crashed."""


class Worker:
    """One worker process, seen from its parent.

    Args:
        threads: how many threads its arithmetic may use.
        variables: of its environment, besides those of this process.
    """

    def __init__(self, threads: int, variables: Mapping[str, str] | None = None) -> None:
        count = str(threads)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "OMP_NUM_THREADS": count,
                "MKL_NUM_THREADS": count,
                **(variables or {}),
            },
            start_new_session=True,  # Ctrl-C goes to the parent, which stops its workers
        )
        self._calls: Any = self._process.stdin
        self._answers: Any = self._process.stdout

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """``function(argument)``, computed there. ``function`` is a top-level function of an importable module.

        Raises:
            WorkerLost: the process ended.
            Exception: what the function raised.
        """
        frame = pickle.dumps((function, argument))
        try:
            _send(self._calls, frame)
            answer = _receive(self._answers)
        except (OSError, ValueError):  # ValueError: another thread has closed the pipes
            answer = None
        if answer is None:
            raise WorkerLost(_ending(self.close()))
        good, value = pickle.loads(answer)
        if good:
            return value
        raise value

    @property
    def alive(self) -> bool:
        """Whether the process has not ended by itself."""
        return self._process.poll() is None

    def close(self) -> int:
        """End the process; returns its exit code, negative for a signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.1)  # one that has just died is not yet known to have
        self._process.kill()
        code = self._process.wait()
        for pipe in (self._calls, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()
        return code


def serve() -> None:
    """The worker's side: answer calls until the parent closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what functions print must not get between the answers
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(calls, waiting), daemon=True).start()
    while True:
        _send(answers, _answer(waiting.get()))


def _listen(calls: Any, waiting: queue.SimpleQueue[bytes]) -> None:
    """Take calls in while another is answered, so that the end of the parent is noticed at once."""
    while (frame := _receive(calls)) is not None:
        waiting.put(frame)
    os._exit(1)


def _answer(frame: bytes) -> bytes:
    """(True, result) or (False, exception), pickled."""
    try:
        function, argument = pickle.loads(frame)
        return pickle.dumps((True, function(argument)))
    except Exception as error:
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)
        except Exception:  # exceptions with arguments of their own may not survive the journey
            answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
        return answer


def _send(pipe: Any, frame: bytes) -> None:
    pipe.write(len(frame).to_bytes(8, "big") + frame)
    pipe.flush()


def _receive(pipe: Any) -> bytes | None:
    """The next frame, None when the other side has closed the pipe or is gone."""
    head = pipe.read(8)
    size = int.from_bytes(head, "big")
    frame = pipe.read(size) if len(head) == 8 else b""
    return bytes(frame) if len(head) == 8 and len(frame) == size else None


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
