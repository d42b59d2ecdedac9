"""How far a distillation or an audit is: a bar on a terminal, a plain line per cell elsewhere, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
def events() -> Iterator[Callable[[str, Any, int, int], None]]:
    """An audit's events: a bar on a terminal, a plain line per cell elsewhere."""
    with bar("auditing") as update:

        def on_event(what: str, cell: Any, done: int, total: int) -> None:
            if update is not None:
                update(done, total)
            elif cell is not None:
                print(f"[{done}/{total}] {cell.label}: {what}", file=sys.stderr, flush=True)

        yield on_event
