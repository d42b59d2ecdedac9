"""Run an audit: prepare sets and victims, run every missing cell, keep what is finished."""

from __future__ import annotations

import hashlib
import importlib
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache, partial
from typing import Any

import torch

from ddaudit.auditing import AUDITORS, Subject
from ddaudit.audits.collection import check_joins
from ddaudit.audits.config import AuditConfig
from ddaudit.audits.estimates import slowest_first
from ddaudit.audits.executors import Executor, default_jobs, run_here
from ddaudit.audits.info import FORMAT
from ddaudit.audits.plan import Cell, Given, Plan, make_plan
from ddaudit.audits.store import RunStore
from ddaudit.data import ImageData
from ddaudit.data.splits import copies
from ddaudit.devices import spread_gpus
from ddaudit.distillation.run import versions
from ddaudit.errors import BadInput, DDAuditError, NotFinite, Unsupported
from ddaudit.files import sweep
from ddaudit.findings import Finding
from ddaudit.sets import content_warnings, digest
from ddaudit.training import reuse_memory

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
    left_out: tuple[str, ...] = ()
    """Auditors of other packages that would have been asked and cannot be used, with the reason."""
    notes: tuple[str, ...] = ()
    """What was assumed to read the subjects."""


@dataclass(frozen=True)
class _Task:
    config: str
    cell: Cell
    run: str
    modules: tuple[str, ...] = ()
    """What has to be imported first: the user's own modules that register something."""


def run_audit(
    config: AuditConfig,
    *,
    on_event: Report | None = None,
    on_plan: Callable[[Plan, RunStore], None] | None = None,
    given: Given | None = None,
    modules: Sequence[str] = (),
    here: bool = False,
    shard: tuple[int, int] = (1, 1),
) -> Outcome:
    """Run every cell of ``config`` that its run folder lacks.

    Args:
        on_event: told of every cell.
        on_plan: told what is going to be done, before anything is.
        given: data and modules that only this process has: what needs them runs here.
        modules: names of modules that worker processes import first.
        here: run everything in this process.
        shard: (k, n): only the k-th of n parts, k from 1. What shares a distilled set is in one part, so that no
            private set is made twice. All parts write into one folder, which machines may share.

    Returns:
        What was computed, reused and failed. Failed cells are stored with their reason and tried again next time.

    Raises:
        BadInput: see :func:`make_plan`; nothing has been computed then.
    """
    started = time.perf_counter()
    broken = {} if config.auditors else AUDITORS.problems()
    left_out = tuple(f"auditor {name}: {reason}" for name, reason in broken.items())
    store = RunStore(config.out)
    given = given or Given()
    plan = make_plan(config, store, given)
    device = plan.context.device
    gpus = spread_gpus(config.device)
    jobs = config.jobs or default_jobs(device, gpus)
    config = plan.config.model_copy(update={"device": str(device), "jobs": jobs})
    plan = replace(plan, config=config)
    private = [s.id for s in plan.subjects.values() if s.private and s.id in plan.read]
    if shard[1] > 1 and private:
        what = f"several parts would make the private set of {private[0]}, which a setting lets others read"
        raise BadInput(
            "--shard", what, "Run it as one part, or leave the subject out of the setting."
        )
    cells = {c.key: c for c in _part(plan.cells, *shard)}
    missing = [c for c in cells.values() if unfinished(store, c.key)]
    info = run_info(plan, config)
    check_joins(store, info)
    if store.folder is not None:
        sweep(store.folder)
    _keep_files(plan, store)
    notify = on_event or (lambda *_: None)
    if on_plan is not None:
        on_plan(plan, store)
    store.write_info(info)
    wanted = {(c.subject, c.seed) for c in missing}
    preparations = [p for p in plan.preparations if (p.subject, p.seed) in wanted]
    # What others wait for; instrument checks need none of it and fill the gaps at its end.
    checks = [c for c in missing if c.subject is None]
    first = slowest_first(plan, [*preparations, *checks], store)
    rest = slowest_first(plan, [c for c in missing if c.subject is not None], store)
    failed: list[tuple[str, str]] = []
    total, done = len(preparations) + len(missing), 0
    run = uuid.uuid4().hex
    notify("start", None, 0, total)
    # Workers know nothing of modules; whatever reads one runs beside it.
    here = here or given.data is not None or bool(plan.read & set(given.modules))

    def results() -> Generator[tuple[_Task, str | BaseException | None]]:
        text, at_home = config.model_dump_json(), partial(_run_cell, plan)
        away = at_home if jobs == 1 and config.ray is None else _execute
        with Executor(jobs=jobs, ray=config.ray, gpus=gpus) as executor:
            for wanted in (first, rest):
                tasks = [_Task(text, c, run, tuple(modules)) for c in wanted]
                mine = [t for t in tasks if here or t.cell.subject in given.modules]
                others = [t for t in tasks if t not in mine]
                # Cells of one auditor have controls in common.
                yield from executor.run(away, others, kind=lambda t: t.cell.auditor)
                yield from run_here(at_home, mine)

    with closing(results()) as finished:
        for task, result in finished:
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
    info["subjects"] = [_with_card(store, entry) for entry in info["subjects"]]
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
        left_out,
        tuple(f"{s.id}: {note}" for s in plan.subjects.values() for note in s.notes),
    )


def _part(cells: Sequence[Cell], k: int, n: int) -> list[Cell]:
    """The cells of the k-th of n parts; a distilled set's cells, or an auditor's checks, stay together."""
    owners = [(c.subject, c.seed) if c.subject else (c.auditor, None) for c in cells]
    place = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
    return [c for c, owner in zip(cells, owners, strict=True) if place[owner] % n == k - 1]


@lru_cache(maxsize=1)
def _plan(config: str, run: str) -> Plan:
    """A worker's plan, built once per process and ``run``: files may have changed since the last one."""
    parsed = AuditConfig.model_validate_json(config)
    return make_plan(parsed, RunStore(parsed.out), Given(elsewhere=True))


def _execute(task: _Task) -> str | None:
    """Run one cell in a worker, which makes the plan for itself."""
    for module in task.modules:
        importlib.import_module(module)
    try:
        return _run_cell(_plan(task.config, task.run), task)
    finally:
        if torch.cuda.is_initialized():  # workers stay, and may wait while others need the memory
            torch.cuda.empty_cache()


@reuse_memory()
def _run_cell(plan: Plan, task: _Task) -> str | None:
    """Run one cell. Returns None, or the reason a preparation failed (its cells will say it again)."""
    cell, context = task.cell, plan.context
    if cell.auditor is None:
        assert cell.subject is not None
        context.victims(plan.subjects[cell.subject], cell.seed)
        return None
    auditor, settings = plan.auditors[cell.auditor]
    started = time.perf_counter()
    try:
        if cell.left_out:
            raise Unsupported(cell.left_out)
        if cell.subject is None:
            made = auditor.checks(context, settings)
            finding = Finding(subject="", auditor=cell.auditor, checks=made)
        else:
            finding = auditor.run(plan.subjects[cell.subject], context, settings, cell.seed)
    except NotFinite:
        raise
    except Unsupported as error:
        finding = Finding(
            subject=cell.subject or "", auditor=cell.auditor, status="skipped", reason=str(error)
        )
    finding = auditor.described(finding).model_copy(
        update={"seconds": round(time.perf_counter() - started, 2), "seed": cell.seed}
    )
    RunStore(plan.config.out).save_cell(cell.key, finding)
    return None


def unfinished(store: RunStore, key: str) -> bool:
    """True when a cell has to be computed: it is not there, or has failed."""
    finding = store.cell(key)
    return finding is None or finding.status == "failed"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, DDAuditError) else f"{type(error).__name__}: {text}"


def run_info(plan: Plan, config: AuditConfig) -> dict[str, Any]:
    """What a report needs to know about the run besides its cells."""
    data, preset, test = plan.context.data, plan.context.preset, plan.context.test()
    pixels = data.space == "pixels"
    return {
        "format": FORMAT,
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
            "test": len(test),
            # Rows of a table repeat without being the same record.
            "in_train": copies(data.train, {"test": test}).get("test", 0) if pixels else 0,
            "untested": _untested(test),
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
                "drawn": not getattr(getattr(s.recipe, "loop", None), "takes_all", False),
                "source": s.recipe.source
                if s.recipe
                else s.place or str(s.path or "a module of the user's own"),
                "set_keys": _set_keys(plan, s),
                "private": s.private,
                "card": s.set.card.model_dump(mode="json") if s.set else None,
                "notes": list(s.notes),
                "warnings": content_warnings(s.set) if s.set is not None else [],
                "path": str(s.path) if s.path else None,
                "found": str(s.path.resolve()) if s.path else None,
                "digest": digest(s.path) if s.path else None,
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
                "from_records": None if a.from_records is None else list(a.from_records),
            }
            for a, settings in plan.auditors.values()
        ],
        "cells": [
            {"subject": c.subject, "auditor": c.auditor, "seed": c.seed, "key": c.key}
            for c in plan.cells
        ],
    }


def _untested(test: ImageData) -> list[str]:
    """Classes without a test record, of which no accuracy says anything."""
    counts = test.class_counts().tolist()
    return [name for name, n in zip(test.class_names, counts, strict=True) if not n]


def _set_keys(plan: Plan, subject: Subject) -> list[str]:
    """Where the run keeps a subject's sets: of a recipe one per seed, of a file its copy."""
    if subject.recipe is not None:
        return [plan.context.set_key(subject, s) for s in range(plan.context.preset.seeds)]
    if subject.set is None:
        return []
    card = hashlib.sha256(subject.set.card.model_dump_json().encode()).hexdigest()[:16]
    return [f"file-{subject.identity}-{card}"]


def _keep_files(plan: Plan, store: RunStore) -> None:
    """Copies of the audited set files, and no private set made twice: what was audited stays in the run.

    Raises:
        BadInput: a private set was made before, and is damaged or gone.
    """
    for subject in plan.subjects.values():
        for key in _set_keys(plan, subject):
            if subject.set is not None and not store.exists(f"sets/{key}.safetensors"):
                store.save_set(key, subject.set)
            if subject.private:
                store.refuse_second_release(key)


def _with_card(store: RunStore, entry: dict[str, Any]) -> dict[str, Any]:
    """A subject's entry with the card of its set, which the run keeps beside the set itself."""
    if entry["card"] is None:
        value = store.first_set(entry["set_keys"])
        entry = {**entry, "card": value.card.model_dump(mode="json") if value is not None else None}
    return entry


def command_line(argv: Sequence[str]) -> str:
    """The command as a reader can type it, without this machine's path to the program."""
    return " ".join(["ddaudit", *map(shlex.quote, argv[1:])])


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
