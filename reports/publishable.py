"""A report that itself keeps the privacy claims of the sets it is about.

What is computed from a private release and from test records is as private as the release. What was computed from the
training records in any other way (baselines, membership scores, known-answer tests on records, a fingerprint) is not,
whatever the claim of the set says, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ddaudit.data.files import STATISTICS_NOTE
from ddaudit.errors import BadInput
from ddaudit.findings import Check, Finding, Metric
from ddaudit.reports.build import RawRun
from ddaudit.reports.labels import without_folders
from ddaudit.reports.schema import Report

LEFT_OUT = "left out of this report: it is computed from the training records"
_WHOLE = "'ddaudit report' without --publishable writes the whole report."
PART = "what it computes from training or validation records is left out of this report"
_SUBJECT = ("id", "kind", "baseline", "drawn", "card", "per_class", "gallery")
_CARD = {"source_fingerprint", "member_indices", "seconds"}
"""Fields of a card that come from the records, or from how long they took."""
_RUN = ("preset", "arch", "protocol", "versions", "seeds")
_DATA = ("shape", "classes", "groups", "test", "untested")
_AUDITOR = (
    "name",
    "version",
    "title",
    "question",
    "threat_model",
    "how_to_read",
    "sources",
    "from_records",
)


@dataclass(frozen=True)
class _Kept:
    """A :class:`RawRun` of what may be published."""

    info: Mapping[str, Any]
    subjects: Sequence[Mapping[str, Any]]
    auditors: Sequence[Mapping[str, Any]]
    cells: Sequence[Finding]
    checks: Mapping[str, Sequence[Check]] = field(default_factory=dict)


def publishable(run: RawRun, report: Report) -> RawRun:
    """The part of a run that is a function of private releases and test records alone.

    Args:
        report: the whole report of the run.

    Raises:
        BadInput: no subject claims privacy, or a claim is broken: there is nothing that a report could keep; or data
            whose normalisation comes from the training images.
    """
    _check(report)
    data = run.info.get("data")
    facts = data if isinstance(data, Mapping) else {"name": data}
    if STATISTICS_NOTE in (facts.get("notes") or ()):
        raise BadInput(
            "--publishable",
            f"networks see images normalised by statistics of the training images of '{facts.get('name')}', which no "
            "claim counts",
            _WHOLE,
        )
    ids = _names([c.subject for c in report.claims])
    by_auditor = {a.name: a.from_records for a in report.auditors}
    shown = {k: facts[k] for k in _DATA if k in facts}
    hidden = [a for a, prefixes in by_auditor.items() if prefixes is None]
    others = [s.id for s in report.subjects if s.id not in ids]
    info = {
        **{k: run.info[k] for k in _RUN if k in run.info},
        "data": {"name": without_folders(str(facts.get("name") or "")), **shown},
        "cells": [],
        "publishable": True,
        "left_out": [
            *(
                [f"subjects without a claim ({', '.join(map(without_folders, others))})"]
                if others
                else []
            ),
            *([f"what is measured on training records ({', '.join(hidden)})"] if hidden else []),
            "results of tests of the claims, record counts, fingerprints, member positions, pictures of auditors",
            "commands, paths and times",
        ],
    }
    return _Kept(
        info=info,
        subjects=[_subject(s, ids[s["id"]]) for s in run.subjects if s["id"] in ids],
        auditors=[{k: a[k] for k in _AUDITOR if k in a} for a in run.auditors],
        cells=[
            _finding(c, ids[c.subject], by_auditor.get(c.auditor))
            for c in run.cells
            if c.subject in ids
        ],
        checks={n: c for n, c in run.checks.items() if by_auditor.get(n) is not None},
    )


def _names(subjects: Sequence[str]) -> dict[str, str]:
    """Subject -> its name without folders; two files of one name stay two subjects."""
    out: dict[str, str] = {}
    for subject in subjects:
        base = without_folders(subject)
        tries = (base if k == 1 else f"{base}-{k}" for k in count(1))
        out[subject] = next(name for name in tries if name not in out.values())
    return out


def _check(report: Report) -> None:
    if not report.claims:
        raise BadInput(
            "--publishable", "no subject claims privacy, so there is nothing to keep", _WHOLE
        )
    for claim in report.claims:
        problem = report.subject(claim.subject).problem
        if claim.broken or problem:
            why = f"its claim is {claim.state}: {claim.reason}" if claim.broken else problem
            raise BadInput(f"--publishable: {claim.subject}", f"{why}", _WHOLE)


def _subject(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    card = {k: v for k, v in (entry.get("card") or {}).items() if k not in _CARD}
    if card.get("data"):
        card["data"] = without_folders(card["data"])
    kept = {k: entry[k] for k in _SUBJECT if k in entry}
    shows = card.get("contains_real_pixels") or (entry.get("card") or {}).get("member_indices")
    return {**kept, "id": name, "card": card, "gallery": [] if shows else kept.get("gallery", [])}


def _finding(cell: Finding, name: str, from_records: Sequence[str] | None) -> Finding:
    if from_records is None:
        return Finding(
            subject=name, auditor=cell.auditor, status="skipped", reason=LEFT_OUT, seed=cell.seed
        )
    reason = (
        "failed" if cell.status == "failed" else cell.reason
    )  # an error may quote a record or a path
    metrics = [m for m in cell.metrics if not _reads(m, from_records)]
    # Curves and caveats do not say which metric they belong to.
    mixed = bool(from_records)
    status = cell.status
    if mixed and status != "failed":
        # Whether all of it could be answered may hang on the records, too (a temperature that does not fit).
        status, reason = "skipped" if status == "skipped" else "partial", PART
    checks = [
        c.model_copy(update={"subject": name if c.subject else None})
        for c in cell.checks
        if not c.from_records
    ]
    update = {
        "subject": name, "status": status, "reason": reason, "metrics": metrics, "checks": checks,
        "images": [], "seconds": 0.0, "warning": "", "sentence": "",
        "curves": [] if mixed else cell.curves,
        "caveats": [c for c in cell.caveats if not mixed and not c.startswith("Not measured alike")],
    }  # fmt: skip
    return cell.model_copy(update=update)


def _reads(metric: Metric, from_records: Sequence[str]) -> bool:
    """Whether a metric is among those of ``Auditor.from_records``."""
    params = {f"{k}={v}" for k, v in metric.params.items()}
    return any(metric.name.startswith(p) or p in params for p in from_records)
