"""What a gate found, as other tools read it: text, JUnit XML, SARIF, GitHub's workflow commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree as ET

from ddaudit.reports.gate import RuleResult

_SARIF = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_XML_CANNOT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_text(results: Sequence[RuleResult], source: str) -> str:
    """A line for each rule and subject."""
    return "\n".join(r.line for r in results)


def to_junit(results: Sequence[RuleResult], source: str) -> str:
    """A test suite with a case for each rule and subject; what fails is a failure, what only warns says so."""
    failed = sum(not r.holds for r in results)
    counts = {"tests": str(len(results)), "failures": str(failed), "errors": "0"}
    top = ET.Element("testsuites", counts)
    suite = ET.SubElement(top, "testsuite", {"name": _xml(f"ddaudit gate {source}"), **counts})
    for r in results:
        case = ET.SubElement(
            suite, "testcase", {"classname": _xml(r.subject), "name": _xml(r.rule)}
        )
        if not r.holds:
            failure = ET.SubElement(case, "failure", {"type": r.outcome, "message": _xml(r.line)})
            failure.text = _xml(r.line)
        else:
            ET.SubElement(case, "system-out").text = _xml(r.line)
    ET.indent(top)
    return ET.tostring(top, encoding="unicode", xml_declaration=True)


def to_sarif(results: Sequence[RuleResult], source: str) -> str:
    """SARIF 2.1.0 with a result for everything that does not simply hold; the location is the run or report."""
    rules = list(dict.fromkeys(r.rule for r in results))
    shown = [r for r in results if r.outcome != "holds"]
    where = {"physicalLocation": {"artifactLocation": {"uri": _uri(source)}}}
    found = [
        {
            "ruleId": r.rule,
            "ruleIndex": rules.index(r.rule),
            "level": "warning" if r.holds else "error",
            "kind": "open" if r.outcome == "inconclusive" else "fail",
            "message": {"text": r.line},
            "locations": [{**where, "logicalLocations": [{"name": r.subject, "kind": "member"}]}],
        }
        for r in shown
    ]
    for entry in found:  # SARIF: only a result of kind fail has another level than none
        if entry["kind"] != "fail":
            entry["level"] = "none"
    driver = {
        "name": "ddaudit gate",
        "rules": [{"id": rule, "shortDescription": {"text": rule}} for rule in rules],
    }
    log = {
        "$schema": _SARIF,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": found}],
    }
    return json.dumps(log, indent=1, ensure_ascii=False)


def to_github(results: Sequence[RuleResult], source: str) -> str:
    """Annotations of a GitHub Actions job: errors, warnings, and plain lines for what holds."""
    lines = []
    for r in results:
        command = "error" if not r.holds else "warning" if r.outcome != "holds" else ""
        title = f"ddaudit gate: {r.subject}"
        # A line that begins with "::" would be a command of its own; every other line begins with a word.
        lines.append(
            f"::{command} title={_property(title)}::{_data(r.line)}" if command else r.line
        )
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Sequence[RuleResult], str], str]] = {
    "text": to_text,
    "junit": to_junit,
    "sarif": to_sarif,
    "github": to_github,
}
"""Format name -> writer of (results, where they come from)."""


def _xml(text: str) -> str:
    return _XML_CANNOT.sub("\ufffd", text)


def _uri(source: str) -> str:
    from urllib.parse import quote

    return quote(source, safe="/:.-_~")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
