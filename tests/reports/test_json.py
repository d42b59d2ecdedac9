"""report.json, its schema, and the contract with other tools."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from ddaudit.errors import BadInput
from ddaudit.reports import Report, json_schema, read_report, write_report
from ddaudit.reports import schema as schema_module

COMMITTED = Path(schema_module.__file__).with_name("report.schema.json")


def test_the_committed_schema_is_the_generated_one() -> None:
    """Renew it with: python -c "from ddaudit.reports.schema import write_schema; write_schema()" """
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == json_schema()


@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_a_report_validates_and_is_strict_json(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made: Report = request.getfixturevalue(which)
    text = write_report(made, tmp_path, ["json"])["json"].read_text(encoding="utf-8")

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    content = json.loads(text, parse_constant=refuse)
    jsonschema.Draft202012Validator(json.loads(COMMITTED.read_text(encoding="utf-8"))).validate(
        content
    )


def test_the_schema_can_refuse(report: Report) -> None:
    content = json.loads(report.model_dump_json())
    content["findings"][0]["metrics"][0]["value"] = "0.7"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json_schema())


def test_the_keys_that_other_tools_rely_on(report: Report) -> None:
    content = json.loads(report.model_dump_json())
    assert content["schema_version"] == "1"
    assert {"run", "subjects", "findings"} <= content.keys()
    assert {"id", "kind", "card"} <= content["subjects"][0].keys()
    finding = content["findings"][0]
    assert {
        "subject",
        "auditor",
        "status",
        "reason",
        "metrics",
        "checks",
        "curves",
        "caveats",
        "seconds",
    } <= finding.keys()
    assert {"name", "value", "low", "high", "n", "unit", "direction", "floor", "params"} <= finding[
        "metrics"
    ][0].keys()
    assert {"name", "passed", "value", "expected"} <= finding["checks"][0].keys()


def test_a_report_survives_the_file(report: Report, tmp_path: Path) -> None:
    path = write_report(report, tmp_path, ["json"])["json"]
    assert read_report(path) == report


def test_a_report_of_an_older_release_is_told_anew(report: Report, tmp_path: Path) -> None:
    content = json.loads(report.model_dump_json())
    for key in ("answers", "trust", "limits", "not_asked"):
        del content[key]
    for sentence in content["summary"]:
        del sentence["first"], sentence["detail"]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    read = read_report(path)
    assert (read.answers, read.trust, read.summary) == (
        report.answers,
        report.trust,
        report.summary,
    )
    assert [x.text for x in read.limits] == [x.text for x in report.limits]


@pytest.mark.parametrize(
    ("text", "needle"),
    [("{}", "is not a ddaudit report"), ("[", "is not a ddaudit report"), (None, "no such file")],
)
def test_a_file_that_is_no_report_gives_one_line(
    text: str | None, needle: str, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=needle) as error:
        read_report(path)
    assert "\n" not in str(error.value)
