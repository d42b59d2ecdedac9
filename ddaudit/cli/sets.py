"""Commands about sets: ``distill``, ``import``, ``inspect``, ``ledger``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddaudit.cli import options, places
from ddaudit.cli.output import say, say_error
from ddaudit.errors import BadInput, printable
from ddaudit.progress import bar
from ddaudit.registry import check_name

if TYPE_CHECKING:
    from ddaudit.audits.costs import Cost
    from ddaudit.data import Dataset
    from ddaudit.distillation import Recipe
    from ddaudit.sets import Card, DistilledSet, Inspection
    from ddaudit.sets.releases import Release

SetFile = Annotated[Path, typer.Option("--out", help="The set file to write (.safetensors).")]


def distill(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Method, or METHOD+DEFENSE: dm, dm+fair, dm+fair+dp; see 'ddaudit list methods'."
        ),
    ],
    out: SetFile,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Data set, such as digits or digits-colored:bias=0.95; see 'ddaudit list datasets'.",
        ),
    ] = "digits",
    ipc: Annotated[
        str,
        typer.Option(
            "--ipc",
            help="Images per class; 1,10,50 makes three sets, private ones from one budget.",
        ),
    ] = "10",
    epsilon: options.Epsilon = None,
    delta: options.Delta = None,
    profile: Annotated[
        options.Profile,
        typer.Option("--profile", help="auto: paper on a GPU, small on a CPU."),
    ] = "auto",
    set_: options.SetOption = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            max=options.LARGEST_SEED,
            help="Seeds everything but privacy noise.",
        ),
    ] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0.")] = "auto",
    overwrite: options.Overwrite = False,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would cost in time and disk; no work.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="With --dry-run: stable JSON.")] = False,
) -> None:
    """Make a distilled set."""
    if json_ and not dry_run:
        raise BadInput(
            "--json", "goes with --dry-run", "'ddaudit inspect FILE --json' has the card."
        )
    counts = options.sizes(ipc)
    changes = options.recipe_options(set_)
    files = [
        out if len(counts) == 1 else out.with_name(f"{out.stem}-ipc{n}{out.suffix}") for n in counts
    ]
    for file in files:
        places.check_set_file(file, overwrite=overwrite)
    options.check_recipe_name(recipe)
    options.check_data_name(data)

    from ddaudit.data import load_data
    from ddaudit.devices import pick_device, pick_profile
    from ddaudit.distillation import check_recipe, distill_sizes, make_recipe
    from ddaudit.sets import describe, save

    where = pick_device(device)
    chosen = pick_profile(profile, where)
    made = make_recipe(
        recipe, profile=chosen, options=changes, epsilon=epsilon, delta=delta, strict=True
    )
    loaded = load_data(data, root=data_root, download=download)
    check_recipe(made, loaded)
    if profile == "auto":
        say(f"profile: {chosen} (device {where.type}); --profile says otherwise")
    say_privacy_target(made, epsilon, delta)
    if dry_run:
        from ddaudit.audits.costs import distillation

        costs = [distillation(made, loaded, ipc=n) for n in counts]
        _say_costs(made.name, files, costs, as_json=json_)
        return
    with bar(f"distilling {made.name}") as progress:
        results = distill_sizes(
            made, loaded.train, counts, data=loaded, seed=seed, device=where, progress=progress
        )
    for file, result in zip(files, results, strict=True):
        save(result, file)
        for line in describe(examine(file)):
            typer.echo(line)
    if any(result.card.privacy for result in results):
        say(f"the release is on record: 'ddaudit ledger {out.parent}' adds up all of them")


def _labelled(
    made: DistilledSet,
    method: str,
    data: Dataset,
    profile: options.Profile,
    changes: dict[str, str],
    seed: int,
) -> DistilledSet:
    """The set with labels as ``method`` writes them."""
    from ddaudit.devices import pick_device, pick_profile
    from ddaudit.distillation import make_recipe
    from ddaudit.distillation.relabel import label_as

    where = pick_device("auto")
    chosen = pick_profile(profile, where)
    recipe = make_recipe(method, profile=chosen, options=changes, strict=True)
    say(f"labels of {recipe.name}, profile {chosen}")
    return label_as(recipe, made, data=data, seed=seed, device=where)


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="A file or folder in a community format, or hub:owner/name[@revision]."
        ),
    ],
    out: SetFile,
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
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="Options of the format; with --labels-of, PART.OPTION of the method.",
        ),
    ] = None,
    labels_of: Annotated[
        str | None,
        typer.Option(
            "--labels-of",
            metavar="METHOD",
            help="Let this method's teachers, trained on --data, label the images: sre2l, rded, ...",
        ),
    ] = None,
    profile: Annotated[
        options.Profile | None,
        typer.Option(
            "--profile", help="Of --labels-of; auto (the default): paper on a GPU, small on a CPU."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=options.LARGEST_SEED,
            help="Of the views that --labels-of labels (default: 0).",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    data_root: options.DataRoot = None,
    download: options.Download = False,
) -> None:
    """Turn a set made by other code into a set file. Pickled code is refused."""
    read = options.format_options if labels_of is None else options.recipe_options
    every = {k: str(v) for k, v in read(set_).items()}
    of_method = {k: v for k, v in every.items() if labels_of is not None and "." in k}
    changes = {k: v for k, v in every.items() if k not in of_method}
    places.check_set_file(out, overwrite=overwrite)
    if labels_of is not None:
        options.check_recipe_name(labels_of)
        if data is None:
            raise BadInput(
                "--labels-of",
                "trains teachers on the real records, and none are given",
                "Pass --data.",
            )
    else:
        for option, given in (("--profile", profile), ("--seed", seed)):
            if given is not None:
                raise BadInput(option, "is for --labels-of, which is not given", "Leave it out.")
    if format_ is not None:
        check_name("format", format_)
    if data is not None:
        options.check_data_name(data)
    elif download:
        raise BadInput("--download", "is for --data, which is not given", "Leave it out.")

    from ddaudit.data import load_data
    from ddaudit.sets import describe, import_set, save

    loaded = load_data(data, root=data_root, download=download) if data else None
    made = import_set(file, format=format_, data=loaded, options=changes)
    if labels_of is not None and loaded is not None:
        made = _labelled(made, labels_of, loaded, profile or "auto", of_method, seed or 0)
    save(made, out)
    for line in describe(examine(out)):
        typer.echo(line)


def inspect(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Set files, or hub:owner/name; of several, also what publishing all of them costs."
        ),
    ],
    json_: options.Json = False,
) -> None:
    """Show a set's card, shapes and warnings. Never executes anything in the file."""
    from ddaudit.sets import describe

    looks = [examine(file) for file in files]
    if json_:
        facts = [f.to_json() for f in looks]
        typer.echo(json.dumps(facts[0] if len(facts) == 1 else facts, indent=1))
        return
    for one in looks:
        for line in describe(one):
            typer.echo(line)
    if len(looks) > 1:
        typer.echo(_joint_cost([f.card for f in looks]))


def ledger(
    folder: Annotated[Path, typer.Argument(help="A run folder, or a folder of private set files.")],
    json_: options.Json = False,
) -> None:
    """List every private set that was made into a folder or lies there, and what all of them cost together."""
    from ddaudit.sets import Card
    from ddaudit.sets.releases import read_releases
    from ddaudit.sets.unrecorded import unrecorded

    by_data: dict[str, list[Release]] = {}
    recorded = read_releases(folder)
    lost, broken = unrecorded(folder, recorded)
    for file in broken:
        say_error(
            f"warning: {file}: cannot be read; if it claims privacy, its cost is missing below"
        )
    for release in [*recorded, *lost]:
        by_data.setdefault(release.data or "unknown data", []).append(release)
    if json_:
        facts = [r.model_dump(mode="json") for releases in by_data.values() for r in releases]
        typer.echo(json.dumps(facts, indent=1))
        return
    if not by_data:
        typer.echo(f"{folder}: no private set was made here, and none lies here")
    for data, releases in by_data.items():
        typer.echo(f"{printable(data)}:")
        for r in releases:
            seed = "" if r.seed is None else f", seed {r.seed}"
            typer.echo(
                f"  {r.made}  {printable(r.method)}, IPC {r.ipc}{seed}: epsilon {r.claim.epsilon:.4g} at delta "
                f"{r.claim.delta:g}  ({printable(r.name)})"
            )
        typer.echo(f"  {_joint_cost([Card(privacy=r.claim) for r in releases])}")
    if len(by_data) > 1:
        # One set of records has many names: options, paths, constructions on top of it.
        every = [Card(privacy=r.claim) for releases in by_data.values() for r in releases]
        typer.echo(f"all of the above, where these data share records: {_joint_cost(every)}")


def say_privacy_target(recipe: Recipe, epsilon: float | None, delta: float | None) -> None:
    """Say which privacy target a private recipe uses where the user left it to the recipe, and warn of an empty one.

    Args:
        recipe: with the target applied.
        epsilon: as given, None where it was not.
        delta: likewise.
    """
    from ddaudit.sets import empty_promise

    reader: Any = recipe.reader
    if reader is None or not reader.private:
        return
    given = (("--epsilon", epsilon, "epsilon"), ("--delta", delta, "delta"))
    left = [option for option, value, name in given if value is None and hasattr(reader, name)]
    if left:
        target = f"epsilon {reader.epsilon:g} at delta {reader.delta:g}"
        say(f"privacy target of {recipe.name}: {target} ({' and '.join(left)} by default)")
    if warning := empty_promise(getattr(reader, "epsilon", 0.0)):
        say_error(f"warning: {recipe.name}: {warning}")


def _say_costs(name: str, files: Sequence[Path], costs: Sequence[Cost], *, as_json: bool) -> None:
    """What making these files would cost, a line each or as JSON."""
    from ddaudit.audits.previews import duration, size

    if as_json:
        rows = [
            {
                "recipe": name,
                "out": str(file),
                "cpu_seconds": round(c.seconds, 2),
                "bytes": round(c.bytes),
                "rough": c.rough,
            }
            for file, c in zip(files, costs, strict=True)
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    for file, c in zip(files, costs, strict=True):
        rough = "; partly guessed" if c.rough else ""
        typer.echo(f"{file}: about {duration(c.seconds)} of CPU time, {size(c.bytes)}{rough}")


def examine(file: Path) -> Inspection:
    """What a file says of itself, with its privacy claim derived again: what a card says of its own claim proves
    nothing.

    Raises:
        BadInput: not a valid set file.
    """
    from ddaudit.sets import inspect as look

    looked = look(file)
    claim = looked.card.privacy
    if claim is None:
        return looked
    from ddaudit.attacks.privacy.claims import check_claim, rederived

    update: dict[str, Any] = {
        "claim_problems": [
            printable(c.detail.rstrip("."))
            for c in check_claim(looked.card, subject=file.name)
            if not c.passed
        ],
        "rederived": {},
    }
    with suppress(BadInput):  # among the problems
        update["rederived"] = rederived(claim)
    return looked.model_copy(update=update)


def _joint_cost(cards: Sequence[Card]) -> str:
    """One line: the privacy cost of publishing all sets with these cards, made from one private data set."""
    from ddaudit.attacks.privacy.claims import check_claim
    from ddaudit.defenses.privacy.accounting import compose, joint_delta

    claims = [card.privacy for card in cards if card.privacy]
    if len(claims) < len(cards):
        without = len(cards) - len(claims)
        return f"publishing all: no guarantee, {without} of these sets carry no privacy claim"
    if {claim.relation for claim in claims} != {"add-or-remove-one"}:
        return "publishing all: no joint epsilon can be stated, claims are under another relation"
    for card in cards:
        problems = [c.detail for c in check_claim(card, subject="") if not c.passed]
        if problems:
            return f"publishing all: no guarantee, a claim does not hold: {problems[0]}"
    delta = joint_delta(claims)
    if delta >= 1:
        return f"publishing all: no guarantee, the deltas add up to {delta:g}"
    releases = len({claim.release or id(claim) for claim in claims})
    return (
        f"publishing all: epsilon {compose(claims):.4g} at delta {delta:g} "
        f"({releases} release(s), if all were made from the same records)"
    )
