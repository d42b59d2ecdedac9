"""What a gate prints for other tools, the policies that are shipped, and the gate against an earlier report."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from ddaudit.auditing import AUDITORS
from ddaudit.errors import BadInput
from ddaudit.findings import Check, Finding, Metric
from ddaudit.reports import Policy, Report, Rule, RuleResult, apply, build_report, load_policy
from ddaudit.reports._gate import FORMATS
from ddaudit.reports.gate import result
from ddaudit.reports.policy import ready
from ddaudit.reports.regression import regressions

SARIF: dict[str, Any] = {
    "type": "object",
    "required": ["version", "$schema", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "minItems": 1, "items": {
            "type": "object", "required": ["tool", "results"], "additionalProperties": False,
            "properties": {
                "tool": {"type": "object", "required": ["driver"], "properties": {"driver": {
                    "type": "object", "required": ["name"],
                    "properties": {"rules": {"type": "array", "uniqueItems": True, "items": {
                        "type": "object", "required": ["id"],
                        "properties": {"shortDescription": {"type": "object", "required": ["text"]}},
                    }}}}}},
                "results": {"type": "array", "items": {
                    "type": "object", "required": ["message"], "additionalProperties": False,
                    "properties": {
                        "ruleId": {"type": "string"}, "ruleIndex": {"type": "integer", "minimum": 0},
                        "kind": {"enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]},
                        "level": {"enum": ["none", "note", "warning", "error"]},
                        "message": {"type": "object", "required": ["text"]},
                        "locations": {"type": "array", "items": {"type": "object", "properties": {
                            "physicalLocation": {"type": "object", "properties": {"artifactLocation": {
                                "type": "object", "properties": {"uri": {"type": "string", "pattern": "^[^ <>]*$"}},
                            }}},
                            "logicalLocations": {"type": "array"},
                        }}},
                    },
                    # SARIF 2.1.0, 3.27.10: a kind other than "fail" has the level "none".
                    "if": {"properties": {"kind": {"not": {"const": "fail"}}}, "required": ["kind"]},
                    "then": {"properties": {"level": {"const": "none"}}},
                }},
            }}},
    },
}  # fmt: skip
"""What SARIF 2.1.0 demands of the parts that are written."""

HOSTILE = '<b>&"\x01\u202e::error::%0A,]]> \n::warning::x'


@pytest.fixture(scope="module")
def results(report: Report) -> list[RuleResult]:
    rules = [
        {"metric": "utility.accuracy", "min": 0.1},
        {"metric": "utility.accuracy", "min": 0.99},
        {"metric": "utility.accuracy", "min": 0.9, "level": "warn"},
        {"metric": "bias.deo_m", "max": 0.66},
    ]
    found = apply(Policy(tuple(Rule.model_validate(r) for r in rules)), report)
    return [*found, result(f"rule {HOSTILE}", HOSTILE, False, HOSTILE)]


def test_all_outcomes_are_there(results: list[RuleResult]) -> None:
    assert {r.outcome for r in results} == {"holds", "warns", "inconclusive", "violated"}


def test_junit(results: list[RuleResult]) -> None:
    top = ElementTree.fromstring(FORMATS["junit"](results, f"runs/{HOSTILE}"))
    (suite,) = top
    cases = list(suite)
    assert (top.tag, suite.tag, {c.tag for c in cases}) == ("testsuites", "testsuite", {"testcase"})
    assert all(c.get("name") and c.get("classname") for c in cases)
    failures = [f for c in cases for f in c.findall("failure")]
    assert all(f.get("message") and f.get("type") in ("violated", "inconclusive") for f in failures)
    for counted in (top, suite):
        assert int(counted.get("tests", 0)) == len(results)
        assert int(counted.get("failures", 0)) == len(failures) == sum(not r.holds for r in results)


def test_sarif(results: list[RuleResult]) -> None:
    log = json.loads(FORMATS["sarif"](results, f"runs/a b{HOSTILE}"))
    jsonschema.Draft202012Validator(SARIF).validate(log)
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])
    levels = {(r["kind"], r["level"]) for r in run["results"]}
    assert levels == {("fail", "error"), ("fail", "warning"), ("open", "none")}
    assert len(run["results"]) == sum(r.outcome != "holds" for r in results)
    log["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(log, SARIF)


def test_github_commands_are_only_its_own(results: list[RuleResult]) -> None:
    lines = FORMATS["github"](results, "runs/x").splitlines()
    assert len(lines) == len(results)
    for line, r in zip(lines, results, strict=True):
        command = re.match(r"::(error|warning) title=([^,:]*)::(.*)$", line)
        assert (command is None) is (r.outcome == "holds")
        if command is not None:
            assert command[1] == ("warning" if r.holds else "error")
        else:
            assert not line.startswith("::")


def test_the_text_is_a_line_each(results: list[RuleResult]) -> None:
    assert FORMATS["text"](results, "x").splitlines() == [r.line for r in results]


@pytest.mark.parametrize("name", ["ci-smoke", "paper-table", "private-release"])
def test_the_shipped_policies_name_what_auditors_measure(name: str) -> None:
    assert name in ready()
    policy = load_policy(name)
    known = {m.name for n in AUDITORS.names() for m in AUDITORS.get(n).metrics}
    assert {r.metric for r in policy.rules if r.metric} <= known
    assert any(r.run == "complete" for r in policy.rules)


def test_the_shipped_policies_decide(report: Report) -> None:
    """The synthetic run: a quick preset, a false claim, failing checks, sets far less accurate than random."""
    for name, reasons in {
        "private-release": ("claims epsilon", "makes no privacy claim", "membership.tpr_at_fpr"),
        "paper-table": ("preset quick", "instrument check"),
        "ci-smoke": ("instrument check", "utility.accuracy minus random"),
    }.items():
        broken = [r.line for r in apply(load_policy(name), report) if not r.holds]
        assert all(any(reason in line for line in broken) for reason in reasons), name


def _report(
    value: float, *, drawn: int = 5, check: bool = True, lost: bool = False, **info: Any
) -> Report:
    def cell(subject: str, seed: int, value: float) -> Finding:
        metric = Metric(name="utility.accuracy", value=value, low=value - 0.01, high=value + 0.01,
                        direction="higher", headline=True, n=400)  # fmt: skip
        return Finding(subject=subject, auditor="utility", seed=seed, metrics=[metric])

    class Run:
        subjects = (
            {"id": "dm", "kind": "recipe"}, {"id": "random", "kind": "recipe", "baseline": True},
        )  # fmt: skip
        auditors = ({"name": "utility"}, {"name": "bias"})

    made = Run()
    made.info = {"data": "digits", "cells": [], **info}  # type: ignore[attr-defined]
    ends = [0.39, 0.41, 0.40, 0.40, 0.40]
    stop = Finding(subject="dm", auditor="bias", status="failed", reason="out of memory")
    made.cells = [  # type: ignore[attr-defined]
        cell("dm", 0, value),
        *(cell("random", s, v) for s, v in enumerate(ends[:drawn])),
        stop if lost else Finding(subject="dm", auditor="bias", seed=0),
    ]
    made.checks = {"bias": [Check(name="fair", passed=check, expected="0")]}  # type: ignore[attr-defined]
    return build_report(made)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "outcome", "words"),
    [
        ({"value": 0.80}, "holds", "no difference shown"),
        ({"value": 0.79}, "holds", "no difference shown"),
        ({"value": 0.90}, "holds", "better"),
        ({"value": 0.60}, "violated", "accuracy = 0.600, before 0.800: −0.200"),
        ({"value": 0.60, "drawn": 1}, "inconclusive", "spread between draws unknown"),
    ],
)
def test_a_number_is_held_against_the_earlier_one(
    now: dict[str, Any], outcome: str, words: str
) -> None:
    earlier = _report(0.80, drawn=now.get("drawn", 5))
    (found,) = regressions(_report(**now), earlier)
    assert (found.outcome, found.holds) == (outcome, outcome == "holds")
    assert words in found.line


def test_what_is_lost_or_fails_since_is_a_regression() -> None:
    lines = [r.line for r in regressions(_report(0.8, lost=True), _report(0.8)) if not r.holds]
    assert lines == ["VIOLATED dm: bias had an answer before and has none now: out of memory"]
    (line,) = [r.line for r in regressions(_report(0.8, check=False), _report(0.8)) if not r.holds]
    assert "the instrument check 'fair' of bias failed, and did not before" in line
    gone = _report(0.8)
    gone.subjects = [s for s in gone.subjects if s.baseline]
    gone.findings = [f for f in gone.findings if f.subject != "dm"]
    assert any("is not any more" in r.line for r in regressions(gone, _report(0.8)))
    assert all(r.holds for r in regressions(_report(0.8, check=False), _report(0.8, check=False)))


@pytest.mark.parametrize("other", [{"data": "mnist"}, {"arch": "x"}, {"protocol": "y"}])
def test_reports_of_other_audits_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="are not comparable"):
        regressions(_report(0.8), _report(0.8, **other))
