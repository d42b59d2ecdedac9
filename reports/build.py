"""From the cells of a run to a report: merge seeds, attach checks, compare with baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ddaudit.findings import Check, Finding, Metric
from ddaudit.reports.compare import difference, failing_checks, outcome
from ddaudit.reports.merge import finite, merge_checks, merge_findings, plain
from ddaudit.reports.schema import (
    AuditorInfo,
    Claim,
    Comparison,
    Greyed,
    Report,
    RunInfo,
    SubjectInfo,
)
from ddaudit.reports.summary import summarise

_BOOKKEEPING = {"format", "cells", "missing", "failed", "seconds", "subjects", "auditors"}
"""What a run store keeps in its info for itself, or says elsewhere."""


class RawRun(Protocol):
    """What a report is built from; ``ddaudit.audits`` collects it out of a run folder.

    Attributes:
        info: the fields of :class:`RunInfo`; ``data``, ``preset`` and ``protocol`` may be mappings
            with a ``name``.
        subjects: one dict per subject with the fields of :class:`SubjectInfo`, in the order to
            show them.
        auditors: one dict per auditor with the fields of :class:`AuditorInfo`, in the order to
            show them.
        cells: one finding per finished (subject, auditor, seed).
        checks: auditor name -> its instrument checks.
    """

    @property
    def info(self) -> Mapping[str, Any]: ...
    @property
    def subjects(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def auditors(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def cells(self) -> Sequence[Finding]: ...
    @property
    def checks(self) -> Mapping[str, Sequence[Check]]: ...


def build_report(run: RawRun) -> Report:
    """The report of a run. Baselines come first; nothing planned is left out without a word.

    A (subject, auditor) without any cell appears as ``skipped`` with the reason "not run yet", a
    cell that misses seeds as ``partial``. Auditors or subjects that only appear in cells are
    listed under their bare names.

    Raises:
        pydantic.ValidationError: ``info``, ``subjects`` or ``auditors`` do not fit the schema.
    """
    subjects = _subjects(run)
    auditors = _auditors(run)
    info = _info(run)
    findings = [_finding(run, info, s, a) for a in auditors for s in subjects]
    greyed = [grey for f in findings for grey in _greyed(f)]
    report = Report(
        run=info, subjects=subjects, auditors=auditors, findings=findings, greyed=greyed
    )
    report.comparisons = [c for f in findings for c in _comparisons(report, f)]
    report.claims = [claim for s in subjects if (claim := _claim(report, s)) is not None]
    report.summary = summarise(report)
    return report


def _subjects(run: RawRun) -> list[SubjectInfo]:
    known = [
        SubjectInfo.model_validate(plain(_without_gallery(s)) | {"gallery": s.get("gallery", [])})
        for s in run.subjects
    ]
    ids = {s.id for s in known}
    extra = dict.fromkeys(c.subject for c in run.cells if c.subject not in ids)
    known += [SubjectInfo(id=name, kind="file") for name in extra]
    return sorted(known, key=lambda s: not s.baseline)


def _without_gallery(subject: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in subject.items() if k != "gallery"}


def _auditors(run: RawRun) -> list[AuditorInfo]:
    known = [AuditorInfo.model_validate(plain(dict(a))) for a in run.auditors]
    names = {a.name for a in known}
    extra = dict.fromkeys(c.auditor for c in run.cells if c.auditor not in names)
    known += [AuditorInfo(name=name, title=name) for name in extra]
    # Every other number is weighed against utility, so a reader meets it first.
    return sorted(known, key=lambda a: a.name != "utility")


def _info(run: RawRun) -> RunInfo:
    raw = dict(run.info)
    data, preset, config = raw.get("data", ""), raw.get("preset", ""), raw.get("config") or {}
    if isinstance(data, Mapping):
        raw["data"], raw["data_notes"] = data.get("name", ""), data.get("notes", [])
        raw["data_facts"] = {k: v for k, v in data.items() if k not in ("name", "notes")}
    if isinstance(preset, Mapping):
        raw["preset"] = preset.get("name", "")
        raw.setdefault("profile", preset.get("profile", ""))
    if isinstance(raw.get("protocol"), Mapping):
        raw["protocol"], raw["protocol_facts"] = raw["protocol"].get("name", ""), raw["protocol"]
    raw.setdefault("ipc", config.get("ipc") if isinstance(config, Mapping) else None)
    raw.setdefault("ddaudit_version", (raw.get("versions") or {}).get("ddaudit", ""))
    info = RunInfo.model_validate(plain({k: v for k, v in raw.items() if k not in _BOOKKEEPING}))
    if not (info.cells_done or info.cells_failed or info.cells_skipped):
        statuses = [c.status for c in run.cells]
        info.cells_failed, info.cells_skipped = statuses.count("failed"), statuses.count("skipped")
        info.cells_done = len(statuses) - info.cells_failed - info.cells_skipped
    return info


def _finding(run: RawRun, info: RunInfo, subject: SubjectInfo, auditor: AuditorInfo) -> Finding:
    cells = [c for c in run.cells if (c.subject, c.auditor) == (subject.id, auditor.name)]
    if cells:
        seeds = (
            info.seeds
            if all(c.seed is not None for c in cells) and subject.kind != "checkpoint"
            else ()
        )
        finding = merge_findings(cells, expected_seeds=seeds)
    else:
        finding = Finding(
            subject=subject.id, auditor=auditor.name, status="skipped", reason="not run yet"
        )
    instrument = [c for c in run.checks.get(auditor.name, ()) if c.subject in (None, subject.id)]
    own = {(c.name, c.subject) for c in finding.checks}
    finding.checks += [c for c in merge_checks([instrument]) if (c.name, c.subject) not in own]
    return finding


def _greyed(finding: Finding) -> list[Greyed]:
    found = ((m, failing_checks(finding, m)) for m in finding.metrics)
    return [
        Greyed(
            subject=finding.subject,
            auditor=finding.auditor,
            metric=m.name,
            params=m.params,
            checks=names,
        )
        for m, names in found
        if names
    ]


def _comparisons(report: Report, finding: Finding) -> list[Comparison]:
    rows = []
    for metric in finding.metrics:
        if not metric.headline:
            continue
        for baseline in report.baselines:
            other = report.finding(baseline, finding.auditor)
            match = next((m for m in other.metrics if m.key == metric.key), None) if other else None
            if baseline == finding.subject or other is None or match is None:
                continue
            row = _comparison(report, finding, metric, other, match)
            rows += [row] if row else []
    return rows


def _comparison(
    report: Report, finding: Finding, metric: Metric, other: Finding, match: Metric
) -> Comparison | None:
    diff = difference(metric, match)
    if diff is None:
        return None
    return Comparison(
        subject=finding.subject,
        baseline=other.subject,
        auditor=finding.auditor,
        metric=metric.name,
        params=metric.params,
        difference=diff.value,
        low=diff.low,
        high=diff.high,
        outcome=outcome(diff, metric.direction),
        trusted=not (report.failing_checks(finding, metric) or report.failing_checks(other, match)),
    )


def _claim(report: Report, subject: SubjectInfo) -> Claim | None:
    epsilon, delta = _claimed(report, subject)
    if epsilon is None:
        return None
    found = [
        (f, m)
        for f in report.findings
        if f.subject == subject.id
        for m in f.metrics
        if m.name == "privacy.epsilon_lower_bound"
    ]
    usable = [
        m
        for f, m in found
        if m.value is not None and not report.failing_checks(f, m) and _comparable(m, delta)
    ]
    best = max(usable, key=lambda m: m.value or 0.0, default=None)
    claim = Claim(subject=subject.id, epsilon=epsilon, delta=delta, state="not tested")
    if best is None or best.value is None:
        claim.reason = (
            "a failing instrument check greys out the lower bound"
            if found
            else "no lower bound on epsilon was measured"
        )
    else:
        claim.lower_bound = best.value
        claim.adversary = str(best.params["adversary"]) if "adversary" in best.params else None
        claim.state = "violated" if best.value > epsilon else "not contradicted"
    privacy = subject.card.get("privacy")
    if (
        claim.state != "violated"
        and isinstance(privacy, dict)
        and privacy.get("noise_seed_published")
    ):
        claim.state, claim.reason = (
            "void",
            "the seed of the noise is published, so anyone can subtract the noise",
        )
    return claim


def _claimed(report: Report, subject: SubjectInfo) -> tuple[float | None, float | None]:
    privacy = subject.card.get("privacy")
    if isinstance(privacy, dict) and (epsilon := _number(privacy.get("epsilon"))) is not None:
        return epsilon, _number(privacy.get("delta"))
    for finding in report.findings:
        for metric in finding.metrics:
            if (
                finding.subject == subject.id
                and metric.name == "privacy.epsilon_claimed"
                and metric.value is not None
            ):
                return metric.value, _number(metric.params.get("delta"))
    return None, None


def _comparable(bound: Metric, delta: float | None) -> bool:
    """A claim at delta implies the same epsilon at any larger delta, never at a smaller one."""
    tested = _number(bound.params.get("delta"))
    return tested is None or delta is None or tested >= delta


def _number(value: object) -> float | None:
    return (
        finite(float(value))
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else None
    )
