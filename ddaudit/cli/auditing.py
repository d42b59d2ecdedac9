"""The command ``audit``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddaudit.cli import options, places
from ddaudit.cli.output import say, say_error
from ddaudit.cli.sets import say_privacy_target
from ddaudit.errors import BadInput
from ddaudit.files import kind_of
from ddaudit.progress import LogFormat, events
from ddaudit.registry import check_name

if TYPE_CHECKING:
    from ddaudit.audits import AuditConfig


def audit(
    subjects: Annotated[
        list[str],
        typer.Argument(
            help="Recipes such as dm+fair+dp, set files or checkpoints; none where --config names them."
        ),
    ] = [],  # noqa: B006
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data set the subjects are audited against (default: digits)."),
    ] = None,
    auditors: Annotated[
        str | None,
        typer.Option(
            "--auditors", metavar="NAME,..", help="Default: all; see 'ddaudit list auditors'."
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="quick, standard or full (default: quick).")
    ] = None,
    ipc: Annotated[
        int | None, typer.Option("--ipc", help="Images per class of recipes (default: 10).")
    ] = None,
    epsilon: options.Epsilon = None,
    delta: options.Delta = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", help="Distillations per recipe (default: the preset's, 1, 3 or 5)."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="Run folder or fsspec URL (default: runs/audit); running again computes only what is missing.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="ADDRESS", help="Run cells on a Ray cluster ('local' starts one)."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file with these options and per-auditor settings."),
    ] = None,
    set_: options.SetOption = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--setting",
            metavar="AUDITOR.KEY=VALUE",
            help="Change one setting of an auditor; repeat for more; see 'ddaudit list settings'.",
        ),
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            "--baselines",
            metavar="NAME,..",
            help="Reference rows (default: full,random,herding; quick on large images: full,random; 'none').",
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            help="Victim architecture, such as ConvNet, ConvNetD2W32, ResNet18 (see 'ddaudit list archs'), timm:NAME, "
            "or your own FILE.py:ClassName.",
        ),
    ] = None,
    archs: Annotated[
        str | None,
        typer.Option(
            "--archs",
            metavar="NAME,..",
            help="Also train these on each set, for the cross-architecture rows of 'utility'.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="audit|card|adversarial",
            help="Train victims as the audit does (default), as each set's card says, or on attacked batches (PGD-AT).",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", help="Worker processes (default: one per core, or GPU).")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:0.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what would be computed, what it costs in time and disk, and what is there already.",
        ),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="With --dry-run: stable JSON.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="K/N",
            help="Run the K-th of N parts; N machines that share the folder or URL of --out do all of it.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what went wrong.")] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option("--log-format", help="Progress as text, or as a JSON object per line."),
    ] = "text",
    track: Annotated[
        str | None,
        typer.Option(
            "--track",
            metavar="tensorboard|mlflow",
            help="Also write each finished cell's headline metrics there.",
        ),
    ] = None,
    data_root: options.DataRoot = None,
    download: options.Download = False,
) -> None:
    """Audit subjects: train victims, run every auditor, keep each finished cell in the run folder."""
    values: dict[str, Any] = {
        "subjects": subjects or None,
        "data": data,
        "auditors": options.names("--auditors", auditors),
        "preset": preset,
        "ipc": ipc,
        "epsilon": epsilon,
        "delta": delta,
        "seeds": seeds,
        "out": out,
        "ray": ray,
        "options": options.recipe_options(set_) or None,
        "settings": options.auditor_settings(setting, archs=options.names("--archs", archs))
        or None,
        "arch": arch,
        "protocol": protocol,
        "jobs": jobs,
        "device": device,
        "baselines": [] if baselines == "none" else options.names("--baselines", baselines),
        "data_root": str(data_root) if data_root else None,
        "download": download or None,
    }
    if json_ and not dry_run:
        raise BadInput("--json", "goes with --dry-run", "ddaudit report --format json has results.")
    if out is not None:
        places.check_folder(out)
    for name in (*(values["auditors"] or ()), *(values["settings"] or ())):
        check_name("auditor", name)
    for subject in subjects:
        if not ("/" in subject or "." in subject or kind_of(subject) is not None):
            options.check_recipe_name(subject)
    if not subjects and config is None:
        raise BadInput(
            "subjects", "none is given", "For example: ddaudit audit dm random --data digits."
        )
    if data is not None:
        options.check_data_name(data)

    from ddaudit.audits import make_config

    part = options.shard(shard)
    if dry_run and shard:
        raise BadInput(
            "--shard", "has no dry run: it shows the whole audit", "Leave one of the two out."
        )
    made = make_config(values, file=config)
    for name in made.unasked(values["settings"] or ()):
        what = "is a setting of an auditor that is not asked"
        where = "--archs" if archs and name == "utility" else f"--setting {name}"
        raise BadInput(where, what, f"Add it: --auditors ..,{name}.")
    places.check_folder(made.out)
    if dry_run:
        _preview(made, as_json=json_)
        return
    code = run_with_progress(made, shard=part, quiet=quiet, log_format=log_format, track=track)
    typer.echo(f"run: {made.out}")
    typer.echo(f"next: ddaudit report {made.out}")
    raise typer.Exit(code)


def run_with_progress(
    config: AuditConfig,
    *,
    shard: tuple[int, int] = (1, 1),
    quiet: bool = False,
    log_format: LogFormat = "text",
    track: str | None = None,
) -> int:
    """Run an audit, say what it does and what failed; returns the exit code."""
    from ddaudit.audits import named_recipes, run_audit
    from ddaudit.audits.previews import preview_of
    from ddaudit.audits.tracking import tracked

    remark: Callable[[str], None] = say if not quiet and log_format == "text" else lambda _: None
    for recipe in named_recipes(config):
        say_privacy_target(recipe, config.epsilon, config.delta)
    shown = nullcontext(None) if quiet else events(log_format)
    with shown as tell, tracked(track, config.out, tell) as on_event:
        outcome = run_audit(
            config,
            on_event=on_event,
            on_plan=lambda plan, store: remark(preview_of(plan, store).line()),
            shard=shard,
        )
    done = f"{outcome.computed} cells computed, {outcome.reused} reused"
    remark(f"{done}, {len(outcome.failed)} failed, {outcome.seconds:.0f} s")
    for text in outcome.notes:
        remark(text)
    for text in outcome.left_out:
        say_error(f"left out: {text}")
    for label, reason in outcome.failed:
        say_error(f"{label}: {reason}")
    return 3 if outcome.failed else 0


def _preview(config: AuditConfig, *, as_json: bool) -> None:
    """What an audit would do, as a table or as JSON."""
    from ddaudit.audits import preview
    from ddaudit.audits.previews import PREPARING, duration, size

    shown = preview(config)
    if as_json:
        typer.echo(json.dumps(shown.to_json(), indent=1))
        return
    table = [("subject", "auditor", "cells", "there", "CPU time", "distils", "of it", "disk")]
    for r in shown.rows:
        prepared = r.auditor == PREPARING
        table.append(
            (
                r.subject or "(checks)",
                r.auditor,
                "" if prepared else str(r.cells),
                "" if prepared else str(r.there),
                ("~ " if r.cost.rough else "") + duration(r.cost.seconds) if r.cost.seconds else "",
                str(r.distillations or ""),
                duration(r.distilling.seconds) if r.distillations else "",
                size(r.cost.bytes) if r.cost.bytes else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        left = [f"{text:<{width}}" for text, width in zip(row[:2], widths[:2], strict=True)]
        right = [f"{text:>{width}}" for text, width in zip(row[2:], widths[2:], strict=True)]
        typer.echo("  ".join([*left, *right]).rstrip())
    cells = sum(r.cells for r in shown.rows if r.auditor != PREPARING)
    done = cells - shown.missing
    typer.echo(f"{cells} cells in {config.out}: {done} are there, {shown.missing} to compute")
    typer.echo(shown.line())
    typer.echo(f"times were measured on: {shown.measured}; other machines differ")
