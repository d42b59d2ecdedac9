"""Commands about finished runs: ``report``, ``gate``, ``compare``, ``leaderboard``."""

from __future__ import annotations

from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddaudit.cli import options, places
from ddaudit.errors import BadInput

if TYPE_CHECKING:
    from ddaudit.reports import Report


def report(
    runs: Annotated[
        list[str], typer.Argument(help="Run folders of 'ddaudit audit', or one report.json.")
    ],
    formats: Annotated[
        str, typer.Option("--format", metavar="html,md,json,csv,tex,parquet,card")
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
        Path | None,
        typer.Option(
            "--policy",
            metavar="FILE.yaml|NAME",
            help="Rules (docs/report.md), or private-release, paper-table, ci-smoke.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="An earlier run or report.json: nothing may be worse."),
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="text|junit|sarif|github")] = "text",
) -> None:
    """Hold a run against a policy or an earlier run: exit 0 when it holds, 1 when not, 2 when nothing was checked."""
    from ddaudit.reports import Policy, apply, load_policy, tally
    from ddaudit.reports._gate import FORMATS
    from ddaudit.reports.regression import regressions

    if form not in FORMATS:
        raise BadInput(f"--format {form}", "unknown format", f"Known: {', '.join(FORMATS)}.")
    if policy is None and against is None:
        raise BadInput(
            "ddaudit gate", "nothing to hold the run against", "Give --policy or --against."
        )
    rules = load_policy(policy) if policy else Policy((), source=str(against))
    made = _read(run)
    results = apply(rules, made) + (regressions(made, _read(against)) if against else [])
    typer.echo(FORMATS[form](results, run))
    waiting = made.run.cells_not_run
    seen = tally(rules, results)
    # Other tools read standard output: there the counts go beside it.
    if waiting:
        planned = waiting + made.run.cells_done + made.run.cells_skipped + made.run.cells_failed
        typer.echo(f"partly run: {waiting} of {planned} cells are not run yet", err=form != "text")
    typer.echo(seen.line, err=form != "text")
    if not all(r.holds for r in results):
        raise typer.Exit(1)
    if seen.nothing:
        raise BadInput(
            policy or against,
            "checked nothing: no number and no tested claim",
            "Name what the run measured; 'missing: ignore' may leave nothing over.",
        )


def compare(
    before: Annotated[str, typer.Argument(help="A run folder, or a report.json.")],
    after: Annotated[str, typer.Argument(help="Another one of the same audit.")],
    json: options.Json = False,
) -> None:
    """What differs between two runs of one audit: every headline number that both have, and what only one has."""
    from ddaudit.reports import labels
    from ddaudit.reports.regression import changes

    old, new = _read(before), _read(after)
    rows = changes(new, old)
    if json and not rows:
        raise _nothing_in_common(before, after)
    if json:
        keys = ("value", "low", "high", "p_value")
        rows_out = [
            {"subject": c.subject, "metric": c.now.name, "params": c.now.params, "before": c.before.value,
             "after": c.now.value, **{f"difference_{k}": getattr(c.diff, k) for k in keys}, "outcome": c.word}
            for c in rows
        ]  # fmt: skip
        typer.echo(dumps(rows_out, indent=1, ensure_ascii=False))
        return
    for row in rows:
        typer.echo(f"{labels.visible(row.subject)}: {labels.visible(row.line)}")
    for name, here, there in ((before, old, new), (after, new, old)):
        ids = {s.id for s in there.subjects}
        alone = [s.id for s in here.subjects if s.id not in ids]
        asked = {a.name for a in there.auditors}
        alone += [f"auditor {a.name}" for a in here.auditors if a.name not in asked]
        if alone:
            typer.echo(f"only in {name}: {labels.visible(', '.join(alone))}")
    if not rows:
        raise _nothing_in_common(before, after)


def _nothing_in_common(before: str, after: str) -> BadInput:
    return BadInput(
        f"{before}, {after}", "have no headline number in common", "Audit the same subjects."
    )


def leaderboard(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or report.json files.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the site.")],
    publishable: Annotated[
        bool,
        typer.Option("--publishable", help="Leave out what the sets' privacy claims do not cover."),
    ] = False,
) -> None:
    """Write a static site of many runs: a table for those that can be compared, a page for each."""
    places.check_folder(out)
    from ddaudit.reports.labels import visible
    from ddaudit.reports.leaderboard import write_site

    named = [(_run_name(run), _read(run, publishable=publishable)) for run in runs]
    index, apart = write_site(named, out)
    typer.echo(index)
    for line in apart:
        typer.echo(visible(line), err=True)


def _run_name(run: str) -> str:
    """The name of a run's folder, also where its report is given."""
    place = run.rstrip("/").removesuffix("/report.json")
    return place.rsplit("/", 1)[-1]


def _read(run: str, *, publishable: bool = False) -> Report:
    """The report of a run folder, or out of a ``report.json``.

    Raises:
        BadInput: ``publishable``, and a report that is not: what it may show cannot be told from it.
    """
    from ddaudit.reports import read_report
    from ddaudit.reports.runs import report_of

    if not run.endswith(".json"):
        return report_of([run], publishable=publishable)
    made = read_report(run)
    if publishable and not made.run.publishable:
        raise BadInput(run, "is a report, and --publishable needs the run", "Give its folder.")
    return made


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

    alone = len(runs) == 1 and runs[0].endswith(".json")
    first = Path(runs[0]).parent if alone else Path(runs[0])
    # Beside the whole report, never over it: one of them is not to be shown.
    folder = out or (first / "publishable" if publishable else first)
    made = (
        _read(runs[0], publishable=publishable)
        if alone
        else report_of(runs, publishable=publishable)
    )
    return write_report(made, folder, formats).values()
