"""What an audit would do, before it does it: its recipes, its cells, which of them are there, what the rest costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ddaudit.audits import costs
from ddaudit.audits.collection import check_joins
from ddaudit.audits.config import AuditConfig
from ddaudit.audits.costs import Cost
from ddaudit.audits.estimates import PREPARING, PlannedCells, planned, prepared
from ddaudit.audits.executors import default_jobs
from ddaudit.audits.plan import Plan, make_plan
from ddaudit.audits.run import run_info, unfinished
from ddaudit.audits.store import RunStore
from ddaudit.audits.subjects import is_file_name
from ddaudit.devices import spread_gpus
from ddaudit.distillation import Recipe, make_recipe


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
        _add(rows, planned(plan, cell, missing))
    for cell in plan.preparations:
        _add(rows, prepared(plan, cell, (cell.subject, cell.seed) in wanted, store))
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
