"""What a command says while it works: error lines, progress, events."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

Progress = Callable[[int, int], None]


def say(text: str) -> None:
    """A remark for the person at the terminal; what other programs read goes to standard output."""
    typer.echo(text, err=True)


def say_error(text: str) -> None:
    """One line that says what went wrong."""
    typer.echo(f"ddaudit: {text}", err=True)


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
                say(f"[{done}/{total}] {cell.label}: {what}")

        yield on_event
