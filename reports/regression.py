"""A report beside another one of the same audit: what differs, what was lost, what got worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ddaudit.errors import BadInput
from ddaudit.findings import Metric
from ddaudit.reports import labels
from ddaudit.reports.comparability import apart, experiment, instruments, making
from ddaudit.reports.compare import Difference, between_draws, difference, outcome
from ddaudit.reports.gate import Outcome, RuleResult, result
from ddaudit.reports.schema import Report
from ddaudit.stats.verdicts import holm

RULE = "no worse than the earlier report"
_SHOWN = {"not distinguishable": "no difference shown", "withheld": "spread between draws unknown"}


@dataclass(frozen=True)
class Change:
    """A headline number of a subject in two reports."""

    subject: str
    now: Metric
    before: Metric
    diff: Difference
    word: str
    """As ``Comparison.outcome``, corrected (Holm) for all changes between the two reports."""
    unlike: str = ""
    """What was made or measured differently in the two, so that nothing follows; "" where nothing."""

    @property
    def line(self) -> str:
        """``accuracy = 0.600, before 0.800: −0.200 [−0.25, −0.15]; worse``."""
        unit = self.now.unit
        values = f"{labels.number(self.now.value, unit)}, before {labels.number(self.before.value, unit)}"
        span = labels.interval(self.diff.low, self.diff.high, unit)
        text = f"{labels.full_name(self.now)} = {values}: {labels.signed(self.diff.value, unit)} {span}"
        return f"{text.rstrip()}; {self.unlike or _SHOWN.get(self.word, self.word)}"


def changes(report: Report, earlier: Report) -> list[Change]:
    """Every headline number that both reports have, as independent measurements; bounds are not compared.

    Raises:
        BadInput: the reports are not on the same records, architecture and protocol.
    """
    why = apart(experiment(report), experiment(earlier))
    if why:
        what = f"are not comparable: {why}"
        raise BadInput("the two reports", what, "Compare reports of the same audit.")
    mine, theirs = instruments(report), instruments(earlier)

    def unlike(auditor: str, subject: str) -> str:
        made = apart(making(report, subject), making(earlier, subject))
        return made or apart(mine.get(auditor, {}), theirs.get(auditor, {}), of=auditor)

    pairs = [
        (subject, now, before, diff, unlike(auditor, subject))
        for auditor, subject, now, before, diff in _pairs(report, earlier)
    ]
    judged = [d.p_value for _, _, _, d, why in pairs if d.p_value is not None and not why]
    corrected = iter(holm(judged))
    out = []
    for subject, now, before, diff, why in pairs:
        adjusted = None if diff.p_value is None or why else next(corrected)
        word = outcome(diff, now.direction, adjusted)
        out.append(Change(subject, now, before, diff, word, why))
    return out


def regressions(report: Report, earlier: Report) -> list[RuleResult]:
    """What became of everything that the earlier report says of its candidates.

    Violated: a subject, an answer or an instrument that is gone, a check that fails since, a headline number that is
    worse by more than draws, networks and test images explain (corrected over all numbers, Holm). Inconclusive: a
    number that looks worse where nothing is known of the spread between draws, and any whose auditor has another
    version or other settings, or whose subject was made otherwise. Everything else holds.

    Raises:
        BadInput: the reports are not on the same records, architecture and protocol.
    """
    judged = [
        _judged(c)
        for c in changes(report, earlier)
        if not earlier.subject(c.subject).baseline and c.now.direction != "none"
    ]
    return [*_lost(report, earlier), *_broken(report, earlier), *judged]


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
        else:
            values = {(m.key, m.game) for m in now.metrics if m.value is not None}
            for old in before.metrics:
                if old.headline and old.value is not None and (old.key, old.game) not in values:
                    what = f"{old.name} {labels.params_text(old.params)}".strip()
                    text = f"{what} had a value before and has none now"
                    yield result(RULE, name, False, text, "missing")


def _broken(report: Report, earlier: Report) -> Iterator[RuleResult]:
    failed = {
        (f.auditor, c.name, c.subject) for f in earlier.findings for c in f.checks if not c.passed
    }
    seen: set[tuple[str, str, str | None]] = set()
    for finding in report.findings:
        for check in finding.checks:
            key = (finding.auditor, check.name, check.subject)
            if not check.passed and key not in failed | seen:
                seen.add(key)
                text = f"the instrument check '{check.name}' of {finding.auditor} failed, and did not before"
                yield result(RULE, finding.subject, False, text, "requirement")


def _pairs(
    report: Report, earlier: Report
) -> Iterator[tuple[str, str, Metric, Metric, Difference]]:
    """(auditor, subject, now, before, difference) of every headline number."""
    for before in earlier.findings:
        now = report.finding(before.subject, before.auditor)
        metrics = {m.key: m for m in now.metrics} if now else {}
        for old in before.metrics:
            new = metrics.get(old.key)
            if new is None or not old.headline or old.merge == "bound" or new.game != old.game:
                continue
            where = before.subject, before.auditor
            spread = between_draws(report, *where, new) or between_draws(earlier, *where, old)
            diff = difference(new, old, spread)
            if diff is not None:
                yield before.auditor, before.subject, new, old, diff


def _judged(change: Change) -> RuleResult:
    diff = change.diff
    harm = diff.value if change.now.direction == "lower" else -diff.value
    whole = diff.low is None or diff.high is None or diff.low > 0 or diff.high < 0
    holds: Outcome = "violated" if change.word == "worse" else "holds"
    if change.unlike or (change.word in ("withheld", "no interval") and harm > 0 and whole):
        holds = "inconclusive"
    return result(RULE, change.subject, holds, change.line, "regression")
