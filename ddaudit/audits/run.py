"""Run an audit: prepare sets and victims, run every missing cell, keep what is finished."""

from __future__ import annotations

import shlex
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from ddaudit.audits.config import AuditConfig
from ddaudit.audits.executors import default_jobs, run_tasks
from ddaudit.audits.plan import Cell, Plan, make_plan
from ddaudit.audits.store import RunStore
from ddaudit.distillation.run import versions
from ddaudit.errors import DDAuditError, Unsupported
from ddaudit.findings import Finding

Report = Callable[[str, Cell | None, int, int], None]
"""Called with (what happened, the cell, cells done, cells in all)."""


@dataclass(frozen=True)
class Outcome:
    """What an audit did."""

    url: str
    computed: int
    reused: int
    failed: tuple[tuple[str, str], ...]
    """(cell, reason) of every failed cell."""
    seconds: float


@dataclass(frozen=True)
class _Task:
    config: str
    cell: Cell
    run: str


def run_audit(config: AuditConfig, *, on_event: Report | None = None) -> Outcome:
    """Run every cell of ``config`` that its run folder lacks.

    Returns:
        What was computed, reused and failed. Failed cells are stored with their reason and tried again next time.

    Raises:
        BadInput: see :func:`make_plan`; nothing has been computed then.
    """
    started = time.perf_counter()
    store = RunStore(config.out)
    plan = make_plan(config, store)
    device = plan.context.device
    jobs = config.jobs or default_jobs(device)
    config = config.model_copy(update={"device": str(device), "jobs": jobs})
    cells = {c.key: c for c in plan.cells}
    missing = [c for c in cells.values() if _unfinished(store, c.key)]
    notify = on_event or (lambda *_: None)
    store.write_info(_info(plan, config))
    wanted = {(c.subject, c.seed) for c in missing}
    preparations = [p for p in plan.preparations if (p.subject, p.seed) in wanted]
    failed: list[tuple[str, str]] = []
    total, done = len(preparations) + len(missing), 0
    run = uuid.uuid4().hex
    notify("start", None, 0, total)
    for tasks in (preparations, missing):
        payload = [_Task(config.model_dump_json(), c, run) for c in tasks]
        for task, result in run_tasks(_execute, payload, jobs=jobs, ray=config.ray):
            done += 1
            reason = _reason(result) if isinstance(result, BaseException) else result
            if reason and task.cell.auditor is not None:
                failed.append((task.cell.label, reason))
                store.save_cell(
                    task.cell.key,
                    Finding(
                        subject=task.cell.subject or "",
                        auditor=task.cell.auditor,
                        status="failed",
                        reason=reason,
                        seed=task.cell.seed,
                    ),
                )
            notify(f"failed: {reason}" if reason else "done", task.cell, done, total)
    info = store.read_info() or {}
    info["finished"] = _now()
    info["seconds"] = round(time.perf_counter() - started, 1)
    info["failed"] = len(failed)
    store.write_info(info)
    return Outcome(
        config.out,
        len(missing) - len(failed),
        len(cells) - len(missing),
        tuple(failed),
        time.perf_counter() - started,
    )


@lru_cache(maxsize=1)
def _plan(config: str, run: str) -> Plan:
    """A worker's plan, built once per process and ``run``: files may have changed since the last one."""
    parsed = AuditConfig.model_validate_json(config)
    return make_plan(parsed, RunStore(parsed.out))


def _execute(task: _Task) -> str | None:
    """Run one cell in a worker. Returns None, or the reason a preparation failed (its cells will say it again)."""
    plan, cell = _plan(task.config, task.run), task.cell
    context = plan.context
    if cell.auditor is None:
        assert cell.subject is not None
        context.victims(plan.subjects[cell.subject], cell.seed)
        return None
    auditor, settings = plan.auditors[cell.auditor]
    started = time.perf_counter()
    if cell.subject is None:
        finding = Finding(
            subject="", auditor=cell.auditor, checks=auditor.checks(context, settings)
        )
    else:
        try:
            finding = auditor.run(plan.subjects[cell.subject], context, settings, cell.seed)
        except Unsupported as error:
            finding = Finding(
                subject=cell.subject, auditor=cell.auditor, status="skipped", reason=str(error)
            )
    finding = auditor.described(finding).model_copy(
        update={"seconds": round(time.perf_counter() - started, 2), "seed": cell.seed}
    )
    RunStore(plan.config.out).save_cell(cell.key, finding)
    return None


def _unfinished(store: RunStore, key: str) -> bool:
    finding = store.cell(key)
    return finding is None or finding.status == "failed"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, DDAuditError) else f"{type(error).__name__}: {text}"


def _info(plan: Plan, config: AuditConfig) -> dict[str, Any]:
    """What a report needs to know about the run besides its cells."""
    data, preset = plan.context.data, plan.context.preset
    return {
        "format": 1,
        "config": config.model_dump(mode="json"),
        "command": command_line(sys.argv),
        "data": {
            "name": data.name,
            "notes": list(data.notes),
            "shape": list(data.shape),
            "classes": list(data.train.class_names),
            "groups": list(data.train.group_names),
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(plan.context.test()),
            "fingerprint": data.train.fingerprint,
            "test_fingerprint": data.test.fingerprint,
        },
        "preset": preset.model_dump(mode="json"),
        "arch": str(plan.context.arch),
        "protocol": asdict(plan.context.protocol),
        "device": str(plan.context.device),
        "seeds": list(range(preset.seeds)),
        "versions": versions(),
        "started": _now(),
        "subjects": [
            {
                "id": s.id,
                "kind": s.kind,
                "identity": f"{s.identity}-ipc{plan.context.ipc}" if s.recipe else s.identity,
                "baseline": s.baseline,
                "source": s.recipe.source if s.recipe else str(s.path),
                "set_keys": []
                if s.kind != "recipe"
                else [plan.context.set_key(s, seed) for seed in range(preset.seeds)],
                "path": str(s.path) if s.path else None,
            }
            for s in plan.subjects.values()
        ],
        "auditors": [
            {
                "name": a.name,
                "version": a.version,
                "title": a.title,
                "question": a.question,
                "threat_model": a.threat_model,
                "how_to_read": a.how_to_read,
                "sources": list(a.sources),
                "settings": settings.model_dump(mode="json"),
            }
            for a, settings in plan.auditors.values()
        ],
        "cells": [
            {"subject": c.subject, "auditor": c.auditor, "seed": c.seed, "key": c.key}
            for c in plan.cells
        ],
    }


def command_line(argv: Sequence[str]) -> str:
    """The command as a reader can type it, without this machine's path to the program."""
    return " ".join(["ddaudit", *map(shlex.quote, argv[1:])])


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
