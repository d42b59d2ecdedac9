"""The verbs of the command line, from Python: the same names, checks and defaults.

``distill`` and ``audit`` take names or objects. What only this process has (a data set in memory, a module of no
known architecture, a method registered in a notebook) is audited in this process; the rest uses worker processes,
which never run the caller's script again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ddaudit._html import facts, interval, paragraphs, table
from ddaudit.auditing import AUDITORS, Auditor, TrainsBy
from ddaudit.audits import AuditConfig, Given, make_config, run_audit
from ddaudit.audits.run import Report as OnEvent
from ddaudit.audits.tracking import tracked
from ddaudit.data import DATASETS, Dataset, ImageData, load_data
from ddaudit.devices import pick_device, pick_profile
from ddaudit.distillation import DEFENSES, METHODS, Recipe, check_recipe, make_recipe
from ddaudit.distillation import distill as run_recipe
from ddaudit.distillation.run import check_size
from ddaudit.distillation.store import content_key
from ddaudit.errors import BadInput
from ddaudit.findings import Finding
from ddaudit.models import Network, save_checkpoint
from ddaudit.progress import bar, events
from ddaudit.reports import write_report
from ddaudit.reports.runs import report_of
from ddaudit.reports.schema import Report
from ddaudit.sets import DistilledSet, fingerprint, save

if TYPE_CHECKING:
    import pandas

Thing = str | Path | DistilledSet | nn.Module
"""What can be audited: a recipe's name, a file, a set or a network in memory."""
Data = str | Dataset | Any
"""Real data: a name, a data set, or an object of the ``datasets`` library (see ``from_datasets``)."""


def distill(
    recipe: str | Recipe,
    train: ImageData | None = None,
    *,
    data: Data = "digits",
    ipc: int = 10,
    seed: int = 0,
    device: torch.device | str = "auto",
    profile: Literal["auto", "paper", "small"] = "auto",
    epsilon: float | None = None,
    delta: float | None = None,
    options: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
    quiet: bool = False,
) -> DistilledSet:
    """Make a distilled set: ``ddaudit.distill("dm", data="digits", ipc=1)``.

    Args:
        recipe: a name such as "dm+fair", or a recipe.
        train: records to distil instead of the data set's training split (a subset, a poisoned copy).
        data: a name such as "digits-colored:bias=0.95", a data set, or a ``datasets.DatasetDict``.
        ipc: images per class, at least 1.
        seed: seeds everything but privacy noise.
        device: "auto", "cpu", "cuda", "cuda:0".
        profile: of a recipe given by name; "auto" is "paper" on a GPU, "small" on a CPU. A recipe has its own.
        epsilon, delta: privacy target of a private recipe given by name.
        options: dotted option -> value, as --set.
        data_root, download: where data come from, see ``load_data``.
        progress: called with (steps done, steps in all) instead of the bar that a terminal shows.
        quiet: no bar.

    Returns:
        The set, in pixel space, with its card.

    Raises:
        BadInput: unknown names, or a recipe that cannot run on these data: before any work.
    """
    where = pick_device(str(device))
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
        raise BadInput(f"seed {seed!r}", "is no whole number of 0 or more")
    loaded = _data(data, data_root, download)
    check_size(ipc, loaded.train)
    if isinstance(recipe, str):
        chosen = pick_profile(profile, where)
        made = make_recipe(
            recipe, profile=chosen, options=options, epsilon=epsilon, delta=delta, strict=True
        )
    elif not isinstance(recipe, Recipe):
        what = f"is no recipe ({type(recipe).__name__}), and no name of one"
        raise BadInput(f"recipe {recipe!r}"[:80], what, "See 'ddaudit list methods'.")
    elif profile != "auto" or epsilon is not None or delta is not None:
        raise BadInput(
            recipe.name,
            "is a recipe already, so profile, epsilon and delta mean nothing",
            "Give its name, or the options.",
        )
    else:
        made = recipe.options(options or {})
    check_recipe(made, loaded if train is None else replace(loaded, train=train))
    shown = nullcontext(progress) if progress or quiet else bar(f"distilling {made.name}")
    with shown as tell:
        return run_recipe(
            made,
            loaded.train if train is None else train,
            data=loaded,
            ipc=ipc,
            seed=seed,
            device=where,
            progress=tell,
        )


def audit(
    subjects: Thing | Iterable[Thing] | Mapping[str, Thing],
    data: Data = "digits",
    *,
    auditors: str | Iterable[str | type[Auditor[Any]]] | None = None,
    preset: str = "quick",
    ipc: int = 10,
    seeds: int | None = None,
    out: str | Path = "runs/audit",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    jobs: int | None = None,
    baselines: Sequence[str] | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    options: Mapping[str, Any] | None = None,
    arch: str | None = None,
    protocol: TrainsBy = "audit",
    victims: int | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    download: bool = False,
    on_event: OnEvent | None = None,
    track: str | None = None,
    quiet: bool = False,
) -> Run:
    """Audit subjects: ``ddaudit.audit(["dm", my_set], data="digits", auditors="utility")``.

    Args:
        subjects: one or several of: a recipe's name, the path of a set file or checkpoint, a ``DistilledSet``, a
            ``torch.nn.Module`` from pixels in [0, 1] (N, C, H, W) to logits (N, K). A mapping gives them names.
        data: a name, a data set, or a ``datasets.DatasetDict`` (``ddaudit.from_datasets`` has options).
        auditors: names or classes; None: all.
        preset, ipc, seeds, epsilon, delta, options, arch, protocol, baselines, device: as on the command line.
        victims: networks trained on each set; None: the preset's number.
        out: run folder; running again computes only what is missing.
        settings: per auditor, {"membership": {"shadows": 16}}.
        jobs: worker processes; None: one per core on a CPU, one per GPU.
        data_root, download: where data come from, see ``load_data``.
        on_event: called with (what happened, the cell or None, cells done, cells in all), instead of the bar on a
            terminal and the line per cell elsewhere, on standard error.
        track: "tensorboard" or "mlflow": also write each finished cell's headline metrics there.
        quiet: neither bar nor lines.

    Returns:
        The run. Cells that failed are in ``run.failed``; everything else is kept.

    Raises:
        BadInput: anything that would make a cell impossible for a reason the user can mend, before any work.
    """
    folder = str(out)
    if not isinstance(data, str):
        data = _data(data, data_root, download)
    texts, names, modules = _subjects(subjects, folder)
    wanted = [auditors] if isinstance(auditors, str) else auditors
    config = make_config(
        {
            "subjects": texts,
            "names": names,
            "data": data if isinstance(data, str) else data.name,
            "data_root": None if data_root is None else str(data_root),
            "download": download,
            "auditors": None if wanted is None else [a if isinstance(a, str) else a.name for a in wanted],
            "preset": preset,
            "seeds": seeds,
            "ipc": ipc,
            "epsilon": epsilon,
            "delta": delta,
            "options": dict(options or {}),
            "settings": {k: dict(v) for k, v in (settings or {}).items()},
            "arch": arch,
            "protocol": protocol,
            "victims": victims,
            "baselines": None if baselines is None else list(baselines),
            "device": device,
            "jobs": jobs,
            "out": folder,
        }
    )  # fmt: skip
    for name in config.unasked(config.settings):
        what = "belongs to an auditor that is not asked"
        raise BadInput(f"settings[{name!r}]", what, "Name it among the auditors.")
    importable, only_here = _registered(config)
    notes = [f"{name} exists in this process only and is audited in it" for name in only_here]
    if isinstance(data, Dataset):
        notes.append("the data set was given in memory: everything is audited in this process")
    notes += [
        f"{name} is a module of no known architecture: it is audited in this process"
        for name in modules
    ]
    if jobs != 1:
        for note in notes:
            warnings.warn(note, stacklevel=2)
    shown = nullcontext(on_event) if on_event or quiet else events()
    with shown as tell, tracked(track, folder, tell) as told:
        outcome = run_audit(
            config,
            on_event=told,
            given=Given(data if isinstance(data, Dataset) else None, modules),
            modules=importable,
            here=bool(only_here),
        )
    return Run(
        folder,
        outcome.computed,
        outcome.reused,
        outcome.failed,
        (*notes, *outcome.notes, *outcome.left_out),
    )


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        url: the folder.
        computed, reused: cells that this audit computed and found.
        failed: (cell, reason) of every failed cell.
        notes: what was done otherwise than one may think.
    """

    url: str
    computed: int = 0
    reused: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def read(self) -> Report:
        """The comparative report as data: findings, comparisons, claims, summary."""
        return report_of([self.url])

    @property
    def findings(self) -> list[Finding]:
        """One finding per subject and auditor, seeds merged."""
        return self.read().findings

    def report(
        self,
        formats: Sequence[str] = ("html", "md", "json", "csv"),
        out: str | Path | None = None,
    ) -> dict[str, Path]:
        """Write the report; format -> file. ``out`` is a folder, by default the run's own.

        Raises:
            BadInput: unknown format, or a remote run without ``out``.
        """
        if out is None and "://" in self.url:
            raise BadInput(
                self.url, "is not a local folder", "Say where the report goes with out=."
            )
        return write_report(self.read(), self.url if out is None else out, formats)

    def to_frame(self) -> pandas.DataFrame:
        """One row per metric: subject, auditor, status, metric, value, low, high, n, unit, direction, floor, params.

        Raises:
            BadInput: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise BadInput(
                "to_frame", "needs pandas, which is not installed", "pip install pandas"
            ) from None
        rows = [
            {
                "subject": f.subject,
                "auditor": f.auditor,
                "status": f.status,
                "metric": m.name,
                "value": m.value,
                "low": m.low,
                "high": m.high,
                "n": m.n,
                "unit": m.unit,
                "direction": m.direction,
                "floor": m.floor,
                "params": m.params,
            }
            for f in self.findings
            for m in f.metrics
        ]
        return pandas.DataFrame(rows, columns=_COLUMNS)

    def _repr_html_(self) -> str:
        report = self.read()
        shown = [(f, m) for f in report.findings for m in f.metrics if m.headline]
        names = list(dict.fromkeys(m.words for _, m in shown))
        subjects = list(dict.fromkeys(f.subject for f in report.findings))
        cells = {
            (f.subject, m.words): interval(m.value, m.low, m.high)
            + (" (check failed)" if report.failing_checks(f, m) else "")
            for f, m in shown
        }
        rows = [[s, *(cells.get((s, n), "-") for n in names)] for s in subjects]
        title = facts(
            "ddaudit run",
            {"folder": self.url, "computed": self.computed, "reused": self.reused, "failed": len(self.failed)},
        )  # fmt: skip
        whose: dict[tuple[str, str, str], list[str]] = {}
        for f in report.findings:
            if f.reason:
                whose.setdefault((f.auditor, f.status, f.reason), []).append(f.subject)
        unanswered = [
            f"{a} {status} for {', '.join(s)}: {why}" for (a, status, why), s in whose.items()
        ]
        return title + table(["subject", *names], rows) + paragraphs([*self.notes, *unanswered])


_COLUMNS = [
    "subject", "auditor", "status", "metric", "value", "low", "high", "n", "unit", "direction", "floor", "params",
]  # fmt: skip


def _data(data: Data, root: str | Path | None, download: bool) -> Dataset:
    if isinstance(data, Dataset):
        return data.check()
    if isinstance(data, str):
        return load_data(data, root=root, download=download)
    from ddaudit.data.hub_objects import from_datasets

    return from_datasets(data)


def _subjects(
    given: Thing | Iterable[Thing] | Mapping[str, Thing], out: str
) -> tuple[list[str], dict[str, str], dict[str, nn.Module]]:
    """(texts for the configuration, their names, modules that stay here). Sets and networks go into the run folder.

    Raises:
        BadInput: something that is no subject; two subjects of one name; a set for a folder that is not local.
    """
    if isinstance(given, Mapping):
        pairs: list[tuple[str | None, Any]] = list(given.items())
    elif isinstance(given, str | Path | DistilledSet | nn.Module):  # a Sequential is iterable, too
        pairs = [(None, given)]
    elif isinstance(given, Iterable):
        pairs = [(None, thing) for thing in given]
    else:
        raise BadInput(
            "subjects", f"are {given!r}, nothing that can be audited", "Name a recipe: 'dm'."
        )
    texts: list[str] = []
    names: dict[str, str] = {}
    modules: dict[str, nn.Module] = {}
    for name, thing in pairs:
        if isinstance(thing, str | Path):
            text = str(thing)
            if text in texts:
                raise BadInput(f"subject {text}", "is given twice", "Give it once, under one name.")
            texts.append(text)
            if name:
                names[text] = name
            continue
        if not isinstance(thing, DistilledSet | nn.Module):
            raise BadInput(
                f"subject {type(thing).__name__}",
                "cannot be audited",
                "Give a recipe's name, a path, a torch module or a DistilledSet. A function becomes a method by "
                "method(name), images and labels a set by import_set((images, labels)).",
            )
        label = name or _free_name(thing, {*names.values(), *modules})
        if label in modules or label in names.values():
            raise BadInput(f"subject {label}", "is given twice", "Use a mapping, name -> subject.")
        if isinstance(thing, nn.Module) and not (_rebuildable(thing) and "://" not in out):
            modules[label] = thing
            continue
        if "://" in out:
            raise BadInput(out, "is no local folder, and a set is in memory", "save() it first.")
        text = str(_stored(thing, label, Path(out) / "given"))
        texts.append(text)
        names[text] = label
    return texts, names, modules


def _free_name(thing: DistilledSet | nn.Module, taken: set[str]) -> str:
    base = f"{thing.card.method} (set)" if isinstance(thing, DistilledSet) else type(thing).__name__
    count = 1
    while (name := base if count == 1 else f"{base} {count}") in taken:
        count += 1
    return name


def _rebuildable(module: nn.Module) -> bool:
    """True when a state dict and a name are enough to make it again elsewhere."""
    return isinstance(module, Network) and (module.arch.family != "own" or bool(module.arch.digest))


def _stored(thing: DistilledSet | nn.Module, label: str, folder: Path) -> Path:
    """The file in which worker processes find what was given in memory; named by its label, and a set's content."""
    plain = "".join(c if c.isalnum() or c in "+-_" else "-" for c in label)[:80]
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(thing, DistilledSet):
        key = content_key(label, fingerprint(thing))
        file = folder / f"{plain}-{key[:8]}.safetensors"
        save(thing, file)
    else:
        assert isinstance(thing, Network)
        file = folder / f"{plain}-{content_key(label)[:8]}.safetensors"
        save_checkpoint(file, thing)
    return file


def _registered(config: AuditConfig) -> tuple[list[str], list[str]]:
    """Of what a configuration names: (modules that register some of it and can be imported, names only here)."""
    recipes = [n for text in [*config.subjects, *(config.baselines or ())] for n in text.split("+")]
    places = (
        (METHODS, recipes),
        (DEFENSES, recipes),
        (AUDITORS, config.auditors or AUDITORS.names()),
        (DATASETS, [config.data.split(":")[0]]),
    )
    owners = [
        (f"{registry.kind} '{name}'", registry.owners()[name])
        for registry, names in places
        for name in dict.fromkeys(names)
        if name in registry.owners()
    ]
    here = [name for name, owner in owners if owner == "__main__" or not _importable(owner)]
    return list(dict.fromkeys(o for n, o in owners if n not in here)), here


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
