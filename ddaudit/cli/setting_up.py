"""The commands ``init`` (a configuration to start from) and ``doctor`` (what this machine can do)."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from ddaudit.cli import options, places
from ddaudit.errors import BadInput, printable

CONFIGURATION = """\
# An audit: which distilled sets, against which data, by which auditors.
#     ddaudit audit --config {name}
# What stands behind '#' is the default. The command line wins over this file.

# Recipes (ddaudit list methods), set files, checkpoints.
subjects: [{subjects}]
data: {data}
#data_root: null            # folder with real data, torchvision's layout; default: the variable DDAUDIT_DATA
#download: false            # fetch missing data into data_root
#names: {{}}                  # file -> what the report calls it

#auditors: null             # [utility, membership, ...]; default: all (ddaudit list auditors)
#preset: quick              # quick, standard or full: seeds, victims, images; never other code
#seeds: null                # distillations per recipe; default: the preset's
#victims: null              # networks trained on each set; default: the preset's
#ipc: 10                    # images per class of recipes
#baselines: [full, random, herding]  # default of quick on large images: [full, random]

# Privacy target of private recipes (dm+dp); default: the recipe's own.
#epsilon: null
#delta: null                # below 1 / number of records

#arch: null                 # victim architecture (ddaudit list archs)
#protocol: audit            # card: train victims as each set's card says
#options: {{}}                # of recipes, as --set: {{loop.iterations: 500}}
#settings: {{}}               # of auditors: {{membership: {{shadows: 16}}}} (ddaudit list settings)

#device: auto
#jobs: null                 # worker processes; default: one per core, or per GPU
#ray: null                  # address of a Ray cluster, or local
out: runs/audit            # running again computes only what is missing
"""

EXTRAS = {
    "ray": "ray",
    "torchattacks": "torchattacks",
    "hub": "huggingface_hub",
    "timm": "timm",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow-skinny",
}
"""Extra -> the package that it brings."""


def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("audit.yaml"),
    data: Annotated[str, typer.Option("--data", help="Data set to audit against.")] = "digits",
    subjects: Annotated[
        str, typer.Option("--subjects", metavar="NAME,..", help="What to audit.")
    ] = "dm,random",
) -> None:
    """Write a commented configuration for an audit, to be edited and run with 'ddaudit audit --config'."""
    options.check_data_name(data)
    from ddaudit.data.registry import canonical_spec

    canonical_spec(data)
    named = options.names("--subjects", subjects) or []
    places.check_file(file, option="FILE")
    if file.exists():
        raise BadInput(file, "is there already", "Choose another name, or remove it.")
    text = CONFIGURATION.format(
        name=file, subjects=", ".join(map(json.dumps, named)), data=json.dumps(data)
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    typer.echo(f"next: ddaudit audit --config {file} --dry-run")


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Attributes:
        what, found: its name and what there is.
        state: "ok"; "absent", which costs nothing but what needs it; "broken".
        todo: what to do about it, a sentence.
    """

    what: str
    found: str
    state: Literal["ok", "absent", "broken"] = "ok"
    todo: str = ""


def doctor(data_root: options.DataRoot = None, json_: options.Json = False) -> None:
    """Say what this installation and machine can do, and what is broken (exit code 2)."""
    lines = [*_packages(), *_machine(), *_data(data_root), *_extras(), *_plugins()]
    broken = [line for line in lines if line.state == "broken"]
    if json_:
        typer.echo(json.dumps([asdict(line) for line in lines], indent=1))
    else:
        width = max(len(line.what) for line in lines)
        for line in lines:
            mark = {"ok": " ok", "absent": "  -", "broken": "BAD"}[line.state]
            text = f"{mark}  {line.what:<{width}}  {printable(line.found)} {line.todo}"
            typer.echo(text.rstrip())
        typer.echo("everything works" if not broken else f"{len(broken)} broken, marked BAD")
    raise typer.Exit(2 if broken else 0)


def _packages() -> Iterator[Line]:
    """Python, and what ddaudit needs in the versions that it needs."""
    from packaging.requirements import Requirement

    yield Line("Python", platform.python_version())
    for text in ["ddaudit", *(requires("ddaudit") or [])]:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(need.name)
        except PackageNotFoundError:
            yield Line(need.name, "is not installed", "broken", f"pip install '{text}'")
            continue
        fits = need.specifier.contains(found, prereleases=True)
        yield (
            Line(need.name, found)
            if fits
            else Line(
                need.name, f"{found}, not {need.specifier}", "broken", f"pip install '{text}'"
            )
        )


def _machine() -> Iterator[Line]:
    """Whether torch, torchvision and each device compute; cores, memory, disk."""
    import torch

    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # whatever a mismatched binary raises
        yield Line(
            "torchvision",
            f"does not work with this torch ({type(error).__name__}: {str(error).splitlines()[0][:100]})",
            "broken",
            "Install both from one place, in one command.",
        )
    devices = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    for name in devices:
        about = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
        if name != "cpu":
            properties = torch.cuda.get_device_properties(name)
            about = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        try:
            image, kernel = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
            made = torch.nn.functional.conv2d(image.to(name), kernel.to(name)).cpu()
            right = bool((made == 9).all())
        except RuntimeError as error:
            right, about = False, f"{about} ({str(error).splitlines()[0][:100]})"
        yield (
            Line(f"device {name}", about)
            if right
            else Line(
                f"device {name}",
                f"{about}: a convolution fails",
                "broken",
                "Check driver and torch build.",
            )
        )
    if len(devices) == 1:
        yield Line("device cuda", "none", "absent", "Audits run on the CPU: small recipes only.")
    free = shutil.disk_usage(Path.cwd()).free
    yield Line("disk here", f"{free / 2**30:.1f} GiB free")


def _data(given: Path | None) -> Iterator[Line]:
    """Which benchmarks lie in the data root."""
    from ddaudit.data.registry import ROOT_VARIABLE
    from ddaudit.data.vision import BENCHMARKS

    named = given or os.environ.get(ROOT_VARIABLE)
    if not named:
        todo = f"Pass --data-root or set {ROOT_VARIABLE}; digits, wine and breast-cancer need none."
        yield Line("data root", "none", "absent", todo)
        return
    root = Path(named).expanduser()
    if not root.is_dir():
        yield Line("data root", f"{root} is no folder", "broken", "Name a folder.")
        return
    yield Line("data root", str(root))
    for name, what in BENCHMARKS.items():
        there = [f for f in what.folders if (root / f / what.files).exists()]
        yield (
            Line(f"data {name}", str(Path(there[0]) / what.files))
            if there
            else Line(f"data {name}", "not there", "absent")
        )


def _extras() -> Iterator[Line]:
    """Optional packages, and combinations that are known not to work."""
    for extra, package in EXTRAS.items():
        try:
            yield Line(f"extra {extra}", version(package))
        except PackageNotFoundError:
            yield Line(
                f"extra {extra}", "not installed", "absent", f"pip install 'ddaudit[{extra}]'"
            )
    try:
        version("torchattacks"), version("datasets")
    except PackageNotFoundError:
        return
    yield Line(
        "torchattacks + datasets",
        "ask for requests that exclude each other",
        "broken",
        "Remove torchattacks: ddaudit's own attacks do not need it.",
    )


def _plugins() -> Iterator[Line]:
    """Plugins of other packages that cannot be used."""
    from ddaudit.catalogue import KINDS
    from ddaudit.registry import rows

    for kind in KINDS:
        for row in rows(kind):
            if "problem" in row:
                yield Line(
                    f"{kind} {row['name']}", str(row["problem"]), "broken",
                    f"Update or remove the package {row['plugin']}.",
                )  # fmt: skip
