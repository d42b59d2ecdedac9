"""What a command says to the person at the terminal; what other programs read goes to standard output."""

from __future__ import annotations

import typer


def say(text: str) -> None:
    """A remark."""
    typer.echo(text, err=True)


def say_error(text: str) -> None:
    """One line that says what went wrong."""
    typer.echo(f"ddaudit: {text}", err=True)
