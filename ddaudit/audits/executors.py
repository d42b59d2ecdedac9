"""Executors: where cells run. In this process, in local worker processes, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from ddaudit.errors import BadInput
from ddaudit.worker import Worker, WorkerLost

ATTEMPTS = 2
"""How often a task may end its worker process before it counts as failed."""

T = TypeVar("T")
R = TypeVar("R")


def run_tasks(
    function: Callable[[T], R],
    tasks: Sequence[T],
    *,
    jobs: int,
    ray: str | None = None,
    gpus: Sequence[str] = (),
) -> Iterator[tuple[T, R | BaseException]]:
    """Yield (task, result or exception) in order of completion.

    Args:
        function: a top-level function of a module that worker processes can import (not of ``__main__``).
        jobs: local worker processes; 1 runs everything here.
        ray: address of a Ray cluster ("auto", "ray://host:10001"); takes precedence.
        gpus: of local worker processes: the k-th sees the k-th of them alone, and so on in turn (see
            ``ddaudit.devices.spread_gpus``); empty: all see what this process sees.

    An interrupt stops what is running and loses only that. A worker process that dies (out of memory, killed) is
    replaced and its task tried once more; the others go on.
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
        yield from _in_processes(function, tasks, jobs, gpus)


def default_jobs(device: torch.device, gpus: Sequence[str] = ()) -> int:
    """One worker per core on a CPU (small networks do not fill several), one on each GPU."""
    return (os.cpu_count() or 1) if device.type == "cpu" else max(1, len(gpus))


def _in_processes(
    function: Callable[[T], R], tasks: Sequence[T], jobs: int, gpus: Sequence[str]
) -> Iterator[tuple[T, R | BaseException]]:
    """One thread per worker process hands out tasks; a process that dies takes no task but its own along."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()
    workers: list[Worker | None] = [None] * min(jobs, len(tasks))
    stopping = threading.Event()
    for task in tasks:
        waiting.put(task)

    def serve(slot: int) -> None:
        with contextlib.suppress(queue.Empty):
            while not stopping.is_set():
                task = waiting.get_nowait()
                done.put((task, attempt(slot, task)))

    def attempt(slot: int, task: T) -> R | BaseException:
        lost: WorkerLost | None = None
        seen = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
        for _ in range(ATTEMPTS):
            if stopping.is_set():
                break
            try:
                worker = workers[slot] = workers[slot] or Worker(threads, seen)
                if stopping.is_set():  # it was started behind the back of whoever stops workers
                    worker.close()
                result: R = worker.call(function, task)
                return result
            except WorkerLost as error:
                workers[slot], lost = None, error
            except Exception as error:  # reported per task by the caller, by name
                return error
        return WorkerLost(f"killed its worker process {ATTEMPTS} times: {lost}")

    for slot in range(len(workers)):
        threading.Thread(target=serve, args=(slot,), daemon=True).start()
    try:
        for _ in tasks:
            yield done.get()
    finally:
        stopping.set()
        for worker in workers:
            if worker is not None:
                worker.close()


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
