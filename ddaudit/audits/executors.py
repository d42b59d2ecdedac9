"""Executors: where cells run. In this process, in local worker processes, or on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch

from ddaudit.errors import BadInput

T = TypeVar("T")
R = TypeVar("R")


def run_tasks(
    function: Callable[[T], R], tasks: Sequence[T], *, jobs: int, ray: str | None = None
) -> Iterator[tuple[T, R | BaseException]]:
    """Yield (task, result or exception) in order of completion.

    Args:
        function: picklable, top-level.
        jobs: local worker processes; 1 runs everything here.
        ray: address of a Ray cluster ("auto", "ray://host:10001"); takes precedence.

    An interrupt stops what is running and loses only that.
    """
    if ray is not None:
        yield from _on_ray(function, tasks, ray)
    elif jobs <= 1 or len(tasks) <= 1:
        for task in tasks:
            try:
                yield task, function(task)
            except Exception as error:  # reported per task by the caller, by name
                yield task, error
    else:
        yield from _in_processes(function, tasks, jobs)


def default_jobs(device: torch.device) -> int:
    """One worker per core on a CPU (small networks do not fill several), one on a GPU."""
    return (os.cpu_count() or 1) if device.type == "cpu" else 1


def _in_processes(
    function: Callable[[T], R], tasks: Sequence[T], jobs: int
) -> Iterator[tuple[T, R | BaseException]]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # spawn: a forked torch can hang in its thread pool, and CUDA refuses it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(jobs, len(tasks)), mp_context=context, initializer=_start_worker, initargs=(threads,)
    )
    try:
        futures = {pool.submit(function, task): task for task in tasks}
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], future.result() if error is None else error
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _start_worker(threads: int) -> None:
    # The parent handles Ctrl-C and stops its workers; they should not print tracebacks of their own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)


def _leave_with_parent() -> None:
    """End this worker when its parent is gone: one that was killed could not stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _on_ray(
    function: Callable[[T], R], tasks: Sequence[T], address: str
) -> Iterator[tuple[T, R | BaseException]]:
    try:
        import ray
    except ImportError:
        raise BadInput(
            f"--ray {address}", "Ray is not installed", "pip install 'ddaudit[ray]'"
        ) from None
    try:
        ray.init(
            address=None if address == "local" else address,
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"--ray {address}",
            f"no cluster answers ({' '.join(str(error).split())[:120]})",
            "Use --ray local, or leave --ray out.",
        ) from None
    remote = ray.remote(function)
    pending = {remote.remote(task): task for task in tasks}
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        task = pending.pop(done)
        try:
            yield task, ray.get(done)
        except Exception as error:  # reported per task by the caller, by name
            yield task, error
