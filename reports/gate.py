"""A policy for continuous integration: rules a report must satisfy, one line for each."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ddaudit.auditing import AUDITORS
from ddaudit.errors import BadInput, closest
from ddaudit.files import read_yaml
from ddaudit.findings import CLAIMED, Finding, Metric
from ddaudit.reports import labels
from ddaudit.reports.compare import Difference, between_draws, difference, inverted, mirrored
from ddaudit.reports.schema import Claim, Report

Use = Literal["value", "low", "high", "conservative"]
Kind = Literal["number", "claim", "untested claim", "requirement", "file", "missing", "ignored"]


AUDITED = "what was audited is what is there"
"""The rule about files and private sets that needs no line in a policy."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rule(_Model):
    """One bound on one metric; or, with ``claim: tested``, that an audit tested the privacy claims.

    ``use`` picks the side of the 95% interval that is held against the bound; ``conservative`` is
    the side that makes the rule harder to pass (``high`` for ``max``, ``low`` for ``min``). With
    ``relative_to`` the bound applies to the metric minus that baseline's. A subject whose accuracy is
    not clearly above chance breaks every rule on what was measured of it besides: nothing follows from
    such a number. ``at_chance: ignore`` judges it all the same, and the line says so.
    """

    metric: str = ""
    claim: Literal["tested"] | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    subject: str | None = None
    max: float | None = None
    min: float | None = None
    use: Use = "conservative"
    relative_to: str | None = None
    require_checks: bool = True
    missing: Literal["violated", "ignore"] = "violated"
    at_chance: Literal["violated", "ignore"] = "violated"

    @model_validator(mode="after")
    def _bounded(self) -> Rule:
        if self.claim is not None:
            more = self.model_fields_set - {"claim", "subject", "missing"}
            if more:
                raise ValueError(f"claim goes with subject and missing, not with {min(more)}")
            return self
        if not self.metric:
            raise ValueError("needs metric, or claim: tested")
        if self.relative_to is not None and self.relative_to == self.subject:
            raise ValueError(f"relative_to is the subject itself ({self.subject})")
        if self.max is None and self.min is None:
            raise ValueError("needs max or min")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def __str__(self) -> str:
        if self.claim is not None:
            return f"claim {self.claim}"
        params = labels.params_text(self.params)
        name = f"{self.metric}{f' ({params})' if params else ''}"
        name += f" minus {self.relative_to}" if self.relative_to else ""
        bounds = [] if self.min is None else [f">= {self.min:g}"]
        bounds += [] if self.max is None else [f"<= {self.max:g}"]
        return f"{name} {' and '.join(bounds)}"


@dataclass(frozen=True)
class Policy:
    """The rules of a policy file, and where they came from (for messages)."""

    rules: tuple[Rule, ...]
    source: str = "policy"


class _File(_Model):
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class RuleResult:
    """Whether one rule holds for one subject, and the line that says so."""

    rule: str
    subject: str
    holds: bool
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


def load_policy(path: str | Path) -> Policy:
    """Read a YAML policy: ``rules:`` with a list of rules (see :class:`Rule`).

    Raises:
        BadInput: unreadable, not YAML, an unknown key or a bad value; the line names the key and
        what is allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list):
        raise BadInput(path, "is not a policy", "It needs a key 'rules' with a list of rules.")
    try:
        rules = _File.model_validate(content).rules
    except ValidationError as error:
        raise _bad_policy(path, error) from None
    if not rules:
        raise BadInput(
            f"{path}: rules", "is empty", "Give a rule; 'claim: tested' asks for claims alone."
        )
    return Policy(rules, source=str(path))


def apply(policy: Policy, report: Report) -> list[RuleResult]:
    """Hold a report against a policy: every rule for every subject it names, then every privacy
    claim.

    A rule without ``subject`` is for all subjects that are not baselines; a pattern with
    wildcards (``dm*``) never takes a baseline, a plain name may. One rule gives one result per
    subject and matching metric, so a rule without ``params`` holds only if all variants do. The
    privacy rule needs no line in the policy and no rule can narrow it: a claim that the report calls
    violated or void is always a violation, whoever makes it, and so is a file that was not audited
    as it is now, or is gone. A two-sided number (an AUC) is judged as far on the bad side of its
    floor as it lies on the other.

    Raises:
        BadInput: a rule that no report could satisfy or break as it is written: a bound outside
            [-1, 1] for a fraction, a subject or ``relative_to`` that is not in the report, params
            that the metric has with no such values, an unknown metric whose absence is to be ignored.
    """
    results = []
    for index, rule in enumerate(policy.rules):
        where = f"{policy.source}: rules[{index}]"
        _check_names(rule, report, where)
        judge = _require_tested(rule, report) if rule.claim else _apply(rule, report, where)
        results += list(judge)
    results += [_privacy(claim) for claim in report.claims]
    return results + [
        _result(AUDITED, s.id, False, s.problem, "file") for s in report.subjects if s.problem
    ]


def tally(policy: Policy, results: Sequence[RuleResult]) -> Tally:
    """What the results of :func:`apply` rest on."""
    count = Counter(r.kind for r in results)
    return Tally(
        rules=len(policy.rules),
        numbers=count["number"],
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
        yield _result(str(rule), subject, tested, text, "requirement")


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
    doubt = "" if metric.name == CLAIMED else report.doubt(finding, metric)
    number: Metric | Difference = mirrored(metric)
    if rule.relative_to is not None:
        base = report.finding(rule.relative_to, finding.auditor)
        other = next((m for m in base.metrics if m.key == metric.key), None) if base else None
        spread = between_draws(report, finding.auditor, metric)
        diff = difference(metric, other, spread) if other else None
        row = report.comparison(finding, metric, rule.relative_to)
        if row is not None and row.paired:
            diff = Difference(row.difference, row.low, row.high, row.p_value, paired=True)
        if base is None or other is None or diff is None:
            why = f"{rule.relative_to} has no such number to compare with"
            waits = base is not None and (base.not_run or base.status == "failed")
            return _missing(rule, finding.subject, why, excused=not waits)
        number = diff
        failing = failing + report.failing_checks(base, other)
        doubt = doubt or report.doubt(base, other)
    _check_scale(rule, metric, where)
    holds, must = _holds(rule, number)
    params = labels.params_text(metric.params)
    name = f"{metric.name}{f' ({params})' if params else ''}"
    name += f" minus {rule.relative_to}" if rule.relative_to else ""
    span = labels.interval(number.low, number.high, metric.unit)
    text = f"{name} = {labels.number(number.value, metric.unit)}{f' {span}' if span else ''}"
    if inverted(metric) and rule.relative_to is None:
        text += f" (measured {labels.number(metric.value, metric.unit)}: {labels.INVERTED})"
    if failing and rule.require_checks:
        checks = ", ".join(dict.fromkeys(failing))
        text = f"{text}, but the instrument check '{checks}' failed"
        return _result(str(rule), finding.subject, False, text)
    if doubt and rule.at_chance == "violated":
        text = f"{text}; at chance, so that nothing follows from it: {doubt}"
        return _result(str(rule), finding.subject, False, text)
    judged = f"{text}; {must}{f' (at chance, ignored: {doubt})' if doubt else ''}"
    return _result(str(rule), finding.subject, holds, judged)


def _check_scale(rule: Rule, metric: Metric, where: str) -> None:
    """Refuse a bound in percents: it would pass (or fail) whatever was measured."""
    for name, bound in (("max", rule.max), ("min", rule.min)):
        if metric.unit == "fraction" and bound is not None and abs(bound) > 1:
            what = f"is {bound:g}, but {metric.name} is a fraction in [0, 1]"
            raise BadInput(f"{where}.{name}", what, "Write 60% as 0.6.")


def _holds(rule: Rule, number: Metric | Difference) -> tuple[bool, str]:
    """Whether the judged sides keep to the bounds, and in words what was asked of which side."""
    assert number.value is not None
    readings = {"value": number.value, "low": number.low, "high": number.high}
    harder = {"min": "low", "max": "high"}
    holds, asked = True, []
    for name, bound in (("min", rule.min), ("max", rule.max)):
        if bound is None:
            continue
        side = harder[name] if rule.use == "conservative" else rule.use
        reading = readings[side]
        words = {"low": "its lower end", "high": "its upper end", "value": "its value"}[side]
        if reading is None:
            reading, words = number.value, "its value (no interval)"
        holds = holds and (reading <= bound if name == "max" else reading >= bound)
        asked.append(f"{words} must be {'<=' if name == 'max' else '>='} {bound:g}")
    return holds, " and ".join(asked)


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
    return _result(rule, claim.subject, not claim.broken, text, kind)


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
    return _result(str(rule), subject, ignored, text, "ignored" if ignored else "missing")


def _result(rule: str, subject: str, holds: bool, text: str, kind: Kind = "number") -> RuleResult:
    line = f"{'holds' if holds else 'VIOLATED'} {labels.visible(subject)}: {labels.visible(text)}"
    return RuleResult(
        rule=rule, subject=subject, holds=holds, line=" ".join(line.split()), kind=kind
    )


def _bad_policy(path: str | Path, error: ValidationError) -> BadInput:
    first = error.errors(include_url=False)[0]
    at = ".".join(f"[{p}]" if isinstance(p, int) else str(p) for p in first["loc"]).replace(
        ".[", "["
    )
    if first["type"] == "extra_forbidden":
        allowed = Rule.model_fields if len(first["loc"]) > 1 else ["rules"]
        return BadInput(f"{path}: {at}", "unknown key", f"Allowed: {', '.join(allowed)}.")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] != "missing" and not isinstance(first.get("input"), dict):
        message += f", not {first['input']!r}"
    return BadInput(f"{path}: {at}" if at else path, message)
