"""report.tex: escaping, and tables whose rows have as many cells as columns."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ddaudit.reports import Report
from ddaudit.reports._latex import escape, to_latex
from ddaudit.reports.schema import Alert


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("a_b & 50% of $x #1 {y}", r"a\_b \& 50\% of \$x \#1 \{y\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("ε ≥ 1 − δ", r"$\varepsilon$ $\geq$ 1 $-$ $\delta$"),
        ("--flag a-b", r"-{}-flag a-b"),
        ("é 私 “x”", "é [U+79C1] ``x''"),
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
    assert "Do not quote these numbers" in text


DOCUMENT = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{report}\end{document}"


@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_it_compiles_and_fits_the_page(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With a plain pdfTeX and nothing but the two packages that the first lines of the file name."""
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        pytest.skip(
            "NO TEX HERE: report.tex is not compiled; install texlive-latex-base and -recommended"
        )
    report: Report = request.getfixturevalue(which)
    every = [*map(chr, range(0x21, 0x180)), *"Ωλ→“”‘’–—…≥≤∅私🔒\u202e"]
    odd = Alert(text=f"Every character: {' '.join(every)}")
    text = to_latex(report.model_copy(update={"alerts": [*report.alerts, odd]}))
    assert text.count(escape(odd.text)) == text.count(r"\begin{table}")
    (tmp_path / "report.tex").write_text(text, encoding="utf-8")
    (tmp_path / "page.tex").write_text(DOCUMENT, encoding="utf-8")
    command = [
        pdflatex,
        "-interaction=nonstopmode",
        "-halt-on-error",
        "-no-shell-escape",
        "page.tex",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60)
    log = (tmp_path / "page.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Missing character" not in log
    assert "Overfull" not in log
    assert (tmp_path / "page.pdf").stat().st_size > 10_000


def test_every_alert_is_a_note_of_every_table(report: Report) -> None:
    text = to_latex(report)
    tables = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, re.S)
    assert report.alerts
    for table in tables:
        after = table.split(r"\end{tabular}")[1]
        assert all(escape(a.text) in after for a in report.alerts)
