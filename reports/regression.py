"""A report beside an earlier one: what was lost, and which headline numbers got worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ddaudit.errors import BadInput
from ddaudit.findings import Finding, Metric
from ddaudit.reports import labels
from ddaudit.reports.compare import Difference, between_draws, difference, outcome
from ddaudit.reports.gate import Outcome, RuleResult, result
from ddaudit.reports.schema import Report
from ddaudit.stats.verdicts import holm

RULE = "no worse than the earlier report"


def regressions(report: Report, earlier: Report) -> list[RuleResult]:
    """What became of everything that the earlier report says of its candidates.

    Violated: a subject, an answer or an instrument that is gone, a check that fails since, a headline number that is
    worse by more than draws, networks and test images explain (corrected over all numbers, Holm). Inconclusive: a
    number that looks worse where nothing is known of the spread between draws. Everything else holds.

    Raises:
        BadInput: the reports are not on the same test records, architecture and protocol.
    """
    _comparable(report, earlier)
    out = list(_lost(report, earlier)) + list(_broken(report, earlier))
    pairs = list(_pairs(report, earlier))
    known = [p.diff.p_value for p in pairs if p.diff.p_value is not None]
    corrected = iter(holm(known))
    for pair in pairs:
        adjusted = None if pair.diff.p_value is None else next(corrected)
        out.append(_judged(pair, adjusted))
    return out


@dataclass(frozen=True)
class _Pair:
    finding: Finding
    now: Metric
    before: Metric
    diff: Difference


def _comparable(report: Report, earlier: Report) -> None:
    for name in ("data", "test records", "architecture", "protocol"):
        now, before = _basics(report)[name], _basics(earlier)[name]
        if now != before:
            what = f"is not comparable: its {name} ({before}) is not that of this run ({now})"
            raise BadInput("--against", what, "Compare reports of the same audit.")


def _basics(report: Report) -> dict[str, object]:
    """What numbers must share to be compared."""
    run = report.run
    records = run.data_facts.get("test_fingerprint")
    return {
        "data": run.data,
        "test records": records,
        "architecture": run.arch,
        "protocol": run.protocol,
    }


def _lost(report: Report, earlier: Report) -> Iterator[RuleResult]:
    ids = {s.id for s in report.subjects}
    for before in earlier.findings:
        name = before.subject
        if earlier.subject(name).baseline or before.status not in ("ok", "partial"):
            continue
        now = report.finding(name, before.auditor)
        if name not in ids:
            yield result(RULE, name, False, "was audited before and is not any more", "missing")
        elif now is None or now.status in ("skipped", "failed"):
            why = f": {now.reason or now.status}" if now else ""
            text = f"{before.auditor} had an answer before and has none now{why}"
            yield result(RULE, name, False, text, "missing")


def _broken(report: Report, earlier: Report) -> Iterator[RuleResult]:
    failed = {(f.auditor, c.name) for f in earlier.findings for c in f.checks if not c.passed}
    seen: set[tuple[str, str]] = set()
    for finding in report.findings:
        for check in finding.checks:
            key = (finding.auditor, check.name)
            if not check.passed and key not in failed | seen:
                seen.add(key)
                text = f"the instrument check '{check.name}' of {finding.auditor} failed, and did not before"
                yield result(RULE, finding.subject, False, text, "requirement")


def _pairs(report: Report, earlier: Report) -> Iterator[_Pair]:
    for before in earlier.findings:
        now = report.finding(before.subject, before.auditor)
        if earlier.subject(before.subject).baseline or now is None:
            continue
        metrics = {m.key: m for m in now.metrics}
        for old in before.metrics:
            new = metrics.get(old.key)
            if new is None or not old.headline or old.direction == "none":
                continue
            spread = between_draws(report, before.auditor, new)
            diff = difference(new, old, spread or between_draws(earlier, before.auditor, old))
            if diff is not None:
                yield _Pair(now, new, old, diff)


def _judged(pair: _Pair, adjusted: float | None) -> RuleResult:
    new, diff = pair.now, pair.diff
    harm = diff.value if new.direction == "lower" else -diff.value
    word = outcome(diff, new.direction, adjusted)
    whole = diff.low is None or diff.high is None or diff.low > 0 or diff.high < 0
    holds: Outcome = "violated" if word == "worse" else "holds"
    if word in ("withheld", "no interval") and harm > 0 and whole:
        holds = "inconclusive"
    said = {
        "not distinguishable": "no difference shown",
        "withheld": "spread between draws unknown",
    }
    span = labels.interval(diff.low, diff.high, new.unit)
    text = (
        f"{labels.full_name(new)} = {labels.number(new.value, new.unit)}, before "
        f"{labels.number(pair.before.value, new.unit)}: {labels.signed(diff.value, new.unit)} {span}".rstrip()
    )
    return result(
        RULE, pair.finding.subject, holds, f"{text}; {said.get(word, word)}", "regression"
    )
