"""The headline metrics of each cell as it is finished, with their intervals, to TensorBoard or MLflow.

A subject is a run there, and a seed a step; ``NAME.low`` and ``NAME.high`` stand beside each ``NAME``. Cells that a
run folder holds already are not written again.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ddaudit.audits.plan import Cell
from ddaudit.audits.run import Report
from ddaudit.audits.store import RunStore
from ddaudit.errors import BadInput
from ddaudit.findings import Metric

_Write = Callable[[str, Mapping[str, float], int], None]
"""Called with (subject, name -> number, seed)."""


@contextmanager
def tracked(tracker: str | None, out: str, then: Report | None = None) -> Iterator[Report | None]:
    """What to call on each event of an audit into ``out``: it writes to the tracker, then calls ``then``.

    A tracker that fails on the way is given up with a warning; the audit goes on.

    Args:
        tracker: "tensorboard" or "mlflow"; None: only ``then`` is called.

    Raises:
        BadInput: unknown tracker, or its package is not installed.
    """
    if tracker is None:
        yield then
        return
    if tracker not in _OPEN:
        raise BadInput(f"--track {tracker}", "is no tracker", f"Known: {', '.join(_OPEN)}.")
    store, lost = RunStore(out), False
    with _OPEN[tracker](out) as write:

        def on_event(what: str, cell: Cell | None, done: int, total: int) -> None:
            nonlocal lost
            if cell is not None and cell.subject and not lost:
                try:
                    _write_cell(store, cell, write)
                except Exception as error:  # a server that went away, a full disk
                    lost = True
                    why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    warnings.warn(f"--track {tracker} stopped ({why})", stacklevel=2)
            if then is not None:
                then(what, cell, done, total)

        yield on_event


def _write_cell(store: RunStore, cell: Cell, write: _Write) -> None:
    finding = None if cell.auditor is None else store.cell(cell.key)
    shown = [m for m in finding.metrics if m.headline] if finding is not None else []
    numbers = {name: value for m in shown for name, value in _numbers(m)}
    if numbers:
        write(cell.subject or "", numbers, cell.seed)


def _numbers(metric: Metric) -> Iterator[tuple[str, float]]:
    """Its value and bounds, as far as there are any, under a name that both trackers take as it is."""
    parts = (f"{key}_{value}" for key, value in metric.params.items())
    group, _, name = ".".join([metric.name, *parts]).partition(".")
    plain = re.sub(r"[^A-Za-z0-9_./-]", "_", f"{group}/{name}")
    for end, value in (("", metric.value), (".low", metric.low), (".high", metric.high)):
        if value is not None and math.isfinite(value):
            yield plain + end, value


@contextmanager
def _tensorboard(out: str) -> Iterator[_Write]:
    """Event files in the folder ``tensorboard`` of the run, one folder a subject."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise _missing("tensorboard") from None
    writers: dict[str, SummaryWriter] = {}

    def write(subject: str, numbers: Mapping[str, float], seed: int) -> None:
        folder = f"{out}/tensorboard/{re.sub(r'[^A-Za-z0-9_.+-]', '_', subject)}"
        writer = writers[subject] = writers.get(subject) or SummaryWriter(folder)  # type: ignore[no-untyped-call]
        for name, value in numbers.items():
            writer.add_scalar(name, value, seed)  # type: ignore[no-untyped-call]
        writer.flush()  # type: ignore[no-untyped-call]

    try:
        yield write
    finally:
        for writer in writers.values():
            writer.close()  # type: ignore[no-untyped-call]


@contextmanager
def _mlflow(out: str) -> Iterator[_Write]:
    """A run of MLflow for each subject, where MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say."""
    try:
        import mlflow
    except ImportError:
        raise _missing("mlflow") from None
    runs: dict[str, str] = {}

    def write(subject: str, numbers: Mapping[str, float], seed: int) -> None:
        known = runs.get(subject)
        new = {} if known else {"run_name": subject, "tags": {"ddaudit.run": out}}
        with mlflow.start_run(run_id=known, nested=True, **new) as run:
            runs[subject] = run.info.run_id
            mlflow.log_metrics(dict(numbers), step=seed)

    yield write


def _missing(tracker: str) -> BadInput:
    return BadInput(
        f"--track {tracker}", f"needs {tracker}, which is not installed",
        f"pip install 'ddaudit[{tracker}]'",
    )  # fmt: skip


_OPEN = {"tensorboard": _tensorboard, "mlflow": _mlflow}
