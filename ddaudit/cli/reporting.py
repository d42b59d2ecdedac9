"""Commands about finished runs: ``report``, ``gate``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ddaudit.cli import options, places
from ddaudit.errors import BadInput


def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders of 'ddaudit audit'.")],
    formats: Annotated[
        str, typer.Option("--format", metavar="html,md,json,csv,tex")
    ] = "html,md,json,csv",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report (default: the first run's).")
    ] = None,
    publishable: Annotated[
        bool,
        typer.Option(
            "--publishable",
            help="Leave out what the sets' privacy claims do not cover (default folder: RUN/publishable).",
        ),
    ] = False,
) -> None:
    """Write the comparative report of one or several runs."""
    wanted = options.names("--format", formats) or []
    for path in write(runs, wanted, out, publishable=publishable):
        typer.echo(path)


def gate(
    run: Annotated[str, typer.Argument(help="A run folder, or a report.json.")],
    policy: Annotated[
        Path, typer.Option("--policy", help="YAML file with rules; see docs/report.md.")
    ],
) -> None:
    """Hold a run against a policy: exit 0 when every rule holds, 1 when one is violated, 2 when nothing was checked."""
    from ddaudit.reports import apply, load_policy, read_report, tally
    from ddaudit.reports.runs import report_of

    rules = load_policy(policy)
    made = read_report(run) if run.endswith(".json") else report_of([run])
    results = apply(rules, made)
    for result in results:
        typer.echo(result.line)
    waiting = made.run.cells_not_run
    if waiting:
        planned = waiting + made.run.cells_done + made.run.cells_skipped + made.run.cells_failed
        typer.echo(f"partly run: {waiting} of {planned} cells are not run yet")
    seen = tally(rules, results)
    typer.echo(seen.line)
    if not all(r.holds for r in results):
        raise typer.Exit(1)
    if seen.nothing:
        raise BadInput(
            policy,
            "checked nothing: no number and no tested claim",
            "Name what the run measured; 'missing: ignore' may leave nothing over.",
        )


def write(
    runs: list[str], formats: list[str], out: Path | None, *, publishable: bool = False
) -> Iterable[Path]:
    """Write the report of some runs; returns its files.

    Raises:
        BadInput: no folder to write to, or no runs to read.
    """
    if out is None and "://" in runs[0]:
        raise BadInput(runs[0], "is not a local folder", "Say where the report goes with --out.")
    if out is not None:
        places.check_folder(out)

    from ddaudit.reports import write_report
    from ddaudit.reports.runs import report_of

    # Beside the whole report, never over it: one of them is not to be shown.
    folder = out or (Path(runs[0], "publishable") if publishable else Path(runs[0]))
    return write_report(report_of(runs, publishable=publishable), folder, formats).values()
