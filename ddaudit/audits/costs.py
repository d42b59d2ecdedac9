"""What work costs: rows measured once (costs.json, by ``python -m benchmarks.costs``) and how they grow with sizes.

A row is the CPU time of one piece of work at one size, and which share of that time grows with which number. It was
measured by changing one number at a time, so an estimate far away from the row's own size is rough.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field

from ddaudit.auditing import Context, Settings
from ddaudit.data import Dataset
from ddaudit.distillation import METHODS, Recipe
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.networks import fit
from ddaudit.distillation.options import option
from ddaudit.distillation.relabel import ViewLabels
from ddaudit.models import Arch, build
from ddaudit.training import EvaluationProtocol, measure

_MORE = 6.0
"""A part of less than 8 % of a row's time is no share of it; this many times as much of it is another row."""
BATCHES = ("per_class", "batch", "batch_size")
"""Options that say how many records a step sees; other numbers are taken for counts of steps."""


class Row(BaseModel):
    """One piece of work, measured.

    Attributes:
        seconds: CPU seconds at the sizes of ``at``; of a defense that changes every step, the factor instead.
        bytes: what it leaves behind on disk.
        at: quantity -> its value when this was measured.
        counts: quantity -> share of the time that is proportional to it.
        work: kind of arithmetic -> share of the time spent on it; "step" for a distillation's networks, "training"
            and "network" (reading) for an auditor's.
        batches: quantity -> share of "step" that is proportional to it.
        width_power: by which power of a network's width its arithmetic grows.
        another: a further run that shares real-data work with the first, as a share of it; None: it shares none.
        factor: True where ``seconds`` multiplies the method's own time.
    """

    model_config = ConfigDict(extra="forbid")
    seconds: float
    bytes: float = 0
    at: dict[str, float] = Field(default_factory=dict)
    counts: dict[str, float] = Field(default_factory=dict)
    work: dict[str, float] = Field(default_factory=dict)
    batches: dict[str, float] = Field(default_factory=dict)
    width_power: float = 2.0
    another: float | None = None
    factor: bool = False


class Table(BaseModel):
    """Everything that was measured, and where.

    Attributes:
        machine: processor, versions, date.
        training: CPU seconds of a training step per unit of each of :func:`step_features`.
        start: CPU seconds until a worker process is ready.
        methods, defenses: name -> row.
        auditors, checks: name -> row of one cell with a subject that costs nothing to distil; of the instrument checks.
    """

    model_config = ConfigDict(extra="forbid")
    machine: dict[str, str]
    start: float
    training: dict[str, float]
    methods: dict[str, Row]
    defenses: dict[str, Row]
    auditors: dict[str, Row]
    checks: dict[str, Row]


@dataclass(frozen=True)
class Cost:
    """CPU seconds, bytes on disk, and whether something in it was guessed from work of the same kind."""

    seconds: float = 0.0
    bytes: float = 0.0
    rough: bool = False

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds, self.bytes + other.bytes, self.rough or other.rough
        )

    def times(self, count: float) -> Cost:
        """This work, ``count`` times over."""
        return Cost(self.seconds * count, self.bytes * count, self.rough)


@lru_cache(maxsize=1)
def table() -> Table:
    """The measured table that comes with the package."""
    text = (files("ddaudit.audits") / "costs.json").read_text(encoding="utf-8")
    return Table.model_validate_json(text)


def grown(row: Row, now: Mapping[str, float], work: Mapping[str, float]) -> float:
    """A row's seconds at other sizes.

    Args:
        now: quantity -> value; one that is missing is taken to be as when measured.
        work: kind of arithmetic -> how many times that of the row.
    """
    total = row.seconds
    for name, share in row.counts.items():
        total *= _linear(share, _ratio(row, now, name))
    return total * (
        1 - sum(row.work.values()) + sum(s * work.get(n, 1.0) for n, s in row.work.items())
    )


def distillation(
    recipe: Recipe, data: Dataset, *, ipc: int, records: int | None = None, runs: int = 1
) -> Cost:
    """What ``runs`` distillations cost, of which those that can share work on real data do.

    Args:
        records: training records each run may see; None: all.

    Returns:
        Its bytes are those of the sets; what a run folder keeps besides says :func:`experts_kept`.
    """
    base, *defenses = recipe.name.split("+")
    rows, rough = table(), False
    now = quantities(recipe, data, ipc=ipc, records=records)
    row = rows.methods.get(base)
    if row is None:
        row, rough = _like(recipe, rows.methods), True
    rough = rough or bool(unknown(row, now)) or _more_experts(row, now)
    seconds = grown(row, now, {"step": step_ratio(row, now)})
    added = 0.0
    for name in defenses:
        extra = rows.defenses.get(name)
        if extra is None:
            rough = True
        elif extra.factor:
            seconds *= extra.seconds
        else:
            added += grown(extra, now, {"step": step_ratio(extra, now)})
    if runs > 1 and row.another is not None and recipe.loop.shareable(recipe, ipc):
        seconds *= 1 + (runs - 1) * row.another
    else:
        seconds *= runs
    stored = row.bytes * _ratio(row, now, "images") * _ratio(row, now, "pixels")
    stored += _label_store(recipe, data, now["images"])
    return Cost(seconds + added * runs, stored * runs, rough)


def experts_kept(recipe: Recipe, data: Dataset) -> float:
    """Bytes of the networks that a distillation leaves in a run folder, beside its set: teachers, experts all along
    their paths."""
    networks = recipe.networks
    if isinstance(networks, Experts):
        archs, points = networks.archs(), 1
    elif isinstance(networks, ExpertPaths):
        archs, points = (networks.resolve(),), 2 if networks.straight else networks.epochs + 1
    else:
        return 0.0
    sizes = (_size(fit(arch, data.shape), data.shape, data.num_classes) for arch in archs)
    return 4 * networks.count * points * sum(size.parameters for size in sizes)


def _label_store(recipe: Recipe, data: Dataset, images: float) -> float:
    """Bytes of the views and labels that a set brings along."""
    views = recipe.labels
    if not isinstance(views, ViewLabels):
        return 0.0
    return views.epochs * images * (29 + 2 * data.num_classes)


def _more_experts(row: Row, now: Mapping[str, float]) -> bool:
    """True where much more is trained beforehand than when the row was measured, which it does not grow with."""
    parts = ("networks.count", "networks.epochs", "records")
    if not all(name in row.at for name in parts) or any(name in row.counts for name in parts):
        return False
    return math.prod(_ratio(row, now, name) for name in parts) > _MORE


def trained(
    arch: Arch, data: Dataset, protocol: EvaluationProtocol, *, images: int, count: int = 1
) -> Cost:
    """What training ``count`` networks on a set of ``images`` images costs."""
    features = step_features(arch, data, protocol, images=images)
    per_step = sum(table().training[name] * value for name, value in features.items())
    steps = protocol.schedule(images).steps
    if protocol.robust is not None and protocol.robust.attack is not None:
        steps *= 1 + protocol.robust.attack.steps  # a pass there and back each
    return Cost(per_step * steps, features["parameters"] * 4).times(count)


def auditor_cell(name: str, now: Mapping[str, float], *, checks: bool = False) -> Cost:
    """What one cell of an auditor costs beside distillations, or its instrument checks.

    Args:
        now: see :func:`audit_quantities`.
    """
    rows = table().checks if checks else table().auditors
    row = rows.get(name)
    if row is None:
        typical = statistics.median([r.seconds for r in rows.values()] or [1.0])
        return Cost(typical, 20_000, True)
    work = {kind: _ratio(row, now, kind) for kind in row.work}
    return Cost(grown(row, now, work), row.bytes)


def quantities(
    recipe: Recipe, data: Dataset, *, ipc: int, records: int | None = None
) -> dict[str, float]:
    """The sizes that a distillation's time may depend on: of the set, of the data, and the recipe's own numbers."""
    shape = data.shape
    known = {
        "images": float(images_of(recipe, data, ipc)),
        "records": float(records or len(data.train)),
        "pixels": float(shape[1] * shape[2]),
        "width": float(_width(recipe, shape)),
    }
    for path in _paths(recipe):
        value = option(recipe, path)
        if isinstance(value, int | float) and not isinstance(value, bool):
            known[path] = float(value)
        if path.endswith(".per_class") and path in known:  # no more than there are
            known[path] = min(known[path], known["records"] / data.num_classes)
    return known


def audit_quantities(settings: Settings, ctx: Context) -> dict[str, float]:
    """The sizes that an auditor's time may depend on: its own numbers, how long its lists are, and the victims.

    "training" are the seconds that training one victim takes, "network" those of reading an image.
    """
    set_size = ctx.ipc * ctx.data.num_classes
    known = {
        "victims": float(ctx.preset.victims),
        "test": float(len(ctx.test())),
        "training": trained(ctx.arch, ctx.data, ctx.protocol, images=set_size).seconds,
        "network": read_seconds(ctx.arch, ctx.data),
    }
    for name, value in dict(settings).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            known[name] = float(value)
        elif isinstance(value, tuple | list):
            known[name] = float(len(value))
    return known


def images_of(recipe: Recipe, data: Dataset, ipc: int) -> int:
    """Images a network sees of the set that a recipe makes."""
    if getattr(recipe.loop, "strategy", "") == "full":
        if getattr(recipe.loop, "even", False):
            return data.num_classes * int(data.train.class_counts().max())
        return len(data.train)
    factor = getattr(recipe.synthesis, "factor", 1)
    return ipc * data.num_classes * int(factor) ** 2


def step_features(
    arch: Arch, data: Dataset, protocol: EvaluationProtocol, *, images: int
) -> dict[str, float]:
    """What a training step's time is made of: layers, arithmetic, numbers in maps, weights, augmentation."""
    size = _size(fit(arch, data.shape), data.shape, data.num_classes)
    batch, augmented = min(protocol.batch_size, images), float(protocol.augmented)
    return {
        "constant": 1.0,
        "layers": size.layers,
        "flops": size.flops * batch,
        "floats": size.floats * batch,
        "parameters": size.parameters,
        "augmented": augmented,
        "augmented_pixels": augmented * batch * math.prod(data.shape),
    }


def read_seconds(arch: Arch, data: Dataset) -> float:
    """CPU seconds a network takes to look at one image of a large batch: a third of a training step's arithmetic."""
    plain = EvaluationProtocol("read", augment="", batch_size=512)
    features, per = step_features(arch, data, plain, images=512), table().training
    return sum(per[name] * features[name] for name in ("layers", "flops", "floats")) / (3 * 512)


def step_ratio(row: Row, now: Mapping[str, float]) -> float:
    """How many times the arithmetic of the row a distillation step takes."""
    made: float = _ratio(row, now, "pixels") * _ratio(row, now, "width") ** row.width_power
    for name, share in row.batches.items():
        made *= _linear(share, _ratio(row, now, name))
    return made


def unknown(row: Row, now: Mapping[str, float]) -> list[str]:
    """Quantities that the row grows with and that a recipe leaves open (decided by IPC, say)."""
    return [name for name in (*row.counts, *row.batches) if name not in now]


def _like(recipe: Recipe, rows: Mapping[str, Row]) -> Row:
    """The row of middle cost among methods of the same family, for a method that was not measured."""
    alike = [
        row for name, row in rows.items() if name in METHODS and _family(name) == recipe.family
    ]
    ordered = sorted(alike or rows.values() or [Row(seconds=1.0)], key=lambda row: row.seconds)
    return ordered[len(ordered) // 2]


def _family(name: str) -> str:
    return METHODS.get(name).family


def _paths(recipe: Recipe) -> Iterable[str]:
    """Options that say how much is done: those that a 2-core profile makes smaller, and those of the parts in it."""
    return dict.fromkeys(
        path for path in recipe.small if not path.endswith(("width", "arch", ".lr"))
    )


def _width(recipe: Recipe, shape: tuple[int, int, int]) -> int:
    """The width of the networks that a recipe works with, of several teachers the first; 1 without networks."""
    for part in (
        recipe.networks,
        recipe.loop,
        getattr(recipe.loop, "teacher", None),
        recipe.labels,
    ):
        name = getattr(part, "arch", None)
        if isinstance(name, str | Arch):
            first = name if isinstance(name, Arch) else Arch.parse(name.split(",")[0].strip())
            arch = fit(first, shape)
            return int(getattr(part, "width", None) or arch.width)
    return 1


def _ratio(row: Row, now: Mapping[str, float], name: str) -> float:
    """How many times a quantity's value when measured; 1 where either is not known."""
    then, value = row.at.get(name, 0.0), now.get(name)
    return value / then if then and value is not None else 1.0


def _linear(share: float, ratio: float) -> float:
    """1 plus what a share adds at ``ratio`` times its quantity. A share above 1, measured at twice the quantity, says
    that time grows faster than in proportion: a power that meets both measurements, and is never negative."""
    if share > 1:
        return float(ratio ** math.log2(1 + share))
    return 1 - share + share * ratio


@dataclass(frozen=True)
class _Size:
    """Of a network: leaf modules, arithmetic and numbers in maps of one image, weights."""

    layers: float
    flops: float
    floats: float
    parameters: float


@lru_cache(maxsize=64)
def _size(arch: Arch, shape: tuple[int, int, int], classes: int) -> _Size:
    nothing, one = (0.0,) * shape[0], (1.0,) * shape[0]
    network = build(arch, shape=shape, num_classes=classes, seed=0, mean=nothing, std=one)
    cost = measure(network)
    return _Size(
        float(sum(1 for m in network.modules() if not list(m.children()))),
        cost.flops,
        cost.floats,
        float(sum(p.numel() for p in network.parameters())),
    )
