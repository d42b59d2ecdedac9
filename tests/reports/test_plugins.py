"""An auditor of another package reads as well as a built-in one: reports know no auditor by name."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import ddaudit.reports
from ddaudit.auditing import AUDITORS, Auditor, Context, Settings, Subject
from ddaudit.findings import Check, Finding, Metric
from ddaudit.reports import build_report
from ddaudit.reports._html import to_html
from ddaudit.reports._markdown import to_markdown


class Colour(Auditor[Settings]):
    """A plugin's auditor."""

    name = "colour"
    title = "Colour"
    question = "Are the images green?"
    threat_model = "None."
    how_to_read = "Green is good."
    sources = ("nobody",)
    labels: ClassVar[Mapping[str, str]] = {"colour.rgb_g": "greenness"}
    settings = Settings

    def run(self, subject: Subject, ctx: Context, settings: Settings, seed: int) -> Finding:
        raise NotImplementedError

    def checks(self, ctx: Context, settings: Settings) -> list[Check]:
        return []

    def sentence(self, finding: Finding) -> str:
        return f"{finding.subject} is {finding.metric('colour.rgb_g').value:.0%} green."


class Run:
    """Two seeds of one subject and of the baseline."""

    info: ClassVar[Mapping[str, Any]] = {"data": "digits", "seeds": [0, 1]}
    subjects = (
        {"id": "dm", "kind": "recipe"},
        {"id": "random", "kind": "recipe", "baseline": True},
    )
    auditors = ({"name": "colour", "title": "Colour"},)
    checks: ClassVar[Mapping[str, list[Check]]] = {}

    def __init__(self, *, label: str = "") -> None:
        self.cells = [
            Finding(
                subject=s, auditor="colour", seed=seed,
                metrics=[Metric(name="colour.rgb_g", label=label, value=v, low=v - 0.1, high=v + 0.1, headline=True)],
            )
            for s in ("dm", "random") for seed, v in enumerate((0.5, 0.7))
        ]  # fmt: skip


def test_labels_and_the_sentence_of_the_merged_seeds_are_the_auditors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    AUDITORS.names()  # load first: the patched table is then complete
    monkeypatch.setitem(AUDITORS._entries, "colour", Colour())
    report = build_report(Run())
    # baselines are not talked about
    assert [s.text for s in report.summary if "green" in s.text] == ["dm is 60% green."]
    for page in (to_html(report), to_markdown(report)):
        assert "greenness" in page
        assert "dm is 60% green." in page


def test_labels_travel_with_the_cells_where_the_plugin_is_not_installed() -> None:
    report = build_report(Run(label="greenness"))
    assert "greenness" in to_html(report)
    assert "RGB" not in to_html(
        build_report(Run())
    )  # no label and no plugin: the words of the name
    assert "rgb g" in to_html(build_report(Run()))


def test_no_auditor_is_named_in_the_code_of_reports() -> None:
    named = set()
    for path in Path(ddaudit.reports.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {
            id(n.body[0].value) for n in ast.walk(tree)
            if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(n.body[0], ast.Expr)
        }  # fmt: skip
        texts = [
            n.value for n in ast.walk(tree)
            if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in prose
        ]  # fmt: skip
        # "privacy" is also the key of a card's claim
        named |= {
            (path.name, a) for a in AUDITORS.names() for t in texts
            if t.startswith(f"{a}.") or (t == a and a != "privacy")
        }  # fmt: skip
    assert named == set()
