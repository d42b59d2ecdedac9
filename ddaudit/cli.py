"""The command line: thin commands over the library. Exit codes: 0 done, 1 gate violated, 2 bad input, 3 partial."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ddaudit.errors import BadInput, DDAuditError

if TYPE_CHECKING:
    from ddaudit.sets import Card

app = typer.Typer(
    name="ddaudit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The trustworthiness audit suite for dataset distillation.",
)

# typer brings its own copy of click in recent versions; this is the base of whichever it uses.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

INTERNAL_ERROR, INTERRUPTED, BROKEN_PIPE = 70, 130, 141

Progress = Callable[[int, int], None]

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Data set, such as digits or digits-colored:bias=0.95; see 'ddaudit list datasets'.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        help="Folder with real data (torchvision's layout). Default: the variable DDAUDIT_DATA.",
    ),
]
Download = Annotated[
    bool,
    typer.Option(
        "--download", help="Fetch missing data into the data root. Nothing is fetched without it."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print stable JSON.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PART.OPTION=VALUE", help="Change one number of a recipe; repeat for more."
    ),
]


def main() -> None:
    """Entry point: every user error becomes one line and an exit code."""
    warnings.filterwarnings("ignore")
    try:
        code = app(standalone_mode=False)
    except _ClickException as error:
        _say_error(" ".join(error.format_message().split()))
        code = 2
    except DDAuditError as error:
        _say_error(str(error))
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (head, say) has gone. What the command would have said is unknown, so it is not 0.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except Exception:
        # A defect of ours, or out of memory. Python's own 1 would read as "gate violated".
        traceback.print_exc()
        code = INTERNAL_ERROR
    if code == INTERRUPTED:  # some versions of typer return it, others raise
        kept = {"audit", "demo"} & set(sys.argv[1:2])
        _say_error(
            "interrupted: finished cells are kept, the same command goes on from there"
            if kept
            else "interrupted: nothing was written"
        )
    sys.exit(code if isinstance(code, int) else 0)


@app.command("list")
def list_(
    what: Annotated[Literal["methods", "auditors", "datasets", "formats"], typer.Argument()],
    json_: Json = False,
) -> None:
    """List what is registered: methods, auditors, datasets, formats."""
    rows = _listing(what)
    if json_:
        typer.echo(json.dumps(rows, indent=1))
        return
    width = max((len(r["name"]) for r in rows), default=0)
    for row in rows:
        typer.echo(f"{row['name']:<{width}}  {row['description']}")


@app.command()
def distill(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Method, or METHOD+DEFENSE: dm, dm+fair, dm+fair+dp; see 'ddaudit list methods'."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The set file to write (.safetensors).")],
    data: Data = "digits",
    ipc: Annotated[
        str,
        typer.Option(
            "--ipc",
            help="Images per class; 1,10,50 makes three sets, private ones from one budget.",
        ),
    ] = "10",
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Privacy target (private methods).")
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", help="Privacy target, below 1 / number of records.")
    ] = None,
    profile: Annotated[
        Literal["auto", "paper", "small"],
        typer.Option("--profile", help="auto: paper on a GPU, small on a CPU."),
    ] = "auto",
    set_: SetOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Seeds everything but privacy noise.")] = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Make a distilled set."""
    from ddaudit.data import load_data
    from ddaudit.devices import pick_device
    from ddaudit.distillation import check_recipe, distill_sizes, make_recipe
    from ddaudit.sets import describe, inspect, save

    sizes = _sizes(ipc)
    where = pick_device(device)
    chosen: Literal["paper", "small"] = (
        profile if profile != "auto" else ("small" if where.type == "cpu" else "paper")
    )
    made = make_recipe(
        recipe, profile=chosen, options=_options(set_), epsilon=epsilon, delta=delta, strict=True
    )
    loaded = load_data(data, root=data_root, download=download)
    check_recipe(made, loaded)
    if profile == "auto":
        typer.echo(f"profile: {chosen} (device {where.type}); --profile says otherwise", err=True)
    with _bar(f"distilling {made.name}") as progress:
        results = distill_sizes(
            made, loaded.train, sizes, data=loaded, seed=seed, device=where, progress=progress
        )
    for size, result in zip(sizes, results, strict=True):
        file = out if len(sizes) == 1 else out.with_name(f"{out.stem}-ipc{size}{out.suffix}")
        save(result, file)
        for line in describe(inspect(file)):
            typer.echo(line)


@app.command()
def audit(
    subjects: Annotated[list[str], typer.Argument(help="Recipes, set files or checkpoints.")] = [],  # noqa: B006
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
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Privacy target of private recipes.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", help="Privacy target of private recipes.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Distillations per recipe.")] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", help="Run folder or fsspec URL; running again computes only what is missing."
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
    set_: SetOption = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            "--baselines",
            metavar="NAME,..",
            help="Reference rows (default: full,random,herding; 'none').",
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch", help="Victim architecture, such as ConvNet, ConvNetD2W32, ResNet18."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", help="Worker processes (default: one per core).")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:0.")] = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Audit subjects: train victims, run every auditor, keep each finished cell in the run folder."""
    from ddaudit.audits import make_config

    made = make_config(
        {
            "subjects": subjects or None,
            "data": data,
            "auditors": _names(auditors),
            "preset": preset,
            "ipc": ipc,
            "epsilon": epsilon,
            "delta": delta,
            "seeds": seeds,
            "out": out,
            "ray": ray,
            "options": _options(set_) or None,
            "arch": arch,
            "jobs": jobs,
            "device": device,
            "baselines": [] if baselines == "none" else _names(baselines),
            "data_root": str(data_root) if data_root else None,
            "download": download or None,
        },
        file=config,
    )
    code = _audit(made)
    typer.echo(f"run: {made.out}")
    typer.echo(f"next: ddaudit report {made.out}")
    raise typer.Exit(code)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders of 'ddaudit audit'.")],
    formats: Annotated[
        str, typer.Option("--format", metavar="html,md,json,csv,tex")
    ] = "html,md,json,csv",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report (default: the first run's).")
    ] = None,
) -> None:
    """Write the comparative report of one or several runs."""
    for path in _report(runs, _names(formats) or [], out):
        typer.echo(path)


@app.command()
def gate(
    run: Annotated[str, typer.Argument(help="A run folder, or a report.json.")],
    policy: Annotated[
        Path, typer.Option("--policy", help="YAML file with rules; see docs/report.md.")
    ],
) -> None:
    """Hold a run against a policy: exit 0 when every rule holds, 1 when one is violated."""
    from ddaudit.reports import apply, load_policy, read_report
    from ddaudit.reports.runs import report_of

    rules = load_policy(policy)
    made = read_report(run) if run.endswith(".json") else report_of([run])
    results = apply(rules, made)
    for result in results:
        typer.echo(result.line)
    raise typer.Exit(0 if all(r.holds for r in results) else 1)


@app.command()
def inspect(
    files: Annotated[
        list[Path],
        typer.Argument(help="Set files; of several, also what publishing all of them costs."),
    ],
    json_: Json = False,
) -> None:
    """Show a set's card, shapes and warnings. Never executes anything in the file."""
    from ddaudit.sets import describe
    from ddaudit.sets import inspect as look

    found = [look(file) for file in files]
    if json_:
        facts = [f.to_json() for f in found]
        typer.echo(json.dumps(facts[0] if len(facts) == 1 else facts, indent=1))
        return
    for one in found:
        for line in describe(one):
            typer.echo(line)
    if len(found) > 1:
        typer.echo(_joint_cost([f.card for f in found]))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file or folder in a community format.")],
    out: Annotated[Path, typer.Option("--out", help="The set file to write (.safetensors).")],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="See 'ddaudit list formats'; found from the file when left out."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="The real data it was distilled from: constants, classes, checks."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="Options of the format."),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Turn a set made by other code into a set file. Pickled code is refused."""
    from ddaudit.data import load_data
    from ddaudit.sets import describe, import_set, save
    from ddaudit.sets import inspect as look

    loaded = load_data(data, root=data_root, download=download) if data else None
    save(
        import_set(
            file,
            format=format_,
            data=loaded,
            options={k: str(v) for k, v in _options(set_).items()},
        ),
        out,
    )
    for line in describe(look(out)):
        typer.echo(line)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the run and its report.")] = Path(
        "demo-run"
    ),
) -> None:
    """The whole story on embedded data, in minutes on a laptop; prints the report's path."""
    from ddaudit.audits import AuditConfig

    config = AuditConfig(
        subjects=["dm", "dm+fair", "dm+dp", "dm+fair+dp"],
        data="digits-colored",
        preset="quick",
        epsilon=10.0,
        delta=1e-4,
        auditors=["utility", "membership", "backdoor", "adversarial", "calibration", "bias"],
        baselines=["full", "random"],
        out=str(out),
    )
    code = _audit(config)
    for path in _report([str(out)], ["html", "md", "json", "csv"], None):
        typer.echo(path)
    raise typer.Exit(code)


def _audit(config: Any) -> int:
    """Run an audit with progress; returns the exit code."""
    from ddaudit.audits import run_audit

    with _events() as on_event:
        outcome = run_audit(config, on_event=on_event)
    done = f"{outcome.computed} cells computed, {outcome.reused} reused"
    typer.echo(f"{done}, {len(outcome.failed)} failed, {outcome.seconds:.0f} s", err=True)
    for label, reason in outcome.failed:
        _say_error(f"{label}: {reason}")
    return 3 if outcome.failed else 0


def _report(runs: list[str], formats: list[str], out: Path | None) -> Iterable[Path]:
    from ddaudit.reports import write_report
    from ddaudit.reports.runs import report_of

    if out is None and "://" in runs[0]:
        raise BadInput(runs[0], "is not a local folder", "Say where the report goes with --out.")
    return write_report(report_of(runs), out or Path(runs[0]), formats).values()


def _listing(what: str) -> list[dict[str, Any]]:
    from ddaudit.registry import rows

    if what == "methods":
        defenses = [{**row, "name": f"+{row['name']}"} for row in rows("defense")]
        return rows("method") + defenses
    return rows(what.removesuffix("s"))


def _options(pairs: list[str] | None) -> dict[str, Any]:
    found = {}
    for pair in pairs or []:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise BadInput(
                f"--set {pair}",
                "is not PART.OPTION=VALUE",
                "For example --set loop.iterations=500.",
            )
        found[key] = value
    return found


def _sizes(text: str) -> list[int]:
    """ "1,10,50" as numbers.

    Raises:
        BadInput: not positive whole numbers, or one of them twice.
    """
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--ipc {text}", "is not a whole number or a list like 1,10,50") from None
    if min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise BadInput(f"--ipc {text}", "images per class must be at least 1, each size once")
    return sizes


def _joint_cost(cards: Sequence[Card]) -> str:
    """One line: the privacy cost of publishing all these sets, made from one private data set."""
    from ddaudit.defenses.privacy.accounting import compose

    claims = [card.privacy for card in cards if card.privacy]
    if len(claims) < len(cards):
        without = len(cards) - len(claims)
        return f"publishing all: no guarantee, {without} of these sets carry no privacy claim"
    if any(claim.noise_seed_published for claim in claims):
        return "publishing all: no guarantee, the seed of some set's noise is published"
    delta = max(claim.delta for claim in claims)
    releases = len({claim.release or id(claim) for claim in claims})
    return (
        f"publishing all: epsilon {compose(claims):.4g} at delta {delta:g} "
        f"({releases} release(s), if all were made from the same records)"
    )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [n.strip() for n in text.split(",") if n.strip()]


def _say_error(text: str) -> None:
    typer.echo(f"ddaudit: {text}", err=True)


@contextmanager
def _bar(title: str) -> Iterator[Progress | None]:
    """A progress callback: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich
    from rich.console import Console

    with rich.Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=max(total, 1))


@contextmanager
def _events() -> Iterator[Callable[[str, Any, int, int], None]]:
    """An audit's events: a bar on a terminal, a plain line per cell elsewhere."""
    with _bar("auditing") as update:

        def on_event(what: str, cell: Any, done: int, total: int) -> None:
            if update is not None:
                update(done, total)
            elif cell is not None:
                typer.echo(f"[{done}/{total}] {cell.label}: {what}", err=True)

        yield on_event


if __name__ == "__main__":
    main()
