"""From the cells of a run to a report: merge seeds, attach checks, compare with baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ddaudit.auditing import AUDITORS
from ddaudit.findings import CLAIMED, NOT_RUN, Check, Finding, Metric
from ddaudit.reports.alerts import alerts
from ddaudit.reports.answers import answers, trust
from ddaudit.reports.compare import (
    Difference,
    between_draws,
    difference,
    failing_checks,
    outcome,
    own_base,
)  # fmt: skip
from ddaudit.reports.labels import metric_name, number
from ddaudit.reports.limits import limits
from ddaudit.reports.merge import finite, merge_checks, merge_findings, plain
from ddaudit.reports.needs import needs
from ddaudit.reports.pairing import Paired, pairing
from ddaudit.reports.schema import (
    AuditorInfo,
    Claim,
    Comparison,
    Doubt,
    Greyed,
    Report,
    RunInfo,
    SubjectInfo,
)
from ddaudit.reports.summary import summarise
from ddaudit.stats.verdicts import holm

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
    cells: dict[tuple[str, str], list[Finding]] = {}
    for cell in run.cells:
        cells.setdefault((cell.subject, cell.auditor), []).append(cell)
    findings = [
        _finding(run, cells.get((s.id, a.name), []), info, s, a) for a in auditors for s in subjects
    ]
    greyed = [grey for f in findings for grey in _greyed(f)]
    report = Report(
        run=info, subjects=subjects, auditors=auditors, findings=findings, greyed=greyed
    )
    report.at_chance = [
        d for f in findings if (d := _doubt(f, cells.get((f.subject, f.auditor), []))) is not None
    ]
    report.comparisons = _comparisons(report, pairing(run.cells))
    report.claims = [claim for s in subjects if (claim := _claim(report, s)) is not None]
    report.alerts = alerts(report)
    tell(report)
    for finding in findings:  # their kind and rank are in the limits
        finding.caveats = [str(text) for text in finding.caveats]
    asked = {a.name for a in auditors}
    report.not_asked = [n for n in AUDITORS.names() if n not in asked] if auditors else []
    return report


def tell(report: Report) -> None:
    """Put into words what a report holds in numbers: answers, what they rest on, findings, limits."""
    report.needs, report.answers, report.trust = needs(report), answers(report), trust(report)
    report.summary = summarise(report)
    report.limits = limits(report)


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
    # Every other number is weighed against the basis (accuracy), so a reader meets it first.
    first = {c.auditor for c in run.cells if any(m.basis for m in c.metrics)}
    return sorted(known, key=lambda a: a.name not in first)


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
        statuses = ["not run" if c.not_run else c.status for c in run.cells]
        info.cells_failed, info.cells_skipped = statuses.count("failed"), statuses.count("skipped")
        info.cells_not_run = statuses.count("not run")
        info.cells_done = (
            len(statuses) - info.cells_failed - info.cells_skipped - info.cells_not_run
        )
    return info


def _finding(
    run: RawRun,
    cells: list[Finding],
    info: RunInfo,
    subject: SubjectInfo,
    auditor: AuditorInfo,
) -> Finding:
    if cells:
        # A run that says what was planned has a cell for each seed, also for those that are not run yet.
        told = "cells" in run.info or any(c.seed is None for c in cells)
        seeds = () if told or subject.kind == "checkpoint" else info.seeds
        finding = _in_words(merge_findings(cells, expected_seeds=seeds))
        # Every seed met the same set: of a file it is one draw of some method, of the full data the only one.
        same = subject.kind != "recipe"
        update = {"draws": 1, "covers_draws": False} if same else {}
        update |= {} if subject.drawn else {"covers_draws": True}
        finding.metrics = [
            m.model_copy(update={"resampled": None, **update}) for m in finding.metrics
        ]
    else:
        finding = Finding(
            subject=subject.id, auditor=auditor.name, status="skipped", reason=NOT_RUN
        )
    instrument = [c for c in run.checks.get(auditor.name, ()) if c.subject in (None, subject.id)]
    own = {(c.name, c.subject) for c in finding.checks}
    finding.checks += [c for c in merge_checks([instrument]) if (c.name, c.subject) not in own]
    return finding


def _in_words(finding: Finding) -> Finding:
    """The merged finding as its auditor describes it; without the auditor, with the labels that its cells brought."""
    if finding.auditor not in AUDITORS.names():
        return finding
    return AUDITORS.get(finding.auditor).described(finding)


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


def _doubt(finding: Finding, cells: Sequence[Finding]) -> Doubt | None:
    """Whether the subject's basis is void, or may be chance: its interval reaches what a constant answer reads.

    Of several seeds each one above chance is enough: their mean has a wide interval where they are few, and what is
    shown of every seed alone is no less so of all.
    """
    for m in finding.metrics:
        if not m.basis or m.value is None:
            continue
        failed = [
            c
            for c in finding.checks
            if not c.passed and c.subject and c.name in failing_checks(finding, m)
        ]
        if failed:
            reason = f"{metric_name(m)} of {finding.subject} is void: {failed[0].detail or failed[0].name}"
            return Doubt(subject=finding.subject, reason=reason, kind="void")
        if m.chance is None or _above(m):
            continue
        alone = [s for c in cells for s in c.metrics if s.key == m.key and s.value is not None]
        if len(alone) < 2 or not all(s.low is not None and _above(s) for s in alone):
            reason = (
                f"{metric_name(m)} of {finding.subject} ({number(m.value, m.unit)}) is not clearly above "
                f"chance ({number(m.chance, m.unit)})"
            )
            return Doubt(subject=finding.subject, reason=reason)
    return None


def _above(metric: Metric) -> bool:
    """Whether a basis is clearly above what a constant answer reads on the same records."""
    end = metric.value if metric.low is None else metric.low
    return metric.chance is None or (end is not None and end > metric.chance)


def _comparisons(report: Report, paired: Paired) -> list[Comparison]:
    """Every headline metric against every baseline, and against the recipe a subject is built on.

    Verdicts against one baseline are one family for Holm's correction; those against each subject's reference and own
    base, which the verdict table and the summary tell, are one together.
    """
    rows: dict[str | None, list[_Pair]] = {}
    for finding in report.findings:
        own = own_base(report, report.subject(finding.subject))
        told = (report.reference_of(finding.subject), own)
        for other in dict.fromkeys([*report.baselines, *([own] if own else [])]):
            family = None if other in told else other
            rows.setdefault(family, []).extend(_pairs(report, finding, other, paired))
    out = []
    for pairs in rows.values():
        judged = [p for p in pairs if p.judged is not None]
        corrected = holm([p.judged for p in judged if p.judged is not None])
        adjusted = {id(p): a for p, a in zip(judged, corrected, strict=True)}
        out += [_comparison(report, p, adjusted.get(id(p))) for p in pairs]
    order = {(f.subject, f.auditor): i for i, f in enumerate(report.findings)}
    return sorted(out, key=lambda c: order[c.subject, c.auditor])


@dataclass(frozen=True, eq=False)
class _Pair:
    """The same metric of two subjects."""

    finding: Finding
    metric: Metric
    other: Finding
    match: Metric
    diff: Difference
    withheld: str

    @property
    def judged(self) -> float | None:
        """Its p-value, where a verdict may be given."""
        return None if self.withheld else self.diff.p_value


def _pairs(report: Report, finding: Finding, baseline: str, paired: Paired) -> Iterator[_Pair]:
    other = report.finding(baseline, finding.auditor)
    if baseline == finding.subject or other is None:
        return
    theirs = {m.key: m for m in other.metrics}
    for metric in finding.metrics:
        match = theirs.get(metric.key)
        if not metric.headline or match is None or metric.merge == "bound":
            continue
        of = paired.get((finding.auditor, metric.key), {})
        spread = between_draws(report, finding.subject, finding.auditor, metric, of)
        pair = of.get(finding.subject), of.get(baseline)
        diff = difference(metric, match, spread, pair)
        if diff is not None:
            why = report.doubt(finding, metric) or report.doubt(other, match)
            why = why or _unsound(report, other, match) or _unlike(metric, match)
            why = why or report.of_another_size(finding.subject, baseline)
            if diff.low is not None and diff.p_value is None:
                why = why or "one draw of each, and no baseline was drawn several times"
            yield _Pair(finding, metric, other, match, diff, why)


def _unsound(report: Report, finding: Finding, metric: Metric) -> str:
    """Why nothing can be better or worse than this number; "" where it can be relied on."""
    failing = report.failing_checks(finding, metric)
    return f"the instrument check '{failing[0]}' failed for {finding.subject}" if failing else ""


def _unlike(metric: Metric, match: Metric) -> str:
    """Why two numbers of one name do not say which subject is better; "" where they were measured alike."""
    if metric.game == match.game:
        return ""
    return f"measured in two ways: {metric.game or match.game}"


def _comparison(report: Report, pair: _Pair, adjusted: float | None) -> Comparison:
    diff, metric = pair.diff, pair.metric
    return Comparison(
        subject=pair.finding.subject,
        baseline=pair.other.subject,
        auditor=pair.finding.auditor,
        metric=metric.name,
        params=metric.params,
        difference=diff.value,
        low=diff.low,
        high=diff.high,
        paired=diff.paired,
        p_value=diff.p_value,
        adjusted=adjusted,
        outcome=outcome(diff, metric.direction, adjusted),
        reason=pair.withheld,
        trusted=not (
            report.failing_checks(pair.finding, metric)
            or report.failing_checks(pair.other, pair.match)
        ),
    )


def _claim(report: Report, subject: SubjectInfo) -> Claim | None:
    """The one verdict on a claim that every format and the gate go by.

    Auditors say what may refute it (``refutes`` of a bound or a check) and what it rests on
    (``affects`` of a check); no auditor is known here by name.
    """
    epsilon, delta = _claimed(report, subject)
    if epsilon is None:
        return None
    claim = Claim(subject=subject.id, epsilon=epsilon, delta=delta, state="not tested")
    if report.run.publishable:
        claim.state, claim.reason = "not shown", "tests of it read the training records"
        return claim
    found = report.findings_of(subject.id)
    bounds = [(f, m) for f in found for m in f.metrics if m.refutes == CLAIMED]
    usable = [
        m
        for f, m in bounds
        if m.value is not None and not report.failing_checks(f, m) and _comparable(m, delta)
    ]
    best = max(usable, key=lambda m: m.value or 0.0, default=None)
    told = {c.name for f in found for c in f.checks if c.subject == subject.id}
    by_card = [(None, c) for c in subject.claim_checks if c.name not in told]
    failed = [
        (f, c)
        for f, c in [*by_card, *((f, c) for f in found for c in f.checks)]
        if not c.passed and _about_claim(c, subject)
    ]
    refuting = [
        c for f, c in failed if c.refutes == CLAIMED and (f is None or _instrument_works(f))
    ]
    void = [_failed(c) for _, c in failed if c.subject is not None]
    if best is not None and best.value is not None:
        claim.lower_bound = best.value
        claim.adversary = str(best.params["adversary"]) if "adversary" in best.params else None
    if claim.lower_bound is not None and claim.lower_bound > epsilon:
        claim.state, claim.reason = "violated", "a measured lower bound lies above it"
    elif refuting:
        claim.state, claim.reason = "violated", "; ".join(map(_failed, refuting))
    elif void:
        claim.state, claim.reason = "void", "; ".join(void)
    elif failed:
        claim.reason = "; ".join(_failed(c) for _, c in failed)
    elif claim.lower_bound is None:
        claim.reason = (
            "a failing instrument check greys out the lower bound"
            if any(report.failing_checks(f, m) for f, m in bounds)
            else "no lower bound on epsilon was measured that could decide"
        )
    else:
        claim.state = "not contradicted"
    return claim


def _about_claim(check: Check, subject: SubjectInfo) -> bool:
    """Whether the claim rests on this check by name; one of a whole auditor greys its bounds instead."""
    named = any(CLAIMED.startswith(prefix) for prefix in check.affects or ())
    return named and check.subject in (None, subject.id)


def _instrument_works(finding: Finding) -> bool:
    """Whether the auditor passed its own known-answer tests: only then can it prove a claim wrong."""
    own = [c for c in finding.checks if c.subject is None and c.affects != []]
    return all(c.passed for c in own)


def _failed(check: Check) -> str:
    why = f" ({check.detail.rstrip('.')})" if check.detail else ""
    return f"the check “{check.name}” failed{why}"


def _claimed(report: Report, subject: SubjectInfo) -> tuple[float | None, float | None]:
    privacy = subject.card.get("privacy")
    if isinstance(privacy, dict) and (epsilon := _number(privacy.get("epsilon"))) is not None:
        return epsilon, _number(privacy.get("delta"))
    for finding in report.findings_of(subject.id):
        for metric in finding.metrics:
            if metric.name == CLAIMED and metric.value is not None:
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
