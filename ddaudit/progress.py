"""How far a distillation or an audit is: a bar on a terminal, a plain line per cell elsewhere, on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Literal

LogFormat = Literal["text", "json"]
Progress = Callable[[int, int], None]


@contextmanager
def bar(title: str) -> Iterator[Progress | None]:
    """A progress callback: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich
    from rich.console import Console

    with rich.Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title)
        yield lambda done, total: shown.update(task, completed=done, total=max(total, 1))


@contextmanager
def events(form: LogFormat = "text") -> Iterator[Callable[[str, Any, int, int], None]]:
    """An audit's events: a bar on a terminal, a plain line per cell elsewhere; "json": an object per line always."""
    if form == "json":
        yield _json_line
        return
    with bar("auditing") as update:

        def on_event(what: str, cell: Any, done: int, total: int) -> None:
            if update is not None:
                update(done, total)
            elif cell is not None:
                print(f"[{done}/{total}] {cell.label}: {what}", file=sys.stderr, flush=True)

        yield on_event


def _json_line(what: str, cell: Any, done: int, total: int) -> None:
    event, _, reason = what.partition(": ")
    line = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "event": event}
    if reason:
        line["reason"] = reason
    about = (
        {k: getattr(cell, k) for k in ("subject", "auditor", "seed")} if cell is not None else {}
    )
    print(json.dumps({**line, **about, "done": done, "total": total}), file=sys.stderr, flush=True)
