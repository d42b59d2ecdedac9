"""report.md: tables that hold together and text that stays text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from ddaudit.findings import Metric
from ddaudit.reports import Report, build_report
from ddaudit.reports._markdown import COMMENT_LIMIT, escape, to_markdown


def _tables(text: str) -> list[list[str]]:
    blocks = re.split(r"\n(?!\|)", text)
    tables = [
        "\n".join(line for line in b.splitlines() if line.startswith("|")).splitlines()
        for b in blocks
    ]
    return [t for t in tables if t]


@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_every_table_has_a_rule_and_equal_rows(which: str, request: pytest.FixtureRequest) -> None:
    tables = _tables(to_markdown(request.getfixturevalue(which)))
    assert len(tables) >= 8
    for table in tables:
        assert re.fullmatch(r"\|( :-- \|)+", table[1])
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table}
        assert len(widths) == 1


def test_a_commonmark_parser_sees_the_tables() -> None:
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    html = parser.render("| a | b |\n| :-- | :-- |\n| " + escape("x|y <b>*z*</b>") + " | 1 |")
    assert '<td style="text-align:left">x|y &lt;b&gt;*z*&lt;/b&gt;</td>' in html


def test_hostile_text_is_inert(hostile_report: Report) -> None:
    text = to_markdown(hostile_report)
    assert "<script" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "@someone" not in text
    assert "\u202e" not in text
    assert r"!\[img\]" in text


def test_states_are_in_words(report: Report) -> None:
    text = to_markdown(report)
    for words in (
        "✗ violated",
        "▼ worse",
        "▲ better",
        "≈ no difference shown",
        "▁ at floor",
        "◌ check failed",
        "*skipped: ",
        "Quick preset",
    ):
        assert words in text


def test_a_long_report_drops_its_details_to_fit_a_comment(make_run: Callable[..., Any]) -> None:
    run = make_run(seeds=(0,), galleries=False)
    for cell in run.cells:
        if cell.auditor == "bias":
            cell.metrics.extend(
                Metric(name="bias.many", value=0.5, low=0.4, high=0.6, params={"i": i})
                for i in range(400)
            )
    text = to_markdown(build_report(run))
    assert len(text) <= COMMENT_LIMIT
    assert "left out to fit in one comment" in text
    assert "### The verdict" in text
