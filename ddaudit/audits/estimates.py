"""What one cell of an audit costs: for previews, and to begin with what takes longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ddaudit.auditing import Subject
from ddaudit.audits import costs
from ddaudit.audits.costs import Cost
from ddaudit.audits.plan import Cell, Plan, work_of
from ddaudit.audits.store import LARGEST_SET_FLOATS, RunStore
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


def planned(plan: Plan, cell: Cell, missing: bool) -> PlannedCells:
    """One cell of an auditor, and what it costs if it is missing."""
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
    work = work_of(auditor, subject, ctx, settings)
    if work.ends:
        return row
    own = replace(own, seconds=own.seconds * work.times)
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
        # Sets are looked at and thrown away; what was trained for them stays.
        again = replace(again, bytes=costs.experts_kept(recipe, ctx.data) * work.distillations)
    others = sum((_networks(plan, subject, arch) for arch in work.archs), Cost())
    cost = own + again + replace(others, bytes=0)
    return replace(row, cost=cost, distilling=again, distillations=work.distillations)


def prepared(plan: Plan, cell: Cell, wanted: bool, store: RunStore) -> PlannedCells:
    """The set and the victims of one subject and seed, and what they cost if a cell wants them."""
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
        if cell.seed == 0:  # one training of experts serves all seeds
            made += Cost(bytes=costs.experts_kept(subject.recipe, ctx.data))
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


def slowest_first(plan: Plan, cells: Sequence[Cell], store: RunStore) -> list[Cell]:
    """Missing cells in the order in which workers are done soonest: none is left with the longest at the end."""

    def seconds(cell: Cell) -> float:
        row = (
            prepared(plan, cell, True, store) if cell.auditor is None else planned(plan, cell, True)
        )
        return row.cost.seconds

    return sorted(cells, key=seconds, reverse=True)
