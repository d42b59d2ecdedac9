"""Collect a run folder: what a report is built from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddaudit.audits.store import RunStore
from ddaudit.errors import BadInput
from ddaudit.findings import Check, Finding
from ddaudit.sets import Card, DistilledSet, load


@dataclass(frozen=True, eq=False)
class Collected:
    """One or several run folders, read back.

    Attributes:
        info: run.json of the first run, with ``missing`` = cells that were planned and never finished.
        subjects: per subject its entry in run.json, plus "set" (a DistilledSet or None) and "card".
        auditors: per auditor its entry in run.json.
        cells: one Finding per (subject, auditor, seed).
        checks: instrument checks by auditor.
    """

    info: dict[str, Any]
    subjects: list[dict[str, Any]]
    auditors: list[dict[str, Any]]
    cells: list[Finding]
    checks: dict[str, list[Check]] = field(default_factory=dict)


def collect(urls: list[str]) -> Collected:
    """Read runs back; several runs of one data set become one report.

    A subject that another run knows by the same name, and that is something else (another ipc or epsilon), takes
    its run's name along. An instrument check counts as failed if it failed in any of the runs.

    Raises:
        BadInput: no run there, or runs on different data or with different victims.
    """
    parts = [_one(url) for url in urls]
    first = parts[0]
    for url, part in zip(urls[1:], parts[1:], strict=True):
        if part.info["data"]["fingerprint"] != first.info["data"]["fingerprint"]:
            raise BadInput(
                url,
                f"audits '{part.info['data']['name']}', but {urls[0]} audits '{first.info['data']['name']}'",
                "One report compares subjects on one data set.",
            )
        for what in ("arch", "protocol"):
            if part.info.get(what) != first.info.get(what):
                raise BadInput(
                    url,
                    f"was audited with another {what} than {urls[0]}",
                    "One report compares subjects on the same kind of victims.",
                )
        known = {s["id"]: s.get("identity") for s in first.subjects}
        clashes = {
            s["id"]
            for s in part.subjects
            if known.get(s["id"], s.get("identity")) != s.get("identity")
        }
        names = {n: f"{n} ({url.rstrip('/').rsplit('/', 1)[-1]})" for n in clashes}
        part = _renamed(part, names)
        first.info["missing"] += part.info["missing"]
        first.subjects.extend(s for s in part.subjects if s["id"] not in known)
        first.auditors.extend(
            a for a in part.auditors if a["name"] not in {x["name"] for x in first.auditors}
        )
        seen = {(c.subject, c.auditor, c.seed) for c in first.cells}
        first.cells.extend(c for c in part.cells if (c.subject, c.auditor, c.seed) not in seen)
        for name, checks in part.checks.items():
            mine = first.checks.setdefault(name, [])
            failed = {c.name for c in mine if not c.passed}
            kept = {c.name for c in mine} - {c.name for c in checks if not c.passed} | failed
            mine[:] = [c for c in mine if c.name in kept] + [
                c for c in checks if c.name not in kept
            ]
    return first


def _renamed(part: Collected, names: dict[str, str]) -> Collected:
    return replace(
        part,
        subjects=[{**s, "id": names.get(s["id"], s["id"])} for s in part.subjects],
        cells=[
            c.model_copy(update={"subject": names.get(c.subject, c.subject)}) for c in part.cells
        ],
    )


def _one(url: str) -> Collected:
    store = RunStore(url)
    info = store.read_info()
    if info is None:
        raise BadInput(
            url, "is no run folder (it has no run.json)", "Give the --out of 'ddaudit audit'."
        )
    cells: list[Finding] = []
    checks: dict[str, list[Check]] = {}
    missing = []
    for planned in info["cells"]:
        finding = store.cell(planned["key"])
        if finding is None:
            missing.append(planned)
            finding = Finding(
                subject=planned["subject"] or "",
                auditor=planned["auditor"],
                status="failed",
                reason="not finished: run the audit again",
                seed=planned["seed"],
            )
        if planned["subject"] is None:
            failed = Check(
                name="instrument checks ran",
                passed=False,
                expected="no error",
                detail=finding.reason or "",
            )
            checks[planned["auditor"]] = [failed] if finding.status == "failed" else finding.checks
        else:
            # A cell is addressed by content: two subjects with one identity share it, so the plan's name counts.
            cells.append(finding.model_copy(update={"subject": planned["subject"]}))
    info["missing"] = missing
    subjects = []
    for entry in info["subjects"]:
        value = _set(store, entry)
        card = value.card if value is not None else Card(method=entry["id"])
        subjects.append({**entry, "set": value, "card": card.model_dump(mode="json")})
    return Collected(info, subjects, list(info["auditors"]), cells, checks)


def _set(store: RunStore, entry: dict[str, Any]) -> DistilledSet | None:
    for key in entry["set_keys"]:
        value = store.load_set(key)
        if value is not None:
            return value
    if entry["kind"] == "file" and entry["path"] and Path(entry["path"]).exists():
        return load(Path(entry["path"]))
    return None
