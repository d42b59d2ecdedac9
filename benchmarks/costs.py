"""Measure what work costs, for the estimates of ``--dry-run``: writes ddaudit/audits/costs.json.

    OMP_NUM_THREADS=1 python -m benchmarks.costs [--methods NAME,..|missing|none] [--auditors NAME,..|none] [--training]

Measured are CPU seconds of one process on the embedded digits, ``small`` profile. Every number that a small profile
changes, the size of the set, the records and the images is then changed alone, and the share of the time that follows
it is kept. Long distillations are stopped after a while of steps and their end is extrapolated. Rows that are not
asked for stay as they are. ``benchmarks.estimates`` holds estimates against reality.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch.nn import functional as F

from ddaudit.auditing import AUDITORS, Context
from ddaudit.audits import AuditConfig, Given, RunStore, make_plan
from ddaudit.audits.costs import (
    BATCHES,
    Row,
    Table,
    audit_quantities,
    quantities,
    step_features,
)
from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.distillation import (
    DEFENSES,
    METHODS,
    Recipe,
    check_recipe,
    distill,
    distill_many,
    make_recipe,
)
from ddaudit.distillation.options import option
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Arch, Network
from ddaudit.sets import to_bytes
from ddaudit.training import PROTOCOLS, train_many

FILE = Path(__file__).parent.parent / "ddaudit" / "audits" / "costs.json"
ENOUGH = 0.6  # CPU seconds of steps, after which the rest is extrapolated
NOISE = 0.08  # a share below this is not told from none
IPC = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="missing", help="NAME,.. | missing | all | none")
    parser.add_argument("--auditors", default="missing", help="NAME,.. | missing | all | none")
    parser.add_argument("--training", action="store_true", help="also network training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not FILE.exists():
        FILE.write_text(
            Table(
                machine={}, start=0, training={}, methods={}, defenses={}, auditors={}, checks={}
            ).model_dump_json()
        )
    table = Table.model_validate_json(FILE.read_text())
    data = load_data("digits")
    if args.training or not table.training:
        table.training = training_costs(data)
        table.start = worker_start()
        save(table)
    for name in chosen(args.methods, [n for n in METHODS.names() if "/" not in n], table.methods):
        try:
            table.methods[name] = method_row(make_recipe(name, profile="small"))
        except DDAuditError as error:
            print(f"{name}: {error}", flush=True)
            continue
        save(table, name)
    for name in chosen(args.methods, DEFENSES.names(), table.defenses):
        table.defenses[name] = defense_row(name)
        save(table, f"+{name}")
    for name in chosen(args.auditors, AUDITORS.names(), table.auditors):
        table.auditors[name], table.checks[name] = auditor_rows(name)
        save(table, name)


def chosen(text: str, known: list[str], there: Mapping[str, Row]) -> list[str]:
    if text == "missing":
        return [n for n in known if n not in there]
    return known if text == "all" else [n for n in text.split(",") if n in known]


def save(table: Table, name: str = "training") -> None:
    table.machine = {
        "processor": processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": "1",
        "measured": date.today().isoformat(),
    }
    rows = {**table.methods, **table.defenses, **table.auditors}
    FILE.write_text(json.dumps(rounded(table.model_dump(exclude_defaults=False)), indent=1) + "\n")
    print(
        name,
        rows[name.lstrip("+")].model_dump_json(exclude_defaults=True)
        if name.lstrip("+") in rows
        else "",
        flush=True,
    )


def rounded(value: Any) -> Any:
    """Three digits are more than a measurement of this kind holds."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {k: rounded(value[k]) for k in value}
    return value


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


# ---- distillation --------------------------------------------------------------------------------


class Enough(Exception):
    """Raised inside a distillation whose speed is known."""


@dataclass(frozen=True)
class Timed:
    """CPU seconds of a distillation, the share of them that went into steps, and bytes of the set where it was made."""

    seconds: float
    steps: float
    bytes: int = 0


def timed(recipe: Recipe, data: Dataset, *, ipc: int = IPC) -> Timed:
    """A whole distillation; one that takes long is stopped when its speed is known."""
    marks: list[tuple[float, int, int]] = []

    def progress(done: int, total: int) -> None:
        marks.append((time.process_time(), done, total))
        if len(marks) > 4 and marks[-1][0] - marks[0][0] > ENOUGH and done < total:
            raise Enough

    started = time.process_time()
    try:
        made = distill(recipe, data.train, data=data, ipc=ipc, seed=0, progress=progress)
    except Enough:
        (first, one, _), (last, done, total) = marks[0], marks[-1]
        steps = (last - first) / (done - one) * total
        before = first - started - steps / total * one
        return Timed(before + steps, steps / (before + steps))
    whole = time.process_time() - started
    steps = marks[-1][0] - marks[0][0] if len(marks) > 1 else 0.0
    return Timed(whole, min(steps / max(whole, 1e-9), 1.0), len(to_bytes(made)))


STEPS = ("iterations", "steps")
"""Options that count the steps a loop reports: their share is what a single run spends between its reports."""


def method_row(recipe: Recipe) -> Row:
    """A method at its small profile on digits, and what its time grows with."""
    data = fitting(recipe)
    now = quantities(recipe, data, ipc=IPC)
    base = timed(recipe, data)
    row = Row(
        seconds=base.seconds, bytes=base.bytes or 4 * IPC * 10 * math.prod(data.shape), at=now
    )

    def change(other: Recipe, where: Dataset, ipc: int = IPC) -> float:
        try:
            return timed(other, where, ipc=ipc).seconds / base.seconds
        except BadInput:
            return 1.0

    for path in recipe.small:
        value = option(recipe, path)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            continue  # a share, or decided elsewhere
        name = path.rpartition(".")[2]
        if name in STEPS and base.steps > 0.5:
            row.counts[path] = base.steps
            continue
        factor = 2.0 if value < 4 else 0.5
        ratio = change(recipe.options({path: int(value * factor)}), data)
        share = (ratio - 1) / (int(value * factor) / value - 1)
        if share > NOISE:
            (row.batches if name in BATCHES else row.counts)[path] = min(share, 1.0)
    if base.steps < 0.5 and base.seconds > 0.5:
        # Networks are trained on the records: all arithmetic, and minutes of it at 28x28.
        row.work = {"step": 1.0}
    elif data.modality == "image" and now["width"] > 1:
        growth = 784 / now["pixels"]
        ratio = change(recipe, larger(data, 28))
        row.work = {"step": min(max((ratio - 1) / (growth - 1), 0.0), 1.0)}
    share = change(recipe, data, ipc=2 * IPC) - 1
    if share > NOISE:
        # Of a step where most of it is arithmetic, of all the time where not.
        row.batches["images"] = min(share / max(row.work.get("step", 0), 0.3), 1.5)
    if base.steps < 0.5:  # what is done before the steps reads all records
        row.batches["records"] = 1.0
    if recipe.loop.shareable(recipe, IPC) and base.seconds < 10:
        members = torch.rand(4, len(data.train)) < 0.5
        started = time.process_time()
        distill_many(recipe, data.train, members, data=data, ipc=IPC, seed=0)
        row.another = max((time.process_time() - started) / base.seconds - 1, 0.0) / 3
    return row


def defense_row(name: str) -> Row:
    """What a defense adds to dm: seconds of its own where it writes labels, else a factor."""
    plain = make_recipe("dm", profile="small")
    recipe = make_recipe(f"dm+{name}", profile="small")
    data = fitting(recipe)
    if recipe.labels is not None:
        alone = make_recipe(f"random+{name}", profile="small")
        return method_row(alone)
    return Row(seconds=timed(recipe, data).seconds / timed(plain, data).seconds, factor=True)


def fitting(recipe: Recipe) -> Dataset:
    """Digits, or coloured digits for what needs groups."""
    for name in ("digits", "digits-colored"):
        data = load_data(name)
        try:
            check_recipe(recipe, data)
        except BadInput:
            continue
        return data
    raise BadInput(recipe.name, "runs neither on digits nor on coloured digits")


def larger(data: Dataset, size: int) -> Dataset:
    def grow(part: ImageData) -> ImageData:
        images = F.interpolate(part.images.float(), (size, size)).round().to(part.images.dtype)
        return replace(part, images=images)

    return replace(
        data, train=grow(data.train), validation=grow(data.validation), test=grow(data.test)
    )


# ---- training ------------------------------------------------------------------------------------


def training_costs(data: Dataset) -> dict[str, float]:
    """Seconds per unit of what a training step is made of: least squares of relative errors, nothing negative."""
    cases = [
        (arch, size, images, augmented)
        for arch, size in (
            ("ConvNetW32", 8), ("ConvNetW128", 8), ("ConvNetW32", 28), ("ConvNetW128", 28), ("MLP", 8), ("MLP", 28),
            ("ConvNetW64", 16), ("AlexNet", 28), ("VGG11", 28), ("ResNet18BN", 8), ("ResNet18", 28),
        )
        for images in (10, 100)
        for augmented in (True, False)
        if not (images == 100 and size == 28 and arch in ("ResNet18", "VGG11", "AlexNet"))
    ]  # fmt: skip
    rows, times = [], []
    for name, size, images, augmented in cases:
        where = larger(data, size)
        protocol = replace(PROTOCOLS["dc"], augment=where.augment if augmented else "")
        arch = Arch.parse(name)
        times.append(step_seconds(arch, where, protocol, images))
        rows.append(step_features(arch, where, protocol, images=images))
        print(name, size, images, augmented, f"{times[-1] * 1e3:.2f} ms", flush=True)
    names = list(rows[0])
    matrix = np.array([[r[n] for n in names] for r in rows])
    scale = matrix.max(0)
    weights, _ = nnls(matrix / scale / np.array(times)[:, None], np.ones(len(times)))
    found = weights / scale
    ratios = matrix @ found / np.array(times)
    print(f"training: estimate / measured {ratios.min():.2f} to {ratios.max():.2f}", flush=True)
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def step_seconds(arch: Arch, data: Dataset, protocol: Any, images: int) -> float:
    """CPU seconds of one training step of one network: the time of a longer run over a shorter one."""
    from ddaudit.distillation.networks import fit

    part = data.train.subset(torch.arange(images))

    def run(steps: int) -> float:
        started = time.process_time()
        train_many(
            [(part.images, part.labels)], arch=fit(arch, data.shape), num_classes=data.num_classes,
            mean=data.mean, std=data.std, protocol=replace(protocol, max_steps=steps), seeds=[0],
        )  # fmt: skip
        return time.process_time() - started

    run(1)
    once = run(3) / 3
    extra = max(3, min(200, int(1.0 / once)))
    short = min(run(2) for _ in range(2))
    return max((run(2 + extra) - short) / extra, once * 0.05)


def worker_start() -> float:
    """CPU seconds until a worker process has imported what it needs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import ddaudit.audits.run, ddaudit.api"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# ---- auditors ------------------------------------------------------------------------------------


MATTERS = {
    "adversarial": ("images", "pgd_steps", "autoattack_images"),
    "backdoor": ("poison_ratios",),
    "backdoor-scan": ("references",),
    "bias": ("bootstrap", "simulations"),
    "calibration": ("bootstrap", "simulations"),
    "leakage": ("images",),
    "membership": ("shadows", "pool"),
    "privacy": ("canaries", "networks"),
    "reconstruction": ("targets", "steps"),
    "soft-labels": ("students",),
    "utility": ("bootstrap",),
}
"""Settings that are halved to see how much of the time follows them; of other auditors, none."""

SETTINGS: dict[str, dict[str, Any]] = {
    "backdoor-scan": {"recipe": "random", "references": 12},
    "privacy": {"adversaries": ("final-set", "nearest-copy", "intermediate")},
}
"""Settings without which an auditor has nothing to do on a recipe, or does what ``Auditor.work`` counts apart."""

ONCE = ("noise",)
"""Auditors whose first cell does what all share; ``Auditor.work`` counts it with one subject."""

DATA = {"bias": "digits-colored", "tail": "digits-lt", "noise": "digits-noisy"}
"""Data on which an auditor's question can be asked, where that is not digits."""


def auditor_rows(name: str) -> tuple[Row, Row]:
    """An auditor's cell on ``random`` at the quick preset, and its instrument checks."""
    subject = "random+soft" if name == "soft-labels" else "random"
    data = DATA.get(name, "digits")

    def cell(
        settings: Mapping[str, Any] | None = None,
        *,
        victims: int | None = None,
        checks: bool = False,
        given: Given | None = None,
    ) -> tuple[Row, dict[str, float]]:
        with tempfile.TemporaryDirectory() as folder:
            config = AuditConfig(
                subjects=[subject], auditors=[name], data=data, baselines=[], out=folder, victims=victims,
                settings={name: {**SETTINGS.get(name, {}), **(settings or {})}},
            )  # fmt: skip
            plan = make_plan(config, RunStore(folder), given)
            context = plan.context
            auditor, knobs = plan.auditors[name]
            made = plan.subjects[subject]
            if not checks:
                context.victims(made, 0)
            if not checks and name in ONCE:
                auditor.run(made, context, knobs, 0)
            watch = Watch()
            with watch:
                finding: Any = (
                    auditor.checks(context, knobs)
                    if checks
                    else auditor.run(made, context, knobs, 0)
                )
            texts = [f.model_dump_json() for f in (finding if checks else [finding])]
            now = audit_quantities(knobs, context)
            row = Row(seconds=watch.total, bytes=len("".join(texts)), at=now, work=watch.shares())
            return row, now

    row, now = cell()
    if row.work["network"] > NOISE:
        # Much of that time is not arithmetic: how much is, larger images say.
        same = AUDITORS.get(name).configure("quick").model_dump()
        more, then = cell(same, given=Given(larger(load_data(data), 28)))
        trained = row.work["training"] * (then["training"] / now["training"] - 1)
        share = (more.seconds / row.seconds - 1 - trained) / (then["network"] / now["network"] - 1)
        row.work["network"] = min(max(share, 0.0), 1 - row.work["training"])
    floor = max(NOISE, 0.05 / max(row.seconds, 0.05))
    for key in MATTERS.get(name, ()):
        other = halved(dict(AUDITORS.get(name).configure("quick"))[key])
        less, then = cell({key: other})
        share = (less.seconds / row.seconds - 1) / (then[key] / now[key] - 1)
        if share > floor:
            row.counts[key] = min(share, 1.0)
    if now["victims"] > 1:
        less, then = cell(victims=1)
        share = (less.seconds / row.seconds - 1) / (then["victims"] / now["victims"] - 1)
        if share > floor:
            row.counts["victims"] = min(share, 1.0)
    return row, cell(checks=True)[0]


class Watch:
    """CPU seconds inside a block, and how much of it went into training networks and into asking them."""

    def __enter__(self) -> Watch:
        self.training = self.asking = self.total = 0.0
        self._inside = False
        self._kept = (Context.train, Network.forward)
        watch = self

        def train(ctx: Context, *args: Any, **options: Any) -> Any:
            started, watch._inside = time.process_time(), True
            try:
                return watch._kept[0](ctx, *args, **options)
            finally:
                watch._inside = False
                watch.training += time.process_time() - started

        def forward(network: Network, x: torch.Tensor) -> torch.Tensor:
            started = time.process_time()
            made = watch._kept[1](network, x)
            if not watch._inside:
                # A backward pass takes about twice as long as the forward pass before it.
                watch.asking += (time.process_time() - started) * (3 if made.requires_grad else 1)
            return made

        Context.train, Network.forward = train, forward  # type: ignore[method-assign, assignment]
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.total = time.process_time() - self._started
        Context.train, Network.forward = self._kept  # type: ignore[method-assign]

    def shares(self) -> dict[str, float]:
        training = min(self.training / self.total, 1.0)
        return {"training": training, "network": min(self.asking / self.total, 1.0 - training)}


def halved(value: Any) -> Any:
    """A number or a list cut to half, where it can be."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value // 2 if value >= 2 else 2 if value == 1 else None
    if isinstance(value, tuple) and len(value) > 1:
        return value[: max(1, len(value) // 2)]
    return None


if __name__ == "__main__":
    main()
