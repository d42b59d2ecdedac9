"""Commands about sets: ``distill``, ``import``, ``inspect``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ddaudit.cli import options, places
from ddaudit.cli.output import bar, say
from ddaudit.registry import check_name

if TYPE_CHECKING:
    from ddaudit.distillation import Recipe
    from ddaudit.sets import Card

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
        Literal["auto", "paper", "small"],
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
) -> None:
    """Make a distilled set."""
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
    from ddaudit.devices import pick_device
    from ddaudit.distillation import check_recipe, distill_sizes, make_recipe
    from ddaudit.sets import describe, save
    from ddaudit.sets import inspect as look

    where = pick_device(device)
    chosen: Literal["paper", "small"] = (
        profile if profile != "auto" else ("small" if where.type == "cpu" else "paper")
    )
    made = make_recipe(
        recipe, profile=chosen, options=changes, epsilon=epsilon, delta=delta, strict=True
    )
    loaded = load_data(data, root=data_root, download=download)
    check_recipe(made, loaded)
    if profile == "auto":
        say(f"profile: {chosen} (device {where.type}); --profile says otherwise")
    say_privacy_target(made, epsilon, delta)
    with bar(f"distilling {made.name}") as progress:
        results = distill_sizes(
            made, loaded.train, counts, data=loaded, seed=seed, device=where, progress=progress
        )
    for file, result in zip(files, results, strict=True):
        save(result, file)
        for line in describe(look(file)):
            typer.echo(line)


def import_(
    file: Annotated[Path, typer.Argument(help="A file or folder in a community format.")],
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
        typer.Option("--set", metavar="OPTION=VALUE", help="Options of the format."),
    ] = None,
    overwrite: options.Overwrite = False,
    data_root: options.DataRoot = None,
    download: options.Download = False,
) -> None:
    """Turn a set made by other code into a set file. Pickled code is refused."""
    changes = {k: str(v) for k, v in options.recipe_options(set_).items()}
    places.check_set_file(out, overwrite=overwrite)
    if format_ is not None:
        check_name("format", format_)
    if data is not None:
        options.check_data_name(data)

    from ddaudit.data import load_data
    from ddaudit.sets import describe, import_set, save
    from ddaudit.sets import inspect as look

    loaded = load_data(data, root=data_root, download=download) if data else None
    save(import_set(file, format=format_, data=loaded, options=changes), out)
    for line in describe(look(out)):
        typer.echo(line)


def inspect(
    files: Annotated[
        list[Path],
        typer.Argument(help="Set files; of several, also what publishing all of them costs."),
    ],
    json_: options.Json = False,
) -> None:
    """Show a set's card, shapes and warnings. Never executes anything in the file."""
    from ddaudit.sets import describe
    from ddaudit.sets import inspect as look

    looks = [look(file) for file in files]
    if json_:
        facts = [f.to_json() for f in looks]
        typer.echo(json.dumps(facts[0] if len(facts) == 1 else facts, indent=1))
        return
    for one in looks:
        for line in describe(one):
            typer.echo(line)
    if len(looks) > 1:
        typer.echo(_joint_cost([f.card for f in looks]))


def say_privacy_target(recipe: Recipe, epsilon: float | None, delta: float | None) -> None:
    """Say which privacy target a private recipe uses where the user left it to the recipe.

    Args:
        recipe: with the target applied.
        epsilon: as given, None where it was not.
        delta: likewise.
    """
    reader: Any = recipe.reader
    given = (("--epsilon", epsilon, "epsilon"), ("--delta", delta, "delta"))
    left = [option for option, value, name in given if value is None and hasattr(reader, name)]
    if reader is not None and reader.private and left:
        target = f"epsilon {reader.epsilon:g} at delta {reader.delta:g}"
        say(f"privacy target of {recipe.name}: {target} ({' and '.join(left)} by default)")


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
