"""Plan an audit: subjects x auditors x seeds, each cell addressed by what it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ddaudit import hub
from ddaudit.auditing import (
    AUDITORS,
    Artifacts,
    Auditor,
    Context,
    Preset,
    Settings,
    Subject,
    Work,
)
from ddaudit.audits.config import BASELINES, ON_LARGE, AuditConfig
from ddaudit.audits.subjects import make_subject, module_subject
from ddaudit.data import Dataset, load_data
from ddaudit.devices import pick_device
from ddaudit.distillation import has_option
from ddaudit.distillation.networks import fit
from ddaudit.distillation.run import versions
from ddaudit.errors import BadInput, Unsupported
from ddaudit.models import Arch
from ddaudit.models.own import own_body

LEFT_OUT = "a quick audit of large images asks this of no baseline but the random subset; name it as a subject"


@dataclass(frozen=True)
class Cell:
    """One unit of work. ``subject`` is None for an auditor's instrument checks, ``auditor`` None for preparing
    a subject's set and victims."""

    subject: str | None
    auditor: str | None
    seed: int
    key: str
    left_out: str = ""
    """Why its question is not asked; the finding says so."""

    @property
    def label(self) -> str:
        """What a progress line calls it."""
        if self.subject is None:
            return f"{self.auditor}: instrument checks"
        return f"{self.subject}: {self.auditor or 'set and victims'} (seed {self.seed})"


@dataclass(frozen=True, eq=False)
class Plan:
    """A configuration made concrete; ``read`` names what auditors read besides a cell's subject and the data's splits,
    other subjects among it."""

    config: AuditConfig
    context: Context
    subjects: dict[str, Subject]
    auditors: dict[str, tuple[Auditor[Any], Settings]]
    preparations: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    read: frozenset[str]


@dataclass(frozen=True, eq=False)
class Given:
    """What Python code hands to an audit although no name and no file stands for it.

    Attributes:
        data: the data set itself; None: ``AuditConfig.data`` names it.
        modules: id -> network of one's own, a subject.
        elsewhere: another process has some of these, and this one works for it.
    """

    data: Dataset | None = None
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    elsewhere: bool = False


def make_plan(
    config: AuditConfig, artifacts: Artifacts | None = None, given: Given | None = None
) -> Plan:
    """Resolve names, load the data, validate every subject, list the cells.

    Raises:
        BadInput: anything that would make a cell impossible for a reason the user can mend.
    """
    given = given or Given()
    config = _pinned(config)
    if not (config.subjects or given.modules or given.elsewhere):
        raise BadInput("subjects", "none is given", "Name a recipe, a set file or a checkpoint.")
    names = list(dict.fromkeys(config.auditors or AUDITORS.names()))
    for name, given_settings in config.settings.items():
        # A misspelt one is an error, also of an auditor that is not asked for.
        AUDITORS.get(name).configure(config.preset, given_settings)
    chosen = {name: AUDITORS.get(name) for name in names}
    context = _context(config, artifacts, given)
    auditors = {}
    for name, auditor in chosen.items():
        own = config.settings.get(name)
        settings = auditor.configure(config.preset, own, large=context.preset.large)
        auditors[name] = (auditor, settings)
    subjects = _subjects(config, context, given)
    context.subjects = subjects
    _check_options(config, list(subjects.values()))
    _check_archs(config, context, subjects, auditors)
    shared = _shared_identity(config, context)
    asked = {name: _asked(name, context, *auditors[name]) for name in names}

    def key(**parts: Any) -> str:
        text = json.dumps({**shared, **parts}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    preset = context.preset
    seeds = {s.id: seeds_of(s, preset) for s in subjects.values()}
    preparations = [
        Cell(s.id, None, seed, key(subject=s.identity, seed=seed))
        for s in subjects.values()
        for seed in seeds[s.id]
        if s.kind != "checkpoint"
    ]
    applies = [
        name
        for name, (auditor, settings) in auditors.items()
        if not all(work_of(auditor, s, context, settings).ends for s in subjects.values())
    ]
    draws = {
        (s.id, name): _draws(
            auditors[name][0], s, preset, asked_for=not s.baseline or s.id in config.subjects
        )
        for s in subjects.values()
        for name in names
    }
    cells = [Cell(None, name, 0, key(checks=True, **asked[name])) for name in applies]
    cells += [
        Cell(s.id, name, seed, key(**_identity(s), seed=seed, **asked[name]))
        for seed in range(max(map(len, seeds.values()), default=0))
        for s in subjects.values()
        if seed in seeds[s.id]
        for name in names
        if seed < draws[s.id, name]
    ]
    cells += [
        Cell(s.id, name, 0, key(**_identity(s), left_out=True, **asked[name]), LEFT_OUT)
        for s in subjects.values()
        for name in names
        if not draws[s.id, name]
    ]
    read = frozenset(name for one in asked.values() for name in one.get("inputs", ()))
    return Plan(config, context, subjects, auditors, tuple(preparations), tuple(cells), read)


def work_of(auditor: Auditor[Any], subject: Subject, context: Context, settings: Settings) -> Work:
    """What a cell makes anew; nothing where it will be refused (a card may not fit, say): it says so itself."""
    try:
        return auditor.work(subject, context, settings)
    except (BadInput, Unsupported):
        return Work()


def _pinned(config: AuditConfig) -> AuditConfig:
    """With the commit of every subject that is on the Hub: what is audited is on record, and workers find it here."""
    pins = {}
    for text in filter(hub.is_hub, config.subjects):
        place, mark, entry = text.partition("#")
        pins[text] = f"{hub.pin(place)}{mark}{entry}"
    names = {pins.get(text, text): name for text, name in config.names.items()}
    subjects = [pins.get(text, text) for text in config.subjects]
    return config.model_copy(update={"subjects": subjects, "names": names}) if pins else config


def _context(config: AuditConfig, artifacts: Artifacts | None, given: Given) -> Context:
    """What every cell of the run shares: data, preset, architecture, device."""
    data = given.data or load_data(config.data, root=config.data_root, download=config.download)
    preset = config.resolved_preset().for_images(data.shape)
    arch = Arch.parse(config.arch) if config.arch else Arch.parse("ConvNet")
    if config.arch is None and preset.profile == "small":
        arch = replace(arch, width=32)
    arch = fit(arch, data.shape)  # an MLP for tables
    if arch.family == "own":
        own_body(arch, data.shape, data.num_classes)  # a class that cannot be made is refused here
    return Context(
        data=data,
        preset=preset,
        arch=arch,
        ipc=config.ipc,
        device=pick_device(config.device),
        artifacts=artifacts,
        trains_by=config.protocol,
    )


def _subjects(config: AuditConfig, context: Context, given: Given) -> dict[str, Subject]:
    """The subjects by id: modules, what is named, then baselines; a second file of one name goes by its path."""
    data = context.data
    baselines = config.baselines
    if baselines is None:
        baselines = list(ON_LARGE if context.preset.large else BASELINES)
    subjects = {
        name: module_subject(name, module, data=data) for name, module in given.modules.items()
    }
    for text in [*config.subjects, *baselines]:
        subject = make_subject(
            text,
            data=data,
            profile=context.preset.profile,
            ipc=config.ipc,
            arch=context.arch,
            options=config.options,
            epsilon=config.epsilon,
            delta=config.delta,
            baseline=text in baselines,
            name=config.names.get(text),
        )
        if (
            subject.id in subjects
            and text not in baselines
            and subjects[subject.id].path != subject.path
        ):
            subject = replace(subject, id=str(Path(text)))
        size = subject.set.card.ipc if subject.set is not None else None
        if baselines and size not in (None, config.ipc):
            note = f"has {size} images a class, baselines {config.ipc}: --ipc {size} would make them comparable"
            subject = replace(subject, notes=(*subject.notes, note))
        subjects.setdefault(subject.id, subject)
        if config.protocol == "card" and subject.set is not None:
            context.check_stated(subject.set, text)
    return subjects


def _shared_identity(config: AuditConfig, context: Context) -> dict[str, Any]:
    """The part of a cell's key that all cells share; more seeds add cells and leave the old ones as they are."""
    data = context.data
    return {
        "train": data.train.fingerprint,
        "validation": data.validation.fingerprint,
        "test": data.test.fingerprint,
        "preset": context.preset.model_dump(
            exclude={"seeds", "reference_draws", "light_draws", "large"}
        ),
        "constants": [data.mean, data.std, data.augment, data.whole_set, data.assumed],
        "arch": str(context.arch),
        "ipc": config.ipc,
        "protocol": context.protocol.key,
        **({} if config.protocol == "audit" else {"trains_by": config.protocol}),
        "ddaudit": versions().get("ddaudit"),
    }


def _asked(
    name: str, context: Context, auditor: Auditor[Any], settings: Settings
) -> dict[str, Any]:
    """What a cell's key says of its auditor."""
    inputs = dict(auditor.inputs(context, settings))
    return {
        **({"inputs": inputs} if inputs else {}),  # without any, the key stays what it was
        "auditor": name,
        "version": auditor.version,
        "settings": settings.model_dump(mode="json"),
    }


def seeds_of(subject: Subject, preset: Preset) -> range:
    """The seeds a subject is audited with; a baseline that draws records at random gets several always."""
    more = max(preset.reference_draws, preset.light_draws) if _drawn(subject) else 0
    return range(max(preset.seeds, more))


def _drawn(subject: Subject) -> bool:
    """Whether it is a baseline that draws records at random."""
    return subject.baseline and getattr(getattr(subject.recipe, "loop", None), "random", False)


def _draws(auditor: Auditor[Any], subject: Subject, preset: Preset, *, asked_for: bool) -> int:
    """How many of a subject's seeds an auditor takes."""
    if preset.large and auditor.heavy:
        return preset.seeds if asked_for or _drawn(subject) else 0
    if auditor.redistils:
        return preset.seeds
    more = preset.light_draws if auditor.light else preset.reference_draws
    return max(preset.seeds, more)


def _identity(subject: Subject) -> dict[str, Any]:
    """What tells the findings on one subject from those on another.

    Victims see images and labels alone, but auditors also test what a file's card says, and findings name the
    subject: copies under other names or with other cards share victims, not findings.
    """
    # How long the set took to make changes nothing: a notebook cell run twice finds its numbers.
    card = (
        None
        if subject.set is None
        else subject.set.card.model_dump(mode="json", exclude={"seconds"})
    )
    return {"subject": subject.identity, "name": subject.id, "kind": subject.kind, "card": card}


def _check_archs(
    config: AuditConfig,
    context: Context,
    subjects: Mapping[str, Subject],
    auditors: Mapping[str, tuple[Auditor[Any], Settings]],
) -> None:
    """Refuse architectures that were asked for and do not fit the data, before anything is trained.

    Those of a preset are tried as far as they fit: nobody asked for them by name.

    Raises:
        BadInput: one line that names the architecture.
    """
    asked = [auditors[name] for name in config.settings if name in auditors]
    for _, settings in asked:
        for name in getattr(settings, "cross_architectures", ()):
            Arch.parse(name)
    for auditor, settings in asked:
        needed = (work_of(auditor, s, context, settings).archs for s in subjects.values())
        refused = {}
        for arch in dict.fromkeys(a for archs in needed for a in archs):
            try:
                context.random_network("fits", arch=arch)
            except BadInput as error:
                refused[str(arch)] = error
        if refused:
            (first, *rest), c, h, w = refused.values(), *context.data.shape
            if not rest:
                raise first
            raise BadInput(", ".join(refused), f"do not fit images of {c}x{h}x{w}", first.todo)


def _check_options(config: AuditConfig, subjects: list[Subject]) -> None:
    """An option that reaches no subject is a mistake, not a wish."""
    recipes = [s.recipe for s in subjects if s.recipe is not None]
    for option in config.options:
        if not any(has_option(r, option) for r in recipes):
            raise BadInput(f"--set {option}", "is an option of none of the audited recipes")
    given = config.epsilon is not None or config.delta is not None
    if given and not any(r.reader is not None and r.reader.private for r in recipes):
        raise BadInput(
            "--epsilon, --delta", "none of the audited recipes is private", "Add dm+dp, say."
        )
