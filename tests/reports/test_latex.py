"""report.tex: escaping, and tables whose rows have as many cells as columns."""

from __future__ import annotations

import re

import pytest

from ddaudit.reports import Report
from ddaudit.reports._latex import escape, to_latex


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("a_b & 50% of $x #1 {y}", r"a\_b \& 50\% of \$x \#1 \{y\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("ε ≥ 1 − δ", r"$\varepsilon$ $\geq$ 1 $-$ $\delta$"),
        ("two\nlines\\end{document}", r"two lines\textbackslash{}end\{document\}"),
    ],
)
def test_escape(text: str, tex: str) -> None:
    assert escape(text) == tex


def _columns(spec: str) -> int:
    return len(re.sub(r"[^lrc]", "", spec))


def _cells(line: str) -> int:
    spans = [int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
    return len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans)


@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_rows_fit_their_tables(which: str, request: pytest.FixtureRequest) -> None:
    text = to_latex(request.getfixturevalue(which))
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S)
    assert len(tables) >= 2
    for spec, body in tables:
        lines = [row for row in body.splitlines() if row.endswith(r"\\")]
        assert len(lines) == 2 + 7
        assert {_cells(row) for row in lines} == {_columns(spec)}
        assert body.count(r"\toprule") == body.count(r"\bottomrule") == 1
    bare = re.sub(r"\\[{}]", "", text.replace("\\\\", ""))
    assert bare.count("{") == bare.count("}")
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0


def test_marks_and_intervals(report: Report) -> None:
    text = to_latex(report)
    assert re.search(r"^dm & -- & \$0\.3\d\d\^\{-\} \\pm 0\.01\d\$", text, re.M)
    assert re.search(r"^dm\+dp & 1\$\^\{\\times\}\$ & ", text, re.M)
    assert r"\multicolumn{2}{c}{\emph{skipped}}" in text
    assert r"^{\dagger}" in text
    assert "Do not publish these numbers" in text
