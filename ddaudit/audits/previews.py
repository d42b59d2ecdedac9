"""What an audit would do, before it does it: its recipes, its cells, and which of them are there."""

from __future__ import annotations

from dataclasses import dataclass

from ddaudit.audits.collection import check_joins
from ddaudit.audits.config import AuditConfig
from ddaudit.audits.plan import make_plan
from ddaudit.audits.run import run_info, unfinished
from ddaudit.audits.store import RunStore
from ddaudit.audits.subjects import is_file_name
from ddaudit.distillation import Recipe, make_recipe


@dataclass(frozen=True)
class PlannedCells:
    """The cells of one subject and one auditor, over all seeds."""

    subject: str | None
    """None: the auditor's instrument checks."""
    auditor: str
    cells: int
    there: int
    """How many of them the run folder holds, finished."""


def preview(config: AuditConfig) -> list[PlannedCells]:
    """What :func:`run_audit` would compute, and what is there already. Writes nothing.

    Raises:
        BadInput: see :func:`make_plan` and :func:`check_joins`.
    """
    store = RunStore(config.out)
    counts: dict[tuple[str | None, str], list[int]] = {}
    plan = make_plan(config, store)
    check_joins(store, run_info(plan, config))
    for cell in plan.cells:
        entry = counts.setdefault((cell.subject, cell.auditor or ""), [0, 0])
        entry[0] += 1
        entry[1] += not unfinished(store, cell.key)
    return [PlannedCells(*key, *entry) for key, entry in counts.items()]


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
