"""A gate for continuous integration: a report held against a policy, a line for each rule and subject."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ddaudit.auditing import AUDITORS
from ddaudit.errors import BadInput, closest
from ddaudit.findings import CLAIMED, Finding, Metric
from ddaudit.reports import labels
from ddaudit.reports.alerts import ON_PURPOSE, poisoned_file
from ddaudit.reports.compare import Difference, between_draws, difference, inverted, mirrored
from ddaudit.reports.policy import Policy, Rule
from ddaudit.reports.schema import Claim, Report

Kind = Literal[
    "number", "claim", "untested claim", "requirement", "file", "missing", "ignored", "regression"
]
Outcome = Literal["holds", "warns", "inconclusive", "violated"]
_WORDS = {
    "holds": "holds", "warns": "WARNING", "inconclusive": "INCONCLUSIVE", "violated": "VIOLATED",
}  # fmt: skip

AUDITED = "what was audited is what is there"
"""The rule about files and private sets that needs no line in a policy."""
CLEAN = "no set file is poisoned on purpose"
"""The rule about the cards of files that needs no line in a policy."""


@dataclass(frozen=True)
class RuleResult:
    """What became of one rule for one subject, and the line that says so."""

    rule: str
    subject: str
    outcome: Outcome
    holds: bool
    """Whether the gate may pass: also of what only warns."""
    line: str
    kind: Kind = "number"


@dataclass(frozen=True)
class Tally:
    """What a policy looked at: a gate that looked at nothing is no gate."""

    rules: int
    numbers: int
    claims: int
    """Claims that an audit has tested."""
    untested: int
    ignored: int

    @property
    def nothing(self) -> bool:
        """Whether neither a number nor a tested claim was held against anything."""
        return not self.numbers and not self.claims

    @property
    def line(self) -> str:
        """``3 rules, 5 numbers checked, 1 claim checked, 1 not tested``."""
        counts = [
            (self.rules, "rule", "rules"),
            (self.numbers, "number checked", "numbers checked"),
            (self.claims, "claim checked", "claims checked"),
        ]
        text = ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts)
        return f"{text}, {self.untested} not tested, {self.ignored} ignored"


def apply(policy: Policy, report: Report) -> list[RuleResult]:
    """Hold a report against a policy: every rule for every subject it names, then every privacy
    claim. Outcomes: ``holds``, ``violated``, ``inconclusive`` (the bound lies inside of the interval), ``warns``.

    A rule without ``subject`` is for all subjects that are not baselines; a pattern with
    wildcards (``dm*``) never takes a baseline, a plain name may. One rule gives one result per
    subject and matching metric, so a rule without ``params`` holds only if all variants do. The
    privacy rule needs no line in the policy and no rule can narrow it: a claim that the report calls
    violated or void is always a violation, whoever makes it, and so is a file that was not audited
    as it is now, or is gone, or that its card calls poisoned. A two-sided number (an AUC) is judged
    as far on the bad side of its floor as it lies on the other.

    Raises:
        BadInput: a rule that no report could satisfy or break as it is written: a bound outside
            [-1, 1] for a fraction, a subject or ``relative_to`` that is not in the report, params
            that the metric has with no such values, an unknown metric whose absence is to be ignored.
    """
    results = []
    for index, rule in enumerate(policy.rules):
        where = f"{policy.source}: rules[{index}]"
        _check_names(rule, report, where)
        if rule.run is not None:
            judged = _require_run(rule, report)
        else:
            judged = _require_tested(rule, report) if rule.claim else _apply(rule, report, where)
        results += [_weighed(r, rule, policy) for r in judged]
    results += [_privacy(claim) for claim in report.claims]
    results += [
        result(CLEAN, s.id, False, ON_PURPOSE.format(attack), "file")
        for s in report.subjects
        if (attack := poisoned_file(s))
    ]
    return results + [
        result(AUDITED, s.id, False, s.problem, "file") for s in report.subjects if s.problem
    ]


def result(
    rule: str, subject: str, holds: bool | Outcome, text: str, kind: Kind = "number"
) -> RuleResult:
    """One line of a gate, on one line."""
    outcome: Outcome = ("holds" if holds else "violated") if isinstance(holds, bool) else holds
    line = f"{_WORDS[outcome]} {labels.visible(subject)}: {labels.visible(text)}"
    return RuleResult(rule, subject, outcome, outcome == "holds", " ".join(line.split()), kind)


def tally(policy: Policy, results: Sequence[RuleResult]) -> Tally:
    """What the results of :func:`apply` rest on."""
    count = Counter(r.kind for r in results)
    return Tally(
        rules=len(policy.rules),
        numbers=count["number"] + count["regression"],
        claims=count["claim"],
        untested=count["untested claim"],
        ignored=count["ignored"],
    )


def _check_names(rule: Rule, report: Report, where: str) -> None:
    """Refuse what can only be a mistake: a rule on a name that is not there holds whatever was measured."""
    ids = [s.id for s in report.subjects]
    if rule.relative_to is not None and rule.relative_to not in ids:
        known = ", ".join(report.baselines) or "none"
        raise BadInput(
            f"{where}.relative_to",
            f"'{rule.relative_to}' is not in the report",
            f"Baselines: {known}.",
        )
    plain = rule.subject is not None and not re.search(r"[*?\[]", rule.subject)
    if plain and rule.subject not in ids:
        raise BadInput(
            f"{where}.subject",
            f"'{rule.subject}' is not in the report",
            f"Subjects: {', '.join(ids) or 'none'}.",
        )
    if rule.metric:
        _check_metric(rule, report, where)


def _check_metric(rule: Rule, report: Report, where: str) -> None:
    measured = [m for f in report.findings for m in f.metrics if m.name == rule.metric]
    if measured and not any(_matches(rule, m) for m in measured):
        asked = {k: [m.params.get(k) for m in measured] for k in rule.params}
        known = [
            f"{k}: {', '.join(dict.fromkeys(str(v) for v in values if v is not None)) or 'none'}"
            for k, values in asked.items()
        ]
        raise BadInput(
            f"{where}.params",
            f"no {rule.metric} of this report has them ({labels.params_text(rule.params)})",
            f"Known: {'; '.join(known)}.",
        )
    if not measured and rule.missing == "ignore":
        names = {m.name for name in AUDITORS.names() for m in AUDITORS.get(name).metrics}
        if rule.metric not in names:
            raise BadInput(
                f"{where}.metric",
                f"'{rule.metric}' is measured by no auditor, so ignoring its absence checks nothing",
                closest(rule.metric, names),
            )


def _apply(rule: Rule, report: Report, where: str) -> Iterator[RuleResult]:
    subjects = [s for s in _subjects(rule, report) if s != rule.relative_to]
    if not subjects:
        wanted = f"no subject matches '{rule.subject}'" if rule.subject else "no subject to judge"
        yield _missing(rule, rule.subject or "*", wanted)
    for subject in subjects:
        findings = [f for f in report.findings if f.subject == subject]
        found = [(f, m) for f in findings for m in f.metrics if _matches(rule, m)]
        usable = [(f, m) for f, m in found if m.value is not None]
        if not usable:
            stopped = [f for f in findings if rule.metric.startswith(f"{f.auditor}.")]
            # What does not apply may be ignored; what broke or was never run may not.
            excused = not any(f.not_run or f.status == "failed" for f in stopped)
            yield _missing(rule, subject, _why_missing(rule, report, stopped), excused=excused)
        for finding, metric in usable:
            yield _judge(rule, report, finding, metric, where)
        for finding, metric in found if usable else ():
            if metric.value is None:
                text = f"{_named(metric)} has no value: {finding.reason or 'it could not be read'}"
                yield _missing(rule, subject, text)


def _named(metric: Metric) -> str:
    params = labels.params_text(metric.params)
    return f"{metric.name}{f' ({params})' if params else ''}"


def _require_tested(rule: Rule, report: Report) -> Iterator[RuleResult]:
    """``claim: tested``: every claim, baseline or not; of the subjects named, that they make one."""
    claims = {c.subject: c for c in report.claims}
    subjects = list(claims) if rule.subject is None else _subjects(rule, report)
    if not subjects:
        what = f"no subject matches '{rule.subject}'" if rule.subject else "nobody claims privacy"
        yield _missing(rule, rule.subject or "*", what)
    for subject in subjects:
        claim = claims.get(subject)
        if claim is None:
            yield _missing(rule, subject, "makes no privacy claim")
            continue
        tested = claim.tested
        text = (
            "its privacy claim was tested"
            if tested
            else f"its privacy claim was {claim.state}: {claim.reason}"
        )
        yield result(str(rule), subject, tested, text, "requirement")


def _require_run(rule: Rule, report: Report) -> Iterator[RuleResult]:
    """A demand on the run as a whole."""
    run = report.run
    if rule.run == "complete":
        lost = [f for f in report.findings if f.status in ("failed", "partial") or f.not_run]
        text = ", ".join(f"{f.subject} × {f.auditor} {f.reason or f.status}" for f in lost)
        wanted, said = (
            not lost and bool(report.findings),
            text or "every planned cell has an answer",
        )
    elif rule.run == "checked":
        failed = {(f.auditor, c.name) for f in report.findings for c in f.checks if not c.passed}
        answered = [f for f in report.findings if f.status in ("ok", "partial")]
        bare = {f.auditor for f in answered if not f.checks}
        said = "; ".join(
            [*(f"{a}: the instrument check '{n}' failed" for a, n in sorted(failed)),
             *(f"{a} has no instrument checks" for a in sorted(bare)),
             *([] if answered else ["there is no answer to check"])]
        )  # fmt: skip
        wanted, said = not said, said or "all instrument checks passed"
    elif rule.run == "not quick":
        wanted, said = run.preset != "quick", f"preset {run.preset or 'unknown'}"
    else:
        count, who = _fewest_draws(report)
        wanted, said = count >= (rule.min or 0), f"{count} seeds{who}"
    yield result(str(rule), run.data, wanted, f"{rule}: {said}", "requirement")


def _fewest_draws(report: Report) -> tuple[int, str]:
    """The fewest seeds that a number of a method rests on, and whose it is where it is fewer than were asked for."""
    asked = len(report.run.seeds)
    drawn = {s.id for s in report.subjects if s.kind == "recipe" and s.drawn and not s.baseline}
    counts = [
        (m.draws, f"{f.subject} × {f.auditor}")
        for f in report.findings
        for m in f.metrics
        if f.subject in drawn and m.value is not None
    ]
    count, who = min(counts, default=(asked, ""))
    return (count, f" ({who})") if count < asked else (asked, "")


def _weighed(found: RuleResult, rule: Rule, policy: Policy) -> RuleResult:
    """A result as its rule and policy want it taken."""
    if found.holds:
        return found
    if rule.level == "warn":
        word, _, rest = found.line.partition(" ")
        said = f"{_WORDS['warns']} {rest}" + (
            f" ({word.lower()})" if word == "INCONCLUSIVE" else ""
        )
        return replace(found, outcome="warns", holds=True, line=said)
    passes = found.outcome == "inconclusive" and policy.inconclusive == "warn"
    return replace(found, holds=True) if passes else found


def _subjects(rule: Rule, report: Report) -> list[str]:
    if rule.subject is None:
        return [s.id for s in report.subjects if not s.baseline]
    return [
        s.id
        for s in report.subjects
        if s.id == rule.subject or (not s.baseline and fnmatch.fnmatchcase(s.id, rule.subject))
    ]


def _matches(rule: Rule, metric: Metric) -> bool:
    return metric.name == rule.metric and all(
        _same(metric.params.get(k), v) for k, v in rule.params.items()
    )


def _same(a: Any, b: Any) -> bool:
    """Equal as numbers where both are (YAML reads 1e-3 as text), else as text."""
    try:
        return abs(float(a) - float(b)) <= 1e-9 * max(1.0, abs(float(b)))
    except (TypeError, ValueError):
        return str(a) == str(b)


def _judge(rule: Rule, report: Report, finding: Finding, metric: Metric, where: str) -> RuleResult:
    failing = report.failing_checks(finding, metric)
    doubt = None if metric.name == CLAIMED else report.doubted(finding.subject, metric)
    number: Metric | Difference = mirrored(metric)
    against = None
    if rule.relative_to is not None:
        against = report.of_size(rule.relative_to, finding.subject)
        base = report.finding(against, finding.auditor)
        other = next((m for m in base.metrics if m.key == metric.key), None) if base else None
        spread = between_draws(report, finding.subject, finding.auditor, metric)
        diff = difference(metric, other, spread) if other else None
        row = report.comparison(finding, metric, against)
        if row is not None and row.paired:
            diff = Difference(row.difference, row.low, row.high, row.p_value, paired=True)
        if base is None or other is None or diff is None:
            why = f"{against} has no such number to compare with"
            waits = base is not None and (base.not_run or base.status == "failed")
            return _missing(rule, finding.subject, why, excused=not waits)
        if other.game != metric.game:
            why = f"{against}'s {_named(metric)} was measured in another way than this one"
            return _missing(rule, finding.subject, why)
        if why := report.of_another_size(finding.subject, against):
            return _missing(rule, finding.subject, why, excused=False)
        number = diff
        failing = failing + report.failing_checks(base, other)
        doubt = doubt or report.doubted(base.subject, other)
    _check_scale(rule, metric, where)
    holds, must = _holds(rule, number)
    name = _named(metric)
    name += f" minus {against}" if against else ""
    span = labels.interval(number.low, number.high, metric.unit)
    text = f"{name} = {labels.number(number.value, metric.unit)}{f' {span}' if span else ''}"
    if inverted(metric) and rule.relative_to is None:
        text += f" (measured {labels.number(metric.value, metric.unit)}: {labels.INVERTED})"
    if failing and rule.require_checks:
        checks = ", ".join(dict.fromkeys(failing))
        text = f"{text}, but the instrument check '{checks}' failed"
        return result(str(rule), finding.subject, False, text)
    if doubt and rule.at_chance == "violated":
        text = f"{text}; {doubt.kind}, so that nothing follows from it: {doubt.reason}"
        return result(str(rule), finding.subject, False, text)
    judged = f"{text}; {must}{f' ({doubt.kind}, ignored: {doubt.reason})' if doubt else ''}"
    return result(str(rule), finding.subject, holds, judged)


def _check_scale(rule: Rule, metric: Metric, where: str) -> None:
    """Refuse a bound in percents: it would pass (or fail) whatever was measured."""
    for name, bound in (("max", rule.max), ("min", rule.min)):
        if metric.unit == "fraction" and bound is not None and abs(bound) > 1:
            what = f"is {bound:g}, but {metric.name} is a fraction in [0, 1]"
            raise BadInput(f"{where}.{name}", what, "Write 60% as 0.6.")


def _holds(rule: Rule, number: Metric | Difference) -> tuple[Outcome, str]:
    """Whether the judged sides keep to the bounds, and in words what was asked of which side."""
    assert number.value is not None
    readings = {"value": number.value, "low": number.low, "high": number.high}
    harder, easier = {"min": "low", "max": "high"}, {"min": "high", "max": "low"}
    holds, broken, asked = True, False, []
    for name, bound in (("min", rule.min), ("max", rule.max)):
        if bound is None:
            continue
        side = harder[name] if rule.use == "conservative" else rule.use
        reading = readings[side]
        words = {"low": "its lower end", "high": "its upper end", "value": "its value"}[side]
        if reading is None:
            reading, words = number.value, "its value (no interval)"
        kept = reading <= bound if name == "max" else reading >= bound
        other = readings[easier[name]] if rule.use == "conservative" else reading
        other = number.value if other is None else other
        holds = holds and kept
        broken = broken or (other > bound if name == "max" else other < bound)
        asked.append(f"{words} must be {'<=' if name == 'max' else '>='} {bound:g}")
    return "holds" if holds else "violated" if broken else "inconclusive", " and ".join(asked)


def _privacy(claim: Claim) -> RuleResult:
    """The report's verdict on a claim; every format shows the same one."""
    rule = "claimed epsilon is neither refuted nor void"
    text = f"claims epsilon = {labels.brief(claim.epsilon)}"
    text += "" if claim.delta is None else f" at delta = {labels.brief(claim.delta)}"
    if claim.lower_bound is not None:
        text += f"; the measured lower bound is {labels.brief(claim.lower_bound)}"
    if claim.state != "not contradicted":
        text += f"; {claim.state}"
        text += f": {claim.reason}" if claim.reason else ""
    kind: Kind = "claim" if claim.tested else "untested claim"
    return result(rule, claim.subject, not claim.broken, text, kind)


def _why_missing(rule: Rule, report: Report, findings: Sequence[Finding]) -> str:
    stopped = [
        f"{f.auditor}: {f.reason}"
        if f.not_run
        else f"{f.auditor} {f.status}: {f.reason or 'no reason recorded'}"
        for f in findings
        if f.status in ("skipped", "failed")
    ]
    if stopped:
        return f"not measured ({'; '.join(stopped)})"
    names = sorted({m.name for f in report.findings for m in f.metrics})
    close = [] if rule.metric in names else difflib.get_close_matches(rule.metric, names, n=2)
    return "not measured" + (f" (did you mean {' or '.join(close)}?)" if close else "")


def _missing(rule: Rule, subject: str, why: str, *, excused: bool = True) -> RuleResult:
    ignored = rule.missing == "ignore" and excused
    text = f"{rule}: {why}{', ignored' if ignored else ''}"
    return result(str(rule), subject, ignored, text, "ignored" if ignored else "missing")
