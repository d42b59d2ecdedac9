"""What an audit would do, before it does it: its recipes, its cells, which of them are there, what the rest costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ddaudit.auditing import Subject, Work
from ddaudit.audits import costs
from ddaudit.audits.collection import check_joins
from ddaudit.audits.config import AuditConfig
from ddaudit.audits.costs import Cost
from ddaudit.audits.executors import default_jobs
from ddaudit.audits.plan import Cell, Plan, make_plan
from ddaudit.audits.run import run_info, unfinished
from ddaudit.audits.store import LARGEST_SET_FLOATS, RunStore
from ddaudit.audits.subjects import is_file_name
from ddaudit.devices import spread_gpus
from ddaudit.distillation import Recipe, make_recipe
from ddaudit.errors import BadInput
from ddaudit.models import Arch

PREPARING = "set and victims"
"""Stands for an auditor where a row is the work that all auditors of a subject share."""


@dataclass(frozen=True)
class PlannedCells:
    """The cells of one subject and one auditor, over all seeds.

    Attributes:
        subject: None for the auditor's instrument checks.
        auditor: its name, or :data:`PREPARING`.
        cells: how many there are.
        there: how many of them the run folder holds, finished.
        cost: of those that are missing, distilling again included.
        distilling: the part of it that is distillation.
        distillations: how many the missing cells make anew.
    """

    subject: str | None
    auditor: str
    cells: int
    there: int
    cost: Cost = field(default_factory=Cost)
    distilling: Cost = field(default_factory=Cost)
    distillations: int = 0


@dataclass(frozen=True)
class Preview:
    """An audit that has not run.

    Attributes:
        rows: what it is made of; preparing is no cell.
        jobs: worker processes.
        start: CPU seconds until the workers are ready.
        measured: on what kind of machine the table of costs was measured.
        note: why the estimate says little for this device; empty on a CPU.
    """

    rows: tuple[PlannedCells, ...]
    jobs: int
    start: float
    measured: str
    note: str = ""

    @property
    def cost(self) -> Cost:
        """Everything that is missing."""
        return sum((row.cost for row in self.rows), Cost(self.start if self.missing else 0.0))

    @property
    def missing(self) -> int:
        """Cells to compute."""
        return sum(row.cells - row.there for row in self.rows if row.auditor != PREPARING)

    @property
    def again(self) -> tuple[PlannedCells, ...]:
        """Rows in which a recipe is distilled again."""
        return tuple(row for row in self.rows if row.distillations and row.auditor != PREPARING)

    @property
    def wall(self) -> float:
        """Seconds from start to end where every worker has a core of its own."""
        return self.cost.seconds / max(1, min(self.jobs, self.missing))

    def line(self) -> str:
        """The estimate in one line."""
        if not self.missing:
            return "nothing to compute"
        again = sum((row.distilling for row in self.again), Cost())
        count = sum(row.distillations for row in self.again)
        parts = [
            f"about {duration(self.wall)} on {self.jobs} worker{'s' * (self.jobs > 1)}",
            f"{duration(self.cost.seconds)} of CPU time",
        ]
        if count:
            names = ", ".join(dict.fromkeys(row.auditor for row in self.again))
            parts.append(f"{duration(again.seconds)} of it in {count} distillations for {names}")
        parts.append(f"{size(self.cost.bytes)} on disk")
        rough = "; partly guessed" if self.cost.rough else ""
        return f"estimate: {', '.join(parts)}{rough}{f' ({self.note})' if self.note else ''}"

    def to_json(self) -> dict[str, object]:
        """Plain data; seconds and bytes are estimates of what is missing."""
        return {
            "cells": [
                {
                    "subject": row.subject,
                    "auditor": None if row.auditor == PREPARING else row.auditor,
                    "cells": row.cells,
                    "there": row.there,
                    "cpu_seconds": round(row.cost.seconds, 2),
                    "distillations": row.distillations,
                    "distilling_cpu_seconds": round(row.distilling.seconds, 2),
                    "bytes": round(row.cost.bytes),
                    "rough": row.cost.rough,
                }
                for row in self.rows
            ],
            "missing": self.missing,
            "jobs": self.jobs,
            "cpu_seconds": round(self.cost.seconds, 1),
            "wall_seconds": round(self.wall, 1),
            "bytes": round(self.cost.bytes),
            "rough": self.cost.rough,
            "measured": self.measured,
            "note": self.note,
        }


def preview(config: AuditConfig) -> Preview:
    """What :func:`run_audit` would compute, what is there already, and what the rest costs. Writes nothing.

    Raises:
        BadInput: see :func:`make_plan` and :func:`check_joins`.
    """
    store = RunStore(config.out)
    plan = make_plan(config, store)
    check_joins(store, run_info(plan, plan.config))
    return preview_of(plan, store)


def preview_of(plan: Plan, store: RunStore) -> Preview:
    """The preview of a plan that is made."""
    rows: dict[tuple[str | None, str], PlannedCells] = {}
    wanted: set[tuple[str | None, int]] = set()
    for cell in plan.cells:
        missing = unfinished(store, cell.key)
        if missing:
            wanted.add((cell.subject, cell.seed))
        _add(rows, _planned(plan, cell, missing))
    for cell in plan.preparations:
        _add(rows, _prepared(plan, cell, (cell.subject, cell.seed) in wanted, store))
    device, machine = plan.context.device, costs.table().machine
    jobs = plan.config.jobs or default_jobs(device, spread_gpus(plan.config.device))
    note = "" if device.type == "cpu" else f"measured on a CPU, and this is {device}"
    return Preview(
        tuple(rows.values()),
        jobs,
        costs.table().start * jobs,
        f"{machine.get('processor', '')}, torch {machine.get('torch', '')}",
        note,
    )


def named_recipes(config: AuditConfig) -> list[Recipe]:
    """The recipes among the subjects, with options and privacy target; needs no data.

    Raises:
        BadInput: unknown name or bad value.
    """
    profile = config.resolved_preset().profile
    return [
        make_recipe(
            text,
            profile=profile,
            options=config.options,
            epsilon=config.epsilon,
            delta=config.delta,
        )
        for text in dict.fromkeys(config.subjects)
        if not is_file_name(text)
    ]


def duration(seconds: float) -> str:
    """Seconds in the unit that people would take: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes in the unit that people would take: "340 kB", "1.2 GB"."""
    power = min(3, max(1, int(math.log10(max(count, 1))) // 3))
    value = count / 1000**power
    return f"{value:.{1 if value < 10 else 0}f} {('kB', 'MB', 'GB')[power - 1]}"


def _planned(plan: Plan, cell: Cell, missing: bool) -> PlannedCells:
    """One cell of an auditor."""
    assert cell.auditor is not None
    row = PlannedCells(cell.subject, cell.auditor, 1, 0 if missing else 1)
    if not missing or cell.left_out:
        return row
    auditor, settings = plan.auditors[cell.auditor]
    ctx = plan.context
    now = costs.audit_quantities(settings, ctx)
    own = costs.auditor_cell(cell.auditor, now, checks=cell.subject is None)
    if cell.subject is None:
        return replace(row, cost=own)
    subject = plan.subjects[cell.subject]
    work: Work = auditor.work(subject, ctx, settings)
    if work.ends:
        return row
    again = Cost()
    recipe = work.recipe or subject.recipe
    if recipe is not None and work.distillations:
        again = costs.distillation(
            recipe,
            ctx.data,
            ipc=ctx.ipc,
            records=work.records,
            runs=work.distillations,
        )
        again = replace(again, bytes=0)  # looked at and thrown away
    others = sum((_networks(plan, subject, arch) for arch in work.archs), Cost())
    cost = own + again + replace(others, bytes=0)
    return replace(row, cost=cost, distilling=again, distillations=work.distillations)


def _prepared(plan: Plan, cell: Cell, wanted: bool, store: RunStore) -> PlannedCells:
    """The set and the victims of one subject and seed."""
    assert cell.subject is not None
    row = PlannedCells(cell.subject, PREPARING, 1, 0 if wanted else 1)
    if not wanted:
        return row
    subject, ctx = plan.subjects[cell.subject], plan.context
    made = Cost()
    if subject.recipe is not None and not store.exists(
        f"sets/{ctx.set_key(subject, cell.seed)}.safetensors"
    ):
        made = costs.distillation(subject.recipe, ctx.data, ipc=ctx.ipc)
        if made.bytes > 4 * LARGEST_SET_FLOATS:
            made = replace(made, bytes=0)
    cost = made + _networks(plan, subject, ctx.arch)
    return replace(row, cost=cost, distilling=made, distillations=int(made.seconds > 0))


def _networks(plan: Plan, subject: Subject, arch: Arch) -> Cost:
    """The preset's number of networks, trained on the subject's set."""
    ctx = plan.context
    if subject.kind == "checkpoint":
        return Cost()
    images = (
        len(subject.set)
        if subject.set is not None
        else costs.images_of(subject.recipe, ctx.data, ctx.ipc)
        if subject.recipe is not None
        else ctx.ipc * ctx.data.num_classes
    )
    try:
        return costs.trained(arch, ctx.data, ctx.protocol, images=images, count=ctx.preset.victims)
    except BadInput:  # an architecture that these images do not fit: the cell says so
        return Cost()


def _add(rows: dict[tuple[str | None, str], PlannedCells], new: PlannedCells) -> None:
    key = (new.subject, new.auditor)
    old = rows.get(key)
    rows[key] = (
        new
        if old is None
        else replace(
            old,
            cells=old.cells + new.cells,
            there=old.there + new.there,
            cost=old.cost + new.cost,
            distilling=old.distilling + new.distilling,
            distillations=old.distillations + new.distillations,
        )
    )


__all__ = [
    "PREPARING",
    "PlannedCells",
    "Preview",
    "duration",
    "named_recipes",
    "preview",
    "preview_of",
    "size",
]
