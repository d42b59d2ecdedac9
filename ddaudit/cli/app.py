"""The program: its commands, and what becomes of every error."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer

import ddaudit
from ddaudit.cli import auditing, demo, listing, poisoning, publishing, reporting, sets, setting_up
from ddaudit.cli.output import say_error
from ddaudit.errors import DDAuditError, printable

INTERNAL_ERROR, INTERRUPTED, BROKEN_PIPE = 70, 130, 141

app = typer.Typer(
    name="ddaudit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The trustworthiness audit suite for dataset distillation.",
)
app.command()(demo.demo)
app.command("list")(listing.list_)
app.command()(sets.distill)
app.command()(auditing.audit)
app.command()(reporting.report)
app.command()(reporting.gate)
app.command()(reporting.compare)
app.command()(reporting.leaderboard)
app.command()(sets.inspect)
app.command("import")(sets.import_)
app.command()(poisoning.poison)
app.command()(sets.ledger)
app.command()(publishing.push)
app.command()(setting_up.init)
app.command()(setting_up.doctor)

# typer brings its own copy of click in recent versions; this is the base of whichever it uses.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main() -> None:
    """Entry point: every user error becomes one line and an exit code."""
    try:
        code = app(standalone_mode=False)
        if sys.stdout is not None:  # None: closed by the caller
            sys.stdout.flush()
    except _ClickException as error:
        say_error(" ".join(error.format_message().split()))
        code = 2
    except DDAuditError as error:
        say_error(str(error))
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        code = _cut_off()
    except SystemExit as error:
        # Of typer, which makes 1 of a broken pipe; that would read as "gate violated".
        code = _cut_off() if isinstance(error.__context__, BrokenPipeError) else error.code
    except OSError as error:
        # The disk is full, a file may not be read, a path is too long: nothing that a new version would mend.
        at = f"{error.filename}: " if isinstance(error.filename, str) else ""
        say_error(printable(f"{at}{(error.strerror or str(error)).lower()}."))
        code = 2
    except Exception:
        # A defect of ours, or out of memory. Python's own 1 would read as "gate violated".
        traceback.print_exc()
        code = INTERNAL_ERROR
    if code == INTERRUPTED:  # some versions of typer return it, others raise
        kept = {"audit", "demo"} & set(sys.argv[1:2])
        say_error(
            "interrupted: finished cells are kept, the same command goes on from there"
            if kept
            else "interrupted: nothing was written"
        )
    sys.exit(code if isinstance(code, int) else 0)


def _cut_off() -> int:
    """The reader of a pipe (head, say) has gone. What the command would have said is unknown, so it is not 0."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ddaudit {ddaudit.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None:
    """The trustworthiness audit suite for dataset distillation."""
