"""Executors: where cells run. In this process, in local worker processes, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

import torch

from ddaudit.errors import BadInput
from ddaudit.worker import Worker, WorkerLost

ATTEMPTS = 2
"""How often a task may end its worker process before it counts as failed."""

T = TypeVar("T")
R = TypeVar("R")


class Executor:
    """Where the tasks of an audit run; a context manager, which ends the processes that it has started.

    Local worker processes stay from one :meth:`run` to the next, with what they have loaded and computed.

    Args:
        jobs: local worker processes; 1 runs everything here.
        ray: address of a Ray cluster ("auto", "ray://host:10001"); takes precedence.
        gpus: of local worker processes: the k-th sees the k-th of them alone, and so on in turn (see
            ``ddaudit.devices.spread_gpus``); empty: all see what this process sees.
    """

    def __init__(self, *, jobs: int, ray: str | None = None, gpus: Sequence[str] = ()) -> None:
        self._jobs, self._ray = jobs, ray
        self._pool = _Pool(jobs, gpus)

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def run(
        self,
        function: Callable[[T], R],
        tasks: Sequence[T],
        *,
        kind: Callable[[T], Hashable | None] = lambda _: None,
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Yield (task, result or exception) in order of completion.

        Args:
            function: a top-level function of a module that worker processes can import (not of ``__main__``).
            kind: tasks of one kind share work in a process, and one process gets as many of them as leave none idle;
                None: of no kind.

        An interrupt stops what is running and loses only that. A worker process that dies (out of memory, killed) is
        replaced and its task tried once more; the others go on.
        """
        if self._ray is not None:
            yield from _on_ray(function, tasks, self._ray)
        elif self._jobs <= 1 or (len(tasks) <= 1 and not self._pool.started):
            yield from run_here(function, tasks)
        else:
            yield from self._pool.run(function, tasks, kind)


def run_here(
    function: Callable[[T], R], tasks: Sequence[T]
) -> Iterator[tuple[T, R | BaseException]]:
    """Yield (task, result or exception) of each in turn, run in this process."""
    for task in tasks:
        try:
            yield task, function(task)
        except Exception as error:  # reported per task by the caller, by name
            yield task, error


def default_jobs(device: torch.device, gpus: Sequence[str] = ()) -> int:
    """One worker per core on a CPU (small networks do not fill several), one on each GPU."""
    return (os.cpu_count() or 1) if device.type == "cpu" else max(1, len(gpus))


class _Pool:
    """Local worker processes, a thread for each that hands out tasks; one that dies takes no task but its own along."""

    def __init__(self, jobs: int, gpus: Sequence[str]) -> None:
        self._gpus = gpus
        self._threads = max(1, (os.cpu_count() or 1) // jobs)
        self._workers: list[Worker | None] = [None] * jobs
        self._begun = [Counter[Hashable | None]() for _ in range(jobs)]
        self._choosing = threading.Lock()
        self._stopping = threading.Event()

    def run(
        self, function: Callable[[T], R], tasks: Sequence[T], kind: Callable[[T], Hashable | None]
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Yield (task, result or exception) in order of completion; whoever stops early ends the processes."""
        if self._stopping.is_set():
            raise RuntimeError("the executor is closed")
        waiting = [(kind(t), t) for t in tasks]
        done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()

        def serve(slot: int) -> None:
            while not self._stopping.is_set():
                with self._choosing:
                    if not waiting:
                        return
                    its, task = waiting.pop(self._choose(slot, [k for k, _ in waiting]))
                done.put((task, self._attempt(slot, function, task, its)))

        known = [sum(begun[k] for k, _ in waiting) for begun in self._begun]
        knowing = sorted(range(len(known)), key=lambda s: -known[s])
        for slot in knowing[: len(tasks)]:
            threading.Thread(target=serve, args=(slot,), daemon=True).start()
        try:
            for _ in tasks:
                yield done.get()
        except BaseException:
            self.close()
            raise

    @property
    def started(self) -> bool:
        """Whether there is a process that has worked already."""
        return any(self._workers)

    def close(self) -> None:
        """End all processes."""
        self._stopping.set()
        for worker in self._workers:
            if worker is not None:
                worker.close()

    def _choose(self, slot: int, kinds: Sequence[Hashable | None]) -> int:
        """Of the kinds that this worker has begun, else of all: the first of those that others have begun least of."""
        own = self._begun[slot]
        others = sum((b for b in self._begun if b is not own), Counter[Hashable | None]())
        chosen = min(range(len(kinds)), key=lambda i: (own[kinds[i]] == 0, others[kinds[i]]))
        if kinds[chosen] is not None:
            own[kinds[chosen]] += 1
        return chosen

    def _attempt(
        self, slot: int, function: Callable[[T], R], task: T, kind: Hashable | None
    ) -> R | BaseException:
        lost: WorkerLost | None = None
        for _ in range(ATTEMPTS):
            if self._stopping.is_set():
                break
            try:
                result: R = self._worker(slot, kind).call(function, task)
                return result
            except WorkerLost as error:
                lost = error
                self._forget(slot, kind)
            except Exception as error:  # reported per task by the caller, by name
                return error
        return WorkerLost(f"killed its worker process {ATTEMPTS} times: {lost}")

    def _worker(self, slot: int, kind: Hashable | None) -> Worker:
        """The process of this place: a new one where there is none, or where it ended while it was idle."""
        worker = self._workers[slot]
        if worker is not None and not worker.alive:
            self._forget(slot, kind)
        if (worker := self._workers[slot]) is None:
            seen = (
                {"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]} if self._gpus else {}
            )
            worker = self._workers[slot] = Worker(self._threads, seen)
        # It may have been started behind the back of whoever stops workers.
        if self._stopping.is_set():
            worker.close()
        return worker

    def _forget(self, slot: int, kind: Hashable | None) -> None:
        """A process is gone, with all that it knew; the next one begins with a task of this kind."""
        if (worker := self._workers[slot]) is not None:
            worker.close()
        self._workers[slot] = None
        with self._choosing:
            self._begun[slot] = Counter([] if kind is None else [kind])


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
