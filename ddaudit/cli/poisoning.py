"""The command ``poison``: a set with a backdoor in it, for people who test their own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ddaudit.cli import options, places
from ddaudit.cli.output import say
from ddaudit.cli.sets import SetFile
from ddaudit.errors import BadInput, Unsupported
from ddaudit.progress import bar
from ddaudit.registry import check_name


def poison(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SET",
            help="A method to distil poisoned records by (dm, dc), or a set file for attacks on finished sets.",
        ),
    ],
    out: SetFile,
    attack: Annotated[
        str, typer.Option("--attack", help="See 'ddaudit list injections'.")
    ] = "naive",
    target: Annotated[int, typer.Option("--target", min=0, help="The class it leads to.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--setting",
            metavar="KEY=VALUE",
            help="Change one number of the attack (ratio=0.1); repeat for more.",
        ),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", help="Data set, see 'ddaudit list datasets'.")
    ] = "digits",
    ipc: Annotated[
        int | None,
        typer.Option("--ipc", min=1, help="Images per class, of a method (default: 10)."),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch", help="Networks that the attacker trains; ConvNet, fitted to the images."
        ),
    ] = None,
    profile: Annotated[
        options.Profile,
        typer.Option("--profile", help="auto: paper on a GPU, small on a CPU."),
    ] = "auto",
    set_: options.SetOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=options.LARGEST_SEED)] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0.")] = "auto",
    overwrite: options.Overwrite = False,
    data_root: options.DataRoot = None,
    download: options.Download = False,
) -> None:
    """Make a set with a backdoor, the poison on its card and the trigger in the file."""
    values, size = options.attack_settings(setting), ipc or 10
    places.check_set_file(out, overwrite=overwrite)
    check_name("injection", attack)
    options.check_data_name(data)

    from ddaudit.attacks.backdoor.injection import INJECTIONS, Scene, inject
    from ddaudit.audits.subjects import make_subject
    from ddaudit.data import load_data
    from ddaudit.devices import pick_device, pick_profile
    from ddaudit.distillation import distill
    from ddaudit.distillation.networks import fit
    from ddaudit.models import Arch
    from ddaudit.sets import describe, save
    from ddaudit.sets import inspect as look

    where = pick_device(device)
    chosen = pick_profile(profile, where)
    injection = INJECTIONS.get(attack).at(chosen).options(values)
    loaded = load_data(data, root=data_root, download=download)
    if target >= loaded.num_classes:
        raise BadInput(
            f"--target {target}", f"does not exist among {loaded.num_classes} classes of '{data}'"
        )
    networks = fit(
        Arch.parse(arch or ("ConvNetW32" if chosen == "small" else "ConvNet")), loaded.shape
    )
    of = make_subject(
        subject,
        data=loaded,
        profile=chosen,
        ipc=size,
        arch=networks,
        options=options.recipe_options(set_),
    )
    if of.network is not None:
        raise BadInput(subject, "holds the weights of a network, not a set")
    if of.set is not None:
        if set_ or ipc is not None:
            raise BadInput(
                "--set" if set_ else "--ipc",
                f"is for methods that are distilled, and {subject} is a finished set",
                "Leave it out; numbers of the attack go by --setting.",
            )
        if Path(subject).exists() and out.resolve() == Path(subject).resolve():
            raise BadInput(f"--out {out}", "is the set that is poisoned", "Choose another name.")
    with bar(f"poisoning {of.id} by {attack}") as progress:

        def clean() -> Any:
            if of.set is not None or of.recipe is None:
                return of.set
            return distill(
                of.recipe,
                loaded.train,
                data=loaded,
                ipc=size,
                seed=seed,
                device=where,
                progress=progress,
            )

        scene = Scene(
            loaded, target, seed, networks, clean, of.recipe, size, where, progress=progress
        )
        try:
            made = inject(injection, scene).made
        except Unsupported as error:
            raise BadInput(f"--attack {attack} on {subject}", str(error)) from None
    save(made, out)
    for line in describe(look(out)):
        typer.echo(line)
    say(f"profile: {chosen}; whoever trains on {out} can test with the trigger that it carries")
